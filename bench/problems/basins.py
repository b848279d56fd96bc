"""Which local minimum a start flows to: the end of dx/dt = -∇f(x), for all starts of a function at once.

The flow is followed by the linearly implicit Euler method, one step and two half steps extrapolated to the second order
(Deuflhard 1985), with the same Hessian for both; their difference chooses the step. So the stiff directions of a valley
are no obstacle, and where the flow slows down the steps grow until they are Newton's: the end is sharp to rounding.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from bench.problems.function import Function

Array = NDArray[np.float64]
LARGEST_DIMENSION = 20  # a Hessian is 2 n gradients
STEPS = 600
TOLERANCE = 3e-5  # of the domain's width: the error of a step
FARTHEST = 0.02  # of the domain's width, at most, in a step
SETTLED = 1e-9  # of the domain's width: a step this small, as long as Newton's, is the last
FLAT = 1e-4  # of the largest curvature: a minimum may be a ring, along which there is none
RESTING = 1e-12  # of the largest curvature × the domain's width: a slope this small leads nowhere along a ring
DIFFERENCE = 1e-6  # of the domain's width, for the Hessian; Newton's method forgives it
GROWTH, SHRINK = 5.0, 0.2
LONGEST = 1e30


def basins(function: Function, starts: Array) -> Array:
    """The value [starts] of the local minimum that each of `starts` [starts, dimension] flows to.

    The basin of the published start where all starts are known to flow to the same, where the flow has no end within
    `STEPS` steps, ends on no minimum or under the function's known one, and beyond `LARGEST_DIMENSION` dimensions.
    """
    if function.unimodal or function.dimension > LARGEST_DIMENSION:
        return np.full(len(starts), function.basin)
    points, ended = ends(function, starts)
    values = function(torch.from_numpy(points)).numpy()
    below = function.minimum - values
    near = np.abs(below) <= 1e-9 * max(1.0, abs(function.minimum))  # rounding is no depth
    values = np.where(near, function.minimum, values)
    return np.where(ended & (near | (below < 0)), values, function.basin)


def ends(function: Function, starts: Array) -> tuple[Array, NDArray[np.bool_]]:
    """Where the flow from each start was left [starts, dimension], and whether it had come to rest there [starts]."""
    width = np.array([high - low for low, high in function.domain])
    points, going = np.array(starts, np.float64), np.arange(len(starts))
    ended = np.zeros(len(starts), bool)
    slopes = gradients(function, points)
    times = FARTHEST / 10 / np.maximum(np.abs(slopes / width).max(axis=1), 1e-300)
    for _ in range(STEPS):
        with np.errstate(all="ignore"):
            here = points[going]
            bend = hessians(function, here, width * DIFFERENCE)
            slope = gradients(function, here)
            new, error, whole = step(function, here, slope, bend, times[going])
            move = np.abs((new - here) / width).max(axis=1)
            error = np.abs(error / width).max(axis=1) / TOLERANCE
            now, then = (function(torch.from_numpy(one)).numpy() for one in (here, new))
            climbs = then > now + 1e-12 * np.maximum(1.0, np.abs(now))  # to a ridge, as Newton's method would
            good = (error <= 1) & (move <= FARTHEST) & ~climbs
            settled = good & whole & (move <= SETTLED)
            factor = 0.9 / np.sqrt(np.maximum(error, 1e-12))
        points[going[good]] = new[good]
        ended[going[settled]] = True
        times[going] *= np.clip(np.where(good, factor, np.minimum(factor, 0.5)), SHRINK, GROWTH)
        times = np.minimum(times, LONGEST)
        going = going[~settled]
        if not len(going):
            break
    return points, ended


def step(function: Function, here: Array, slope: Array, bend: Array, times: Array) -> tuple[Array, Array, Array]:
    """Extrapolated step, the difference that says its error, and whether it is as good as Newton's to a minimum.

    Or to a ring of them.
    """
    identity = np.eye(here.shape[1])
    whole = here + solve(identity / times[:, None, None] + bend, -slope)
    system = 2 * identity / times[:, None, None] + bend
    half = here + solve(system, -slope)
    halves = half + solve(system, -gradients(function, half))
    curvatures = np.linalg.eigvalsh(np.nan_to_num(bend, posinf=0.0, neginf=0.0))
    least, largest = curvatures[:, 0], curvatures[:, -1]
    width = max(high - low for low, high in function.domain)
    ring = (np.abs(least) <= FLAT * largest) & (np.abs(slope).max(axis=1) <= RESTING * largest * width)
    return 2 * halves - whole, halves - whole, (least * times > 10) | ring & (largest * times > 10)


def solve(matrices: Array, vectors: Array) -> Array:
    """The solutions [n, dimension]; nan where a matrix has none."""
    try:
        return np.linalg.solve(matrices, vectors[..., None])[..., 0]
    except np.linalg.LinAlgError:
        return (np.linalg.pinv(np.nan_to_num(matrices)) @ vectors[..., None])[..., 0]


def gradients(function: Function, points: Array) -> Array:
    """Gradients at `points` [..., dimension]."""
    return function.value_and_gradient(torch.from_numpy(np.ascontiguousarray(points)))[1].numpy()


def hessians(function: Function, points: Array, small: Array) -> Array:
    """Hessians [n, dimension, dimension] at `points` [n, dimension], by central differences of `small` [dimension]."""
    moves = np.diag(small)
    ahead, behind = (gradients(function, points[:, None] + sign * moves) for sign in (1, -1))
    bend = (ahead - behind) / (2 * small[:, None])
    return (bend + bend.transpose(0, 2, 1)) / 2
