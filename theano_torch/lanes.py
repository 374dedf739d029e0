"""Steps that do not need each other side by side, on the CPU: in two lanes, with half of the threads each.

With all threads in every operation, the threads are woken and waited for some hundred times in a training step; each
time the slower core decides. Where a graph has two things to do at a time (in the D step: reals, fakes and what lies
between them), two Python threads that each work through a list of steps wait for each other far less often. PyTorch
lets go of the interpreter while it computes.

Steps are shared out beforehand, by what they are estimated to take. Nothing is shared but constants: each lane has
values of its own, and sends the other one what it needs.

How many threads an operation has may change the last bits of its result. So that depends on the graph and on shapes
alone, and a function computes with the same numbers of threads in every call: where making the program, in the first
call, has computed with others, the call is repeated with the program.
"""

import bisect
import collections
import concurrent.futures
import functools
import math
import os
import queue

import torch

from theano_torch.steps import execute, is_product, multiplications, multiplications_per_kernel_element, targets_of

# What runs with all threads outside of lanes: with less to do, waking them costs more than they save.
WIDE_PRODUCT = 3000000      # Multiplications per kernel element.
WIDE_ELEMENTS = 500000      # Of the largest input of other nodes.

SPEED_UP = 1.6              # Of products with all threads over half of them.
MESSAGE_SECONDS = 50e-6     # What waiting for the other lane costs at least.
SMALL_STEP = 1500000        # Multiplications: below this mean, handing over the interpreter costs more than lanes save.
BIG_PRODUCT = 150000000     # Multiplications per kernel element: beside such ones waking threads does not count, and
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


def share_out(steps, costs):
    """Which lane runs which step: a list of (lane, index) in the order in which they begin, if `costs` are right.

    A lane takes the first of the steps whose sources are there when it is free. Without need, steps so keep their
    order, and with it the order in which memory becomes free.
    """
    needs = needs_of(steps)
    needed_by = collections.defaultdict(list)
    for index, before in enumerate(needs):
        for other in before:
            needed_by[other].append(index)
    missing = [len(before) for before in needs]
    ready = [index for index, count in enumerate(missing) if not count]
    free, lane_of, finished, result = [0.0, 0.0], {}, {}, []

    def arrival(index, lane):
        return max((finished[other] + (MESSAGE_SECONDS if lane_of[other] != lane else 0) for other in needs[index]),
                   default=0.0)

    while ready:
        lane = free.index(min(free))
        index = next((index for index in ready if arrival(index, lane) <= free[lane]), None)
        if index is None:
            index = min(ready, key=lambda index: arrival(index, lane))
            lane = min((lane, 1 - lane), key=lambda lane: max(free[lane], arrival(index, lane)))
        lane_of[index] = lane
        free[lane] = finished[index] = max(free[lane], arrival(index, lane)) + costs[index]
        result.append((lane, index))
        ready.remove(index)
        for other in needed_by[index]:
            missing[other] -= 1
            if not missing[other]:
                bisect.insort(ready, other)
    return result


class Lanes:
    """Steps that run in two lanes, the second one in a thread of its own.

    Parameters
    ----------
    steps : list of tuples
        See `steps.py`. None may work in place.
    costs : list of float
        Estimated seconds of each.
    initial : list
        Constants, and None, for all slots.
    kept : set of int
        Slots that are needed afterwards.
    threads : int
        Of each lane.
    """

    def __init__(self, steps, costs, initial, kept, threads):
        self.initial, self.threads = initial, threads
        constants = {slot for slot, value in enumerate(initial) if value is not None}
        needed = kept.union(*(step[1] for step in steps))
        filled = needed - constants.union(*map(targets_of, steps))      # Before.
        lists = [[((), tuple(filled), None)], []]
        for lane, index in share_out(steps, costs):
            step = steps[index]
            lists[lane].append((step[1], targets_of(step), step))
        lists[0].append((tuple(kept), (), None))
        self.segments = segments(lists, constants)

    def run(self, values):
        """Run all steps on the list `values`, as `execute` does.

        If one lane fails, the other one stops where it next waits. What is raised is the error of the lane that failed.
        """
        inboxes = queue.SimpleQueue(), queue.SimpleQueue()
        torch.set_num_threads(self.threads)
        second = worker().submit(self.follow_in_thread, inboxes)
        try:
            self.follow(0, values, inboxes)
        except OtherLaneFailed:
            raise second.exception() from None
        except BaseException:       # Ctrl-C, too, must not leave the other lane waiting for ever.
            concurrent.futures.wait([second])
            raise
        second.result()

    def follow_in_thread(self, inboxes):
        torch.set_num_threads(self.threads)
        with torch.inference_mode():
            self.follow(1, self.initial.copy(), inboxes)

    def follow(self, lane, values, inboxes):
        """Run one lane on its own `values`."""
        inbox, outbox = inboxes[lane], inboxes[1 - lane]
        try:
            for received, steps, sent, emptied in self.segments[lane]:
                if received:
                    message = inbox.get()
                    if message is None:
                        raise OtherLaneFailed
                    for slot, value in zip(received, message, strict=True):
                        values[slot] = value
                    del message, value
                execute(steps, values)
                if sent:
                    outbox.put([values[slot] for slot in sent])
                for slot in emptied:
                    values[slot] = None
        except BaseException:
            outbox.put(None)
            raise


class OtherLaneFailed(Exception):
    """A lane cannot go on because the other one has failed."""


@functools.cache
def worker():
    """The thread of the second lanes. It treats denormal numbers as the thread does that first asks for it."""
    return concurrent.futures.ThreadPoolExecutor(1, 'second lane')


os.register_at_fork(after_in_child=worker.cache_clear)      # Threads do not come along.


def segments(lists, constants):
    """What each of two lanes does, cut where one has to wait for the other.

    Parameters
    ----------
    lists : pair of lists of (sources, targets, step or None)
        For each lane; entries without a step stand for what is there before and needed afterwards.
    constants : set of int
        Slots that both lanes have from the start and keep.

    Returns
    -------
    pair of lists of (slots to receive before, steps, slots to send afterwards, slots to empty then)
    """
    made = [{slot: place for place, entry in enumerate(entries) for slot in entry[1]} for entries in lists]
    sent = [{}, {}]         # For each lane: place after which it sends -> slots.
    received = [{}, {}]     # For each lane: place before which it receives -> slots.
    for lane, entries in enumerate(lists):
        other = made[1 - lane]
        wanted = sorted({slot for entry in entries for slot in entry[0]} & other.keys() - constants, key=other.get)
        last_sent = -1
        for place, (sources, _, _) in enumerate(entries):
            until = max((other[slot] for slot in sources if slot in other), default=-1)
            if until > last_sent:
                slots = [slot for slot in wanted if last_sent < other[slot] <= until]
                sent[1 - lane][until], received[lane][place] = slots, slots
                last_sent = until
    return tuple(cut(entries, received[lane], sent[lane], constants) for lane, entries in enumerate(lists))


def cut(entries, received, sent, constants):
    """The segments of one lane, see `segments`. Slots are emptied after their last use in this lane."""
    last_use = {slot: place for place, entry in enumerate(entries) for slot in (*entry[0], *entry[1])}
    for place, slots in sent.items():
        last_use.update((slot, max(place, last_use[slot])) for slot in slots)
    emptied = collections.defaultdict(list)
    for slot, place in last_use.items():
        if slot not in constants and (place < len(entries) - 1 or entries[-1][2] is not None):
            emptied[place].append(slot)
    result, steps, begin = [], [], 0
    for place, (_, _, step) in enumerate(entries):
        if place in received and place > begin:
            result.append((received.get(begin), steps, (), ()))
            steps, begin = [], place
        is_sent = place in sent
        if step is not None:
            function, sources, target, _, node = step
            steps.append((function, sources, target, () if is_sent else tuple(emptied[place]), node))
        if is_sent or place == len(entries) - 1:
            result.append((received.get(begin), steps, sent.get(place, ()), emptied[place] if is_sent else ()))
            steps, begin = [], place + 1
    return result
