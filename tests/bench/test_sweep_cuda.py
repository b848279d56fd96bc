"""Sweeps on CUDA without a GPU: interpreted against the CPU's sweep run for run, and compiled for sm_80 and sm_90."""

from __future__ import annotations

import dataclasses
import json
import math
import re
import subprocess
import sys

import numpy as np
import pytest
import torch

import optimizers
from bench import descents, functions_race, hyper_map
from bench.errors import BenchError, Exit
from bench.problems.functions import FUNCTIONS, named
from optimizers.executors import kernels
from tests.bench.test_sweeps import ELEMENTWISE

pytest.importorskip("triton", reason="Triton is not installed")

from bench.sweeps import cuda, cuda_source

NUMBERS = ("values", "points", "best", "bad_values", "recorded_values", "recorded_points")
#: Both make the same operations in the same order. A processor fuses products with sums, which the interpreter does
#: not: a unit in the last place a step. And a power here is right to 2e-16 of 1, so that 1 - beta2 ** step, 1e-3 in the
#: first step, is right to 2e-13 of itself, times a learning rate of 1e-3 at most. A function can steepen what the
#: points lost by some hundred times.
TOLERANCE = 1e-13


@pytest.fixture(scope="module")
def found():
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", "tests.bench.interpreted_sweeps"], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


CASES = [f"{name} {function}" for name in ELEMENTWISE for function in ("booth", "ackley", "rosenbrock-10d")]
CASES += [
    "SGD momentum",
    "SGD nesterov",
    "Adam amsgrad",
    "AdamW betas",
    "RMSprop centered",
    "NAdam decay",
    "Adagrad start",
]
CASES += ["ASGD average", "product", "zakharov", "ellipsoid"]


@pytest.mark.parametrize("case", CASES)
def test_each_run_is_that_of_the_cpus_sweep(case, found):
    one = found["cases"][case]
    assert {name: one[name] for name in NUMBERS if not one[name] <= TOLERANCE} == {}
    assert one["moved"] > 0 and one["kept"] >= 2 and one["bad_steps"][0] == one["bad_steps"][1]


def test_float32_is_float32(found):
    one = found["float32"]
    # a few roundings of 6e-8; the values of Ackley's function are differences of numbers ten times as large
    assert one["points"] <= 1e-6 and one["values"] <= 1e-5
    assert 1e-9 < one["lost"] < 1e-5


def test_what_diverges_is_judged_alike(found):
    one = found["diverging"]
    ours, theirs = one["bad_steps"]
    assert ours == theirs and ours[:2] == [-1, -1] and ours[3] > 0
    assert one["best"] <= TOLERANCE and one["bad_values"] <= TOLERANCE
    assert found["below"]["bad_steps"][0] == found["below"]["bad_steps"][1] != [-1]
    assert found["bad from the start"]["bad_steps"] == [[0, -1]] * 2
    assert found["bad from the start"]["best"] <= TOLERANCE  # infinite in the first


def test_hits_are_those_of_the_cpu(found):
    ours, theirs = found["hits"]
    assert ours == theirs
    met = np.array(ours)
    assert (met == -1).any() and (met == 0).any() and met.max() > 5  # some never, some at once
    assert ((met[:, 1:] == met[:, :-1]) & (met[:, 1:] > 0)).any()  # and several in one step


def test_runs_of_several_programs_keep_their_places(found):
    assert {name: found["many"][name] for name in NUMBERS if not found["many"][name] <= TOLERANCE} == {}
    assert found["many"]["kept"] == 3


def test_no_steps_leave_the_start(found):
    assert found["no steps"]["moved"] == 0 and found["no steps"]["kept"] == 1
    assert found["no steps"]["best"] <= TOLERANCE


def test_the_race_gives_the_same_rows(found):
    one, other = found["race"]["rows"]
    assert len(one) == len(other) > 0 and {row["executor"] for row in other} == {"compiled"}
    for row, expected in zip(other, one, strict=True):
        assert row.keys() == expected.keys()
        for name in row.keys() - {"seconds", "_losses", "_trace"}:
            value = expected[name]
            assert row[name] == (pytest.approx(value, rel=1e-9, nan_ok=True) if isinstance(value, float) else value)


def compiled(function, optimizer, real, capability):
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    algorithm = getattr(optimizers, optimizer).algorithm
    kernel = cuda.module(function, algorithm, (True,) * len(algorithm.slots), real).kernel
    signature = {"inputs": "*fp64", "outputs": "*fp64", "records": "*fp64"}
    signature |= {"targets": "*fp64", "hits": "*fp64", "sizes": "*i64"}
    constants = {"JUDGED": True, "RECORDED": True, "AIMED": True, "LANES": cuda.LANES}
    source = ASTSource(
        fn=kernel,
        signature=signature | dict.fromkeys(constants, "constexpr"),
        constexprs={(len(signature) + i,): value for i, value in enumerate(constants.values())},
    )
    return triton.compile(source, target=GPUTarget("cuda", capability, 32), options={"num_warps": cuda.WARPS})


BUILT = [(name, "booth", "float64", 90) for name in ELEMENTWISE]
BUILT += [
    ("Adam", function, "float64", capability) for function in ("ackley", "rosenbrock-10d") for capability in (80, 90)
]
BUILT += [("Adam", "ackley", "float32", 90), ("NAdam", "zakharov", "float64", 80)]


@pytest.mark.parametrize(("optimizer", "function", "real", "capability"), BUILT)
def test_the_kernel_compiles_with_exact_divisions_and_roots(optimizer, function, real, capability):
    kernel = compiled(FUNCTIONS[function], optimizer, real, capability)
    ptx = kernel.asm["ptx"]
    assert not re.search(r"(div|sqrt)\.(full|approx)", ptx)
    assert re.search(rf"fma\.rn\.f{real[-2:]}", ptx), "the arithmetic is of the type that was asked for"
    assert len(kernel.asm["cubin"]) > 0


def test_a_function_that_the_kernel_does_not_take_is_refused_in_words():
    rosenbrock = FUNCTIONS["rosenbrock-10d"]
    dimension = cuda_source.LARGEST + 1
    large = dataclasses.replace(rosenbrock, start=(0.5,) * dimension, domain=rosenbrock.domain[:1] * dimension)
    assert f"{dimension} dimensions" in cuda_source.refusal(large)
    with pytest.raises(ValueError, match=f"{dimension} dimensions"):
        cuda.sweep(large, optimizers.Adam, {}, np.zeros((1, dimension)), 1, device="cpu")
    assert cuda_source.refusal(rosenbrock) == ""
    strange = dataclasses.replace(FUNCTIONS["booth"], definition=lambda x, m: m.sum(x**2) + _arctangent(x[0]))
    assert cuda_source.refusal(strange) == "the kernel knows no atan"
    assert cuda_source.refusal(named("booth-rotated")) == "the kernel knows no rotation"


def _arctangent(x):
    import sympy

    return sympy.atan(x)


@pytest.mark.parametrize(
    ("starts", "options", "words"),
    [
        ([[0.0]], {}, "2 dimensions"),
        ([[0.0, 0.0]], {"beta3": 0.1}, "no beta3"),
        ([[0.0, 0.0]], {"lr": math.nan}, "nan"),
    ],
)
def test_wrong_input_is_refused_as_on_the_cpu(starts, options, words):
    with pytest.raises(ValueError, match=words):
        cuda.sweep(FUNCTIONS["booth"], optimizers.Adam, options, np.array(starts), 5, device="cpu")


def test_a_cell_on_cuda_is_compiled_where_the_kernel_takes_it(monkeypatch):
    assert functions_race.executor_of("Adam", "cuda", FUNCTIONS["booth"]) == "compiled"
    assert functions_race.executor_of("Adafactor", "cuda", FUNCTIONS["booth"]) == "batched"
    assert functions_race.executor_of("Adam", "cuda", named("booth-rotated")) == "batched"
    real = kernels.executor
    monkeypatch.setattr(kernels, "executor", lambda one: "triton is missing" if one == "cuda" else real(one))
    assert functions_race.executor_of("Adam", "cuda", FUNCTIONS["booth"]) == "batched"
    assert functions_race.executor_of("Adam", "cpu", FUNCTIONS["booth"]) == "compiled"


def test_a_map_on_cuda_is_made_by_its_sweep(monkeypatch):
    """The CPU's sweep in the place of the GPU's; how often it is called says that the launches are larger."""
    called = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(descents, "sweeper", lambda device: called.append(device) or cpu_sweep)
    made = hyper_map.make("Adam", "booth", "lr", "beta1", 4, 3, device="cuda")
    assert called == ["cuda"] and np.isfinite(made.gaps).any()
    np.testing.assert_array_equal(made.gaps, hyper_map.make("Adam", "booth", "lr", "beta1", 4, 3).gaps)


def cpu_sweep(*args, **kwargs):
    from bench.sweeps import engine

    return engine.sweep(*args, **kwargs)


@pytest.mark.parametrize(
    ("device", "there", "refusal", "words"),
    [
        ("gpu", True, "", "gpu"),
        ("cuda", False, "", "no CUDA device"),
        ("cuda", True, "it is odd", "booth .* it is odd"),
    ],
)
def test_a_map_that_cannot_be_is_exit_2(device, there, refusal, words, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: there)
    monkeypatch.setattr(cuda_source, "refusal", lambda function: refusal)
    with pytest.raises(BenchError, match=words) as caught:
        hyper_map.make("Adam", "booth", "lr", "beta1", 4, 3, device=device)
    assert caught.value.exit_code == Exit.USAGE
