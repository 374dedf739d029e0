"""Two lanes on the CPU that run independent steps side by side, each with half of the threads.

If every operation uses all threads, a training step wakes and joins them hundreds of times, and each time waits for
the slowest core. Some graphs have independent parts: the D step evaluates D on reals, fakes and their mixtures. For
these, two Python threads each take the next task, and wait for each other much less often. PyTorch releases the
interpreter while it computes.

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

WAKING_SECONDS = 50e-6      # Time to wake a sleeping lane.


class Lanes:
    """Steps that run in two lanes, the second one in a separate thread.

    A free lane takes the first task whose sources are ready. Tasks therefore keep their order as far as possible, and
    memory is freed in the same order as without lanes. A lane on a busy core takes fewer tasks.

    Parameters
    ----------
    steps : list of Step
        No step may work in place.
    seconds : list of float
        Estimated time of each step.
    kept : collection of int
        Slots that are needed after the steps.
    threads : int
        Number of threads of each lane.
    """

    def __init__(self, steps: Sequence[Step], seconds: Sequence[float], kept: Collection[int], threads: int) -> None:
        self.threads = threads
        self.tasks = tasks_of(steps, seconds, kept)
        self.missing = [0] * len(self.tasks)    # For each task, the number of unfinished tasks that it needs.
        for task in self.tasks:
            for follower in task.followers:
                self.missing[follower] += 1
        self.users = collections.Counter(slot for task in self.tasks for slot in task.shared)

    @property
    def steps(self) -> list[Step]:
        """All steps."""
        return [step for task in self.tasks for step in task.steps]

    def run(self, values: list) -> None:
        """Run all steps on the slots `values`, like `execute`.

        If one lane fails, the other one stops after its current task, and the error is raised here.
        """
        work = Work(self, values)
        torch.set_num_threads(self.threads)
        second_lane().put(functools.partial(self.run_second_lane, work))
        work.run_lane()
        error, work.error = work.error, None
        if error is not None:
            try:
                raise error
            finally:
                del error       # It refers to this frame, which would be a cycle.

    def run_second_lane(self, work: 'Work') -> None:
        """Run the second lane, in its thread. If the thread starts too late, there is nothing left to do."""
        torch.set_num_threads(self.threads)
        with torch.inference_mode():
            work.run_lane()


class Work:
    """State that both lanes share during one call of `Lanes`, on the slots `values`.

    A lane holds the lock while it uses this state, except to read and write the slots of its own task.
    """

    def __init__(self, lanes: Lanes, values: list) -> None:
        self.lock = threading.Lock()
        self.tasks, self.values = lanes.tasks, values
        self.missing, self.users = lanes.missing.copy(), lanes.users.copy()
        self.ready = [index for index, count in enumerate(self.missing) if not count]      # A heap.
        self.num_left = len(self.tasks)
        self.sleeper: threading.Lock | None = None      # The lock on which an idle lane waits.
        self.error: BaseException | None = None         # Error of the lane that failed.

    def run_lane(self) -> None:
        """Run one lane: run tasks until none is left or a lane fails."""
        sleep = threading.Lock()
        sleep.acquire()
        done = None
        try:
            while (task := self.next(done, sleep)) is not None:
                execute(task.steps, self.values)
                done = task
        except BaseException as error:      # Ctrl-C ends both lanes, too.
            with self.lock:
                self.num_left, self.error = 0, error
                self.wake()

    def next(self, done: 'Task | None', sleep: threading.Lock) -> 'Task | None':
        """Finish `done`, and return the next task, perhaps after waiting; None at the end."""
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
        """Mark `task` as done: empty the slots that are no longer needed, and find the tasks that are ready now."""
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
        """Whether the other lane has enough to do while this lane runs `task`."""
        return bool(self.ready) and (task.seconds >= WAKING_SECONDS or
                                     sum(self.tasks[index].seconds for index in self.ready) >= WAKING_SECONDS)

    def wake(self) -> None:
        """Wake the other lane if it sleeps."""
        if self.sleeper is not None:
            if self.sleeper.locked():       # Unlocked if Ctrl-C interrupted an earlier call between these lines.
                self.sleeper.release()
            self.sleeper = None


@dataclasses.dataclass
class Task:
    """Steps that a lane runs without interruption."""

    steps: list[Step]
    seconds: float              # Estimated time.
    followers: list[int]        # Indices of the tasks that need this one.
    shared: list[int]           # Slots that other tasks use, too; the last user empties them. Steps empty the others.


def tasks_of(steps: Sequence[Step], seconds: Sequence[float], kept: Collection[int]) -> list[Task]:
    """Divide steps into tasks, in the same order. Parameters: see `Lanes`.

    A step that takes less time than waking the other lane joins the task that makes all its sources, if there is one.
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
    """Assign steps to tasks: the task of each step, and the indices of the steps of each task."""
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
    """For each step, the indices of the steps that make its sources."""
    made_by = {slot: index for index, step in enumerate(steps) for slot in step.targets}
    return [{made_by[slot] for slot in step.sources if slot in made_by} for step in steps]


@functools.cache
def second_lane() -> queue.SimpleQueue:
    """Queue of the second lane's thread, which calls the functions it receives and ends on None.

    The thread treats denormal numbers like the thread that calls this first. The queue is a SimpleQueue, because those
    of `concurrent.futures` may stay locked after Ctrl-C.
    """
    jobs: queue.SimpleQueue = queue.SimpleQueue()
    threading.Thread(target=serve, args=[jobs], daemon=True, name='second lane').start()
    return jobs


def serve(jobs: queue.SimpleQueue) -> None:
    """Call the functions received from `jobs`, until None."""
    while (job := jobs.get()) is not None:
        job()
        del job     # It refers to all values of the call.


def end_second_lane() -> None:
    """End the thread of the second lane; the next use starts a new one."""
    if second_lane.cache_info().currsize:
        second_lane().put(None)
    second_lane.cache_clear()


os.register_at_fork(after_in_child=second_lane.cache_clear)     # A forked child does not have the thread.
