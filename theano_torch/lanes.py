"""Steps that do not need each other side by side, on the CPU: in two lanes, with half of the threads each.

With all threads in every operation, the threads are woken and waited for some hundred times in a training step; each
time the slower core decides. Where a graph has two things to do at a time (in the D step: reals, fakes and what lies
between them), two Python threads that each take the next thing to do wait for each other far less often. PyTorch lets
go of the interpreter while it computes.

How many threads an operation has may change the last bits of its result. So that depends on the graph and on shapes
alone, and a function computes with the same numbers of threads in every call: where making the program, in the first
call, has computed with others, the call is repeated with the program.
"""

import collections
import dataclasses
import functools
import heapq
import math
import os
import queue
import threading

import torch

from theano_torch.steps import (
    emptying,
    execute,
    is_product,
    multiplications,
    multiplications_per_kernel_element,
    targets_of,
)

# What runs with all threads outside of lanes: with less to do, waking them costs more than they save.
WIDE_PRODUCT = 3000000      # Multiplications per kernel element.
WIDE_ELEMENTS = 500000      # Of the largest input of other nodes.

SPEED_UP = 1.6              # Of products with all threads over half of them.
WAKING_SECONDS = 50e-6      # What it takes until a lane that sleeps works.
SMALL_STEP = 1500000        # Multiplications: below this mean, handing over the interpreter costs more than lanes save.
BIG_PRODUCT = 600000000     # Multiplications per kernel element: beside such ones waking threads does not count, and
                            # lanes would only take more memory.


class ThreadPlan:
    """How many threads the nodes of a function run with, and which of them may run in lanes.

    Parameters
    ----------
    order : list of theano.gof.Apply
    threads : int
        All that there are.

    Attributes
    ----------
    last : int
        The first node that destroys its inputs: from it on nodes run one by one.
    """

    def __init__(self, order, threads):
        self.threads, self.lane_threads = threads, threads // 2
        self.last = next((index for index, node in enumerate(order) if getattr(node.op, 'destroy_map', None)),
                         len(order))
        self.may_have_lanes = threads % 2 == 0 and not any(getattr(node.op, 'in_order', False) for node in order)

    def threads_of(self, node, shapes):
        """For a node outside of lanes, with inputs of the given shapes (variable -> tuple)."""
        if is_product(node):
            is_wide = multiplications_per_kernel_element(node, shapes) >= WIDE_PRODUCT
        else:
            is_wide = max((math.prod(shapes.get(var, ())) for var in node.inputs), default=0) >= WIDE_ELEMENTS
        return self.threads if is_wide else 1

    def has_lanes(self, nodes, shapes):
        """Whether lanes are worth while for `nodes`, of which some may be None: conversions."""
        products = [node for node in nodes if node is not None and is_product(node)]
        if not self.may_have_lanes or any(multiplications_per_kernel_element(node, shapes) >= BIG_PRODUCT
                                          for node in products):
            return False
        work = sum(multiplications(node, shapes) for node in products)
        return bool(nodes) and work >= SMALL_STEP * len(nodes)


def first_in_lanes(steps, costs, costs_alone):
    """Index of the first step from which on lanes are faster than one step after the other; ``len(steps)``: never.

    Parameters
    ----------
    steps : list of tuples
        See `steps.py`.
    costs, costs_alone : lists of float
        Seconds of each step in a lane, and outside of lanes.
    """
    needs = needs_of(steps)
    path = [0.0] * len(steps)       # The longest one from the end of a step to the end of all.
    best, shortest = len(steps), sum(costs_alone)
    before, work, longest = shortest, 0.0, 0.0
    for index in reversed(range(len(steps))):
        through = path[index] + costs[index]
        for other in needs[index]:
            path[other] = max(path[other], through)
        before, work, longest = before - costs_alone[index], work + costs[index], max(longest, through)
        total = before + max(work / 2, longest)
        if total < shortest:
            best, shortest = index, total
    return best


def needs_of(steps):
    """For each step, the indices of those that make its sources."""
    made_by = {slot: index for index, step in enumerate(steps) for slot in targets_of(step)}
    return [{made_by[slot] for slot in step[1] if slot in made_by} for step in steps]


class Lanes:
    """Steps that run in two lanes, the second one in a thread of its own.

    A lane that is free takes the first task whose sources are there: where nothing has to wait, tasks so keep their
    order, and with it the order in which memory becomes free. A core that has other work for a while does less.

    Parameters
    ----------
    steps : list of tuples
        See `steps.py`. None may work in place.
    costs : list of float
        Estimated seconds of each.
    kept : set of int
        Slots that are needed afterwards.
    threads : int
        Of each lane.
    """

    def __init__(self, steps, costs, kept, threads):
        self.threads = threads
        self.tasks = tasks_of(steps, costs, kept)
        self.missing = [0] * len(self.tasks)    # How many others have to come before each.
        for task in self.tasks:
            for follower in task.followers:
                self.missing[follower] += 1
        self.users = collections.Counter(slot for task in self.tasks for slot in task.shared)

    def run(self, values):
        """Run all steps on the list `values`, as `execute` does.

        If one lane fails, the other one stops after its task, and the error is raised here.
        """
        work = Work(self, values)
        torch.set_num_threads(self.threads)
        second_lane().put(functools.partial(self.help, work))
        work.follow()
        error, work.error = work.error, None
        if error is not None:
            try:
                raise error
            finally:
                del error       # It refers to this frame.

    def help(self, work):
        """What the thread of the second lane does. If it comes too late, nothing is left."""
        torch.set_num_threads(self.threads)
        with torch.inference_mode():
            work.follow()


class Work:
    """What the lanes share in one call of `Lanes`, on a list of values.

    All of it is used while holding the lock, but for the values: a lane reads and fills those of its own task.
    """

    def __init__(self, lanes, values):
        self.lock = threading.Lock()
        self.tasks, self.values = lanes.tasks, values
        self.missing, self.users = lanes.missing.copy(), lanes.users.copy()
        self.ready = [index for index, count in enumerate(self.missing) if not count]      # A heap.
        self.num_left = len(self.tasks)
        self.sleeper = None         # The lock that a lane without anything to do waits for.
        self.error = None           # Of the lane that failed.

    def follow(self):
        """Run tasks until none is left, or until a lane fails: one lane."""
        sleep = threading.Lock()
        sleep.acquire()
        done = None
        try:
            while (task := self.next(done, sleep)) is not None:
                execute(task.steps, self.values)
                done = task
        except BaseException as error:      # Ctrl-C, too, ends both lanes.
            with self.lock:
                self.num_left, self.error = 0, error
                self.wake()

    def next(self, done, sleep):
        """The task to run after `done`, perhaps after waiting; None at the end."""
        while True:
            with self.lock:
                if done is not None and self.num_left:
                    self.finish(done)
                    done = None
                if not self.num_left:
                    self.wake()
                    return None
                if self.ready:
                    task = self.tasks[heapq.heappop(self.ready)]
                    if self.sleeper is not None and self.is_worth_waking(task):
                        self.wake()
                    return task
                self.sleeper = sleep
            sleep.acquire()

    def finish(self, task):
        self.num_left -= 1
        for slot in task.shared:
            self.users[slot] -= 1
            if not self.users[slot]:
                self.values[slot] = None
        for index in task.followers:
            self.missing[index] -= 1
            if not self.missing[index]:
                heapq.heappush(self.ready, index)

    def is_worth_waking(self, task):
        """Whether a lane that is about to run `task` leaves the other one enough to do."""
        return bool(self.ready) and (task.seconds >= WAKING_SECONDS or
                                     sum(self.tasks[index].seconds for index in self.ready) >= WAKING_SECONDS)

    def wake(self):
        if self.sleeper is not None:
            if self.sleeper.locked():       # Ctrl-C may have come after the next line.
                self.sleeper.release()
            self.sleeper = None


@dataclasses.dataclass
class Task:
    """Steps that a lane runs in one go."""

    steps: list         # Of tuples, see `steps.py`.
    seconds: float      # Estimated.
    followers: list     # Indices of the tasks that need this one.
    shared: list        # Slots that other tasks use, too; they are emptied when all have. Steps empty what is left.


def tasks_of(steps, costs, kept):
    """Steps as a list of `Task`, in the same order.

    A step that takes less than waking the other lane joins the task that makes what it needs, if one alone does.
    """
    groups, group_of, needs = [], [], needs_of(steps)
    for index, before in enumerate(needs):
        makers = {group_of[other] for other in before}
        if len(makers) != 1 or costs[index] >= WAKING_SECONDS:
            makers = {len(groups)}
            groups.append([])
        group_of.append(makers.pop())
        groups[group_of[index]].append(index)
    users, followers, shared = collections.defaultdict(set), [set() for _ in groups], [[] for _ in groups]
    for step, group, before in zip(steps, group_of, needs, strict=True):
        for slot in {*step[1], *targets_of(step)} - kept:
            users[slot].add(group)
        for other in before:
            followers[group_of[other]].add(group)
    own = {slot for slot, sharing in users.items() if len(sharing) == 1}
    for slot in users.keys() - own:
        for group in users[slot]:
            shared[group].append(slot)
    return [Task(emptying([steps[index] for index in group], own), sum(costs[index] for index in group),
                 sorted(after - {number}), slots)
            for number, (group, after, slots) in enumerate(zip(groups, followers, shared, strict=True))]


@functools.cache
def second_lane():
    """The queue to the thread of the second lanes; it calls what it gets, and ends with None.

    It treats denormal numbers as the thread does that first asks for it. A plain queue: those of `concurrent.futures`
    can stay locked when Ctrl-C comes while something is put in.
    """
    jobs = queue.SimpleQueue()
    threading.Thread(target=serve, args=[jobs], daemon=True, name='second lane').start()
    return jobs


def serve(jobs):
    while (job := jobs.get()) is not None:
        job()
        del job     # And all its values.


def end_second_lane():
    """End the thread of the second lanes. The next one starts when it is needed."""
    if second_lane.cache_info().currsize:
        second_lane().put(None)
    second_lane.cache_clear()


os.register_at_fork(after_in_child=second_lane.cache_clear)     # Threads do not come along.
