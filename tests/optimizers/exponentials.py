"""Exponentials, logarithms and waves of compiled dialects against numpy's: samples, errors and special values."""

from __future__ import annotations

import numpy as np

EXPONENTIALS = ("exp", "exp_negative", "expm1", "log", "log1p", "log1p_unit", "tanh")
WAVES = ("sin", "cos")


def numpys(name):
    return {"exp_negative": np.exp, "log1p_unit": np.log1p}.get(name) or getattr(np, name)


def bounds(doc):
    """The errors that a table in a docstring states, by name and precision."""
    rows = [row.split() for row in doc.splitlines()]
    return {
        row[0]: dict(zip((np.float32, np.float64), map(float, row[1:]), strict=True))
        for row in rows
        if row and row[0] in EXPONENTIALS + WAVES
    }


def samples(name, kind):
    """All magnitudes that the function can take without leaving the normal numbers."""
    rng = np.random.default_rng(0)
    edge, tiny = (88, 37) if kind is np.float32 else (709, 300)
    wide = np.concatenate([rng.uniform(-edge, edge, 100_000), rng.uniform(-1, 1, 100_000)])
    magnitudes = 10.0 ** rng.uniform(-tiny, 1, 100_000)
    both = np.concatenate([wide, magnitudes, -magnitudes])
    far = np.sign(both) * 10.0 ** rng.uniform(0, 8, both.size)
    # the nearest numbers to the zeros of both, up to 1e8
    turns = np.concatenate([np.arange(1, 200_000), rng.integers(200_000, 63_000_000, 200_000)]) * (np.pi / 2)
    large = np.exp(rng.uniform(-edge, edge, 100_000))
    values = {
        "exp_negative": -np.abs(both),
        "log1p_unit": [*rng.uniform(0, 1, 200_000), *magnitudes[magnitudes <= 1], 0.0, 1.0],
        "log": np.concatenate([large, rng.uniform(0.3, 3, 200_000)]),
        "sin": np.concatenate([both, far, turns]),
        "cos": np.concatenate([both, far, turns]),
        "log1p": [*large, *both[both > -1]],
    }
    return np.asarray(values.get(name, both)).astype(kind)


def largest_error(name, x, y):
    """In units in the last place, where the result is a normal number; against numpy in 80 bits."""
    kind = x.dtype.type
    exact = numpys(name)(x.astype(np.longdouble))
    nearest = exact.astype(kind)
    normal = np.isfinite(nearest) & (np.abs(nearest) >= np.finfo(kind).tiny)
    unit = np.spacing(np.abs(nearest[normal])).astype(np.longdouble)
    return float((np.abs(y[normal] - exact[normal]) / unit).max())


def special(name, kind):
    low, high = np.finfo(kind).tiny / 1000, np.finfo(kind).max
    x = [np.nan, np.inf, -np.inf, 0.0, -0.0, 1.0, -1.0, -2.0, low, -low, 800, -800, -87.5, -103.5, -745.0, 1e30, -1e30]
    x = np.array([*x, high / 2, high * kind(0.8), high, -high], kind)
    if name == "exp_negative":
        return x[~(x > 0) & ~((x < -87.4) & (x > -800))]  # what would be below the normal numbers is 0
    if name in WAVES:
        return x[np.isnan(x) | np.isinf(x) | (np.abs(x) <= 1e8)]
    return np.array([np.nan, 0.0, low, 1.0], kind) if name == "log1p_unit" else x


def unlike_c(name, x, y):
    """The arguments whose results are not those of C, up to 4 units."""
    with np.errstate(all="ignore"):
        expected = numpys(name)(x)
        close = np.abs(y - expected) <= 4 * np.spacing(np.abs(expected))
    return x[~(close | (y == expected) | (np.isnan(y) & np.isnan(expected)))]
