"""Memory for results: large pages where the system gives them to those who ask."""

from __future__ import annotations

import ctypes
import mmap
import sys

import torch
from torch import Tensor

#: bytes of a huge page, and from how many on a result asks for them: the first write to ordinary pages takes longer
#: than the arithmetic of most losses
HUGE_PAGE, ASK_FROM = 1 << 21, 1 << 22


def fresh(like: Tensor) -> Tensor:
    """An uninitialised tensor like this one, contiguous."""
    out = torch.empty_like(like, memory_format=torch.contiguous_format)
    if out.nbytes >= ASK_FROM and _madvise is not None and out.device.type == "cpu":
        begin = -(-out.data_ptr() // HUGE_PAGE) * HUGE_PAGE
        end = (out.data_ptr() + out.nbytes) // HUGE_PAGE * HUGE_PAGE
        if begin < end:
            _madvise(begin, end - begin, mmap.MADV_HUGEPAGE)  # where it is refused, nothing is lost
    return out


def _find_madvise():
    """The C library's `madvise`, where huge pages are a matter of advice."""
    if not sys.platform.startswith("linux") or not hasattr(mmap, "MADV_HUGEPAGE"):
        return None
    try:
        function = ctypes.CDLL(None).madvise
    except (OSError, AttributeError):
        return None
    function.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
    return function


_madvise = _find_madvise()
