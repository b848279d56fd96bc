"""Keep the calling thread and torch's worker threads on a core each while something is timed (Linux only).

Left alone, some virtual machines put two workers of one pool on the same core for seconds, and each parallel region,
of whoever, then takes 8 ms instead of 10 microseconds. Contenders share one pool, so all are pinned alike.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import torch

_TASKS = Path("/proc/self/task")
_BURST_SECONDS = 0.03


@contextmanager
def pinned(threads: int) -> Iterator[int]:
    """Pin the calling thread and torch's other ``threads - 1`` workers, and undo it at the end.

    Yields the number of pinned threads: 0 where pinning is impossible. Start every pool before: a thread that is
    born inside inherits the one core of the caller.
    """
    if not hasattr(os, "sched_setaffinity") or not _TASKS.exists():
        yield 0
        return
    cores = physical_cores(os.sched_getaffinity(0))
    before: dict[int, set[int]] = {}
    try:
        for index, thread in enumerate([threading.get_native_id(), *torch_workers(threads)]):
            with suppress(OSError):  # a thread that just ended, or a container that forbids it
                affinity = os.sched_getaffinity(thread)
                os.sched_setaffinity(thread, {cores[index % len(cores)]})
                before[thread] = affinity
        yield len(before)
    finally:
        for thread, affinity in before.items():
            with suppress(OSError):
                os.sched_setaffinity(thread, affinity)


def physical_cores(allowed: set[int]) -> list[int]:
    """The allowed logical cores, the first of each physical core ahead of its hyper-threads."""

    def siblings(core: int) -> str:
        try:
            return Path(f"/sys/devices/system/cpu/cpu{core}/topology/thread_siblings_list").read_text().strip()
        except OSError:
            return str(core)

    seen: set[str] = set()
    first, rest = [], []
    for core in sorted(allowed):
        (rest if siblings(core) in seen else first).append(core)
        seen.add(siblings(core))
    return first + rest


def torch_workers(threads: int) -> list[int]:
    """Thread ids of torch's pool besides the calling thread: those that get busy when torch works in parallel.

    Nothing else tells them apart: they carry the name of the process, as threads of any other pool do.
    """
    if threads < 2:
        return []
    data = torch.ones(threads << 18)
    data.add_(1.0)  # starts the pool
    start = _busy_nanoseconds()
    deadline = time.perf_counter() + _BURST_SECONDS
    while time.perf_counter() < deadline:
        data.add_(1.0)
    busy = {thread: spent - start.get(thread, 0) for thread, spent in _busy_nanoseconds().items()}
    busy.pop(threading.get_native_id(), None)
    workers = [thread for thread, spent in busy.items() if spent > 0.1e9 * _BURST_SECONDS]
    return sorted(workers, key=lambda thread: -busy[thread])[: threads - 1]


def _busy_nanoseconds() -> dict[int, int]:
    busy = {}
    for task in _TASKS.iterdir():
        with suppress(OSError, ValueError):
            busy[int(task.name)] = int((task / "schedstat").read_text().split()[0])
    return busy
