"""Functions that are compiled by being called: what they may be made of, and how they are rounded."""

from __future__ import annotations

import math

import numpy as np
import pytest

numba = pytest.importorskip("numba")

from optimizers.dialect import absolute, log, maximum, minimum, sign, sqrt, where  # noqa: E402
from optimizers.executors import llvm_dialect  # noqa: E402
from optimizers.executors.llvm_dialect import exact, traced, wide_vectors  # noqa: E402
from optimizers.executors.raw import get_float32, set_float32, set_float64  # noqa: E402


def compiled(traced_function, count):
    """A traced function of two float64 with so many answers, for Python."""
    names = {"traced_function": traced_function, "set_float64": set_float64}
    lines = [f"    set_float64(at, {i}, answers[{i}])" for i in range(count)]
    exec("\n".join(["def run(at, x, y):", "    answers = traced_function(x, y)", *lines]), names)
    run = numba.cfunc("void(intp, float64, float64)", error_model="numpy")(names["run"]).ctypes

    def call(x, y):
        found = np.zeros(count)
        run(found.ctypes.data, x, y)
        return found.tolist()

    return call


def arithmetic(x, y, absent, extra):
    if absent is None:
        absent = extra
    return (
        *(x**3, x**-2, absolute(x) ** y, 2**x, (x > y) + 0.5, 3 * (x >= y) - (y > x), where(x > y, 1, -1)),
        *(
            where((x > y) | (y > x), x, 7),
            where(x, y, 3),
            maximum(2, x),
            minimum(y, x),
            sign(x),
            where(extra > 3, x, y),
        ),
        *(absent, 5, sqrt(x * x), log(0), log(-1)),
    )


def test_arithmetic_is_that_of_plain_numbers():
    call = compiled(exact(absent=None, extra=4.0)(arithmetic), 18)
    for x, y in (2.5, 1.5), (-0.5, 3.0), (0.75, 0.75), (-2.0, -3.0):
        assert call(x, y) == pytest.approx(arithmetic(x, y, None, 4.0), rel=1e-15, abs=0, nan_ok=True)
    assert call(0.0, 1.0)[8] == 3 and math.isnan(call(math.nan, 1.0)[9]) and math.isnan(call(1.0, math.nan)[10])


def test_exact_products_are_rounded_before_they_are_added():
    """1 + 2^-30 squared is 1 + 2^-29 + 2^-60, of which the last is lost where the product is rounded."""

    def rest(x, y):
        return (x * y - (1 + 2.0**-29),)

    x = 1 + 2.0**-30
    assert compiled(exact()(rest), 1)(x, x) == [0]
    assert compiled(traced(rest), 1)(x, x)[0] in (0, 2.0**-60)  # as the processor has such an instruction or not


def test_a_condition_on_numbers_is_refused():
    def chooses(x, y):
        return (x if x > y else y,)

    with pytest.raises(Exception, match="chosen by `where`"):
        compiled(traced(chooses), 1)


def test_vectors_are_wide_where_that_is_asked_for_and_the_processor_has_them(monkeypatch):
    monkeypatch.setattr(llvm_dialect, "WIDE", True)

    @numba.cfunc("void(intp, intp)", error_model="numpy")
    def doubled(at, n):
        wide_vectors()
        for i in range(n):
            set_float32(at, i, get_float32(at, i) + get_float32(at, i))

    numbers = np.arange(100, dtype=np.float32)
    doubled.ctypes(numbers.ctypes.data, 100)
    assert (numbers == 2 * np.arange(100)).all()
    has = llvm_dialect.llvmlite.binding.get_host_cpu_features().get("avx512vl", False)
    assert ("zmm" in doubled._library.get_asm_str()) is has
