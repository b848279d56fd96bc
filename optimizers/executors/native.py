"""Looks at hundreds of tensors in microseconds, through symbols and a memory layout that torch does not promise.

Asking Python for each attribute of each tensor costs more than stepping a small model. Compiled code compares the words
that describe a tensor with a copy of them instead, and asks torch's C interface where they differ. Whether the words
lie where they are looked for is checked at import, and `works` is False unless everything then agrees with what Python
says; `watch` has the same checks in Python.
"""

from __future__ import annotations

import ctypes
import functools
import sys
from pathlib import Path

import numpy as np
import torch

from . import generate
from .generate import ACTIVE
from .kernels import DTYPES

jit = generate.compiled("watch")


def _libraries() -> tuple[ctypes.CDLL, ctypes.CDLL]:
    """torch's core and its CPU half."""
    folder = Path(torch.__file__).parent / "lib"
    suffix = ".dylib" if sys.platform == "darwin" else ".so"
    return ctypes.CDLL(str(folder / f"libc10{suffix}")), ctypes.CDLL(str(folder / f"libtorch_cpu{suffix}"))


def _symbols() -> dict[int, int]:
    """The addresses of the functions in use."""
    core, cpu = _libraries()
    functions = {
        jit.GRAD: core._ZNK3c1010TensorImpl4gradEv,
        jit.GET_DTYPE: cpu.aoti_torch_get_dtype,
        jit.GET_DIM: cpu.aoti_torch_get_dim,
        jit.GET_SIZES: cpu.aoti_torch_get_sizes,
        jit.GET_STRIDES: cpu.aoti_torch_get_strides,
        jit.GET_DATA: cpu.aoti_torch_get_data_ptr,
        jit.DICT_NEXT: ctypes.pythonapi.PyDict_Next,
        jit.DICT_SIZE: ctypes.pythonapi.PyDict_Size,
        jit.LIST_SIZE: ctypes.pythonapi.PyList_Size,
        jit.LIST_ITEM: ctypes.pythonapi.PyList_GetItem,
    }
    symbols = {word: ctypes.cast(f, ctypes.c_void_p).value or 0 for word, f in functions.items()}
    gradient_of = ctypes.CFUNCTYPE(ctypes.c_ssize_t, ctypes.c_ssize_t)(symbols[jit.GRAD])
    # a missing gradient is one and the same undefined tensor everywhere
    symbols[jit.UNDEFINED] = ctypes.c_ssize_t.from_address(gradient_of(torch.zeros(1)._cdata)).value
    return symbols


def _find(address: int, value: int, words: int) -> int | None:
    """The one offset in bytes at which a value lies in memory, or None if it is not there exactly once."""
    memory = (ctypes.c_uint64 * words).from_address(address)
    places = [8 * i for i, w in enumerate(memory) if w == value & (2**64 - 1)]
    return places[0] if len(places) == 1 else None


def _place() -> int:
    """Bytes from a Python object to its tensor, after checking that the rest lies where it is looked for."""
    plain, wide = torch.zeros(3), torch.zeros(12347, 3)
    samples = [plain, torch.nn.Parameter(wide), torch.ones(5)[1:], torch._neg_view(plain), plain.bfloat16()]
    inside = {_find(id(t), t._cdata, 8) for t in samples}
    fits = [
        _find(t._cdata, torch._C._dispatch_keys(t).raw_repr(), 24) == jit.KEYS
        and _find(t._cdata, t.untyped_storage()._cdata, 8) == jit.STORAGE
        and ctypes.c_size_t.from_address(t.untyped_storage()._cdata + jit.STORAGE_DATA).value
        == t.untyped_storage().data_ptr()
        for t in samples
    ]
    if len(inside) != 1 or None in inside or not all(fits) or _find(wide._cdata, 12347, 24) != jit.DESCRIPTION + 8:
        raise OSError("the fields of a tensor are not where they are looked for")
    return inside.pop()  # type: ignore[return-value]


# all of them touch Python objects, and so keep the interpreter's lock
_word = ctypes.c_ssize_t
_unchanged = ctypes.PYFUNCTYPE(_word, _word)(jit.unchanged.address)
_refresh = ctypes.PYFUNCTYPE(_word, _word, _word, _word)(jit.refresh.address)
_bump = ctypes.PYFUNCTYPE(_word, _word)(jit.bump.address)
_step = ctypes.PYFUNCTYPE(_word, _word, _word, _word, _word)(jit.step.address)
_matches = jit.matches.address

try:
    _INSIDE = _place()
    _SYMBOLS = _symbols() | {jit.INSIDE: _INSIDE, jit.NONE: id(None)}
    works = sys.implementation.name == "cpython" and getattr(sys, "_is_gil_enabled", lambda: True)()
except (OSError, AttributeError, TypeError, ValueError):
    works = False


class Watch:
    """The expected objects of a plan, in the form that the compiled checks read.

    Parameters are kept alive, state tensors are not: what somebody replaces may be freed.
    """

    def __init__(self, state, lists, dormant):
        walk: list[int] = [len(state)]
        for p, entries in state.items():
            if isinstance(entries, dict):
                walk += [id(p), id(entries), len(entries)]
                walk += [x for value in entries.values() for x in (id(value), id(type(value)))]
            else:
                walk += [id(p), id(entries), -1]
        flat: list[int] = []
        for items in lists:
            flat += [id(items), len(items), *map(id, items)]
        self.kept: list = [state, list(state), lists, list(map(list, lists)), dormant]
        self.kept += [entries for entries in state.values() if not isinstance(entries, dict)]
        words = self._words(
            {jit.STATE: id(state), jit.WALK: walk, jit.LISTS: flat, jit.N_LISTS: len(lists)}
            | {jit.DORMANT: [id(p) + _INSIDE for p in dormant], jit.N_DORMANT: len(dormant)}
        )
        self.addresses = [words.ctypes.data]
        self.params: list[list[torch.Tensor]] = []
        self.held: list[list[torch.Tensor | None]] = []

    def _words(self, values: dict) -> np.ndarray:
        words = np.zeros(jit.WATCH_WORDS, np.int64)
        self.kept.append(words)
        for at, value in (values | _SYMBOLS | {jit.SCRATCH: [0] * jit.SCRATCH_WORDS}).items():
            if isinstance(value, list):
                value = np.array(value or [0], np.int64)
                self.kept.append(value)
                value = value.ctypes.data
            words[at] = value
        return words

    def add(self, rows: np.ndarray, p_word: int, tensors: list[list[torch.Tensor]]) -> None:
        """Watches a table: for each row its parameter, then all it writes besides."""
        checks = np.zeros((len(tensors) * len(tensors[0]), jit.EXPECTED), np.int64)
        prints = np.zeros((len(checks), jit.DESCRIPTION_WORDS + jit.STORAGE_WORDS), np.int64)
        shapes: dict[tuple, np.ndarray] = {}
        for i, t in enumerate(t for row in tensors for t in row):
            shape = (*t.shape, *t.stride())
            if shape not in shapes:
                shapes[shape] = np.array(shape or (0,), np.int64)
            copy, storage = prints[i].ctypes.data, t.untyped_storage()._cdata
            checks[i] = (
                id(t) + _INSIDE, _DTYPE_CODES[t.dtype], t.dim(), t.data_ptr(), shapes[shape].ctypes.data, copy
            )  # fmt: skip
            ctypes.memmove(copy, t._cdata + jit.DESCRIPTION, 8 * jit.DESCRIPTION_WORDS)
            ctypes.memmove(copy + 8 * jit.DESCRIPTION_WORDS, storage + jit.STORAGE_DATA, 8 * jit.STORAGE_WORDS)
        self.kept += [rows, checks, prints, shapes]
        self.params.append([row[0] for row in tensors])
        values = {jit.N_ROWS: len(rows), jit.ROWS: rows.ctypes.data, jit.ROW_BYTES: rows.strides[0], jit.P_WORD: p_word}
        words = self._words(values | {jit.CHECKS: checks.ctypes.data, jit.N_CHECKS: len(tensors[0])})
        self.addresses.append(words.ctypes.data)

    def unchanged(self) -> bool:
        """Whether state and parameter lists still hold the very objects of the plan."""
        return _unchanged(self.addresses[0]) == 1

    def refresh(self) -> bool:
        """Fills in this step's gradients and holds them, or says that something is not as planned."""
        self.held = [[p.grad for p in params] for params in self.params]
        lists = [0, *map(id, self.held)]
        if not all([_refresh(address, _matches, held) for address, held in zip(self.addresses, lists, strict=True)]):
            return False
        for address in self.addresses:
            _bump(address)
        return True

    def release(self) -> None:
        """Lets go of the gradients."""
        self.held = []

    def stepper(self, jobs: list[int], drive: int):
        """A function without arguments that checks, refreshes and drives these jobs in one compiled call."""
        arrays = [
            np.array(words, np.int64)
            for words in (
                [jit.unchanged.address, jit.refresh.address, _matches, drive, jit.bump.address],
                self.addresses,
                jobs,
            )
        ]
        self.kept += arrays
        return functools.partial(_step, *[array.ctypes.data for array in arrays], len(jobs))


def _dtype_codes() -> dict[torch.dtype, int]:
    """torch's numbers for its dtypes, as its C interface tells them."""
    return {dtype: getattr(_libraries()[1], f"aoti_torch_dtype_{str(dtype)[6:]}")() for dtype in DTYPES}


def _proven() -> bool:
    """Whether what the compiled checks see of real tensors is what Python sees."""
    good = torch.nn.Parameter(torch.arange(6.0).reshape(2, 3))
    good.grad = torch.ones(2, 3)
    moment = torch.zeros(2, 3)
    state, lists = {good: {"moment": moment}}, [[good]]
    rows = np.zeros((1, 8), np.int64)
    watch = Watch(state, lists, [])
    watch.add(rows, 5, [[good, moment]])
    start = moment.data
    versions = good._version, moment._version
    ok = watch.unchanged() and watch.refresh() and rows[0, ACTIVE] == 1 and rows[0, 6] == good.grad.data_ptr()
    ok = ok and (good._version, moment._version) == (versions[0] + 1, versions[1] + 1)
    plain = good.grad
    for odd in (torch.ones(3, 2).t(), torch._neg_view(torch.ones(2, 3)), torch.ones(2, 3).to_sparse()):
        good.grad = odd
        ok = ok and not watch.refresh()
    good.grad = None
    ok = ok and watch.refresh() and rows[0, ACTIVE] == 0
    good.grad = plain
    for data in (start.t(), start[:1], start.double(), start.clone(), start.as_strided((2, 3), (1, 2))):
        moment.data = data
        ok = ok and not watch.refresh()
    moment.data = start
    ok = ok and watch.refresh()
    state[good]["moment"] = torch.zeros(2, 3)
    ok = ok and not watch.unchanged()
    state[good]["moment"] = moment
    lists[0].append(good)
    ok = ok and not watch.unchanged()
    shared = torch._lazy_clone(moment)  # now both have to copy before they write
    return bool(ok and not watch.refresh() and shared.sum() == 0)


try:
    _DTYPE_CODES = _dtype_codes() if works else {}
    works = works and _proven()
except (OSError, AttributeError, TypeError, ValueError, KeyError):
    works = False
