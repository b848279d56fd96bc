"""What a small network should come down to, fixed beforehand: `targets.json`, made by `bench.problems.make_targets`.

The reference loss of a network is what the best of torch's own optimizers reaches, tuned, in the default horizon. The
targets lie between a run's own initial loss and that, from a quarter of a decade below the start, so that standing
still meets none, to a hundredth of the way left, and at last the reference itself.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

FILE = Path(__file__).with_name("targets.json")
ONLY = (0.0,)  # the same where the reference is the only target
LEFT = (*(10 ** (-quarter / 4) for quarter in range(1, 9)), 0.0)  # shares of the way that are left at each target


@cache
def kept() -> dict[str, Any]:
    """The file: ``networks``, each with its ``reference``, and ``provenance``, where they came from."""
    return json.loads(FILE.read_text(encoding="utf-8"))


def reference(network: str) -> float:
    """The loss on the full training set that is the last target; nan for a network that has none."""
    return kept()["networks"].get(network, {}).get("reference", math.nan)


def first_hits(
    losses: Sequence[float], evaluations: Sequence[int], reference: float, lefts: Sequence[float] = LEFT
) -> list[int]:
    """After how many gradients each target was met, by losses on the full set of which the first is the initial one.

    Met is a target at the first loss at or below it, if the next one is too; the last loss has no next one. Targets
    that were never met are left out, which are always the last ones. nan meets no target, and has none.
    """
    way = losses[0] - reference
    if not way > 0:
        return []
    found = []
    for left in lefts:
        below = [loss <= reference + left * way for loss in losses]
        stays = (here and after for here, after in zip(below, [*below[1:], True], strict=True))
        place = next((place for place, both in enumerate(stays) if both), None)
        if place is None:
            break
        found.append(evaluations[place])
    return found
