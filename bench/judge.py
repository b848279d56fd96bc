"""Holds what was measured against the tolerances: which errors count as equal, and in words.

Ours outside of them is "wrong"; torch outside is a "reference fault", which fails nothing: it is shown beside ours.
"""

from __future__ import annotations

import math
from typing import Any

from bench import orthogonal
from bench.cell import Status
from bench.deviation import FREE_TOLERANCE, Measured, Stats
from bench.parity_lbfgs import FREE_ITERATIONS
from bench.parity_lbfgs import FREE_TOLERANCE as CLOSURE_TOLERANCE

Row = dict[str, Any]
OURS = ("eager", "cpu", "cuda")
LOW_PRECISION = ("bfloat16", "float16")

# float32: equal means that no more is lost than torch's own for-loop loses in the same step from the same state.
MEAN_FACTOR = 1.05
# The largest of few errors is a matter of luck on both sides: below this many steps it gets more room.
MANY_STEPS = 100
MAX_MANY, MAX_FEW = (1.25, 1.0), (2.0, 2.0)  # a factor of the for-loop's largest error, and ulp on top
# Two ways of rounding that are equally good differ in the mean of a finite sample (by about 0.3 ulp / sqrt(elements)),
# and where the loop is exact (a copied gradient, a sum of representable numbers) a factor of nothing allows nothing.
MEAN_SLACK = 0.01
# bfloat16, float16: float32 arithmetic rounded once is within half an ulp and a little.
LOW_PRECISION_LIMIT = 1.0

# Some of torch's modes round every intermediate to the 16-bit type: reported. Elements left out or garbled are a fault.
GROSS_FACTOR = 4.0

ILL_WORDS = (
    "ulp of the larger of |old| and |new|, or the move that one float32 rounding of the gradient causes where larger"
)
FREE_WORDS = (
    f"free run, after every step |a - b| <= {FREE_TOLERANCE:g} (1 + |b|) for parameters and state; "
    "b: torch's for-loop, or the oracle from where the for-loop leaves it"
)
CLOSURE_WORDS = (
    f"free run of at most {FREE_ITERATIONS} iterations, |a - b| <= {CLOSURE_TOLERANCE:g} "
    "(1 + |b|) for parameters and state, b being the oracle's: rounding grows tenfold in ten iterations"
)
FLOAT32_WORDS = (
    f"one step from the same state: mean error <= {MEAN_FACTOR} x the for-loop's + {MEAN_SLACK} ulp, "
    f"largest <= {{}} x the for-loop's + {{:g}} ulp, for parameter and each state tensor; {ILL_WORDS}"
)
SUMS_WORDS = (
    "one iteration from the same state: largest error <= {} x the for-loop's + {:g} ulp, for parameters and each "
    "state, in ulp of a vector's largest element, or the move that two float32 roundings of the gradient cause"
)
LOW_PRECISION_WORDS = (
    f"one step from the same state: error <= {LOW_PRECISION_LIMIT:g} ulp of the storage type; {ILL_WORDS}"
)
GROSS_WORDS = f"one step from the same state: largest error <= {GROSS_FACTOR:g} x the for-loop's + {GROSS_FACTOR:g} ulp"
FINITE_WORDS = "free run: finite wherever the oracle is, whose variance is clamped at zero"
REPORTED_WORDS = "reported, not judged"


def verdict(name: str, fine: bool, reason: str) -> Row:
    """A contender outside its tolerance is wrong if it is ours, and a fault of the reference if it is torch's."""
    bad = Status.WRONG if name in OURS else Status.REFERENCE_FAULT
    return {"status": Status.OK if fine else bad, "reason": "" if fine else reason}


def free(name: str, result: Measured, loop: Measured, closure: bool = False) -> Row:
    """A free run in float64. `closure`: of L-BFGS."""
    tolerance, words = (CLOSURE_TOLERANCE, CLOSURE_WORDS) if closure else (FREE_TOLERANCE, FREE_WORDS)
    if not result.errors:
        return {"tolerance": words}
    worst = max(result.errors.values(), key=lambda stats: stats.largest)
    loop_error = max((stats.largest for stats in loop.errors.values()), default=0.0)
    fine = worst.largest <= tolerance
    said = verdict(name, fine, f"differs by {worst.largest:.3g} at {worst.where}")
    if fine and loop_error > tolerance:
        said["reason"] = f"compared with the oracle: torch's for-loop is {loop_error:.3g} away from it"
    return {"max_difference": worst.largest, "tolerance": words, "worst": worst.where, **said}


def finite(name: str, result: Measured, loop: Measured) -> Row:
    """A free run in which the oracle stays finite."""
    fine = result.not_finite == 0
    said = verdict(name, fine, f"{result.not_finite} elements are nan or infinite: the root of a negative variance")
    if fine and loop.not_finite:
        said["reason"] = f"torch's for-loop has {loop.not_finite} elements nan or infinite here"
    return {"tolerance": FINITE_WORDS, **said}


def update(name: str, result: Measured, row: Row) -> None:
    """Adds to what is said of Muon's momentum how near its update is; of torch's own that is only reported.

    What torch does to the momentum is judged: in bfloat16 its iterations overwrite it unless Nesterov's is on.
    """
    row["update_distance"] = result.update.largest
    buffer = result.errors.get("momentum_buffer", Stats())
    if name == "loop" and buffer.largest > GROSS_FACTOR and row["status"] == Status.OK:
        row.update(verdict(name, False, f"{buffer.largest:.3g} ulp at {buffer.where}"))
    row["tolerance"] += f"; {REPORTED_WORDS if name == 'loop' else orthogonal.WORDS}"
    far = result.update.largest > orthogonal.LARGEST_DISTANCE
    shifted = result.spectrum.largest > orthogonal.LARGEST_SHIFT
    if name != "loop" and (far or shifted) and row["status"] == Status.OK:
        stats, what = (result.update, "is off by") if far else (result.spectrum, "move by")
        row.update(verdict(name, False, f"{stats.where} {what} {stats.largest:.3g}"), worst=stats.where)


def aligned(name: str, result: Measured, loop: Measured, dtype: str, steps: int, closure: bool = False) -> Row:
    """One step from the same state. `closure`: of L-BFGS, all of whose elements share the errors of a few sums."""
    absolute = name in OURS and dtype in LOW_PRECISION
    largest = MAX_MANY if steps >= MANY_STEPS else MAX_FEW
    if name == "loop":
        words, limit = REPORTED_WORDS, math.inf
    elif absolute:
        words, limit = LOW_PRECISION_WORDS, LOW_PRECISION_LIMIT
    elif dtype != "float32":
        words, limit = GROSS_WORDS, 1.0
    else:
        words, limit = (SUMS_WORDS if closure else FLOAT32_WORDS).format(*largest), 1.0
    if not result.errors:
        return {"tolerance": words}
    none = Stats()

    def score(key: str) -> float:
        mine, theirs = result.errors[key], loop.errors.get(key, none)
        if absolute or name == "loop":
            return mine.largest
        if dtype != "float32":
            return above(mine.largest, GROSS_FACTOR * theirs.largest + GROSS_FACTOR)
        in_largest = above(mine.largest, largest[0] * theirs.largest + largest[1])
        return in_largest if closure else max(in_largest, above(mine.mean, MEAN_FACTOR * theirs.mean + MEAN_SLACK))

    key = max(result.errors, key=score)
    mine, theirs = result.errors[key], loop.errors.get(key, none)
    fine = result.not_finite == 0 if name == "loop" else score(key) <= limit
    reason = f"{mine.mean:.3g} ulp in the mean and {mine.largest:.3g} at {mine.where}"
    if name == "loop":
        reason = f"{result.not_finite} elements are nan or infinite where the oracle is not"
    elif not absolute:
        reason += f"; for-loop: {theirs.mean:.3g} and {theirs.largest:.3g}"
    return {
        "mean_ulp": mine.mean,
        "max_ulp": mine.largest,
        "loop_mean_ulp": theirs.mean,
        "loop_max_ulp": theirs.largest,
        "tolerance": words,
        "worst": mine.where,
        **verdict(name, fine, reason),
    }


def above(error: float, allowed: float) -> float:
    """Above 1: more error than is allowed; an error that is nan always is."""
    return math.inf if math.isnan(error / allowed) else error / allowed
