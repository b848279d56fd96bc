"""The compiled checks of `native`: whether objects and tensors are those that a plan was made of.

Loaded by `generate.compiled` and not imported, so that its machine code is never older than what it was made of.
"""

from __future__ import annotations

from numba import cfunc, njit, types

from optimizers.executors.generate import ACTIVE, NUMEL
from optimizers.executors.numba_dialect import INNER, OPTIONS
from optimizers.executors.raw import caller, get_uint32, set_uint32, set_word, word

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
 GRAD, GET_DTYPE, GET_DIM, GET_SIZES, GET_STRIDES, GET_DATA, UNDEFINED, INSIDE, NONE,
 DICT_NEXT, DICT_SIZE, LIST_SIZE, LIST_ITEM) = range(26)  # fmt: skip
WATCH_WORDS, SCRATCH_WORDS = 26, 8

_get = caller(types.int32, types.intp, types.intp)
_grad = caller(types.intp, types.intp)
_next = caller(types.int32, types.intp, types.intp, types.intp, types.intp)
_size = caller(types.intp, types.intp)
_item = caller(types.intp, types.intp, types.intp)
_drive = caller(types.intp, types.intp)


@njit(**INNER)
def _same_description(tensor, expected):
    """Whether all that describes a tensor lies in memory word for word as expected."""
    if word(expected, NDIM) > INLINE:
        return False
    copy, different = word(expected, PRINT), 0
    for i in range(DESCRIPTION_WORDS):
        different |= word(tensor + DESCRIPTION, i) ^ word(copy, i)
    return different == 0


@njit(**INNER)
def _same_data(tensor, expected):
    """Whether a tensor's storage is where it was, and has not become copy-on-write (that has another deleter)."""
    storage, copy, different = word(tensor, STORAGE // 8), word(expected, PRINT), 0
    for i in range(STORAGE_WORDS):
        different |= word(storage + STORAGE_DATA, i) ^ word(copy, DESCRIPTION_WORDS + i)
    return different == 0


@njit(**INNER)
def _bump(tensor):
    """Counts a write to a tensor, so that autograd notices if it had saved the old values."""
    version = word(tensor, COUNTER // 8) + COUNTER_VERSION
    set_uint32(version, 0, get_uint32(version, 0) + types.uint32(1))


@cfunc("intp(intp)", cache=True, **OPTIONS)
def unchanged(watch):
    """1 if the state and the lists of parameters hold the very objects that the plan was made of.

    Of a state tensor the type is compared too: it is not kept alive, and its address may have gone to something else.
    """
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
        at += 24
        if n < 0:  # what somebody keeps under a key that is no parameter
            continue
        if _size(word(watch, DICT_SIZE), (inner,)) != n:
            return 0
        set_word(scratch, 3, 0)
        while _next(follow, (inner, scratch + 24, scratch + 32, scratch + 40)):
            value = word(scratch, 5)
            if value != word(at, 0) or word(value, 1) != word(at, 1):
                return 0
            at += 16
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
def matches(watch, handle, expected, is_grad):
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


@cfunc("intp(intp, intp, intp)", cache=True, **OPTIONS)
def refresh(watch, matches, held):
    """1 if every row with a gradient is as planned; then gradient addresses are filled in.

    `held`: a list of the rows' gradients that keeps them alive, or 0 if nobody can free them before they are used.
    """
    for i in range(word(watch, N_DORMANT)):
        gradient = _grad(word(watch, GRAD), (word(word(word(watch, DORMANT), i), 0),))
        if word(gradient, 0) != word(watch, UNDEFINED):
            return 0
    rows, row_bytes, p_word = word(watch, ROWS), word(watch, ROW_BYTES), word(watch, P_WORD)
    n, n_checks = word(watch, N_ROWS), word(watch, N_CHECKS)
    size = 8 * EXPECTED
    for r in range(n):
        row, checks = rows + r * row_bytes, word(watch, CHECKS) + r * n_checks * size
        if held:
            gradient = _item(word(watch, LIST_ITEM), (held, r))
            defined = gradient != word(watch, NONE)
            gradient += word(watch, INSIDE)
        else:
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
                data = word(word(tensor, STORAGE // 8) + STORAGE_DATA, 0)
                address = data + word(checks, DATA) - word(word(checks, PRINT), DESCRIPTION_WORDS)
            elif _call_matches(matches, (watch, gradient, checks, 1)):
                data = address = word(word(watch, SCRATCH), 4)
            else:
                return 0
            if data == 0 and word(row, NUMEL):
                return 0
            set_word(row, p_word + 1, address)
    return 1


@cfunc("intp(intp)", cache=True, **OPTIONS)
def bump(watch):
    """Counts a write to every tensor of the rows that have a gradient; for when no table has refused the step."""
    rows, row_bytes, n_checks = word(watch, ROWS), word(watch, ROW_BYTES), word(watch, N_CHECKS)
    for r in range(word(watch, N_ROWS)):
        if word(rows + r * row_bytes, ACTIVE):
            for c in range(n_checks):
                _bump(word(word(word(watch, CHECKS) + 8 * EXPECTED * (r * n_checks + c), HANDLE), 0))
    return 1


_call_refresh = caller(types.intp, types.intp, types.intp, types.intp)
_call_unchanged = _call_bump = caller(types.intp, types.intp)


@cfunc("intp(intp, intp, intp, intp)", cache=True, **OPTIONS)
def step(plan, watches, jobs, n_jobs):
    """A whole step in one call, so that no other Python thread can free a gradient in the middle of it.

    `plan` holds the addresses of `unchanged`, `refresh`, `matches`, the CPU driver and `bump`; there is one watch more
    than there are jobs, the first being that of the state. Returns 0 if the plan no longer fits, and then has done
    nothing.
    """
    if not _call_unchanged(word(plan, 0), (word(watches, 0),)):
        return 0
    for i in range(n_jobs + 1):
        if not _call_refresh(word(plan, 1), (word(watches, i), word(plan, 2), 0)):
            return 0
    for i in range(n_jobs + 1):
        _call_bump(word(plan, 4), (word(watches, i),))
    for i in range(n_jobs):
        _drive(word(plan, 3), (word(jobs, i),))
    return 1
