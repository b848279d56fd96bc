"""The vector functions keep the errors that their docstring states, and are vector functions."""

from __future__ import annotations

import re

import numpy as np
import pytest

numba = pytest.importorskip("numba")

from optimizers.executors import numba_math  # noqa: E402
from optimizers.executors.numba_dialect import OPTIONS  # noqa: E402

NAMES = ("exp", "exp_negative", "expm1", "log", "log1p", "log1p_unit", "tanh", "sin", "cos")
NUMPYS = {"exp_negative": np.exp, "log1p_unit": np.log1p}
BOUNDS = {
    row.split()[0]: dict(zip((np.float32, np.float64), map(float, row.split()[1:]), strict=True))
    for row in numba_math.__doc__.splitlines()
    if row.split() and row.split()[0] in NAMES
}


def compiled(name, kind):
    function = getattr(numba_math, name)

    @numba.njit(f"void({np.dtype(kind).name}[::1], {np.dtype(kind).name}[::1])", **OPTIONS)
    def run(x, y):
        for i in range(x.size):
            y[i] = function(x[i])

    return run


def results(name, x):
    y = np.empty_like(x)
    compiled(name, x.dtype.type)(x, y)
    return y


def samples(name, kind):
    """All magnitudes that the function can take without leaving the normal numbers."""
    rng = np.random.default_rng(0)
    edge, tiny = (88, 37) if kind is np.float32 else (709, 300)
    wide = np.concatenate([rng.uniform(-edge, edge, 100_000), rng.uniform(-1, 1, 100_000)])
    magnitudes = 10.0 ** rng.uniform(-tiny, 1, 100_000)
    both = np.concatenate([wide, magnitudes, -magnitudes])
    far = np.sign(both) * 10.0 ** rng.uniform(0, 8, both.size)
    turns = np.arange(1, 200_000) * (np.pi / 2)  # the nearest numbers to the zeros of both
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


@pytest.mark.parametrize("kind", [np.float32, np.float64])
@pytest.mark.parametrize("name", NAMES)
def test_errors_are_as_stated(name, kind):
    """Against numpy in 80 bits; where a long double has no more than 64, float64 is left out."""
    if np.finfo(np.longdouble).nmant <= 52 and kind is np.float64:
        pytest.skip("this platform has nothing finer than float64 to compare with")
    x = samples(name, kind)
    exact = NUMPYS.get(name, getattr(np, name, None))(x.astype(np.longdouble))
    nearest = exact.astype(kind)
    normal = np.isfinite(nearest) & (np.abs(nearest) >= np.finfo(kind).tiny)
    unit = np.spacing(np.abs(nearest[normal])).astype(np.longdouble)
    errors = np.abs(results(name, x)[normal] - exact[normal]) / unit
    assert errors.max() <= BOUNDS[name][kind] + 0.05


@pytest.mark.parametrize("kind", [np.float32, np.float64])
@pytest.mark.parametrize("name", NAMES)
def test_special_values_are_as_in_c(name, kind):
    low = np.finfo(kind).tiny / 1000
    x = [np.nan, np.inf, -np.inf, 0.0, -0.0, 1.0, -1.0, -2.0, low, -low, 800, -800, -87.5, -103.5, -745.0, 1e30, -1e30]
    x = np.array(x, kind)
    if name == "exp_negative":
        x = x[~(x > 0) & ~((x < -87.4) & (x > -800))]  # what would be below the normal numbers is 0
    elif name in ("sin", "cos"):
        x = x[np.isnan(x) | np.isinf(x) | (np.abs(x) <= 1e8)]
    elif name == "log1p_unit":
        x = np.array([np.nan, 0.0, low, 1.0], kind)
    with np.errstate(all="ignore"):
        expected = NUMPYS.get(name, getattr(np, name, None))(x)
        close = np.abs(results(name, x) - expected) <= 4 * np.spacing(np.abs(expected))
    same = (results(name, x) == expected) | (np.isnan(results(name, x)) & np.isnan(expected))
    assert (close | same).all(), x[~(close | same)]


def test_what_is_below_the_normal_numbers_is_0():
    x = np.array([-87.2, -87.9, -88.5, -103.0, -1e30], np.float32)
    y = results("exp_negative", x)
    assert y[0] > np.finfo(np.float32).tiny and (y[2:] == 0).all() and 0 <= y[1] < np.finfo(np.float32).tiny


@pytest.mark.parametrize("name", NAMES)
def test_the_compiler_makes_vector_instructions_of_them(name):
    run = compiled(name, np.float32)
    assembly = run.inspect_asm(run.signatures[0])
    if "%rax" not in assembly:
        pytest.skip("the names of instructions are looked for in x86 assembly")
    assert re.search(r"v?mulps\s.*[xyz]mm", assembly)
    assert not re.search(r"\bcall\w*\s+\S*(expf|logf|tanhf|sinf|cosf)", assembly)


@pytest.mark.parametrize("kind", [np.float32, np.float64])
@pytest.mark.parametrize("name", ["sin", "cos"])
def test_beyond_1e8_sine_and_cosine_are_nan_rather_than_wrong(name, kind):
    assert np.isnan(results(name, np.array([1.1e8, -1.1e8, 1e30], kind))).all()
    assert np.isfinite(results(name, np.array([0.9e8, -0.9e8], kind))).all()
