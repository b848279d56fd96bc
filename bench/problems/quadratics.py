"""The quadratic family: a ladder of condition numbers, DeepOBS's `quadratic_deep`, and gradients that are disturbed.

All are ½ Σ λ_i (u_i - c_i)² with u = R x: λ are the curvatures, R a rotation or none, and c = R x* for a minimiser x*
that is not the origin. So how fast an optimizer is at best, and where noise leaves it, is known in closed form.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import numpy as np

from bench.problems.disturbance import (
    CorrelatedNoise,
    Delayed,
    Disturbance,
    Drifting,
    HeavyNoise,
    Matrix,
    Noise,
    Quantised,
    Sparse,
)
from bench.problems.function import Function, Point

#: of the ladder and of what is disturbed: no two coordinates alike, none nearer to the origin than to the start
MINIMISER = (1.5, -1.75, 1.25, -2.25, 1.0, -2.5, 2.75, -1.375, 2.375, -2.0)
#: the start's distance from the minimiser in each coordinate of the curvatures
AWAY = 1.0
ROTATION_SEED = 11  # one that turns the minimiser into no flat direction, or the origin would be nearly as good

DEEP_BATCH, DEEP_DATA, DEEP_SPREAD = 128, 1000, 0.6


def bowl(x, m, halves: Point, centre: Point, offset: float = 0.0):
    """Σ halves_i (x_i - centre_i)² + offset: the halves are half the curvatures."""
    return m.sum(m.vector(halves) * (x - m.vector(centre)) ** 2) + offset


def subgroup_rotation(random: np.random.RandomState, dimension: int) -> np.ndarray:
    """A rotation [dimension, dimension] drawn from the Haar measure of SO(n), by the subgroup algorithm.

    Diaconis & Shahshahani, Probability in the Engineering and Informational Sciences 1 (1987): a rotation of n - 1
    coordinates, then the reflection that takes the first axis to a random direction. Takes numbers from `random` in the
    order in which DeepOBS takes them: one uniform, then n normal ones for n = 3 … dimension. Raises ValueError below 2.
    """
    if dimension < 2:
        raise ValueError(f"there is no rotation in {dimension} dimensions; give 2 or more")
    angle = 2 * np.pi * random.uniform()
    found = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    for n in range(3, dimension + 1):
        across = -random.normal(size=n)
        across /= np.linalg.norm(across)
        across[0] += 1
        across /= np.linalg.norm(across)
        larger = np.eye(n)
        larger[1:, 1:] = found
        found = larger - 2 * np.outer(across, across @ larger)
    return -found


#: of all rotated functions here but `quadratic_deep`
TURN = subgroup_rotation(np.random.RandomState(ROTATION_SEED), len(MINIMISER))
#: straight away from the start, so that who stands still only loses
FLEEING = tuple((-0.001 * TURN.sum(0)).tolist())


def quadratic(
    name: str,
    title: str,
    curvatures: Sequence[float],
    source: str,
    *,
    minimiser: Sequence[float] = MINIMISER,
    start: Sequence[float] | None = None,
    rotation: np.ndarray | None = None,
    minimum: float = 0.0,
    disturbance: Disturbance | None = None,
) -> Function:
    """½ Σ λ_i (R (x - x*))_i² + minimum; without a `start`, that is R (x - x*) = `AWAY` in every coordinate."""
    dimension = len(curvatures)
    if not dimension:
        raise ValueError(f"{name} has 0 dimensions; give 1 curvature or more")
    if len(minimiser) != dimension:
        raise ValueError(f"{name} has {dimension} curvatures and a minimiser of {len(minimiser)}; give one for each")
    if not all(0 < one < np.inf for one in curvatures):
        raise ValueError(f"{name} has the curvatures {tuple(curvatures)}; give numbers above 0")
    turn = np.eye(dimension) if rotation is None else rotation
    best = np.asarray(minimiser, dtype=float)
    begin = best + AWAY * turn.sum(0) if start is None else np.asarray(start, dtype=float)
    width = 2 * float(np.abs(begin - best).max())  # nothing depends on it but how far apart the runs of the seeds start
    return Function(
        name=name,
        title=title,
        definition=partial(
            bowl,
            halves=tuple(float(one) / 2 for one in curvatures),
            centre=tuple((turn @ best).tolist()),
            offset=minimum,
        ),
        domain=tuple((one - width, one + width) for one in best.tolist()),
        start=tuple(begin.tolist()),
        minimisers=(tuple(best.tolist()),),
        minimum=minimum,
        basin=minimum,
        unimodal=True,
        source=source,
        rotation=None if rotation is None else as_tuples(rotation),
        disturbance=disturbance,
    )


def as_tuples(rows: np.ndarray) -> Matrix:
    return tuple(map(tuple, rows.tolist()))


def ladder(exponent: int, rotated: bool) -> Function:
    """Curvatures evenly spaced on a logarithmic scale from 1 to 10^exponent, along the axes or turned."""
    return quadratic(
        f"quadratic-1e{exponent}{'-rotated' if rotated else ''}",
        f"Quadratic, 10-D, condition 1e{exponent}{', rotated' if rotated else ''}",
        np.logspace(0, exponent, len(MINIMISER)).tolist(),
        "ours; curvatures as in BBOB f2 and f10 without their oscillation, Hansen et al. 2009",
        rotation=TURN if rotated else None,
    )


def quadratic_deep(shift: float = 0.0) -> Function:
    """DeepOBS's `quadratic_deep` (Schneider, Balles & Hennig 2019) as its training problem.

    The loss of one of 1000 data points x is ½ (θ - x)ᵀ Q (θ - x), so that of all of them is the quadratic around their
    mean, plus half the trace of Q times their covariance, which nothing can take away. Curvatures and rotation come
    one after the other from RandomState(42), the data (rounded to float32) from a second one; θ starts at 1. So it is
    for TensorFlow; the last version for PyTorch draws the rotation from a generator that starts at 42 anew.

    An optimizer is told the gradient on a batch: here the true one plus normal noise, whose covariance is exactly that
    of a batch of 128 drawn without replacement. DeepOBS draws the rows, and those of an epoch do not overlap.

    The mean of the data is nearly the origin, which weight decay and null competitors go to by themselves. So data and
    start can be shifted together, by ± `shift` in the coordinates in turn: the same problem elsewhere.
    """
    random = np.random.RandomState(42)
    curvatures = np.concatenate([random.uniform(0.0, 1.0, 90), random.uniform(30.0, 60.0, 10)])
    turn = subgroup_rotation(random, len(curvatures))
    data = np.random.RandomState(42).normal(0.0, DEEP_SPREAD, (DEEP_DATA, len(curvatures)))
    data = data.astype(np.float32).astype(np.float64)
    mean = data.mean(0)
    turned = (data - mean) @ turn.T
    covariance = turned.T @ turned / DEEP_DATA
    of_a_batch = covariance * (DEEP_DATA - DEEP_BATCH) / (DEEP_DATA - 1) / DEEP_BATCH
    moved = shift * (-1.0) ** np.arange(len(curvatures))
    factor = turn.T @ (curvatures[:, None] * np.linalg.cholesky(of_a_batch))
    return quadratic(
        "quadratic-deep",
        "Quadratic deep, 100-D",
        curvatures.tolist(),
        "DeepOBS quadratic_deep; Schneider, Balles & Hennig 2019, after Chaudhari et al. 2017",
        minimiser=(mean + moved).tolist(),
        start=(1.0 + moved).tolist(),
        rotation=turn,
        minimum=float(curvatures @ np.diag(covariance)) / 2,
        disturbance=CorrelatedNoise(as_tuples(factor)),
    )


def noisy_quadratic(dimension: int = 100) -> Function:
    """The noisy quadratic model of Zhang et al. 2019: curvatures 1/i, and gradient noise of variance 1/i."""
    curvatures = [1 / i for i in range(1, dimension + 1)]
    return quadratic(
        "quadratic-noisy",
        f"Noisy quadratic, {dimension}-D",
        curvatures,
        "noisy quadratic model at batch size 1; Zhang et al. 2019, arXiv 1907.04164",
        minimiser=[MINIMISER[i % len(MINIMISER)] for i in range(dimension)],
        disturbance=Noise(tuple(np.sqrt(curvatures).tolist())),
    )


def disturbed(name: str, title: str, disturbance: Disturbance) -> Function:
    """The rotated quadratic of condition 100, with a disturbance."""
    return quadratic(
        f"quadratic-{name}",
        f"Quadratic, 10-D, condition 100, {title}",
        np.logspace(0, 2, len(MINIMISER)).tolist(),
        "ours, after the pathologies of LightBench",
        rotation=TURN,
        disturbance=disturbance,
    )


#: all by name
QUADRATICS = {
    function.name: function
    for function in (
        *(ladder(exponent, rotated) for rotated in (False, True) for exponent in range(1, 7)),
        quadratic_deep(shift=1.5),
        noisy_quadratic(),
        disturbed("heavy-tailed", "heavy-tailed noise", HeavyNoise((1.0,) * 10)),
        disturbed("sparse", "sparse gradients", Sparse(0.1)),
        disturbed("delayed", "delayed gradients", Delayed(4)),
        disturbed("drifting", "drifting", Drifting(FLEEING)),
        disturbed("quantised", "quantised gradients", Quantised(1.0)),
    )
}
#: of the default race: the others lie between these
RACED = (
    *(f"quadratic-1e{exponent}{turned}" for exponent in (2, 4, 6) for turned in ("", "-rotated")),
    *(f"quadratic-{kind}" for kind in ("deep", "noisy", "heavy-tailed", "sparse", "delayed", "drifting")),
)
