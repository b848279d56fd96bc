"""Was the machine disturbed? A fixed piece of work and the hypervisor's own account, read between rounds."""

from __future__ import annotations

import os
import time
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

CANARY_OFF = 0.25  # relative distance of the canary from its median at which a round is dropped
STOLEN = 0.02  # share of a round's processor time that may be stolen unnoticed

_CANARY_BYTES = 1 << 20
_CANARY_COPIES = 3


class Reading(NamedTuple):
    """Taken between two rounds."""

    at_ns: int
    canary_ns: int  # duration of the fixed memory operation
    stolen_ns: int  # processor time the hypervisor gave to others since boot, summed over cores


class NoiseMonitor:
    """Takes readings; `disturbed` judges them."""

    def __init__(self) -> None:
        self._source = np.ones(_CANARY_BYTES, dtype=np.uint8)
        self._target = np.zeros_like(self._source)

    def read(self) -> Reading:
        """One reading: about 0.1 ms."""
        times = []
        for _ in range(_CANARY_COPIES):  # the first copy warms the cache, so the fastest is what the core can do now
            start = time.perf_counter_ns()
            np.copyto(self._target, self._source)
            times.append(time.perf_counter_ns() - start)
        return Reading(time.perf_counter_ns(), min(times), stolen_ns())


def stolen_ns() -> int:
    """Processor time stolen since boot, from ``/proc/stat``; 0 where there is none."""
    try:
        with open("/proc/stat", encoding="ascii") as file:
            ticks = int(file.readline().split()[8])
    except (OSError, IndexError, ValueError):
        return 0
    return ticks * 1_000_000_000 // os.sysconf("SC_CLK_TCK")


def disturbed(readings: ArrayLike, cores: int | None = None) -> NDArray[np.bool_]:
    """Which rounds to drop: n + 1 readings around n rounds give n truth values.

    A round is dropped if the canary before or after it is far off its median, or if far more time was stolen in it
    than in most rounds. Both are relative, so a machine that is always busy does not lose all its rounds.
    """
    at, canary, stolen = np.asarray(readings, dtype=np.float64).reshape(-1, 3).T
    if len(at) < 2:
        return np.zeros(0, dtype=bool)
    off = np.abs(canary / np.median(canary) - 1.0) > CANARY_OFF
    share = np.diff(stolen) / (np.diff(at) * (cores or os.cpu_count() or 1))
    return off[:-1] | off[1:] | (share > max(STOLEN, 2.0 * float(np.median(share))))
