"""The vector functions keep the errors that their docstring states, and are vector functions."""

from __future__ import annotations

import re

import numpy as np
import pytest

numba = pytest.importorskip("numba")

from optimizers.executors import numba_math  # noqa: E402
from optimizers.executors.numba_dialect import OPTIONS  # noqa: E402

from .exponentials import EXPONENTIALS, WAVES, bounds, largest_error, samples, special, unlike_c  # noqa: E402

NAMES = (*EXPONENTIALS, *WAVES)
BOUNDS = bounds(numba_math.__doc__)


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


@pytest.mark.parametrize("kind", [np.float32, np.float64])
@pytest.mark.parametrize("name", NAMES)
def test_errors_are_as_stated(name, kind):
    """Where a long double has no more than 64 bits, float64 is left out."""
    if np.finfo(np.longdouble).nmant <= 52 and kind is np.float64:
        pytest.skip("this platform has nothing finer than float64 to compare with")
    x = samples(name, kind)
    assert largest_error(name, x, results(name, x)) <= BOUNDS[name][kind] + 0.05


@pytest.mark.parametrize("kind", [np.float32, np.float64])
@pytest.mark.parametrize("name", NAMES)
def test_special_values_are_as_in_c(name, kind):
    x = special(name, kind)
    assert not len(unlike_c(name, x, results(name, x)))


@pytest.mark.parametrize("kind", [np.float32, np.float64])
@pytest.mark.parametrize("name", ["expm1", "log1p", "sin", "tanh"])
def test_the_sign_of_zero_stays(name, kind):
    assert np.signbit(results(name, np.array([0.0, -0.0], kind))).tolist() == [False, True]


def test_what_is_below_the_normal_numbers_is_0():
    x = np.array([-87.2, -87.9, -88.5, -103.0, -1e30], np.float32)
    y = results("exp_negative", x)
    assert y[0] > np.finfo(np.float32).tiny and (y[2:] == 0).all() and 0 <= y[1] < np.finfo(np.float32).tiny


def assembly_of(name):
    """The machine code of a loop over one function in float32, where it is one that a test can read."""
    run = compiled(name, np.float32)
    assembly = run.inspect_asm(run.signatures[0])
    if "%rax" not in assembly:
        pytest.skip("the names of instructions are looked for in x86 assembly")
    return assembly


@pytest.mark.parametrize("name", NAMES)
def test_the_compiler_makes_vector_instructions_of_them(name):
    assembly = assembly_of(name)
    assert re.search(r"v?mulps\s.*[xyz]mm", assembly)
    assert not re.search(r"\bcall\w*\s+\S*(expf|logf|tanhf|sinf|cosf)", assembly)


@pytest.mark.parametrize("name", EXPONENTIALS)
def test_no_integer_is_wider_than_the_numbers(name):
    """Numba makes 64 bits of the sum of two integers of 32, and every vector then needs two."""
    assembly = assembly_of(name)
    assert not re.search(r"v?p(srlq|sllq|movzxdq|movsxdq|movqd)\s|vcvtqq2ps", assembly)


@pytest.mark.parametrize("kind", [np.float32, np.float64])
@pytest.mark.parametrize("name", ["sin", "cos"])
def test_beyond_1e8_sine_and_cosine_are_nan_rather_than_wrong(name, kind):
    assert np.isnan(results(name, np.array([1.1e8, -1.1e8, 1e30], kind))).all()
    assert np.isfinite(results(name, np.array([0.9e8, -0.9e8], kind))).all()
