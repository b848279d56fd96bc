"""Looks at hundreds of tensors in microseconds, through symbols and a memory layout that torch does not promise.

Asking Python for each attribute of each tensor costs more than stepping a small model. Compiled code compares the words
that describe a tensor with a copy of them instead, and asks torch's C interface where they differ. Whether the words
lie where they are looked for is checked at import, and `works` is False unless everything then agrees with what Python
says; `watch` has the same checks in Python.
"""

from __future__ import annotations

import ctypes
import sys
from pathlib import Path

import numpy as np
import torch
from numba import cfunc, njit, types

from .generate import ACTIVE, NUMEL
from .kernels import DTYPES
from .numba_dialect import OPTIONS
from .raw import caller, get_uint32, set_uint32, set_word, word

#: bytes from the start of a tensor to its storage, version counter, description (number of dimensions, sizes, strides,
#: offset, numel, dtype, device) and, at the end of that, dispatch keys, which tell a plain tensor from all other kinds
STORAGE, COUNTER, DESCRIPTION, KEYS = 16, 40, 56, 168
#: bytes from the start of a storage to its data, deleter and context, and from that of a counter to the version
STORAGE_DATA, COUNTER_VERSION = 16, 16
DESCRIPTION_WORDS, STORAGE_WORDS = (KEYS - DESCRIPTION) // 8 + 1, 3
#: dimensions that a tensor keeps inside itself
INLINE = 5

#: words of one expected tensor: its place in its Python object, dtype, dimensions, data, sizes and strides, and the
#: copy of its description and storage
EXPECTED = 6
HANDLE, DTYPE, NDIM, DATA, SHAPE, PRINT = range(EXPECTED)

#: words of a watch
(STATE, WALK, LISTS, N_LISTS, N_ROWS, ROWS, ROW_BYTES, P_WORD, CHECKS, N_CHECKS, DORMANT, N_DORMANT, SCRATCH,
 GRAD, GET_DTYPE, GET_DIM, GET_SIZES, GET_STRIDES, GET_DATA, UNDEFINED,
 DICT_NEXT, DICT_SIZE, LIST_SIZE, LIST_ITEM) = range(24)  # fmt: skip
SCRATCH_WORDS = 8

_get = caller(types.int32, types.intp, types.intp)
_grad = caller(types.intp, types.intp)
_next = caller(types.int32, types.intp, types.intp, types.intp, types.intp)
_size = caller(types.intp, types.intp)
_item = caller(types.intp, types.intp, types.intp)


def _libraries() -> tuple[ctypes.CDLL, ctypes.CDLL]:
    """torch's core and its CPU half."""
    folder = Path(torch.__file__).parent / "lib"
    suffix = ".dylib" if sys.platform == "darwin" else ".so"
    return ctypes.CDLL(str(folder / f"libc10{suffix}")), ctypes.CDLL(str(folder / f"libtorch_cpu{suffix}"))


def _symbols() -> dict[int, int]:
    """The addresses of the functions in use."""
    core, cpu = _libraries()
    functions = {
        GRAD: core._ZNK3c1010TensorImpl4gradEv,
        GET_DTYPE: cpu.aoti_torch_get_dtype,
        GET_DIM: cpu.aoti_torch_get_dim,
        GET_SIZES: cpu.aoti_torch_get_sizes,
        GET_STRIDES: cpu.aoti_torch_get_strides,
        GET_DATA: cpu.aoti_torch_get_data_ptr,
        DICT_NEXT: ctypes.pythonapi.PyDict_Next,
        DICT_SIZE: ctypes.pythonapi.PyDict_Size,
        LIST_SIZE: ctypes.pythonapi.PyList_Size,
        LIST_ITEM: ctypes.pythonapi.PyList_GetItem,
    }
    symbols = {word: ctypes.cast(f, ctypes.c_void_p).value or 0 for word, f in functions.items()}
    gradient_of = ctypes.CFUNCTYPE(ctypes.c_ssize_t, ctypes.c_ssize_t)(symbols[GRAD])
    # a missing gradient is one and the same undefined tensor everywhere
    symbols[UNDEFINED] = ctypes.c_ssize_t.from_address(gradient_of(torch.zeros(1)._cdata)).value
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
        _find(t._cdata, torch._C._dispatch_keys(t).raw_repr(), 24) == KEYS
        and _find(t._cdata, t.untyped_storage()._cdata, 8) == STORAGE
        and ctypes.c_size_t.from_address(t.untyped_storage()._cdata + STORAGE_DATA).value
        == t.untyped_storage().data_ptr()
        for t in samples
    ]
    if len(inside) != 1 or None in inside or not all(fits) or _find(wide._cdata, 12347, 24) != DESCRIPTION + 8:
        raise OSError("the fields of a tensor are not where they are looked for")
    return inside.pop()  # type: ignore[return-value]


@njit(**OPTIONS)
def _same_description(tensor, expected):
    """Whether all that describes a tensor lies in memory word for word as expected."""
    if word(expected, NDIM) > INLINE:
        return False
    copy, different = word(expected, PRINT), 0
    for i in range(DESCRIPTION_WORDS):
        different |= word(tensor + DESCRIPTION, i) ^ word(copy, i)
    return different == 0


@njit(**OPTIONS)
def _same_data(tensor, expected):
    """Whether a tensor's storage is where it was, and has not become copy-on-write (that has another deleter)."""
    storage, copy, different = word(tensor, STORAGE // 8), word(expected, PRINT), 0
    for i in range(STORAGE_WORDS):
        different |= word(storage + STORAGE_DATA, i) ^ word(copy, DESCRIPTION_WORDS + i)
    return different == 0


@njit(**OPTIONS)
def _bump(tensor):
    """Counts a write to a tensor, so that autograd notices if it had saved the old values."""
    version = word(tensor, COUNTER // 8) + COUNTER_VERSION
    set_uint32(version, 0, get_uint32(version, 0) + types.uint32(1))


@cfunc("intp(intp)", cache=True, **OPTIONS)
def _unchanged(watch):
    """1 if the state and the lists of parameters hold the very objects that the plan was made of."""
    scratch, at = word(watch, SCRATCH), word(watch, WALK)
    state, follow = word(watch, STATE), word(watch, DICT_NEXT)
    if _size(word(watch, DICT_SIZE), (state,)) != word(at, 0):
        return 0
    at += 8
    set_word(scratch, 0, 0)
    while _next(follow, (state, scratch, scratch + 8, scratch + 16)):
        inner = word(scratch, 2)
        if word(scratch, 1) != word(at, 0) or inner != word(at, 1):
            return 0
        n = word(at, 2)
        if _size(word(watch, DICT_SIZE), (inner,)) != n:
            return 0
        at += 24
        set_word(scratch, 3, 0)
        while _next(follow, (inner, scratch + 24, scratch + 32, scratch + 40)):
            if word(scratch, 5) != word(at, 0):
                return 0
            at += 8
    at = word(watch, LISTS)
    for _ in range(word(watch, N_LISTS)):
        items, n = word(at, 0), word(at, 1)
        if _size(word(watch, LIST_SIZE), (items,)) != n:
            return 0
        at += 16
        for i in range(n):
            if _item(word(watch, LIST_ITEM), (items, i)) != word(at, i):
                return 0
        at += 8 * n
    return 1


@cfunc("intp(intp, intp, intp, intp)", cache=True, **OPTIONS)
def _matches(watch, handle, expected, is_grad):
    """1 if torch's C interface describes a tensor as expected; the address of its data is left in the scratch."""
    scratch = word(watch, SCRATCH)
    if word(word(handle, 0), KEYS // 8) != word(word(expected, PRINT), DESCRIPTION_WORDS - 1):
        return 0
    set_word(scratch, 0, 0)
    failed = _get(word(watch, GET_DTYPE), (handle, scratch))
    failed |= _get(word(watch, GET_DIM), (handle, scratch + 8))
    failed |= _get(word(watch, GET_SIZES), (handle, scratch + 16))
    failed |= _get(word(watch, GET_STRIDES), (handle, scratch + 24))
    failed |= _get(word(watch, GET_DATA), (handle, scratch + 32))
    ndim, shape = word(expected, NDIM), word(expected, SHAPE)
    if failed or (word(scratch, 0) & 0xFFFFFFFF) != word(expected, DTYPE) or word(scratch, 1) != ndim:
        return 0
    if not is_grad and word(scratch, 4) != word(expected, DATA):
        return 0
    sizes, strides = word(scratch, 2), word(scratch, 3)
    for d in range(ndim):
        if word(sizes, d) != word(shape, d) or (word(sizes, d) != 1 and word(strides, d) != word(shape, ndim + d)):
            return 0
    return 1


_call_matches = caller(types.intp, *[types.intp] * 4)
_MATCHES = _matches.address


@cfunc("intp(intp, intp)", cache=True, **OPTIONS)
def _refresh(watch, matches):
    """1 if every row with a gradient is as planned; then gradient addresses are filled in and versions bumped."""
    for i in range(word(watch, N_DORMANT)):
        gradient = _grad(word(watch, GRAD), (word(word(word(watch, DORMANT), i), 0),))
        if word(gradient, 0) != word(watch, UNDEFINED):
            return 0
    rows, row_bytes, p_word = word(watch, ROWS), word(watch, ROW_BYTES), word(watch, P_WORD)
    n, n_checks = word(watch, N_ROWS), word(watch, N_CHECKS)
    size = 8 * EXPECTED
    for r in range(n):
        row, checks = rows + r * row_bytes, word(watch, CHECKS) + r * n_checks * size
        gradient = _grad(word(watch, GRAD), (word(word(checks, HANDLE), 0),))
        defined = word(gradient, 0) != word(watch, UNDEFINED)
        set_word(row, ACTIVE, defined)
        if defined:
            for c in range(n_checks):
                expected = checks + c * size
                handle = word(expected, HANDLE)
                same = _same_description(word(handle, 0), expected) and _same_data(word(handle, 0), expected)
                if not same and not _call_matches(matches, (watch, handle, expected, 0)):
                    return 0
            tensor = word(gradient, 0)
            if _same_description(tensor, checks):
                offset = word(checks, DATA) - word(word(checks, PRINT), DESCRIPTION_WORDS)
                address = word(word(tensor, STORAGE // 8) + STORAGE_DATA, 0) + offset
            elif _call_matches(matches, (watch, gradient, checks, 1)):
                address = word(word(watch, SCRATCH), 4)
            else:
                return 0
            if address == 0 and word(row, NUMEL):
                return 0
            set_word(row, p_word + 1, address)
    for r in range(n):
        if word(rows + r * row_bytes, ACTIVE):
            for c in range(n_checks):
                _bump(word(word(word(watch, CHECKS) + (r * n_checks + c) * size, HANDLE), 0))
    return 1


# both touch Python objects, and so keep the interpreter's lock
_check = ctypes.PYFUNCTYPE(ctypes.c_ssize_t, ctypes.c_ssize_t)(_unchanged.address)
_fill = ctypes.PYFUNCTYPE(ctypes.c_ssize_t, ctypes.c_ssize_t, ctypes.c_ssize_t)(_refresh.address)

try:
    _INSIDE = _place()
    _SYMBOLS = _symbols()
    works = sys.implementation.name == "cpython" and getattr(sys, "_is_gil_enabled", lambda: True)()
except (OSError, AttributeError, TypeError, ValueError):
    works = False


class Watch:
    """The expected objects of a plan, in the form that the compiled checks read."""

    def __init__(self, state, lists, dormant):
        walk: list[int] = [len(state)]
        for p, entries in state.items():
            walk += [id(p), id(entries), len(entries), *map(id, entries.values())]
        flat: list[int] = []
        for items in lists:
            flat += [id(items), len(items), *map(id, items)]
        self.kept = [state, dict(state), [dict(e) for e in state.values()], lists, list(map(list, lists)), dormant]
        self.words = self._words(
            {STATE: id(state), WALK: walk, LISTS: flat, N_LISTS: len(lists)}
            | {DORMANT: [id(p) + _INSIDE for p in dormant], N_DORMANT: len(dormant)}
        )
        self.addresses = [self.words.ctypes.data]

    def _words(self, values: dict) -> np.ndarray:
        words = np.zeros(24, np.int64)
        for at, value in (values | _SYMBOLS | {SCRATCH: [0] * SCRATCH_WORDS}).items():
            if isinstance(value, list):
                value = np.array(value or [0], np.int64)
                self.kept.append(value)
                value = value.ctypes.data
            words[at] = value
        return words

    def add(self, rows: np.ndarray, p_word: int, tensors: list[list[torch.Tensor]]) -> None:
        """Watches a table: for each row its parameter, then all it writes besides."""
        checks = np.zeros((len(tensors) * len(tensors[0]), EXPECTED), np.int64)
        prints = np.zeros((len(checks), DESCRIPTION_WORDS + STORAGE_WORDS), np.int64)
        shapes: dict[tuple, np.ndarray] = {}
        for i, t in enumerate(t for row in tensors for t in row):
            shape = (*t.shape, *t.stride())
            if shape not in shapes:
                shapes[shape] = np.array(shape or (0,), np.int64)
            copy, storage = prints[i].ctypes.data, t.untyped_storage()._cdata
            checks[i] = (
                id(t) + _INSIDE, _DTYPE_CODES[t.dtype], t.dim(), t.data_ptr(), shapes[shape].ctypes.data, copy
            )  # fmt: skip
            ctypes.memmove(copy, t._cdata + DESCRIPTION, 8 * DESCRIPTION_WORDS)
            ctypes.memmove(copy + 8 * DESCRIPTION_WORDS, storage + STORAGE_DATA, 8 * STORAGE_WORDS)
        self.kept += [rows, checks, prints, shapes, tensors]
        values = {N_ROWS: len(rows), ROWS: rows.ctypes.data, ROW_BYTES: rows.strides[0], P_WORD: p_word}
        words = self._words(values | {CHECKS: checks.ctypes.data, N_CHECKS: len(tensors[0])})
        self.kept.append(words)
        self.addresses.append(words.ctypes.data)

    def unchanged(self) -> bool:
        """Whether state and parameter lists still hold the very objects of the plan."""
        return _check(self.addresses[0]) == 1

    def refresh(self) -> bool:
        """Fills in this step's gradients, or says that something is not as planned and nothing was bumped for it."""
        return all([_fill(address, _MATCHES) for address in self.addresses])


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
