"""Two lanes on the CPU, in which steps that do not need each other run side by side. Each has half of the threads.

If each operation runs with all threads, a training step wakes them and waits for them some hundred times, and each time
the slowest core decides. Some graphs have two things to do at a time (the D step: reals, fakes and what lies between
them). There, two Python threads each take the next thing to do, and wait for each other far less often. PyTorch lets go
of the interpreter while it computes.

`scheduler` decides which steps run in lanes.
"""

import collections
import dataclasses
import functools
import heapq
import os
import queue
import threading
from collections.abc import Collection, Sequence

from theano_torch.steps import Step, emptying, execute

import torch

WAKING_SECONDS = 50e-6      # What it takes to wake a lane that sleeps.


class Lanes:
    """Steps that run in two lanes, the second one in a thread of its own.

    A lane that is free takes the first task whose sources are there. So tasks keep their order where they need not
    wait, and memory becomes free in the same order as without lanes. A lane whose core is busy takes fewer tasks.

    Parameters
    ----------
    steps : list of Step
        None may work in place.
    seconds : list of float
        Estimated time of each step.
    kept : collection of int
        Slots that are needed afterwards.
    threads : int
        How many each lane has.
    """

    def __init__(self, steps: Sequence[Step], seconds: Sequence[float], kept: Collection[int], threads: int) -> None:
        self.threads = threads
        self.tasks = tasks_of(steps, seconds, kept)
        self.missing = [0] * len(self.tasks)    # For each task, how many others come before it.
        for task in self.tasks:
            for follower in task.followers:
                self.missing[follower] += 1
        self.users = collections.Counter(slot for task in self.tasks for slot in task.shared)

    @property
    def steps(self) -> list[Step]:
        """All steps."""
        return [step for task in self.tasks for step in task.steps]

    def run(self, values: list) -> None:
        """Run all steps on the slots `values`, as `execute` does.

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

    def help(self, work: 'Work') -> None:
        """What the thread of the second lane does. If it starts too late, there is nothing left to do."""
        torch.set_num_threads(self.threads)
        with torch.inference_mode():
            work.follow()


class Work:
    """What the lanes share in one call of `Lanes`, on the slots `values`.

    A lane holds the lock while it uses this, except when it reads and fills the values of its own task.
    """

    def __init__(self, lanes: Lanes, values: list) -> None:
        self.lock = threading.Lock()
        self.tasks, self.values = lanes.tasks, values
        self.missing, self.users = lanes.missing.copy(), lanes.users.copy()
        self.ready = [index for index, count in enumerate(self.missing) if not count]      # A heap.
        self.num_left = len(self.tasks)
        self.sleeper: threading.Lock | None = None      # The lock that a lane without anything to do waits for.
        self.error: BaseException | None = None         # Of the lane that failed.

    def follow(self) -> None:
        """What one lane does: run tasks until none is left or a lane fails."""
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

    def next(self, done: 'Task | None', sleep: threading.Lock) -> 'Task | None':
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

    def finish(self, task: 'Task') -> None:
        """Note that `task` is done: empty the slots that nobody needs any more, and see which tasks are ready now."""
        self.num_left -= 1
        for slot in task.shared:
            self.users[slot] -= 1
            if not self.users[slot]:
                self.values[slot] = None
        for index in task.followers:
            self.missing[index] -= 1
            if not self.missing[index]:
                heapq.heappush(self.ready, index)

    def is_worth_waking(self, task: 'Task') -> bool:
        """Whether a lane that is about to run `task` leaves the other one enough to do."""
        return bool(self.ready) and (task.seconds >= WAKING_SECONDS or
                                     sum(self.tasks[index].seconds for index in self.ready) >= WAKING_SECONDS)

    def wake(self) -> None:
        """Wake the lane that sleeps, if one does."""
        if self.sleeper is not None:
            if self.sleeper.locked():       # It is not if Ctrl-C came between the next two lines before.
                self.sleeper.release()
            self.sleeper = None


@dataclasses.dataclass
class Task:
    """Steps that a lane runs in one go."""

    steps: list[Step]
    seconds: float              # Estimated.
    followers: list[int]        # Indices of the tasks that need this one.
    shared: list[int]           # Slots that other tasks use, too. The last one empties them; steps empty the rest.


def tasks_of(steps: Sequence[Step], seconds: Sequence[float], kept: Collection[int]) -> list[Task]:
    """Steps as a list of tasks, in the same order. Parameters: see `Lanes`.

    A step that takes less time than waking the other lane joins the task that makes all that it needs, if there is one.
    """
    needs = needs_of(steps)
    group_of, groups = grouped(needs, seconds)
    users: dict[int, set[int]] = collections.defaultdict(set)
    followers: list[set[int]] = [set() for _ in groups]
    shared: list[list[int]] = [[] for _ in groups]
    for step, group, before in zip(steps, group_of, needs, strict=True):
        for slot in {*step.sources, *step.targets}.difference(kept):
            users[slot].add(group)
        for other in before:
            followers[group_of[other]].add(group)
    own = {slot for slot, sharing in users.items() if len(sharing) == 1}
    for slot in users.keys() - own:
        for group in users[slot]:
            shared[group].append(slot)
    return [Task(emptying([steps[index] for index in group], own), sum(seconds[index] for index in group),
                 sorted(after - {number}), slots)
            for number, (group, after, slots) in enumerate(zip(groups, followers, shared, strict=True))]


def grouped(needs: Sequence[set[int]], seconds: Sequence[float]) -> tuple[list[int], list[list[int]]]:
    """Which steps become one task: the number of each step's task, and for each task the indices of its steps."""
    group_of: list[int] = []
    groups: list[list[int]] = []
    for index, before in enumerate(needs):
        makers = {group_of[other] for other in before}
        if len(makers) == 1 and seconds[index] < WAKING_SECONDS:
            number = makers.pop()
        else:
            number = len(groups)
            groups.append([])
        group_of.append(number)
        groups[number].append(index)
    return group_of, groups


def needs_of(steps: Sequence[Step]) -> list[set[int]]:
    """For each step, the indices of those that make its sources."""
    made_by = {slot: index for index, step in enumerate(steps) for slot in step.targets}
    return [{made_by[slot] for slot in step.sources if slot in made_by} for step in steps]


@functools.cache
def second_lane() -> queue.SimpleQueue:
    """The queue to the thread of the second lanes. The thread calls what it gets, and ends when it gets None.

    It treats denormal numbers as the thread does that calls this first. The queue is a plain one: those of
    `concurrent.futures` can stay locked when Ctrl-C comes while something is put in.
    """
    jobs: queue.SimpleQueue = queue.SimpleQueue()
    threading.Thread(target=serve, args=[jobs], daemon=True, name='second lane').start()
    return jobs


def serve(jobs: queue.SimpleQueue) -> None:
    """Call what comes out of `jobs` until that is None."""
    while (job := jobs.get()) is not None:
        job()
        del job     # It refers to all values of a call.


def end_second_lane() -> None:
    """End the thread of the second lanes. The next one starts when it is needed."""
    if second_lane.cache_info().currsize:
        second_lane().put(None)
    second_lane.cache_clear()


os.register_at_fork(after_in_child=second_lane.cache_clear)     # The child has no such thread.
