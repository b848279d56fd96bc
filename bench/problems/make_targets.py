"""``python -m bench.problems.make_targets`` writes `targets.json`: what torch's own optimizers, tuned, come down to.

For each network four optimizers of `torch.optim` have 40 trials: ten learning rates × four averages, on three seeds.
The trial with the lowest median, over the seeds, of the best loss on the full training set is made again on twenty
other seeds; the best optimizer's median over those is the reference. Nothing here depends on what is raced against it,
so it is made once and kept. No weight decay: what is judged is the loss that is trained on. Names of networks after the
command make theirs only.
"""

from __future__ import annotations

import datetime
import json
import math
import random
import statistics
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from bench.errors import BenchError, unknown
from bench.problems import targets
from bench.problems.networks import NETWORKS, Network
from bench.problems.stack import Stack, draw_picks, train
from bench.problems.targets import FILE

STEPS, EVALUATE_EVERY = 200, 10  # those of the default budget
LEARNING_RATES = 10
TUNING_SEEDS, SEEDS = range(3), range(3, 23)

Trial = dict[str, Any]  # options of an optimizer


@dataclass(frozen=True)
class Tuned:
    """An optimizer of torch and what is tried of it: learning rates between two, each with each of some averages."""

    build: Callable[[list[dict[str, Any]]], torch.optim.Optimizer]
    lrs: tuple[float, float]
    averages: tuple[dict[str, Any], ...]

    def trials(self) -> list[Trial]:
        low, high = np.log10(self.lrs)
        lrs = np.logspace(low, high, LEARNING_RATES).tolist()
        return [{"lr": float(f"{lr:.4g}"), **average} for lr in lrs for average in self.averages]


BETAS = tuple({"betas": betas} for betas in ((0.5, 0.99), (0.9, 0.99), (0.9, 0.999), (0.95, 0.999)))

TUNED: dict[str, Tuned] = {
    "SGD with Nesterov's momentum": Tuned(
        lambda groups: torch.optim.SGD(groups, nesterov=True, momentum=0.9),
        (1e-3, 30.0),
        tuple({"momentum": momentum} for momentum in (0.5, 0.8, 0.9, 0.97)),
    ),
    "AdamW": Tuned(lambda groups: torch.optim.AdamW(groups, weight_decay=0), (3e-4, 0.3), BETAS),
    "NAdam": Tuned(lambda groups: torch.optim.NAdam(groups), (3e-4, 0.3), BETAS),
    "RMSprop": Tuned(
        lambda groups: torch.optim.RMSprop(groups),
        (1e-4, 0.1),
        tuple(
            {"alpha": alpha, "momentum": momentum}
            for alpha, momentum in ((0.9, 0.0), (0.99, 0.0), (0.99, 0.9), (0.999, 0.5))
        ),
    ),
}


def lowest(network: Network, tuned: Tuned, trials: list[Trial], seeds: range) -> list[tuple[float, list[float]]]:
    """Of each trial the median of the lowest losses on the full training set, and those of each seed.

    inf for a run whose loss was ever not finite.
    """
    data = network.data()
    numbers = [random.Random(f"targets/{network.name}/{seed}") for seed in seeds]
    starts = [one.getrandbits(31) for one in numbers]
    picks = torch.stack([draw_picks(len(data.train_inputs), network.batch_size, STEPS, one) for one in numbers], 1)
    found = []
    for trial in trials:
        models = [network.build(start) for start in starts]
        optimizer = tuned.build([{"params": [p for m in models for p in m.parameters()], **trial}])
        looks = []
        for _ in train(Stack(network, models), optimizer, data, picks, range(EVALUATE_EVERY, STEPS, EVALUATE_EVERY)):
            looks.append([full_loss(network, model) for model in models])
        losses = np.array(looks)
        best = np.where(np.isfinite(losses).all(0), losses.min(0), math.inf).tolist()
        found.append((statistics.median(best), best))
    return found


def full_loss(network: Network, model: torch.nn.Module) -> float:
    data = network.data()
    with torch.no_grad():
        return network.loss(model, data.train_inputs, data.train_targets).item()


def target(network: Network) -> dict[str, Any]:
    """The reference of one network and how each optimizer fared."""
    optimizers = {}
    for name, tuned in TUNED.items():
        trials = tuned.trials()
        medians = [median for median, _ in lowest(network, tuned, trials, TUNING_SEEDS)]
        trial = trials[int(np.argmin(medians))]
        ((median, losses),) = lowest(network, tuned, [trial], SEEDS)
        optimizers[name] = {"reference": _short(median), "worst": _short(max(losses)), **trial}
        print(f"{network.name}  {name}  {median:.5g}  {trial}", flush=True)
    best = min(optimizers, key=lambda name: optimizers[name]["reference"])
    return {"reference": optimizers[best]["reference"], "by": best, "optimizers": optimizers}


def _short(loss: float) -> float | None:
    return float(f"{loss:.6g}") if math.isfinite(loss) else None  # JSON has no infinity


def main(names: Sequence[str] = ()) -> None:
    """Make the targets of the networks `names`, all if none are named, and leave those of the others as they are.

    Raises `BenchError` for a name that there is not.
    """
    for name in names:
        if name not in NETWORKS:
            raise unknown("network", name, NETWORKS)
    kept = targets.kept()["networks"] if names else {}
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        made = {name: target(NETWORKS[name]) for name in names or NETWORKS}
    finally:
        torch.set_num_threads(threads)
    provenance = {
        "made_by": "python -m bench.problems.make_targets",
        "date": datetime.date.today().isoformat(),
        "torch": torch.__version__,
        "reference": "median over the seeds of the lowest loss on the full training set, of the best optimizer",
        "trials": LEARNING_RATES * len(BETAS),
        "tuning_seeds": len(TUNING_SEEDS),
        "seeds": len(SEEDS),
        "steps": STEPS,
        "evaluate_every": EVALUATE_EVERY,
    }
    text = json.dumps({"provenance": provenance, "networks": {**kept, **made}}, indent=2, allow_nan=False)
    FILE.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except BenchError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
