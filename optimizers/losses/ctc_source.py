"""The template of CTC's CPU kernel: two passes over time, forward for the value, and back for the gradient.

The states of a sequence of n labels are n + 1 blanks b and n labels l between them. What leads to a state, and from it
to the end, is summed as numbers m 2^e that lie in pairs of float64, so that nothing underflows and no logarithm is
taken. A row of states is the blanks, and then the labels between two places that stay 0.

Its arguments: numbers (upstream gradient), the words of `ctc_cpu.WORDS`, then the addresses of `ctc_cpu.POINTERS`, 0
for what there is not, and the number of sequences. They have names in capitals. Its scratch is a mark of
log-probabilities that are left to torch, then the value of each sequence, and then the rows of each piece.
"""

from __future__ import annotations

CTC = '''
import math

from numba import int64
from optimizers.executors.numba_math import *

LN2 = 0.6931471805599453
#: the exponent of 0
NOWHERE = -1099511627776.0


@traced
def plus(m, e, other_m, other_e):
    """The sum of two numbers, its m up to twice as large."""
    top = where(e > other_e, e, other_e)
    down, other_down = e - top, other_e - top
    down = where(down < -1000.0, -1000.0, down)
    other_down = where(other_down < -1000.0, -1000.0, other_down)
    # the last bits of a number added to this are the exponent of a power of two
    scale = ((down + 6755399441056767.0).bits() << 52).of_bits()
    other_scale = ((other_down + 6755399441056767.0).bits() << 52).of_bits()
    return m * scale + other_m * other_scale, top


@traced
def normal(m, e):
    """The same number with an m between 1 and 2, or 0."""
    field = m.bits() >> 52
    scale = ((2046 - field) << 52).of_bits()
    return m * scale, e + ((field + 0x4330000000000000).of_bits() - 4503599627371519.0)


@traced
def of_logarithm(x):
    """e to the power x."""
    there = x > -1e300
    inside = where(there, x, 0.0)
    n = (inside * 1.4426950408889634 + 6755399441055744.0) - 6755399441055744.0 + 1.0
    m = exp_negative((inside - n * 0.6931471803691238) - n * 1.9082149292705877e-10)
    return where(there, m, 0.0), where(there, n, -1099511627776.0)


@traced
def power(e):
    """2 to a whole power that is not above 1000; those below -1000 count as the least."""
    return ((where(e < -1000.0, -1000.0, e) + 6755399441056767.0).bits() << 52).of_bits()


@njit(**INNER)
def nothing(at, n):
    for i in range(n):
        set_float64(at, 2 * i, 0.0)
        set_float64(at, 2 * i + 1, NOWHERE)


@njit(**INNER)
def of_two(at, other, out, n):
    for i in range(n):
        m, e = plus(get_float64(at, 2 * i), get_float64(at, 2 * i + 1),
                    get_float64(other, 2 * i), get_float64(other, 2 * i + 1))
        m, e = normal(m, e)
        set_float64(out, 2 * i, m)
        set_float64(out, 2 * i + 1, e)


@njit(**INNER)
def of_three(at, other, far, jumps, out, n):
    """The same, and the third where a jump over the blank is allowed: between labels that differ."""
    for i in range(n):
        m, e = plus(get_float64(at, 2 * i), get_float64(at, 2 * i + 1),
                    get_float64(other, 2 * i), get_float64(other, 2 * i + 1))
        jump = get_float64(jumps, i) > 0
        far_m, far_e = get_float64(far, 2 * i), get_float64(far, 2 * i + 1)
        m, e = plus(m, e, far_m if jump else 0.0, far_e if jump else NOWHERE)
        m, e = normal(m, e)
        set_float64(out, 2 * i, m)
        set_float64(out, 2 * i + 1, e)


@njit(**INNER)
def times(at, other, n):
    for i in range(n):
        set_float64(at, 2 * i, get_float64(at, 2 * i) * get_float64(other, 2 * i))
        set_float64(at, 2 * i + 1, get_float64(at, 2 * i + 1) + get_float64(other, 2 * i + 1))


@njit(**INNER)
def times_one(at, m, e, n):
    for i in range(n):
        set_float64(at, 2 * i, get_float64(at, 2 * i) * m)
        set_float64(at, 2 * i + 1, get_float64(at, 2 * i + 1) + e)


@njit(**INNER)
def shares(at, other, out, m, e, n):
    """The products of both over m 2^e, as plain numbers; answers their sum."""
    s = 0.0
    for i in range(n):
        share = get_float64(at, 2 * i) * get_float64(other, 2 * i) / m
        share *= power(get_float64(at, 2 * i + 1) + get_float64(other, 2 * i + 1) - e)
        set_float64(out, i, share)
        s = add(s, share)
    return s


@njit(**INNER)
def gathered(args, at, targets, p, n):
    """The probabilities of the labels at one time, and of the blank after them, to `p`."""
    for k in range(n):
        set_float64(p, 2 * k, float64(element(at, word(targets, k))))
    set_float64(p, 2 * n, float64(element(at, ${BLANK})))
    strange = 0
    for k in range(n + 1):
        x = get_float64(p, 2 * k)
        strange += int64(not ((x <= 600.0) & ((x >= -1048576.0) | (x == -math.inf))))
        m, e = of_logarithm(x)
        set_float64(p, 2 * k, m)
        set_float64(p, 2 * k + 1, e)
    if strange:
        set_float64(${SCRATCH}, 0, 1.0)


@njit(**INNER)
def exps(at, out, n, factor):
    for i in range(n):
        x = element(at, i)
        # as torch has it, in whose formula -inf meets inf
        set_element(out, i, ${REAL}(math.nan) if x == -math.inf else factor * exp(x))


@njit(**INNER)
def fill(out, n, x):
    for i in range(n):
        set_element(out, i, x)


@njit(**INNER)
def log_probs_of(args, base, r, t):
    """The log-probabilities, or their gradients, of one sequence at one time."""
    place = r * ${TIMES} + t if ${BATCH_FIRST} else t * word(args, ${N}) + r
    return base + ${SIZE} * ${CLASSES} * place


@njit(**INNER)
def forward(args, r, targets, jumps, p, states, row, kept, times_, n):
    """Rows of states from before the beginning on, each over the one before it if they are not kept; the last one."""
    now = states
    nothing(now, 2 * n + 3)
    set_float64(now, 0, 1.0)
    set_float64(now, 1, 0.0)
    labels = 16 * (n + 1)
    for t in range(times_):
        gathered(args, log_probs_of(args, ${INPUT}, r, t), targets, p, n)
        new = states + row * (t + 1 if kept else (t + 1) % 2)
        of_two(now, now + labels, new, n + 1)
        of_three(now + labels + 16, now, now + labels, jumps, new + labels + 16, n)
        times_one(new, get_float64(p, 2 * n), get_float64(p, 2 * n + 1), n + 1)
        times(new + labels + 16, p, n)
        nothing(new + labels, 1)
        nothing(new + labels + 16 * (n + 1), 1)
        now = new
    return now


@njit(**INNER)
def backward(args, r, targets, jumps, spare, p, states, row, after, sums, times_, n, m, e, factor):
    """The gradient, of the total m 2^e."""
    out, classes, blank, labels = ${OUT}, ${CLASSES}, ${BLANK}, 16 * (n + 1)
    now = after
    nothing(now, 2 * n + 3)
    set_float64(now, 2 * n, 1.0)
    set_float64(now, 2 * n + 1, 0.0)
    for i in range(classes):
        set_float64(sums, i, 0.0)
    for t in range(times_ - 1, -1, -1):
        here, at = log_probs_of(args, out, r, t), log_probs_of(args, ${INPUT}, r, t)
        gathered(args, at, targets, p, n)
        alphas, new = states + row * (t + 1), after + row * ((times_ - t) % 2)
        of_two(now, now + labels + 16, new, n + 1)
        of_three(now + labels + 16, now + 16, now + labels + 32, jumps + 8, new + labels + 16, n)
        nothing(new + labels, 1)
        nothing(new + labels + 16 * (n + 1), 1)
        of_blanks = shares(alphas, new, spare, m, e, n + 1)
        shares(alphas + labels + 16, new + labels + 16, spare, m, e, n)
        exps(at, here, classes, ${REAL}(factor))
        set_float64(sums, blank, of_blanks)
        for k in range(n):
            c = word(targets, k)
            set_float64(sums, c, get_float64(sums, c) + get_float64(spare, k))
        # what of the labels is close to its exponential is subtracted before it is rounded
        for k in range(n):
            touch(p, k, here, sums, word(targets, k), factor)
        touch(p, n, here, sums, blank, factor)
        for k in range(n):
            set_float64(sums, word(targets, k), 0.0)
        times_one(new, get_float64(p, 2 * n), get_float64(p, 2 * n + 1), n + 1)
        times(new + labels + 16, p, n)
        now = new


@njit(**INNER)
def touch(p, k, here, sums, c, factor):
    m = get_float64(p, 2 * k)
    whole = m * power(get_float64(p, 2 * k + 1)) if m > 0 else math.nan
    set_element(here, c, ${REAL}(factor * (whole - get_float64(sums, c))))


@njit(**INNER)
def sequence(args, r, scratch):
    out, times_, n = ${OUT}, word(${INPUT_LENGTHS}, r), word(${TARGET_LENGTHS}, r)
    start = r * ${LONGEST}
    if not ${PADDED}:
        start = 0
        for i in range(r):
            start += word(${TARGET_LENGTHS}, i)
    targets, row = ${TARGETS} + 8 * start, 16 * (2 * n + 3)
    jumps = scratch
    spare = jumps + 8 * (n + 1)
    p = spare + 8 * (n + 1)
    after = p + 16 * (n + 1)
    sums = after + 2 * row
    states = sums + 8 * ${CLASSES}
    for k in range(n + 1):
        differ = 0 < k < n and word(targets, k) != word(targets, k - 1)
        set_float64(jumps, k, 1.0 if differ else 0.0)
    last = forward(args, r, targets, jumps, p, states, row, out != 0, times_, n)
    m, e = plus(get_float64(last, 2 * n), get_float64(last, 2 * n + 1),
                get_float64(last, 4 * n + 2), get_float64(last, 4 * n + 3))
    m, e = normal(m, e)
    value = -(math.log(m) + e * LN2) if m > 0 else math.inf
    if ${ZERO_INFINITY} and m == 0:
        value = 0.0
    share = 1.0 / max(n, 1) if ${MEAN} else 1.0
    set_float64(${SCRATCH}, 1 + r, value * share)
    if out:
        factor = get_float64(word(args, 0), 0) * share
        if ${UPSTREAM}:
            factor *= float64(element(${UPSTREAM}, r))
        if ${MEAN}:
            factor /= word(args, ${N})
        if m > 0:
            backward(args, r, targets, jumps, spare, p, states, row, after, sums, times_, n, m, e, factor)
        for t in range(0 if m == 0 else times_, ${TIMES}):
            impossible = t < times_ and not ${ZERO_INFINITY}
            fill(log_probs_of(args, out, r, t), ${CLASSES}, ${REAL}(math.nan) if impossible else ${REAL}(0))


@njit(**INNER)
def refused(args, n):
    """Whether lengths or labels are not what they must be; of labels that are the blank torch has its own idea."""
    total = 0
    for r in range(n):
        times_, length = word(${INPUT_LENGTHS}, r), word(${TARGET_LENGTHS}, r)
        if times_ < 0 or times_ > ${TIMES} or length < 0 or length > ${LONGEST}:
            return 1
        start = r * ${LONGEST} if ${PADDED} else total
        total += length
        if not ${PADDED} and total > ${LABELS}:
            return 1
        for k in range(length):
            c = word(${TARGETS}, start + k)
            if c < 0 or c >= ${CLASSES} or c == ${BLANK}:
                return 1
    return int64(not ${PADDED} and total != ${LABELS})


@cfunc("intp(intp, intp, intp, intp, intp)", cache=True, **OPTIONS)
def block(args, begin, end, sums, stage):
    if stage == ${PREPARE}:
        return refused(args, end)
    if stage == ${MEASURE}:
        scratch = ${SCRATCH} + 8 * (1 + word(args, ${N})) + ${STRIDE} * (begin // ${PIECE})
        for r in range(begin, end):
            sequence(args, r, scratch)
    elif ${VALUE}:
        total = 0.0
        for r in range(end):
            value = get_float64(${SCRATCH}, 1 + r)
            total += value
            if ${EACH}:
                set_element(${VALUE}, r, ${REAL}(value))
        if not ${EACH}:
            set_element(${VALUE}, 0, ${REAL}(total / end if ${MEAN} else total))
    return 0
'''
