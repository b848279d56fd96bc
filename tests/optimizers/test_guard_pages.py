"""The kernels read and write what is theirs and not one element more: beside it lies memory that nobody may touch."""

from __future__ import annotations

import json
import signal

import pytest
import torch

import optimizers

from . import guarded
from .conftest import NAMES
from .test_threads import python

pytest.importorskip("numba", reason="without Numba there is no kernel")
pytestmark = pytest.mark.skipif(not guarded.AVAILABLE, reason="pages are forbidden in the way of Linux")

#: every class that has a kernel of its own kind
SWEPT = [name for name in [*dict.fromkeys([*NAMES, "Adafactor", "Muon", "SparseAdam"])] if hasattr(optimizers, name)]

COMMON = """
import ctypes, json, os
import torch, optimizers
from optimizers.executors.generate import NUMEL
from tests.optimizers.guarded import guarded, guarded_like

SIZES = (1, 2, 3, 4, 5, 7, 8, 9, 15, 16, 17, 31, 32, 33, 63, 64, 65, 127, 128, 129, 255, 256, 257, 1000, 1023, 1025)
MATRICES = [(1, 1), (2, 3), (3, 2), (7, 9), (17, 1), (1, 17), (33, 31), (64, 65)]
OPTIONS = {
    "SGD": {"momentum": 0.9, "nesterov": True},
    "Adam": {"amsgrad": True},
    "RMSprop": {"momentum": 0.9, "centered": True},
}
torch.sparse.check_sparse_tensor_invariants.enable()


def gradient_of(p, edge, sparse):
    if not sparse:
        return guarded_like(torch.randn(p.shape).to(p.dtype), edge)
    rows = torch.arange(0, len(p), 2)
    at = guarded_like(rows[None], edge)
    return torch.sparse_coo_tensor(
        at, guarded_like(torch.randn(len(rows), *p.shape[1:]).to(p.dtype), edge), p.shape, is_coalesced=True
    )


def sweep(name, dtype, edge, sizes):
    print(name, dtype, edge, flush=True)
    torch.manual_seed(0)
    shapes = ([] if name == "Muon" else sizes) + MATRICES * (name in ("Adafactor", "Muon", "SparseAdam"))
    params = [torch.nn.Parameter(guarded_like(torch.randn(shape).to(dtype), edge)) for shape in shapes]
    optimizer = getattr(optimizers, name)(params, **OPTIONS.get(name, {}))
    copies = [torch.nn.Parameter(p.detach().clone()) for p in params]
    plain = getattr(optimizers, name)(copies, **OPTIONS.get(name, {}))
    for step in range(3):
        for p, q in zip(params, copies):
            p.grad = gradient_of(p, edge, name == "SparseAdam")
            q.grad = p.grad.clone()
        optimizer.step()
        plain.step()
        if step == 0:
            for p in params:
                for key, t in optimizer.state[p].items():
                    if isinstance(t, torch.Tensor) and t.dim():
                        optimizer.state[p][key] = guarded_like(t, edge)
    assert {executor for _, executor, _ in optimizer.executors()} == {"cpu"}, optimizer.executors()
    assert all(map(torch.equal, params, copies))
    return optimizer


def signal_of(action):
    child = os.fork()
    if child == 0:
        action()
        os._exit(0)
    return -os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])

"""


def test_the_guard_bites():
    """Each action runs in a child, which it ends if it touches what is forbidden."""
    done = python(
        COMMON
        + """
def touch(edge, offset):
    t = guarded(1000, torch.float32, edge)
    ctypes.memset(t.data_ptr() + offset, 0, 1)

def too_far():
    optimizer._plan.jobs[0].rows[0, NUMEL] += 1
    optimizer.step()

optimizer = sweep("Adam", torch.float32, "behind", [64])
places = [("before", 0), ("before", -1), ("behind", 3999), ("behind", 4000)]
answers = [signal_of(lambda: touch(*place)) for place in places]
print(json.dumps([*answers, signal_of(optimizer.step), signal_of(too_far)]))
"""
    )
    assert done.returncode == 0, done.stderr
    first_byte, before, last_byte, behind, step, too_far = json.loads(done.stdout.splitlines()[-1])
    assert (first_byte, last_byte, step) == (0, 0, 0)
    assert (before, behind, too_far) == (signal.SIGSEGV,) * 3


def test_kernels_stay_within_their_tensors():
    """In a process of its own, which a wrong access ends: what it was about to do is the last line it printed."""
    done = python(
        COMMON
        + f"""
for edge in ("before", "behind"):
    for dtype in (torch.float32, torch.float64, torch.bfloat16, torch.float16):
        for name in {SWEPT!r}:
            if name != "Adafactor" or dtype.itemsize > 2:  # that is plain torch
                sweep(name, dtype, edge, list(SIZES))
    torch.set_num_threads(2)
    for size in (65_537, 200_003):
        sweep("Adam", torch.float32, edge, [size, 3])
    torch.set_num_threads(1)
"""
    )
    assert done.returncode == 0, (done.returncode, done.stdout.splitlines()[-1:], done.stderr)


def test_a_guarded_tensor_is_an_ordinary_one():
    start = torch.randn(3, 5).t()
    t = guarded.guarded_like(start, "behind")
    assert torch.equal(t, start) and t.stride() == start.stride()
    assert guarded.guarded_like(start[:0], "before").shape == (0, 3)
