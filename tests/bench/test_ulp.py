import math

import numpy as np
import pytest
import torch

from bench.ulp import rounded, ulp

SIXTEEN = ("float16", "bfloat16")


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_ulp_is_numpys_spacing(dtype):
    x = np.array([0.0, 1.0, -1.0, 0.999, 3.5, 1e-30, 1e30, 2.0**-126, 2.0**-130, 65504.0])
    expected = np.abs(np.spacing(x.astype(dtype)).astype(np.float64))
    np.testing.assert_array_equal(ulp(x.astype(dtype).astype(np.float64), dtype), expected)


@pytest.mark.parametrize(("dtype", "at_one"), [("float16", 2.0**-10), ("bfloat16", 2.0**-7)])
def test_ulp_of_the_sixteen_bit_types(dtype, at_one):
    neighbour = torch.nextafter(
        torch.ones((), dtype=getattr(torch, dtype)), torch.tensor(2.0, dtype=getattr(torch, dtype))
    )
    assert ulp(np.array([1.0, 2.0, 0.0]), dtype).tolist()[:2] == [at_one, 2 * at_one]
    assert float(neighbour) - 1 == at_one
    assert ulp(np.array([0.0]), dtype)[0] == float(torch.finfo(getattr(torch, dtype)).smallest_normal) * at_one


@pytest.mark.parametrize("dtype", ["float32", *SIXTEEN])
def test_rounded_agrees_with_torch(dtype):
    random = np.random.default_rng(0)
    x = random.standard_normal(20000) * 10.0 ** random.uniform(-9, 5, 20000)
    x = x.astype(np.float32).astype(np.float64) if dtype != "float32" else x  # torch rounds once from float32
    expected = torch.from_numpy(x).to(getattr(torch, dtype)).double().numpy()
    np.testing.assert_array_equal(rounded(x, dtype), expected)


def test_rounded_rounds_once_where_torch_rounds_twice():
    just_above_the_middle = 1 + 2.0**-8 + 2.0**-30  # of two bfloat16 numbers; float32 rounds it to the middle
    assert float(torch.tensor(just_above_the_middle, dtype=torch.float64).to(torch.bfloat16)) == 1.0
    assert rounded(np.array([just_above_the_middle]), "bfloat16")[0] == 1 + 2.0**-7


def test_too_large_is_infinite_and_nan_stays():
    x = rounded(np.array([70000.0, -1e39, math.nan, math.inf, 65519.0]), "float16")
    assert x[:2].tolist() == [math.inf, -math.inf] and math.isnan(x[2]) and x[3:].tolist() == [math.inf, 65504.0]
