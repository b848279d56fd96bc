"""Looks at hundreds of tensors in microseconds, through symbols that torch does not promise to keep.

Asking Python for each attribute of each tensor costs more than stepping a small model. Compiled code can ask torch's
C interface instead, and read two fields directly: the tensor inside its Python object, and the dispatch keys inside
the tensor, which tell a plain tensor from every other kind at once. Where the fields lie is measured at import, and
`works` is False unless everything then agrees with what Python says; `plan` has the same checks in Python.
"""

from __future__ import annotations

import ctypes
import sys
from pathlib import Path

import numpy as np
import torch
from numba import cfunc, types

from .generate import ACTIVE, NUMEL
from .numba_dialect import OPTIONS
from .raw import caller, set_word, word

#: words of one expected tensor: where it lies in its Python object, keys, dtype, dimensions, data, sizes and strides
EXPECTED = 6
HANDLE, KEYS, DTYPE, NDIM, DATA, SHAPE = range(EXPECTED)

#: words of a watch
(STATE, WALK, LISTS, N_LISTS, N_ROWS, ROWS, ROW_BYTES, P_WORD, CHECKS, N_CHECKS, DORMANT, N_DORMANT, SCRATCH,
 GRAD, GET_DTYPE, GET_DIM, GET_SIZES, GET_STRIDES, GET_DATA, BUMP, KEYS_OFFSET,
 UNDEFINED, DICT_NEXT, DICT_SIZE, LIST_SIZE, LIST_ITEM) = range(26)  # fmt: skip
SCRATCH_WORDS = 8

_get = caller(types.int32, types.intp, types.intp)
_grad = caller(types.intp, types.intp)
_bump = caller(types.void, types.intp)
_next = caller(types.int32, types.intp, types.intp, types.intp, types.intp)
_size = caller(types.intp, types.intp)
_item = caller(types.intp, types.intp, types.intp)


def _symbols() -> dict[int, int]:
    """The addresses of the functions in use."""
    folder = Path(torch.__file__).parent / "lib"
    suffix = ".dylib" if sys.platform == "darwin" else ".so"
    core = ctypes.CDLL(str(folder / f"libc10{suffix}"))
    cpu = ctypes.CDLL(str(folder / f"libtorch_cpu{suffix}"))
    functions = {
        GRAD: core._ZNK3c1010TensorImpl4gradEv,
        BUMP: cpu._ZN5torch8autograd4impl12bump_versionERKN2at6TensorE,
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
    symbols = {word: ctypes.cast(f, ctypes.c_void_p).value for word, f in functions.items()}
    gradient_of = ctypes.CFUNCTYPE(ctypes.c_ssize_t, ctypes.c_ssize_t)(symbols[GRAD])
    # a missing gradient is one and the same undefined tensor everywhere
    symbols[UNDEFINED] = ctypes.c_ssize_t.from_address(gradient_of(torch.zeros(1)._cdata)).value
    return symbols


def _find(address: int, value: int, words: int) -> int | None:
    """The one offset in bytes at which a value lies in memory, or None if it is not there exactly once."""
    memory = (ctypes.c_uint64 * words).from_address(address)
    places = [8 * i for i, w in enumerate(memory) if w == value & (2**64 - 1)]
    return places[0] if len(places) == 1 else None


def keys(t: torch.Tensor) -> int:
    """The dispatch keys of a tensor, as one integer."""
    raw = torch._C._dispatch_keys(t).raw_repr()
    return raw - 2**64 if raw >= 2**63 else raw


def _offsets() -> tuple[int, int]:
    """Bytes from a Python object to its tensor, and from a tensor to its dispatch keys."""
    plain, parameter = torch.zeros(3), torch.nn.Parameter(torch.zeros(2, 2))
    samples = [plain, parameter, torch.ones(5)[1:], torch._neg_view(plain), torch.zeros(2, dtype=torch.bfloat16)]
    inside = {_find(id(t), t._cdata, 8) for t in samples}
    key = {_find(t._cdata, torch._C._dispatch_keys(t).raw_repr(), 24) for t in samples}
    if len(inside) != 1 or len(key) != 1 or None in inside | key:
        raise OSError("the fields of a tensor are not where they are looked for")
    return inside.pop(), key.pop()  # type: ignore[return-value]


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
    """1 if a tensor is as the plan expects it; of a gradient the address may differ, and is left in the scratch."""
    scratch = word(watch, SCRATCH)
    if word(word(handle, 0) + word(watch, KEYS_OFFSET), 0) != word(expected, KEYS):
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
                if not _call_matches(matches, (watch, word(expected, HANDLE), expected, 0)):
                    return 0
            if not _call_matches(matches, (watch, gradient, checks, 1)):
                return 0
            address = word(word(watch, SCRATCH), 4)
            if address == 0 and word(row, NUMEL):
                return 0
            set_word(row, p_word + 1, address)
    for r in range(n):
        if word(rows + r * row_bytes, ACTIVE):
            for c in range(n_checks):
                _bump(word(watch, BUMP), (word(word(watch, CHECKS) + (r * n_checks + c) * size, HANDLE),))
    return 1


# both touch Python objects, and so keep the interpreter's lock
_check = ctypes.PYFUNCTYPE(ctypes.c_ssize_t, ctypes.c_ssize_t)(_unchanged.address)
_fill = ctypes.PYFUNCTYPE(ctypes.c_ssize_t, ctypes.c_ssize_t, ctypes.c_ssize_t)(_refresh.address)

try:
    _INSIDE, _KEYS_OFFSET = _offsets()
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
        self.tables: list[np.ndarray] = []

    def _words(self, values: dict) -> np.ndarray:
        words = np.zeros(26, np.int64)
        for at, value in (values | _SYMBOLS | {KEYS_OFFSET: _KEYS_OFFSET, SCRATCH: [0] * SCRATCH_WORDS}).items():
            if isinstance(value, list):
                value = np.array(value or [0], np.int64)
                self.kept.append(value)
                value = value.ctypes.data
            words[at] = value
        return words

    def add(self, rows: np.ndarray, p_word: int, tensors: list[list[torch.Tensor]]) -> None:
        """Watches a table: for each row its parameter, then all it writes besides."""
        shapes: dict[tuple, np.ndarray] = {}
        expected: list[list[int]] = []
        for t in (t for row in tensors for t in row):
            shape = (*t.shape, *t.stride())
            if shape not in shapes:
                shapes[shape] = np.array(shape or (0,), np.int64)
            expected.append(
                [id(t) + _INSIDE, keys(t), _DTYPE_CODES[t.dtype], t.dim(), t.data_ptr(), shapes[shape].ctypes.data]
            )
        checks = np.array(expected, np.int64)
        self.kept += [rows, checks, shapes, tensors]
        values = {N_ROWS: len(rows), ROWS: rows.ctypes.data, ROW_BYTES: rows.strides[0], P_WORD: p_word}
        self.tables.append(self._words(values | {CHECKS: checks.ctypes.data, N_CHECKS: len(tensors[0])}))

    def unchanged(self) -> bool:
        """Whether state and parameter lists still hold the very objects of the plan."""
        return bool(_check(self.words.ctypes.data))

    def refresh(self) -> bool:
        """Fills in this step's gradients, or says that something is not as planned and nothing was bumped for it."""
        return all(_fill(words.ctypes.data, _MATCHES) for words in [self.words, *self.tables])


def _dtype_codes() -> dict[torch.dtype, int]:
    """torch's numbers for its dtypes, as its C interface tells them."""
    library = ctypes.CDLL(str(Path(torch.__file__).parent / "lib" / "libtorch_cpu.so"))
    names = {torch.float32: "float32", torch.float64: "float64", torch.bfloat16: "bfloat16", torch.float16: "float16"}
    return {dtype: getattr(library, f"aoti_torch_dtype_{name}")() for dtype, name in names.items()}


def _proven() -> bool:
    """Whether what the compiled checks see of real tensors is what Python sees."""
    good = torch.nn.Parameter(torch.arange(6.0).reshape(2, 3))
    good.grad = torch.ones(2, 3)
    moment = torch.zeros(2, 3)
    state, lists = {good: {"moment": moment}}, [[good]]
    rows = np.zeros((1, 8), np.int64)
    watch = Watch(state, lists, [])
    watch.add(rows, 5, [[good, moment]])
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
    state[good]["moment"] = torch.zeros(2, 3)
    ok = ok and not watch.unchanged()
    state[good]["moment"] = moment
    lists[0].append(moment)
    return bool(ok and not watch.unchanged())


try:
    _DTYPE_CODES = _dtype_codes() if works else {}
    works = works and _proven()
except (OSError, AttributeError, TypeError, ValueError, KeyError):
    works = False
