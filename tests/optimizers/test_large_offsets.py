"""Tensors of more than 2**31 elements: addresses and counts are 64 bits wide, shown without the memory for them.

Address space is reserved for whole tensors, and only the pages around a boundary may be touched: a step over elements
there that strays elsewhere, as one with 32-bit offsets would, ends the process. The CUDA kernels cannot be run so;
`test_triton.py` looks for 64-bit arithmetic in what they are compiled to.
"""

from __future__ import annotations

import ctypes

import numpy as np
import pytest
import torch

import optimizers
from optimizers.executors import generate

from . import guarded
from .conftest import NAMES
from .test_threads import python

cpu = pytest.importorskip("optimizers.executors.cpu", reason="Numba is not installed")

#: elements around which a 32-bit count of elements or bytes, signed or not, goes wrong: on the way, or from the start
BOUNDARIES = (2**29, 2**30 + 100, 2**31, 2**31 + 100, 2**32, 2**32 + 100)

SCRIPT = """
import contextlib, ctypes
import numpy as np, torch, optimizers
from optimizers.executors import cpu, generate
from tests.optimizers.guarded import windows

REACH = 40  # elements to either side of the boundary


def step_across(name, dtype, boundary):
    print(name, dtype, boundary, flush=True)
    algorithm = getattr(optimizers, name).algorithm
    present = (True,) * len(algorithm.slots)
    kernel = ctypes.CFUNCTYPE(None, *[ctypes.c_ssize_t] * 4)(cpu.block(algorithm, present, dtype, dtype).address)
    size, near = dtype.itemsize, (boundary - 2 * REACH, boundary + 2 * REACH)
    coefs = np.full(len(algorithm.outputs), 0.5)
    with contextlib.ExitStack() as stack:
        spans = [
            stack.enter_context(windows((boundary + 4096) * size, [(near[0] * size, near[1] * size)]))
            for _ in range(2 + len(present))
        ]
        views = [
            torch.frombuffer(
                (ctypes.c_char * ((near[1] - near[0]) * size)).from_address(span + near[0] * size), dtype=dtype
            )
            for span in spans
        ]
        for i, view in enumerate(views):
            view.copy_(torch.linspace(0.5 + i, 2.5 + i, len(view)))
        before = [view.clone() for view in views]
        table = np.array([*[0] * (generate.ROW_HEAD + len(algorithm.scalars)), *spans], np.int64)
        kernel(table.ctypes.data, coefs.ctypes.data, boundary - REACH, boundary + REACH)
        # the same elements as a small tensor that begins at 0
        after = [view.clone() for view in before]
        small = np.array([*table[: -len(spans)], *[view.data_ptr() for view in after]], np.int64)
        kernel(small.ctypes.data, coefs.ctypes.data, REACH, 3 * REACH)
        for view, expected, old in zip(views, after, before):
            assert torch.equal(view, expected)
            assert torch.equal(view[:REACH], old[:REACH]) and torch.equal(view[-REACH:], old[-REACH:])
        assert not torch.equal(views[0], before[0])
        del view, views


for name in {names!r}:
    for dtype in (torch.float32, torch.float64, torch.bfloat16):
        for boundary in {boundaries!r}:
            step_across(name, dtype, boundary)
"""


@pytest.mark.skipif(not guarded.AVAILABLE, reason="pages are forbidden in the way of Linux")
def test_elements_on_either_side_of_a_large_number_are_stepped_and_nothing_else():
    done = python(SCRIPT.replace("{names!r}", repr(NAMES)).replace("{boundaries!r}", repr(BOUNDARIES)))
    if "no " in done.stderr and "bytes of address space" in done.stderr:
        pytest.skip("this system does not give away address space without memory")
    assert done.returncode == 0, (done.returncode, done.stdout.splitlines()[-1:], done.stderr)


@pytest.mark.parametrize("pieces", ["one for each thread", "as they come"])
@pytest.mark.parametrize("threads", [1, 3])
def test_the_driver_divides_large_tensors_without_loss(threads, pieces):
    """A block that notes its ranges stands for the kernel: of each tensor, every element once."""
    driver = cpu.driver
    sizes = [2**33 + 5, 3, 2**31, 0, 2**32 + 1]
    algorithm = optimizers.SGD.algorithm
    rows = np.zeros((len(sizes), generate.ROW_HEAD + 2), np.int64)
    rows[:, generate.NUMEL], rows[:, generate.ACTIVE] = sizes, 1
    hyper = np.zeros((1, len(algorithm.hyper) + 1))
    job = cpu.Job(algorithm, (False,), torch.float32, torch.float32, torch.float32, rows, hyper, torch.device("cpu"))
    seen: dict[int, list[tuple[int, int]]] = {i: [] for i in range(len(sizes))}

    @ctypes.CFUNCTYPE(None, *[ctypes.c_ssize_t] * 4)
    def note(row: int, coefs: int, start: int, stop: int) -> None:
        seen[(row - rows.ctypes.data) // rows.strides[0]].append((start, stop))

    job.words[driver.BLOCK] = ctypes.cast(note, ctypes.c_void_p).value
    job.words[driver.PARALLEL] = 0  # so that Python calls each thread's share, one after the other
    job.words[driver.THREADS] = threads
    job.words[driver.DYNAMIC_ABOVE] = 0 if pieces == "as they come" else 2**62
    left = ctypes.CFUNCTYPE(ctypes.c_ssize_t, ctypes.c_ssize_t)(driver.drive.address)(job.address)
    assert left == (0 if threads == 1 else sum(sizes))
    if threads > 1:
        share = ctypes.CFUNCTYPE(None, *[ctypes.c_ssize_t] * 3)(driver.python_body.address)
        for thread in range(threads):
            share(job.address, thread, threads)
    for i, size in enumerate(sizes):
        ranges = sorted(seen[i])
        ends = [0, *(stop for _, stop in ranges)]
        assert [start for start, _ in ranges] == ends[:-1] and ends[-1] == size, (i, ranges[:3], ranges[-3:])
