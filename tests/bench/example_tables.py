"""Small made-up tables in the form of a run's, for tests of charts and page; nothing in them was measured."""

from __future__ import annotations

import math

import pandas as pd

from bench.contenders import NULLS, OPTIMIZERS, TRAITS, Takes, Traits
from bench.losses import LOSSES
from bench.score.derive import derive
from bench.tables import COLUMNS

EVIL = r"<script>alert('$\frac$')</script>"  # as mathematics it would be an error
FUNCTIONS = ("rosenbrock", "rastrigin", "powell-singular")
MULTIPLES = (0.1, 1.0, 10.0)


def example_tables(optimizers=OPTIMIZERS, sets=("mlp", "one-big")) -> dict[str, pd.DataFrame]:
    """All tables; those of losses do not depend on the optimizers, and scores are of runs of their own."""
    return {
        "parity": pd.DataFrame(parity(optimizers)),
        "loss_parity": pd.DataFrame(loss_parity()),
        "step_time": pd.DataFrame(step_time(optimizers, sets)),
        "loss_time": pd.DataFrame(loss_time()),
        "sweep_time": pd.DataFrame(sweep_time()),
        "functions": pd.DataFrame(functions(optimizers)),
        "networks": pd.DataFrame(networks(optimizers)),
        **{name: pd.DataFrame(rows) for name, rows in derive({"functions": list(race(optimizers))}).items()},
    }


def empty_tables() -> dict[str, pd.DataFrame]:
    """A run of which nothing is finished yet."""
    return {name: pd.DataFrame() for name in COLUMNS}


def parity(optimizers):
    for place, optimizer in enumerate(optimizers):
        for contender in ("eager", "cpu", "loop", "foreach"):
            for dtype in ("float32", "float64", "bfloat16"):
                free = dtype == "float64"
                error = math.nan if free else 0.5 + 0.1 * place
                yield {
                    "optimizer": optimizer,
                    "options": "defaults",
                    "contender": contender,
                    "device": "cpu",
                    "dtype": dtype,
                    "steps": 100,
                    "elements": 4000,
                    "max_difference": 1e-15 if free else math.nan,
                    "mean_ulp": error / 4,
                    "max_ulp": error,
                    "loop_mean_ulp": error / 3,
                    "loop_max_ulp": 2 * error,
                    "tolerance": "in words",
                    "worst": "exp_avg",
                    "status": "ok",
                    "reason": "",
                }


def loss_parity(losses=("mse_loss", "cross_entropy")):
    for loss in losses:
        for dtype in ("float32", "bfloat16"):
            for reduction in ("none", "mean"):
                yield {
                    "loss": loss,
                    "reduction": reduction,
                    "device": "cpu",
                    "dtype": dtype,
                    "executor": "cpu",
                    "elements": 1000,
                    "value_ulp": 0.5,
                    "gradient_ulp": 0.6,
                    "torch_value_ulp": 0.7,
                    "torch_gradient_ulp": 0.8,
                    "status": "ok",
                    "reason": "",
                }


def loss_time(losses=("mse_loss", "binary_cross_entropy_with_logits", "cross_entropy"), sizes=2):
    """Ours takes 10 µs a thousand elements, torch twice and compiled three times that; the largest size is unsure."""
    for loss in losses:
        for place, (size, shape) in enumerate(list(LOSSES[loss].sizes.items())[:sizes]):
            elements = math.prod(shape)
            for phase in ("forward", "backward", "both"):
                for factor, contender in enumerate(("ours", "torch", "compiled"), start=1):
                    median = 0.01 * elements * factor
                    ratio = 2.0 if contender == "ours" else float(factor)
                    yield {
                        "loss": loss,
                        "size": size,
                        "device": "cpu",
                        "dtype": "float32",
                        "threads": 2,
                        "contender": contender,
                        "phase": phase,
                        "elements": elements,
                        "median_us": median,
                        "q1_us": 0.9 * median,
                        "q3_us": 1.2 * median,
                        "ratio": ratio,
                        "ratio_low": 0.9 * ratio,
                        "ratio_high": 1.1 * ratio,
                        "verdict": "inconclusive" if place else "faster",
                        "peak_bytes": 4.0 * elements * factor if phase == "both" else math.nan,
                        "status": "ok",
                        "reason": "",
                    }


def sweep_time(optimizers=("Adam", "SGD"), names=("rosenbrock-2d", "ackley-10d")):
    """Ours takes 2 ns and ten times as much; optax eight times that, torch 100 and 100,000 times."""
    for optimizer in optimizers:
        for place, function in enumerate(names):
            for contender, factor in {"ours": 1.0, "batched": 100.0, "alone": 1e5, "optax": 8.0}.items():
                row = {
                    "optimizer": optimizer,
                    "function": function,
                    "dimension": int(function.split("-")[1][:-1]),
                    "device": "cpu",
                    "dtype": "float64",
                    "threads": 2,
                    "contender": contender,
                    "runs": 4096,
                    "steps": 200,
                    "verdict": "",
                }
                median, ratio = 2.0 * 10**place * factor, 100.0 if contender == "ours" else factor
                yield {
                    **row,
                    "median_ns": median,
                    "q1_ns": 0.9 * median,
                    "q3_ns": 1.2 * median,
                    "ratio": ratio,
                    "ratio_low": 0.9 * ratio,
                    "ratio_high": 1.1 * ratio,
                    "verdict": "faster",
                    "status": "ok",
                    "reason": "",
                }


SPECIAL = {Takes.MATRICES: "matrices-200x64", Takes.SPARSE: "embedding", Takes.CLOSURE: "vector-100k"}


def traits(optimizer):
    return TRAITS.get(optimizer, Traits())


def step_time(optimizers, sets):
    """The usual sets, and one of its own for the first optimizer and for those that cannot step the usual ones."""
    chosen = {
        optimizer: sets if traits(optimizer).takes is Takes.TENSORS else (SPECIAL[traits(optimizer).takes],)
        for optimizer in optimizers
    }
    chosen[optimizers[0]] = (*chosen[optimizers[0]], "many-groups")
    for scale, name in enumerate((*sets, "many-groups", *SPECIAL.values()), start=1):
        for place, optimizer in enumerate(optimizers):
            if name not in chosen[optimizer]:
                continue
            speed_up = 4.0 + place
            times = {
                "ours": 10.0,
                "loop": 30 * speed_up,
                "foreach": 10 * speed_up if traits(optimizer).foreach else None,
                "fused": 20 * speed_up if traits(optimizer).fused else None,
            }
            for contender, median in times.items():
                row = {
                    "optimizer": optimizer,
                    "parameter_set": name,
                    "device": "cpu",
                    "device_name": "a processor",
                    "dtype": "float32",
                    "threads": 2,
                    "contender": contender,
                    "best_of_torch": contender == ("foreach" if traits(optimizer).foreach else "loop"),
                    "command": "python -m bench time",
                    "verdict": "",
                }
                if median is None:
                    yield {**row, "status": "skipped", "reason": f"torch has no {contender} {optimizer}"}
                    continue
                best = speed_up if traits(optimizer).foreach else 3 * speed_up
                ratio = best if contender == "ours" else median / 10
                yield {
                    **row,
                    "median_us": median * scale,
                    "q1_us": 0.9 * median * scale,
                    "q3_us": 1.2 * median * scale,
                    "ratio": ratio,
                    "ratio_low": 0.97 * ratio,
                    "ratio_high": 1.03 * ratio,
                    "verdict": "faster",
                    "gb_per_s": 40.0,
                    "stream_gb_per_s": 42.0,
                    "share_of_stream": 9.5 / median,
                    "status": "ok",
                    "reason": "",
                }


def functions(optimizers):
    for function in FUNCTIONS:
        for place, optimizer in enumerate(optimizers):
            if traits(optimizer).takes in (Takes.MATRICES, Takes.SPARSE):
                reason = f"{optimizer} does not race"
                yield {
                    "function": function,
                    "device": "cpu",
                    "optimizer": optimizer,
                    "status": "skipped",
                    "reason": reason,
                }
                continue
            for multiple in MULTIPLES:
                diverged = optimizer == "SGD" and multiple == 10
                rate = 0.01 * multiple * (1 + place)
                gap = math.inf if diverged else math.exp(-20 * rate)
                row = {
                    "function": function,
                    "dimension": 4 if function == "powell-singular" else 2,
                    "device": "cpu",
                    "optimizer": optimizer,
                    "lr": 1e-3 * multiple,
                    "lr_multiple": multiple,
                    "runs": 2,
                    "tuning_seeds": 1,
                    "steps": 20,
                    "status": "diverged" if diverged else "ok",
                    "reason": "2 of 2 runs diverged" if diverged else "",
                    "diverged": 2 if diverged else 0,
                    "minimum": 0.0,
                    "gap_q1": gap,
                    "gap_median": gap + 0.1,
                    "gap_q3": gap + 0.1,
                    "evaluations": 40,
                    "seconds": 0.02,
                    "_hits": ["", ""] if diverged else ["1 2 5 5 9", "1 2 5 5 9"],
                    "_curve_status": "diverged" if diverged else "ok",
                }
                if multiple == MULTIPLES[-1]:  # what the race keeps: the best, or all diverged
                    row["_losses"] = [[step, 24 * math.exp(-step * rate)] for step in range(9 if diverged else 21)]
                if multiple == 1 and row["dimension"] == 2:
                    row["_trace"] = [[-1.2 + 0.1 * step, 1.0 - 0.01 * step * place] for step in range(21)]
                yield row


def race(optimizers, functions=("rosenbrock", "rastrigin"), seeds=4):
    """Rows with hits: the further down the list, the slower; the middle learning rate is the best; one seed fails."""
    for function in functions:
        for place, optimizer in enumerate((*optimizers, *NULLS)):
            for multiple in (1.0,) if optimizer in NULLS else MULTIPLES:
                hits = []
                for seed in range(seeds):
                    pace = (1 + place) * (1 + abs(math.log10(multiple))) * (1 + 0.1 * seed)
                    times = [math.ceil(pace * (target + 1)) for target in range(32)]
                    failed = optimizer in NULLS or (seed == 1 and multiple == 10)
                    hits.append("" if failed else " ".join(str(time) for time in times if time <= 100))
                yield {
                    "function": function,
                    "device": "cpu",
                    "optimizer": optimizer,
                    "lr_multiple": multiple,
                    "tuning_seeds": 1,
                    "steps": 100,
                    "status": "ok",
                    "_hits": hits,
                }


def networks(optimizers):
    for network, minimum in (("regression", math.nan), ("logistic", 0.1)):
        for place, optimizer in enumerate(optimizers):
            if traits(optimizer).takes in (Takes.MATRICES, Takes.SPARSE):
                reason = f"{optimizer} does not race"
                yield {
                    "network": network,
                    "device": "cpu",
                    "optimizer": optimizer,
                    "status": "skipped",
                    "reason": reason,
                }
                continue
            for multiple in MULTIPLES:
                for seed in (0, 1):
                    for step in range(0, 21, 5):
                        yield {
                            "network": network,
                            "optimizer": optimizer,
                            "device": "cpu",
                            "lr": 1e-3 * multiple,
                            "lr_multiple": multiple,
                            "seed": seed,
                            "step": step,
                            "evaluations": 2 * step if optimizer == "LBFGS" else step,
                            "seconds": 1e-3 * step,
                            "loss": 0.2 + math.exp(-0.01 * multiple * step * (1 + place)),
                            "minimum": minimum,
                            "accuracy": 0.9,
                            "status": "ok",
                            "reason": "",
                        }
