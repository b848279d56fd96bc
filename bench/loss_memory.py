"""How much memory a call takes at its peak, beyond what was there before it."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch.profiler import ProfilerActivity, profile

MEMORY = "[memory]"  # the profiler's name of an event of the allocator


def peak_bytes(call: Callable[[], object], device: str) -> int:
    """The most bytes that torch's allocator held at one time during `call`, beyond those it held before.

    On the CPU these are the profiler's allocator events, which see every `torch.empty` (ours and torch's results and
    temporaries alike) and nothing that is not a tensor: the kernels' own tables are a few hundred bytes.
    """
    if device == "cuda":
        torch.cuda.synchronize()
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        call()
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated() - before
    with standard_error_closed(), profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen:
        call()
    events = [event for event in seen.profiler.kineto_results.events() if event.name() == MEMORY]
    held = peak = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        held += event.nbytes()
        peak = max(peak, held)
    return peak


@contextmanager
def standard_error_closed() -> Iterator[None]:
    """Nothing reaches the terminal through file descriptor 2: some builds of the profiler log there, unasked."""
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)
