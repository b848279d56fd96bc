"""What the races share: the learning-rate grid, seeds derived from the run's seed, and which steps are kept."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from bench import contenders
from bench.score import tracks

T = TypeVar("T")
Worth = tuple[float, float]  # of a learning rate: mean area, and mean of the lowest losses, inf where one diverged

KEPT_STEPS = 120  # points of a downsampled curve, at most


def lr_multiples(count: int) -> list[float]:
    """`count` multiples of an optimizer's default learning rate, a factor √10 apart, with 1 in the middle."""
    if count < 1 or count % 2 == 0:
        raise ValueError(f"{count} learning rates have no middle one; choose an odd number, 1 or more")
    return [10 ** (step / 2) for step in range(-(count // 2), count // 2 + 1)]


def next_multiple(multiple: float, side: int) -> float:
    """The next one beyond `multiple` in the grid of `lr_multiples`, upwards for `side` 1, downwards for -1."""
    return 10 ** ((round(2 * math.log10(multiple)) + side) / 2)


def widened(
    make: Callable[[list[float]], list[T]], worth: Callable[[T], Worth], multiples: list[float], extra: int
) -> dict[float, T]:
    """What `make` makes of the grid `multiples`, and up to `extra` more on each side while the best is the last there.

    `worth`: of tuning seeds alone.
    """
    rates = dict(zip(multiples, make(multiples), strict=True))
    for side in (1, -1) if len(multiples) > 1 else ():
        for _ in range(extra):
            grid = np.array(sorted(rates))
            edge = grid[-1 if side > 0 else 0]
            if best([worth(rates[one]) for one in grid], grid) != edge:
                break
            multiple = next_multiple(float(edge), side)
            (rates[multiple],) = make([multiple])
    return dict(sorted(rates.items()))


def best(worths: Sequence[Worth], grid: NDArray[np.float64]) -> float:
    """The best of a grid from the smallest to the largest: that of the largest area.

    Where no run has come down to any target all areas are 0. Then it is that of the lowest losses, or nobody would look
    for where targets begin; and the smallest where all have diverged.
    """
    areas, losses = np.array(worths).T
    if not areas.any() and np.isinf(losses).all():
        return grid[0]
    return grid[tracks.preferred(areas if areas.any() else -losses, grid)]


def default_lr(optimizer: str) -> float:
    """The learning rate our `optimizer` has when none is given."""
    return float(contenders.build("ours", optimizer, [torch.zeros(1)]).defaults["lr"])


def generator(*parts: object) -> random.Random:
    """Random numbers that depend on nothing but `parts`, on every machine and in every process."""
    return random.Random("/".join(map(str, parts)))


def kept_steps(steps: int) -> list[int]:
    """At most `KEPT_STEPS` of the steps 0 … `steps`, both ends among them, denser early, where most happens."""
    last = KEPT_STEPS - 1
    return sorted({round(steps * (point / last) ** 2) for point in range(KEPT_STEPS)})


@contextmanager
def one_thread() -> Iterator[None]:
    """torch on one thread: in problems this small, waiting for a second one costs more than it helps."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
