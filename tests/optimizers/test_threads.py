"""One pool with torch: thread counts, two Python threads at once, forked children, and machines without OpenMP."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
import threading

import pytest
import torch

import optimizers
from optimizers.executors import cpu, threads

SIZES = (0, 1, 70, 100_003, 1_000_003)


def run():
    generator = torch.Generator().manual_seed(0)
    params = [torch.nn.Parameter(torch.randn(n, generator=generator)) for n in SIZES]
    optimizer = optimizers.Adam(params, lr=0.1)
    for _ in range(3):
        for p in params:
            p.grad = torch.randn(p.shape, generator=generator)
        optimizer.step()
    return params


@pytest.fixture(scope="module")
def serial():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return run()
    finally:
        torch.set_num_threads(before)


def equal(a, b):
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


@pytest.mark.parametrize("count", [2, 3, 7])
@pytest.mark.parametrize("pool", ["openmp", "python"])
@pytest.mark.parametrize("pieces", ["static", "dynamic"])
def test_every_number_of_threads_gives_the_same_bits(count, pool, pieces, serial, monkeypatch):
    if pool == "python":
        monkeypatch.setattr(threads, "openmp", lambda: None)
    elif threads.openmp() is None:
        pytest.skip("torch's OpenMP runtime is not to be found here")
    if pieces == "dynamic":
        monkeypatch.setattr(cpu, "DYNAMIC_ABOVE", 0)
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        assert equal(run(), serial)
    finally:
        torch.set_num_threads(before)


def test_two_python_threads_step_at_once(serial):
    results = {}
    workers = [threading.Thread(target=lambda i=i: results.__setitem__(i, run())) for i in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert equal(results[0], serial) and equal(results[1], serial)


def python(script: str, **environment: str) -> subprocess.CompletedProcess:
    code = textwrap.dedent(script)
    return subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=120,
    )


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_a_forked_child_steps_with_one_thread():
    done = python(
        """
        import os, torch, optimizers
        torch.set_num_threads(2)
        p = torch.nn.Parameter(torch.ones(500_000)); p.grad = torch.ones_like(p)
        optimizer = optimizers.SGD([p], lr=0.25)
        optimizer.step()
        child = os.fork()
        if child == 0:
            optimizer.step()
            os._exit(0 if set(p.tolist()) == {0.5} else 1)
        _, status = os.waitpid(child, 0)
        optimizer.step()
        assert set(p.tolist()) == {0.5}
        raise SystemExit(os.waitstatus_to_exitcode(status))
        """
    )
    assert done.returncode == 0, done.stderr


def test_without_numba_everything_works_and_says_so_once():
    done = python(
        """
        import sys, warnings
        sys.modules["numba"] = None
        import torch, optimizers
        p = torch.nn.Parameter(torch.ones(5)); p.grad = torch.ones(5)
        with warnings.catch_warnings(record=True) as seen:
            warnings.simplefilter("always")
            optimizer = optimizers.Adam([p], lr=0.5)
            optimizer.step(); optimizer.step()
            other = optimizers.SGD([p], lr=0.5); other.step()
        assert len(seen) == 1 and "numba is not installed" in str(seen[0].message), seen
        assert optimizer.executors()[0][1:] == ("eager", "numba is not installed")
        assert abs(p[0].item() + 0.5) < 1e-6, p
        try:
            optimizers.Adam([p], fused=True).step()
        except RuntimeError as error:
            assert "numba is not installed" in str(error)
        else:
            raise SystemExit("fused=True stepped without a kernel")
        """
    )
    assert done.returncode == 0, done.stderr


def test_the_pool_is_torchs_own():
    if not sys.platform.startswith("linux"):
        pytest.skip("the runtime of other systems is not looked up")
    assert threads.openmp() is not None
