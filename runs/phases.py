"""Split a training into phases, one per resolution and one per fade in, and sum up their times and memory."""

import itertools
import math
from typing import NamedTuple


class Phase(NamedTuple):
    """Time and memory of one phase; None means unknown. A phase ends with its last tick."""

    name: str
    fading: bool                        # Whether layers were fading in.
    begin: float                        # kimg.
    end: float
    minibatch: float | None
    seconds: float | None               # Between the status lines at its beginning and its end; all in all.
    compile_seconds: float | None       # Included in `seconds`.
    metric_seconds: float | None        # Included in `seconds`: metrics after all its ticks but the last one.
    sec_per_kimg: float | None          # Without compiling and metrics.
    peak_memory_mb: float | None        # Peak of the process so far.


def find_phases(stats: list[dict]) -> list[Phase]:
    """The phases of a training, in order: one per resolution, and one for each fade in."""
    def phase_of(tick):
        return tick.get('resolution'), tick.get('lod', 0) % 1 > 0

    def total(ticks, name):
        return sum(tick[name] for tick in ticks if name in tick) if any(name in tick for tick in ticks) else None

    phases: list[Phase] = []
    for (resolution, fading), group in itertools.groupby(stats, phase_of):
        ticks = list(group)
        begin, end = phases[-1].end if phases else first_kimg(stats), ticks[-1]['kimg']
        step_seconds, compile_seconds = total(ticks, 'sec_per_tick'), total(ticks, 'compile_seconds')
        before = stats[stats.index(ticks[0]) - 1] if phases else {}
        phases.append(Phase(
            name=(f'{resolution}x{resolution}' if resolution else '?') + (' fading in' if fading else ''),
            fading=fading, begin=begin, end=end,
            minibatch=min((tick['minibatch'] for tick in ticks if 'minibatch' in tick), default=None),
            seconds=elapsed(before, ticks, step_seconds), compile_seconds=compile_seconds,
            metric_seconds=total([before, *ticks[:-1]], 'metric_seconds'),
            sec_per_kimg=max(step_seconds - (compile_seconds or 0), 0) / (end - begin)
            if step_seconds is not None and end > begin else None,
            peak_memory_mb=max((tick['peak_memory_mb'] for tick in ticks if 'peak_memory_mb' in tick), default=None)))
    return phases


def elapsed(before: dict, ticks: list[dict], step_seconds: float | None) -> float | None:
    """Seconds from the status line `before` ({} if there is none) to the last of some ticks.

    Status lines without the time since the start give `step_seconds`, the sum over the ticks.
    """
    first, last = ticks[0], ticks[-1]
    begin = before.get('seconds') if before else first.get('seconds', 0) - first.get('sec_per_tick', math.inf)
    if 'seconds' in last and begin is not None and -1 < begin <= last['seconds']:
        return last['seconds'] - max(begin, 0)
    return step_seconds


def first_kimg(stats: list[dict]) -> float:
    """The kimg at which the first tick began; not 0 if the run started from saved networks."""
    tick = stats[0]
    if tick.get('sec_per_kimg', 0) > 0 and 'sec_per_tick' in tick:
        return max(round(tick['kimg'] - tick['sec_per_tick'] / tick['sec_per_kimg'], 3), 0)
    return 0


def whole_run(phases: list[Phase]) -> Phase:
    """All phases joined into one, without a minibatch size."""
    def known(name):
        return [getattr(phase, name) for phase in phases if getattr(phase, name) is not None]

    begin, end = phases[0].begin, phases[-1].end
    timed = [phase for phase in phases if phase.sec_per_kimg is not None]
    step_seconds = sum((phase.sec_per_kimg or 0) * (phase.end - phase.begin) for phase in timed)
    totals = {name: sum(known(name)) if known(name) else None
              for name in ('seconds', 'compile_seconds', 'metric_seconds')}
    return Phase(name='whole run' if begin == 0 else f'since kimg {begin:g}', fading=False, begin=begin, end=end,
                 minibatch=None, **totals, peak_memory_mb=max(known('peak_memory_mb'), default=None),
                 sec_per_kimg=step_seconds / sum(phase.end - phase.begin for phase in timed) if timed else None)
