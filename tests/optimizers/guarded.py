"""Tensors at the edge of forbidden memory, so that one element too far is a crash and not luck (Linux)."""

from __future__ import annotations

import contextlib
import ctypes
import mmap
import sys
from collections.abc import Iterator

import torch
from torch import Tensor

AVAILABLE = sys.platform.startswith("linux")
PAGE = mmap.PAGESIZE
_NONE, _READ_WRITE = 0, mmap.PROT_READ | mmap.PROT_WRITE


def _protect(memory: mmap.mmap, start: int, size: int, protection: int) -> None:
    """Allows or forbids access to a stretch of whole pages."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.mprotect(ctypes.c_void_p(address_of(memory) + start), ctypes.c_size_t(size), protection):
        raise OSError(ctypes.get_errno(), "mprotect failed")


def address_of(memory: mmap.mmap) -> int:
    """Where a mapping begins."""
    return ctypes.addressof(ctypes.c_char.from_buffer(memory))


def guarded(numel: int, dtype: torch.dtype, end: str) -> Tensor:
    """A flat tensor between two forbidden pages; it touches the one that `end` names, ``before`` or ``behind`` it.

    The tensor keeps the memory alive.
    """
    if numel == 0:
        return torch.empty(0, dtype=dtype)
    size = numel * dtype.itemsize
    room = -(-size // PAGE) * PAGE
    memory = mmap.mmap(-1, room + 2 * PAGE)
    offset = PAGE if end == "before" else PAGE + room - size
    flat = torch.frombuffer(memory, dtype=dtype, count=numel, offset=offset)
    _protect(memory, 0, PAGE, _NONE)
    _protect(memory, PAGE + room, PAGE, _NONE)
    return flat


def guarded_like(t: Tensor, end: str) -> Tensor:
    """A copy of a dense tensor with the same strides at the edge of forbidden memory."""
    flat = guarded(t.numel(), t.dtype, end)
    return flat.as_strided(t.shape, t.stride()).copy_(t.detach())


@contextlib.contextmanager
def windows(size: int, open_: list[tuple[int, int]]) -> Iterator[int]:
    """The address of `size` bytes that nobody may touch, except for the pages that hold these (start, stop) stretches.

    No memory stands behind the forbidden part, so `size` may be larger than the machine.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    libc.mmap.restype = ctypes.c_void_p
    libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long]
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | getattr(mmap, "MAP_NORESERVE", 0x4000)
    size = -(-size // PAGE) * PAGE
    address = libc.mmap(None, size, _NONE, flags, -1, 0)
    if address in (None, ctypes.c_void_p(-1).value):
        raise MemoryError(f"no {size} bytes of address space")
    try:
        for start, stop in open_:
            first, last = start // PAGE * PAGE, -(-stop // PAGE) * PAGE
            if libc.mprotect(ctypes.c_void_p(address + first), ctypes.c_size_t(last - first), _READ_WRITE):
                raise OSError(ctypes.get_errno(), "mprotect failed")
        yield address
    finally:
        libc.munmap(ctypes.c_void_p(address), ctypes.c_size_t(size))
