"""The one timing core: contenders take turns over many short rounds, and each round gives one ratio for each of them.

Whatever slows the machine for longer than a round slows all contenders of that round, so it leaves their ratios
alone; what is shorter than that, the median over the rounds discards.
"""

from __future__ import annotations

import gc
import math
import random
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from bench.noise import NoiseMonitor, disturbed
from bench.statistics import FEWEST_ROUNDS, TARGET, half_width, ratio_interval

ROUNDS_BEFORE_STOPPING = 12  # a few alike by chance must not stop the measurement
MOST_ROUNDS = 5000
# Shorter calls get one untimed call ahead of each block: the first call finds the caches full of another contender's
# tensors, which would weigh most on the contender with the fewest calls in its block.
LEAD_IN_BELOW_NS = 10_000_000
CALLS_WITH_WORK_BETWEEN = 2  # in a block, where what lies between the calls takes far longer than they do


@dataclass(frozen=True)
class Arm:
    """A contender as the timing core sees it: `call` is timed, `before` runs untimed ahead of each call.

    `twins` do what `call` does, on memory of their own; each round draws one of them all. Where tensors happen to lie
    makes two copies of one small optimizer differ by up to 12 %, and that belongs into the interval.
    """

    name: str
    call: Callable[[], object]
    before: Callable[[], object] | None = None
    twins: tuple[Callable[[], object], ...] = ()

    def copies(self) -> list[Arm]:
        """One arm without twins for `call` and for each twin."""
        return [Arm(self.name, call, self.before) for call in (self.call, *self.twins)]


class Stopwatch(Protocol):
    """How a block of calls is timed: `columns` names what `block` returns, in ns per call; the first is compared."""

    columns: tuple[str, ...]
    block_ns: int  # a block lasts at least this long

    def now(self) -> int: ...
    def block(self, arm: Arm, calls: int) -> tuple[float, ...]: ...


class CpuStopwatch:
    """Wall time."""

    columns: tuple[str, ...] = ("end_to_end",)
    block_ns = 2_000_000

    def __init__(self, now: Callable[[], int] = time.perf_counter_ns) -> None:
        self.now = now

    def block(self, arm: Arm, calls: int) -> tuple[float, ...]:
        return (_wall_ns(arm, calls, self.now) / calls,)


class CudaStopwatch:
    """Three times: end to end (with one synchronisation a block), host (until all is queued), device (events)."""

    columns: tuple[str, ...] = ("end_to_end", "host", "device")
    block_ns = 5_000_000
    fewest_calls = 20  # steps queued between two events

    def __init__(self, now: Callable[[], int] = time.perf_counter_ns) -> None:
        self.now = now

    def block(self, arm: Arm, calls: int) -> tuple[float, ...]:
        if arm.before is not None:
            return self._one_by_one(arm, calls)
        torch.cuda.synchronize()
        start = self.now()
        host = _wall_ns(arm, calls, self.now) / calls
        torch.cuda.synchronize()
        end_to_end = (self.now() - start) / calls
        return (end_to_end, host, self._device_ns(arm, max(calls, self.fewest_calls), host))

    def _one_by_one(self, arm: Arm, calls: int) -> tuple[float, ...]:
        """Steps with other work between them: the device is idle when one starts, so its time is not apart."""
        assert arm.before is not None
        end_to_end = host = 0
        for _ in range(calls):
            arm.before()
            torch.cuda.synchronize()
            start = self.now()
            arm.call()
            host += self.now() - start
            torch.cuda.synchronize()
            end_to_end += self.now() - start
        return (end_to_end / calls, host / calls, math.nan)

    def _device_ns(self, arm: Arm, calls: int, host_ns: float) -> float:
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        # The device sleeps (cycles, about 2 in a ns) while the host fills the queue; without that head start the
        # events would time the gaps between launches too.
        torch.cuda._sleep(int(3 * min(calls * host_ns, 20e6)))
        begin.record()
        for _ in range(calls):
            arm.call()
        end.record()
        torch.cuda.synchronize()
        return begin.elapsed_time(end) * 1e6 / calls


def _wall_ns(arm: Arm, calls: int, now: Callable[[], int]) -> int:
    call, before = arm.call, arm.before
    if before is None:
        start = now()
        for _ in range(calls):
            call()
        return now() - start
    total = 0
    for _ in range(calls):
        before()
        start = now()
        call()
        total += now() - start
    return total


@dataclass(frozen=True)
class Timing:
    """What was measured: `times[round, arm, column]` in ns per call, undisturbed rounds only."""

    names: tuple[str, ...]
    columns: tuple[str, ...]
    calls: dict[str, int]  # per block
    times: NDArray[np.float64]
    rounds: int  # all of them, the dropped ones included

    @property
    def dropped(self) -> float:
        """Fraction of the rounds that were disturbed and left out."""
        return 1.0 - len(self.times) / self.rounds

    def of(self, name: str, column: str = "end_to_end") -> NDArray[np.float64]:
        """ns per call of one contender, one value for each round."""
        return self.times[:, self.names.index(name), self.columns.index(column)]

    def log_ratios(self, name: str, reference: str) -> NDArray[np.float64]:
        """log(time of ``name`` / time of ``reference``), one value for each round."""
        return np.log(self.of(name) / self.of(reference))

    def is_settled(self, reference: str) -> bool:
        """True if every contender's ratio to ``reference`` is known to within 3 %."""
        intervals = [ratio_interval(self.log_ratios(name, reference)) for name in self.names if name != reference]
        return all(half_width(interval.low, interval.high) <= TARGET for interval in intervals)


def measure(
    arms: Sequence[Arm],
    stopwatch: Stopwatch,
    *,
    seconds: float,
    seed: int = 0,
    reference: str | None = None,
    noise: NoiseMonitor | None = None,
    warm_up_calls: int = 2,
) -> Timing:
    """Time ``arms`` against each other until each one's ratio to ``reference`` (the first arm if not given) is known
    to within 3 %, or ``seconds`` are over; `FEWEST_ROUNDS` are taken even if that takes longer.

    Warm-up is explicit, untimed and not part of ``seconds``.
    """
    names = tuple(arm.name for arm in arms)
    if not names or len(set(names)) != len(names):
        raise ValueError(f"contenders need distinct names, got {names}")
    reference = reference or names[0]
    chance = random.Random(seed)
    copies = [arm.copies() for arm in arms]
    order = list(range(len(arms)))
    rounds: list[list[tuple[float, ...]]] = []
    with garbage_collection_off():
        one_call = [min(_warm_up(copy, stopwatch, warm_up_calls) for copy in group) for group in copies]
        calls = [
            CALLS_WITH_WORK_BETWEEN if arm.before else math.ceil(stopwatch.block_ns / ns)
            for arm, ns in zip(arms, one_call, strict=True)
        ]
        readings = [noise.read()] if noise else []

        def so_far() -> Timing:
            times = np.asarray(rounds, dtype=np.float64)
            kept = times[~disturbed(readings)] if noise else times
            return Timing(names, stopwatch.columns, dict(zip(names, calls, strict=True)), kept, len(rounds))

        def is_over() -> bool:
            """Time is up, and there are enough rounds; a disturbed measurement gets twice the time to find them."""
            late = stopwatch.now() - deadline
            if late < 0 or len(rounds) < FEWEST_ROUNDS:
                return False
            return late > seconds * 1e9 or len(so_far().times) >= FEWEST_ROUNDS

        deadline = stopwatch.now() + int(seconds * 1e9)
        next_look = ROUNDS_BEFORE_STOPPING
        while len(rounds) < MOST_ROUNDS and not is_over():
            chance.shuffle(order)
            row: list[tuple[float, ...]] = [()] * len(arms)
            for index in order:
                arm = chance.choice(copies[index])
                if one_call[index] < LEAD_IN_BELOW_NS:
                    _wall_ns(arm, 1, stopwatch.now)
                row[index] = stopwatch.block(arm, calls[index])
            rounds.append(row)
            if noise:
                readings.append(noise.read())
            if len(rounds) >= next_look:
                if so_far().is_settled(reference):
                    break
                next_look = math.ceil(1.25 * next_look)  # a look costs time, so they become ever rarer
        return so_far()


def _warm_up(arm: Arm, stopwatch: Stopwatch, calls: int) -> float:
    """Run ``arm`` until it is warm and return the ns that one call takes, to choose the size of its blocks."""
    for _ in range(calls):
        _wall_ns(arm, 1, stopwatch.now)
    size = 1
    while True:
        # The fastest of three, because one hiccup would make a block of a few calls out of one of hundreds.
        best = stopwatch.block(arm, size)[0]
        for _ in range(2):
            if best * size < LEAD_IN_BELOW_NS:
                best = min(best, stopwatch.block(arm, size)[0])
        if best * size >= stopwatch.block_ns / 4 or arm.before:
            return max(best, 1.0)
        size *= 4


@contextmanager
def garbage_collection_off() -> Iterator[None]:
    """No garbage collection while something is timed; what is there is collected before, unless it is off already."""
    was_on = gc.isenabled()
    if was_on:
        gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()
