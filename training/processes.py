"""Data-parallel training over torch.distributed: NCCL on CUDA GPUs, Gloo on CPUs.

torchrun starts one process, a "rank", per GPU. All ranks draw the same random numbers for the whole minibatch, and each
computes its own share of the rows. The gradients are averaged in the Theano graph before Adam, so that all ranks make
the same step. Only rank 0 prints and writes. A single process needs no process group and skips all of this.
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
TIMEOUT_SECONDS = 600       # How long ranks wait for each other in a step, as one may compile or save pictures.
LISTED = 3              # Largest number of differences between ranks in a message.
REPORT_SECONDS = 2.0        # How long other ranks wait for rank 0 to report the end of the run.
REPORTED = 'end reported'   # Key in the processes' store.
PATIENCE = timedelta(days=30)   # How long the others wait while rank 0 prepares, for example makes the dataset.


class SharedError(UserError):
    """An error that all ranks raise, and that only rank 0 prints."""


class EndedElsewhere(SharedError):
    """This process ends because another one has ended, which prints the reason.

    With `is_reported_here`, this process prints the message, see :func:`reports_the_end`.
    """

    def __init__(self, message: str, is_reported_here: bool = False) -> None:
        super().__init__(message)
        self.is_reported_here = is_reported_here


# ----------------------------------------------------------------------------------------------------------------------
# Ranks.


def from_environment() -> Ranks:
    """The ranks that torchrun sets in environment variables; `SINGLE` without torchrun."""
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
# Communication.


def timeout_seconds() -> int:
    """How long ranks wait for each other in a step, in seconds."""
    return _integer_variable(TIMEOUT_VARIABLE, TIMEOUT_SECONDS)


@contextlib.contextmanager
def process_group(ranks: Ranks, device: str) -> Iterator[None]:
    """Context in which this process is connected to the other ranks; `device` is Theano's device.

    Raises
    ------
    UserError
        The other ranks cannot be reached.
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
        # By default a thread of PyTorch ends the process after an NCCL error and prints pages of stack traces. Here
        # `stopping.ending_together` notices that the host waits too long.
        os.environ.setdefault('TORCH_NCCL_ASYNC_ERROR_HANDLING', '0')
        # One rank may still run a program step by step while another replays its graph: NCCL must treat both alike.
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
                             reports_the_end(ranks)) from error
    except BaseException:
        if ranks.rank == 0:
            reports_the_end(ranks)      # Rank 0 reports any error, so the other ranks must not.
        raise
    dist.destroy_process_group()


@contextlib.contextmanager
def _without_graphs_at_the_end():
    """Release CUDA graphs at the end, because NCCL does not shut down while a graph contains a call of it."""
    from theano_torch import capture
    try:
        yield
    finally:
        capture.release_graphs()


@functools.cache
def reports_the_end(ranks: Ranks) -> bool:
    """Whether this process reports the end of the run and saves its state: rank 0, or another one if rank 0 has died.

    The first process that claims this in the processes' store does so. The store belongs to torchrun, or to rank 0
    without torchrun.
    """
    from torch.distributed import distributed_c10d
    try:
        store = distributed_c10d._get_default_store()
        store.set_timeout(timedelta(seconds=REPORT_SECONDS))
        if ranks.rank:      # Rank 0 takes precedence if it is alive.
            deadline = time.monotonic() + REPORT_SECONDS
            while time.monotonic() < deadline:
                if store.check([REPORTED]):
                    return False
                time.sleep(0.1)
        return store.add(REPORTED, 1) == 1 or ranks.rank == 0
    except (RuntimeError, ValueError):      # The process that owns the store has ended.
        return ranks.rank == (0 if 'TORCHELASTIC_RUN_ID' in os.environ else 1)


def from_rank_0(ranks: Ranks, value: Any) -> Any:
    """Broadcast the object `value` of rank 0 to all ranks."""
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
    """Let rank 0 execute the block before all other ranks, which fail if rank 0 fails.

    Raises
    ------
    EndedElsewhere
        On the other ranks: rank 0 has failed, and prints the reason.
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
    """Two ranks would compute different runs."""


def check_same(ranks: Ranks, facts: dict[str, Any], where: str = '') -> None:
    """Check that `facts` are equal on all ranks.

    Parameters
    ----------
    ranks : Ranks
    facts : dict
        {name: value} of plain data.
    where : str
        Time of the check, for the message.

    Raises
    ------
    RanksDiffer
        On all ranks: names a rank that differs from rank 0, with both values.
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
    """Broadcast the values of shared variables from rank 0 to all ranks."""
    if ranks.size == 1:
        return
    import torch
    import torch.distributed as dist
    for variable in variables:
        value = torch.from_numpy(variable.get_value())
        with collective.translating_errors('cpu'):
            dist.broadcast(value, src=0)
        variable.set_value(value.numpy())
