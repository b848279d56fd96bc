"""Every optimizer x option set x executor x dtype follows the textbook as well as torch's for-loop does."""

import functools

import pytest

from bench.cell import Status
from bench.contenders import OPTIMIZERS, TRAITS
from bench.options import OPTION_SETS
from bench.verify import LOW_PRECISION, contenders, installed_kernel, verify

STEPS = 20
DTYPES = ("float64", "float32", "bfloat16", "float16")
TABLE = [
    pytest.param(name, options, dtype, executor, id=f"{name}-{options.label}-{dtype}-{executor}")
    for name in OPTIMIZERS
    for options in OPTION_SETS[name]
    for dtype in DTYPES
    for executor in ("eager", "cpu")
    if executor in contenders(name, "cpu")
    if executor == "eager" or dtype not in LOW_PRECISION or TRAITS[name].half_kernels
    if dtype == "float32" or options.tensors != "big"
    if dtype in ("float32", "float64") or options.gradients == "random"
]


@functools.lru_cache(maxsize=1)
def rows(optimizer, label, dtype):
    """Both executors beside one run of torch's for-loop."""
    (options,) = (options for options in OPTION_SETS[optimizer] if options.label == label)
    builds = {name: build for name, build in contenders(optimizer, "cpu").items() if name in ("loop", "eager", "cpu")}
    return {row["contender"]: row for row in verify(optimizer, options, dtype, STEPS, 1, builds)}


@pytest.mark.parametrize(("optimizer", "options", "dtype", "executor"), TABLE)
def test_parity(optimizer, options, dtype, executor):
    if executor == "cpu" and not installed_kernel("cpu"):
        pytest.skip("Numba is not installed")
    row = rows(optimizer, options.label, dtype)[executor]
    assert row["status"] == Status.OK, row["reason"]
