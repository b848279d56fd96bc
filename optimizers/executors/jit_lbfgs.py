"""The compiled half of `history`: the two loops of L-BFGS, in one pass over memory for each vector of the history.

Loaded by `generate.compiled` and not imported, so that its machine code is never older than what it was made of.
"""

from __future__ import annotations

import numba
from numba import cfunc, types
from numba.extending import intrinsic

from optimizers.executors import numba_dialect
from optimizers.executors.raw import caller, float32_of_bits, get_float64, set_float64, set_word, word

#: sums may be taken in any order, which lets the compiler add up many lanes at once
OPTIONS = {"error_model": "numpy", "fastmath": {"contract", "reassoc"}, "boundscheck": False}
INNER = {**numba_dialect.INNER, **OPTIONS}

#: elements of a chunk; it is added up in the vectors' own precision, and the chunks in float64 and always in the same
#: order, so that the number of threads changes nothing
CHUNK = 8192
#: below this many elements waking a second thread costs more than it saves
SERIAL_BELOW = 100_000

#: the words of a job. `gradient` to `step`: the vectors of `remember`; `directions` and `steps`: the addresses of the
#: history's, the oldest first; then four arrays of float64
JOB = (
    "double n gradient previous direction difference step count directions steps ro al numbers sums "
    "kind q v w threads parallel thread_num num_threads body"
).split()
(DOUBLE, N, GRADIENT, PREVIOUS, DIRECTION, DIFFERENCE, STEP, COUNT, DIRECTIONS, STEPS, RO, AL, NUMBERS, SUMS,
 KIND, Q, V, W, THREADS, PARALLEL, THREAD_NUM, NUM_THREADS, BODY) = range(len(JOB))  # fmt: skip

#: the numbers that passes take and give
LENGTH, SCALE, FACTOR, SUM, OTHER_SUM = range(5)

#: what a pass does: the new pair; q = -scale * gradient and q = scale * (q + factor * v), which add up q * w; and the
#: largest absolute value of v
PAIR, START, MOVE, LARGEST = range(4)

_call_parallel = caller(types.void, types.intp, types.intp, types.uint32, types.uint32)
_call_query = caller(types.int32)


def _pointer(kind):
    """An intrinsic that makes an address a pointer to numbers of one type."""
    pointer = types.CPointer(kind)

    @intrinsic
    def at(typing, address):
        def generate(context, builder, signature, values):
            return builder.inttoptr(values[0], context.get_value_type(pointer))

        return pointer(types.intp), generate

    return at


_float32_at, _float64_at = _pointer(types.float32), _pointer(types.float64)
_int32_at, _int64_at = _pointer(types.int32), _pointer(types.int64)


@numba.njit(**INNER)
def _dot(zero, v, w, begin, end):
    """A loop that writes nothing: one that does is vectorised or not by how near its vectors lie to each other, and
    then the order of the sum is a matter of luck."""
    total = zero
    for i in range(begin, end):
        total += v[i] * w[i]
    return total


@numba.njit(**INNER)
def _pair(length, gradient, previous, direction, difference, step, begin, end):
    for i in range(begin, end):
        difference[i], step[i] = gradient[i] - previous[i], direction[i] * length


@numba.njit(**INNER)
def _start(scale, gradient, q, begin, end):
    for i in range(begin, end):
        q[i] = -scale * gradient[i]


@numba.njit(**INNER)
def _move(scale, factor, q, v, begin, end):
    for i in range(begin, end):
        q[i] = scale * (q[i] + factor * v[i])


@numba.njit(**INNER)
def _largest(zero, bits, rest, begin, end):
    """The bits of the largest absolute value: those of floats without sign are in the order of integers, nan last."""
    top = zero
    for i in range(begin, end):
        top = max(top, bits[i] & rest)
    return top


@numba.njit(**INNER)
def _chunk(real, at, job, begin, end, sums):
    kind, numbers, zero = word(job, KIND), word(job, NUMBERS), real(0)
    if kind == PAIR:
        length = real(get_float64(numbers, LENGTH))
        gradient, previous, direction = at(word(job, GRADIENT)), at(word(job, PREVIOUS)), at(word(job, DIRECTION))
        difference, step = at(word(job, DIFFERENCE)), at(word(job, STEP))
        _pair(length, gradient, previous, direction, difference, step, begin, end)
        set_float64(sums, 0, types.float64(_dot(zero, difference, step, begin, end)))
        set_float64(sums, 1, types.float64(_dot(zero, difference, difference, begin, end)))
        return
    scale, q = real(get_float64(numbers, SCALE)), at(word(job, Q))
    if kind == START:
        _start(scale, at(word(job, GRADIENT)), q, begin, end)
    else:
        _move(scale, real(get_float64(numbers, FACTOR)), q, at(word(job, V)), begin, end)
    set_float64(sums, 0, types.float64(_dot(zero, q, at(word(job, W)), begin, end)))


@numba.njit(**INNER)
def _share(job, thread, threads):
    """What one of the threads does in a pass."""
    n = word(job, N)
    chunks = (n + CHUNK - 1) // CHUNK
    for chunk in range(chunks * thread // threads, chunks * (thread + 1) // threads):
        begin, end, sums = chunk * CHUNK, min(n, (chunk + 1) * CHUNK), word(job, SUMS) + 16 * chunk
        if word(job, KIND) == LARGEST:
            if word(job, DOUBLE):
                rest = types.int64(0x7FFFFFFFFFFFFFFF)
                set_word(sums, 0, _largest(types.int64(0), _int64_at(word(job, V)), rest, begin, end))
            else:
                rest = types.int32(0x7FFFFFFF)
                top = _largest(types.int32(0), _int32_at(word(job, V)), rest, begin, end)
                set_float64(sums, 0, types.float64(float32_of_bits(types.uint32(top))))
        elif word(job, DOUBLE):
            _chunk(types.float64, _float64_at, job, begin, end, sums)
        else:
            _chunk(types.float32, _float32_at, job, begin, end, sums)


@cfunc("void(intp)", cache=True, **OPTIONS)
def openmp_body(job):
    thread = _call_query(word(job, THREAD_NUM), ())
    _share(job, thread, _call_query(word(job, NUM_THREADS), ()))


@numba.njit(**INNER)
def _run(job, kind):
    """Makes a pass, on all threads if that pays; returns how many chunks there were."""
    set_word(job, KIND, kind)
    n = word(job, N)
    if word(job, THREADS) == 1 or n < SERIAL_BELOW or word(job, PARALLEL) == 0:
        _share(job, 0, 1)
    else:
        threads = types.uint32(word(job, THREADS))
        _call_parallel(word(job, PARALLEL), (word(job, BODY), job, threads, types.uint32(0)))
    return (n + CHUNK - 1) // CHUNK


@numba.njit(**INNER)
def _pass(job, kind):
    """Makes a pass and adds up its sums."""
    first = second = 0.0
    for chunk in range(_run(job, kind)):
        first += get_float64(word(job, SUMS), 2 * chunk)
        second += get_float64(word(job, SUMS), 2 * chunk + 1)
    set_float64(word(job, NUMBERS), SUM, first)
    set_float64(word(job, NUMBERS), OTHER_SUM, second)
    return first


@numba.njit(**INNER)
def _move_all(job, factor, v, scale, w):
    set_float64(word(job, NUMBERS), FACTOR, factor)
    set_float64(word(job, NUMBERS), SCALE, scale)
    set_word(job, V, v)
    set_word(job, W, w)
    return _pass(job, MOVE)


@cfunc("intp(intp)", cache=True, **OPTIONS)
def remember(job):
    """Writes the gradient's difference and the step, and leaves the sums of their product and of the square."""
    _pass(job, PAIR)
    return 0


@cfunc("intp(intp)", cache=True, **OPTIONS)
def largest(job):
    """Leaves the largest absolute value of v; nan if there is a nan."""
    top = 0.0
    for chunk in range(_run(job, LARGEST)):
        value = get_float64(word(job, SUMS), 2 * chunk)
        if top == top and not value <= top:
            top = value
    set_float64(word(job, NUMBERS), SUM, top)
    return 0


@cfunc("intp(intp)", cache=True, **OPTIONS)
def direction(job):
    """Multiplies the gradient by the approximate inverse Hessian, into q, and leaves the sum of the product of both."""
    count, ro, al, numbers = word(job, COUNT), word(job, RO), word(job, AL), word(job, NUMBERS)
    differences, steps, gradient = word(job, DIRECTIONS), word(job, STEPS), word(job, GRADIENT)
    scale = get_float64(numbers, SCALE)
    if count == 0:
        set_word(job, W, gradient)
        _pass(job, START)
        return 0
    set_float64(numbers, SCALE, 1.0)
    set_word(job, W, word(steps, count - 1))
    product = _pass(job, START)
    for i in range(count - 1, -1, -1):
        a = product * get_float64(ro, i)
        set_float64(al, i, a)
        if i > 0:
            product = _move_all(job, -a, word(differences, i), 1.0, word(steps, i - 1))
        else:
            product = _move_all(job, -a, word(differences, 0), scale, word(differences, 0))
    for i in range(count):
        b = product * get_float64(ro, i)
        w = word(differences, i + 1) if i + 1 < count else gradient
        product = _move_all(job, get_float64(al, i) - b, word(steps, i), 1.0, w)
    return 0
