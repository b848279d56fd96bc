"""The CUDA kernels of the losses: interpreted, compiled for sm_80 and sm_90, and run where there is a GPU."""

from __future__ import annotations

import json
import re
import subprocess
import sys

import numpy as np
import pytest
import torch

pytest.importorskip("triton", reason="Triton is not installed")

from optimizers.executors import triton_math
from optimizers.losses.family import FAMILY

from . import exponentials, loss_cases

BOUNDS = exponentials.bounds(triton_math.__doc__)
KINDS = {kind.__name__: kind for kind in (np.float32, np.float64)}


def interpreted(what):
    command = [sys.executable, "-W", "ignore", "-m", "tests.optimizers.interpreted_losses", what]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def cases():
    return interpreted("cases")


@pytest.fixture(scope="module")
def mutants():
    return interpreted("mutants")


@pytest.fixture(scope="module")
def long():
    return interpreted("long")


@pytest.fixture(scope="module")
def functions():
    return interpreted("functions")


@pytest.mark.parametrize("case", loss_cases.CASES)
def test_interpreted_kernel(case, cases):
    assert not cases[case], cases[case]


@pytest.mark.slow
@pytest.mark.parametrize("case", loss_cases.LONG)
def test_interpreted_kernel_over_long_rows(case, long):
    assert not long[case], long[case]


@pytest.mark.parametrize("mutant", loss_cases.MUTANTS)
def test_mutants_do_not_pass(mutant, mutants):
    """By an assertion about numbers, not for being no program."""
    assert "AssertionError" in mutants[mutant]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", exponentials.NAMES)
def test_functions_have_the_errors_that_are_stated_and_special_values_as_in_c(name, kind, functions):
    error, wrong = functions[f"{name} {kind}"]
    assert error <= BOUNDS[name][KINDS[kind]] + 0.05 and wrong == []


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
@pytest.mark.parametrize("case", loss_cases.CASES | loss_cases.LONG)
def test_kernel_on_a_gpu(case):
    with loss_cases.kernels_for_the_smallest():
        (loss_cases.CASES | loss_cases.LONG)[case]("cuda")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
def test_nothing_waits_for_the_gpu_and_memory_is_the_gradient():
    from optimizers import losses

    x = torch.randn(4096, 1024, device="cuda", requires_grad=True)
    y, target = torch.randn_like(x), torch.randint(0, 1024, (4096,), device="cuda")
    for loss, other in ((losses.huber_loss, y), (losses.cross_entropy, target)):
        loss(x, other).backward()  # compiled
        x.grad = None
        torch.cuda.synchronize()
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        torch.cuda.set_sync_debug_mode("error")
        try:
            (2 * loss(x, other)).backward()
        finally:
            torch.cuda.set_sync_debug_mode("default")
        assert torch.cuda.max_memory_allocated() - before < 1.1 * x.nbytes
        x.grad = None


def compiled(kernel, pointers, numbers, constants, warps, aligned=(), capability=90):
    """`kernel` for a GPU that need not be here: all other arguments are absent, or constants."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    names = kernel.arg_names
    given = pointers | numbers
    constants = dict.fromkeys([name for name in names if name not in given]) | constants
    source = ASTSource(
        fn=kernel,
        signature={name: given.get(name, "constexpr") for name in names},
        constexprs={(names.index(name),): value for name, value in constants.items()},
        attrs={(names.index(name),): [["tt.divisibility", 16]] for name in (*pointers, *aligned)},
    )
    return triton.compile(source, target=GPUTarget("cuda", capability, 32), options={"num_warps": warps}).asm["ptx"]


def moves(ptx, kind):
    return len(re.findall(rf"{kind}\.global\.v(4\.b32|2\.b64)", ptx))


TYPES = {torch.float32: "fp32", torch.float64: "fp64", torch.bfloat16: "bf16", torch.float16: "fp16"}
MEMBERS = [
    ("bce_with_logits", torch.float32, 80),
    ("bce_with_logits", torch.bfloat16, 90),
    ("focal", torch.float32, 90),
]
MEMBERS += [("log_cosh", torch.float16, 90), ("huber", torch.float64, 90)]


@pytest.mark.parametrize(("name", "dtype", "capability"), MEMBERS, ids=lambda x: str(x).removeprefix("torch."))
def test_elementwise_kernel_compiles_with_128_bit_access_and_exact_arithmetic(name, dtype, capability):
    from optimizers.losses import cuda

    from .test_loss_family import CONSTANTS

    loss, n = FAMILY[name], len(CONSTANTS.get(name, ()))
    kernel = cuda._kernel(loss.value, (loss.slope,), dtype, n)
    number = "fp64" if dtype == torch.float64 else "fp32"
    numbers = {"n": "i64", "scale": "fp64"} | {f"c{i}": number for i in range(n)}
    pointers = dict.fromkeys(("x0_at", "x1_at", "to0"), f"*{TYPES[dtype]}") | {"sums": "*fp64"}
    constants = {"EACH": False, "PIECE": cuda.PIECE, "BLOCK": cuda.BLOCK}
    ptx = compiled(kernel, pointers, numbers, constants, cuda.WARPS, capability=capability)
    assert moves(ptx, "ld") >= 2 and moves(ptx, "st") >= 1
    assert re.search(r"setp\.\w+\.s64", ptx), "the loop over elements counts in 64 bits"
    assert not re.search(r"(div|sqrt|ex2|lg2)\.(full|approx)", ptx), "the functions are our own, with stated errors"
    assert "atom" not in ptx and "red.global" not in ptx


@pytest.mark.parametrize(
    ("classes", "dtype", "weighted"), [(4096, torch.float32, True), (128256, torch.bfloat16, False)]
)
def test_cross_entropy_compiles_with_128_bit_access_and_64_bit_offsets(classes, dtype, weighted):
    from optimizers.losses import cross_entropy_cuda as kernels

    logits = torch.empty(8192, classes, dtype=dtype, device="meta")
    _, tall, block, warps = kernels._shape(logits)
    pointer = f"*{TYPES[dtype]}"
    pointers = {"logits": pointer, "target": "*i64", "denominator": "*fp64", "out": pointer, "sums": "*fp64"}
    pointers |= {"weight": pointer} if weighted else {}
    numbers = {"rows": "i32", "classes": "i32", "ignored": "i32", "smoothing": "fp64", "spread": "fp64"}
    constants = {
        "SMOOTH": weighted,
        "EACH": False,
        "REAL": kernels.real(logits),
        "LEAST": torch.finfo(torch.float32).min,
        "ROWS": tall,
        "BLOCK": block,
        "WHOLE": block >= classes,
    }
    ptx = compiled(kernels._rows, pointers, numbers, constants, warps, aligned=("classes",))
    assert moves(ptx, "ld") >= 2 and moves(ptx, "st") >= 2
    assert re.search(r"mul\.(wide\.s32|lo\.s64)|mad\.(wide\.s32|lo\.s64)", ptx), "rows are found in 64 bits"
    assert "atom" not in ptx and "red.global" not in ptx


def test_the_other_kernels_compile():
    import triton.language as tl

    from optimizers.losses import cross_entropy_cuda, cuda

    numbers = {"rows": "i64", "classes": "i32", "ignored": "i32"}
    pointers = {"target": "*i64", "weight": "*bf16", "shares": "*fp64"}
    assert compiled(cross_entropy_cuda._count, pointers, numbers, {"PIECE": 16384, "BLOCK": 2048}, 4)
    constants = {"REAL": tl.float32, "BLOCK": cuda.ADDED}
    pointers = {"sums": "*fp64", "denominator": "*fp64", "out": "*bf16"}
    assert compiled(cuda._add, pointers, {"n": "i32", "scale": "fp64"}, constants, 16)
    constants = {"REAL": tl.float32, "BLOCK": cuda.BLOCK}
    ptx = compiled(cuda._scale_by, {"gradient": "*bf16", "upstream": "*bf16"}, {"n": "i64"}, constants, cuda.WARPS)
    assert moves(ptx, "ld") and moves(ptx, "st")
