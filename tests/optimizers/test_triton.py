"""The CUDA kernels without a GPU: interpreted against the eager executor, and compiled for sm_80 and sm_90."""

from __future__ import annotations

import json
import re
import subprocess
import sys

import pytest
import torch

import optimizers

from .conftest import NAMES

pytest.importorskip("triton", reason="Triton is not installed")

# one step apart from the same state: a few roundings of the working type, or one of the storage type; the interpreter
# cuts off the bits that bfloat16 lacks where a GPU rounds, hence a whole step of 2**-7 there
TOLERANCE = {"float64": 1e-15, "float32": 1e-6, "float16": 2**-10, "bfloat16": 2**-7}


@pytest.fixture(scope="module")
def errors():
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", "tests.optimizers.interpreted"], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("name", NAMES)
def test_interpreted_kernel_steps_like_the_eager_rule(name, dtype, errors):
    assert errors[f"{name} {dtype}"] <= TOLERANCE[dtype]


def compiled(algorithm, present, dtype, capability):
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from optimizers.executors import cuda

    coefs = "*fp64" if dtype == torch.float64 else "*fp32"
    signature = {"table": "*i64", "coefs": coefs, "work": "*i32"}
    constants = {"PIECE": cuda.PIECE, "BLOCK": cuda.BLOCK, "ALIGNED": True}
    source = ASTSource(
        fn=cuda.kernel(algorithm, present, dtype, dtype),
        signature=signature | dict.fromkeys(constants, "constexpr"),
        constexprs={(3 + i,): value for i, value in enumerate(constants.values())},
    )
    return triton.compile(source, target=GPUTarget("cuda", capability, 32), options={"num_warps": cuda.WARPS})


CASES = [(name, torch.float32, capability) for name in NAMES for capability in (80, 90)]
CASES += [(name, dtype, 90) for name in ("Adam", "Rprop") for dtype in (torch.bfloat16, torch.float16, torch.float64)]


@pytest.mark.parametrize("name, dtype, capability", CASES, ids=lambda x: str(x).removeprefix("torch."))
def test_kernel_compiles_with_128_bit_access_and_64_bit_offsets(name, dtype, capability):
    algorithm = getattr(optimizers, name).algorithm
    kernel = compiled(algorithm, (True,) * len(algorithm.slots), dtype, capability)
    wide = "v2.b64" if dtype == torch.float64 else "v4.b32"
    tensors = 2 + len(algorithm.slots)
    ptx = kernel.asm["ptx"]
    assert len(re.findall(rf"ld\.global\.{wide}", ptx)) >= tensors
    assert len(re.findall(rf"st\.global\.{wide}", ptx)) >= tensors - 1
    assert re.search(r"setp\.\w+\.s64", ptx), "the loop over elements counts in 64 bits"
    assert not re.search(r"(div|sqrt)\.(full|approx)", ptx), "the exact operations are asked for"
    assert len(kernel.asm["cubin"]) > 0
