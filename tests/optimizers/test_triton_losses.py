"""The CUDA kernels of the losses: interpreted, compiled for sm_80 and sm_90, and run where there is a GPU."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest
import torch

pytest.importorskip("triton", reason="Triton is not installed")

from optimizers.executors import triton_math

from . import exponentials, loss_cases
from .loss_mutants import MUTANTS

BOUNDS = exponentials.bounds(triton_math.__doc__)
KINDS = {kind.__name__: kind for kind in (np.float32, np.float64)}


def output(program, argument):
    command = [sys.executable, "-W", "ignore", "-m", f"tests.optimizers.{program}", argument]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def interpreted(what):
    return output("interpreted_losses", what)


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


@pytest.mark.parametrize("mutant", MUTANTS)
def test_mutants_do_not_pass(mutant, mutants):
    """By an assertion about numbers, not for being no program."""
    assert "AssertionError" in mutants[mutant]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", exponentials.EXPONENTIALS)
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


@pytest.mark.parametrize("capability", [80, 90])
def test_all_that_is_launched_compiles_to_wide_moves_and_64_bit_offsets(capability):
    seen = output("compiled_losses", str(capability))
    assert {kernel["kernel"] for kernel in seen} == {"kernel", "_add", "_scale_by", "_rows", "_count", "_nll"}
    for kernel in seen:
        name, tensors = kernel["kernel"], kernel["tensors"]
        shape, dtype = tensors[0]
        assert kernel["atomics"] == 0 and not kernel["narrow"]
        # of members the functions are our own, with stated errors; rows of logits use the hardware's exponential
        assert kernel["approximate"] == (["ex2.approx"] if name == "_rows" else [])
        if name in ("kernel", "_scale_by"):
            only_sums = tensors[-1][1] != dtype and len(tensors) == 3
            assert kernel["loads"] > 0 and (kernel["stores"] > 0 or only_sums)
        if name == "_rows" and shape[1] > 1:
            assert kernel["products"] > 0
            assert kernel["loads"] > 0 or shape[1] < 1024  # several short rows are moved a logit at a time
