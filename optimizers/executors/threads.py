"""Runs a compiled body on torch's own OpenMP threads, so that there is one pool and one thread count.

Numba's own threading would start a second pool beside torch's, and dies in forked children. Where torch's OpenMP
runtime cannot be found, Python threads share the work of large steps instead.
"""

from __future__ import annotations

import ctypes
import functools
import os
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch

_forked = False


def _after_fork() -> None:
    global _forked
    _forked = True  # the child of a fork has none of the pool's threads, and would wait for them for ever


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


def count() -> int:
    """How many threads a step may use: torch's number, and one in a forked child."""
    return 1 if _forked else torch.get_num_threads()


@functools.cache
def openmp() -> tuple[int, int, int] | None:
    """Addresses of ``GOMP_parallel``, ``omp_get_thread_num`` and ``omp_get_num_threads`` in torch's own runtime."""
    for path in _loaded_runtimes():
        try:
            library = ctypes.CDLL(path, mode=os.RTLD_NOLOAD)
            functions = (library.GOMP_parallel, library.omp_get_thread_num, library.omp_get_num_threads)
        except (OSError, AttributeError):
            continue
        return tuple(ctypes.cast(f, ctypes.c_void_p).value for f in functions)  # type: ignore[return-value]
    return None


def _loaded_runtimes() -> list[str]:
    """OpenMP runtimes in this process, those that came with torch first (wheels rename theirs)."""
    try:
        with open("/proc/self/maps", encoding="utf-8") as maps:
            paths = {line.split()[-1] for line in maps if "libgomp" in line}
    except OSError:
        return {"darwin": ["libomp.dylib"]}.get(sys.platform, [])
    return sorted(paths, key=lambda path: not Path(path).is_relative_to(Path(torch.__file__).parents[1]))


_pool: ThreadPoolExecutor | None = None
_pool_owner = 0


def python_threads(body, threads: int) -> None:
    """Calls ``body(thread, threads)`` for each thread; it must release the interpreter's lock to gain anything."""
    global _pool, _pool_owner
    if _pool is None or _pool_owner != os.getpid() or _pool._max_workers < threads - 1:
        _pool, _pool_owner = ThreadPoolExecutor(threads - 1, "optimizer"), os.getpid()
    others = [_pool.submit(body, thread, threads) for thread in range(1, threads)]
    body(0, threads)
    for other in others:
        other.result()
