"""Data-parallel training over torch.distributed: NCCL on CUDA GPUs, Gloo on CPUs.

torchrun starts one process, a "rank", per GPU. All ranks draw the same random numbers for the whole minibatch; each
computes on its own share of the rows. The gradients are averaged in the Theano graph, in front of Adam, so that all
ranks make the same step. Rank 0 alone prints and writes. A single process has no process group and runs as if nothing
of this existed.
"""

import contextlib
import functools
import os
import time
from collections.abc import Iterable, Iterator
from datetime import timedelta
from typing import Any

from theano_torch import collective

from common.errors import UserError
from nets.ranks import SINGLE, Ranks

TIMEOUT_VARIABLE = 'DISTRIBUTED_TIMEOUT_SECONDS'
TIMEOUT_SECONDS = 600       # How long ranks wait for each other in a step: one may compile or save pictures meanwhile.
LISTED = 3              # At most so many differences between ranks are named.
TELLING_SECONDS = 2.0       # From the end of a process until another one than rank 0 tells it.
TOLD = 'the end is told'    # In the store of the processes.
PATIENCE = timedelta(days=30)   # How long they wait while rank 0 prepares, for example makes the data set.


class SharedError(UserError):
    """An error that all ranks meet alike: rank 0 tells it."""


class EndedElsewhere(SharedError):
    """This process ends because another one has; the reason is told there.

    `is_told_here`: this process tells that it ends so, being the first that is left, see :func:`tells_the_end`.
    """

    def __init__(self, message: str, is_told_here: bool = False) -> None:
        super().__init__(message)
        self.is_told_here = is_told_here


# ----------------------------------------------------------------------------------------------------------------------
# Ranks.


def from_environment() -> Ranks:
    """What torchrun has set in the environment; `SINGLE` without torchrun."""
    if 'RANK' not in os.environ or 'WORLD_SIZE' not in os.environ:
        return SINGLE
    return Ranks(*(_integer_variable(name, 0) for name in ('RANK', 'WORLD_SIZE', 'LOCAL_RANK')))


def _integer_variable(name, default):
    value = os.environ.get(name, default)
    try:
        return int(value)
    except ValueError:
        raise UserError(f'environment variable {name}={value!r}: must be a whole number') from None


def check_minibatches(ranks: Ranks, resolutions: Iterable[int], minibatch_default: int,
                      minibatch_overrides: dict[int, int] | None) -> None:
    """Raise `UserError` unless the minibatches at all `resolutions` can be divided among the ranks."""
    for resolution in resolutions:
        option, size = 'minibatch_default', minibatch_default
        if minibatch_overrides and resolution in minibatch_overrides:
            option, size = f'minibatch_overrides[{resolution}]', minibatch_overrides[resolution]
        if size % ranks.size:
            below = size // ranks.size * ranks.size
            choices = ' or '.join(str(choice) for choice in (below, below + ranks.size) if choice)
            raise UserError(f'train.{option}={size}: {ranks.size} processes cannot share it equally; use '
                            f'{choices}, or start another number of processes')


# ----------------------------------------------------------------------------------------------------------------------
# Between the processes.


def timeout_seconds() -> int:
    """How long ranks wait for each other in a step."""
    return _integer_variable(TIMEOUT_VARIABLE, TIMEOUT_SECONDS)


@contextlib.contextmanager
def process_group(ranks: Ranks, device: str) -> Iterator[None]:
    """``with process_group(ranks, device): ...``: connected to the other ranks; `device` is what Theano runs on.

    Raises
    ------
    UserError
        The others cannot be reached.
    EndedElsewhere
        Another rank has ended before this one.
    """
    if ranks.size == 1:
        yield
        return
    import torch
    import torch.distributed as dist
    timeout = timedelta(seconds=timeout_seconds())
    if device.startswith('cuda'):
        # By default a thread of PyTorch's ends the process after an error of NCCL, with pages of stack. Here the host
        # notices that it waits for too long, see `stopping.ending_together`.
        os.environ.setdefault('TORCH_NCCL_ASYNC_ERROR_HANDLING', '0')
        # One rank may still run step by step what another replays: NCCL must do both in the same way.
        os.environ.setdefault('NCCL_GRAPH_REGISTER', '0')
    try:
        dist.init_process_group('cpu:gloo,cuda:nccl' if device.startswith('cuda') else 'gloo', timeout=timeout,
                                rank=ranks.rank, world_size=ranks.size,
                                device_id=torch.device(device) if device.startswith('cuda') else None)
    except (RuntimeError, ValueError) as error:
        raise UserError(f'cannot connect to the other {ranks.size - 1} processes '
                        f'({str(error).strip().splitlines()[0]}); start with torchrun') from error
    try:
        with _without_graphs_at_the_end():
            yield
    except collective.ConnectionLost as error:
        raise EndedElsewhere('another process of the run has ended before the training began',
                             tells_the_end(ranks)) from error
    except BaseException:
        if ranks.rank == 0:
            tells_the_end(ranks)        # Whatever it is, rank 0 tells it.
        raise
    dist.destroy_process_group()


@contextlib.contextmanager
def _without_graphs_at_the_end():
    """NCCL ends its part of the group only when no CUDA graph has a call of it any more."""
    from theano_torch import capture
    try:
        yield
    finally:
        capture.release_graphs()


@functools.cache
def tells_the_end(ranks: Ranks) -> bool:
    """Whether this process tells, and saves, that the run ends: rank 0, or one of the others if rank 0 has died.

    The first that says so in the store of the processes is it; torchrun has the store, without torchrun rank 0.
    """
    from torch.distributed import distributed_c10d
    try:
        store = distributed_c10d._get_default_store()
        store.set_timeout(timedelta(seconds=TELLING_SECONDS))
        if ranks.rank:      # Rank 0 comes first if it is there.
            deadline = time.monotonic() + TELLING_SECONDS
            while time.monotonic() < deadline:
                if store.check([TOLD]):
                    return False
                time.sleep(0.1)
        return store.add(TOLD, 1) == 1 or ranks.rank == 0
    except (RuntimeError, ValueError):      # The process that had the store has ended.
        return ranks.rank == (0 if 'TORCHELASTIC_RUN_ID' in os.environ else 1)


def from_rank_0(ranks: Ranks, value: Any) -> Any:
    """The object `value` of rank 0, on all ranks."""
    if ranks.size == 1:
        return value
    return _broadcast(value)


def _broadcast(value, group=None):
    import torch.distributed as dist
    box = [value]
    with collective.translating_errors('cpu'):
        dist.broadcast_object_list(box, src=0, group=group)
    return box[0]


@contextlib.contextmanager
def rank_0_first(ranks: Ranks) -> Iterator[None]:
    """The others do what is in the block when rank 0 has done it; if that fails, it fails for them, too.

    Raises
    ------
    EndedElsewhere
        On the others: rank 0 has failed, and tells why.
    """
    if ranks.size == 1:
        yield
        return
    import torch.distributed as dist
    with collective.translating_errors('cpu'):
        group = dist.new_group(backend='gloo', timeout=PATIENCE)
    if ranks.rank and not _broadcast(None, group):
        raise EndedElsewhere('rank 0 has failed')
    done = False
    try:
        yield
        done = True
    finally:
        if not ranks.rank:
            with contextlib.nullcontext() if done else contextlib.suppress(collective.ConnectionLost):
                _broadcast(done, group)


class RanksDiffer(SharedError):
    """Two ranks do not compute the same run."""


def check_same(ranks: Ranks, facts: dict[str, Any], where: str = '') -> None:
    """Compare {name: value} of all ranks.

    Parameters
    ----------
    ranks : Ranks
    facts : dict
        Plain data.
    where : str
        For the message: from when on they differ.

    Raises
    ------
    RanksDiffer
        On all of them: names a rank that differs from rank 0, and both values.
    """
    if ranks.size == 1:
        return
    import torch.distributed as dist
    of_all: list[Any] = [None] * ranks.size
    with collective.translating_errors('cpu'):
        dist.all_gather_object(of_all, facts)
    for rank, others in enumerate(of_all):
        names = [name for name in {**of_all[0], **others} if of_all[0].get(name) != others.get(name)]
        if names:
            listed = ', '.join(f'{name} {others.get(name)} (rank 0: {of_all[0].get(name)})' for name in names[:LISTED])
            raise RanksDiffer(f'rank {rank} differs from rank 0{where}: {listed}'
                              f'{f" and {len(names) - LISTED} more" if len(names) > LISTED else ""}; all processes '
                              'need the same options, data and versions')


def copy_from_rank_0(ranks: Ranks, variables: Iterable) -> None:
    """Give shared variables the values that they have on rank 0."""
    if ranks.size == 1:
        return
    import torch
    import torch.distributed as dist
    for variable in variables:
        value = torch.from_numpy(variable.get_value())
        with collective.translating_errors('cpu'):
            dist.broadcast(value, src=0)
        variable.set_value(value.numpy())
