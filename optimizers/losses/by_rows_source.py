"""The templates of CPU kernels of losses that are a sum or a mean over rows.

Their arguments: numbers (upstream gradient, then places for the scales of the gradient and of the value, then
constants), whether each row is asked for, whether the mean is, what the loss itself adds; then the addresses of values,
upstream gradients, tensors and gradients, 0 for what there is not; at last scratch, and the number of rows. They have
names in capitals.

A source has `prepare`, which sets the scales and answers whether a target is no class, and `rows`, which writes values
and gradients of some rows and answers the sum of the values.
"""

from __future__ import annotations

from .cross_entropy_source import TARGETS

#: after what a source defines
BLOCK = """

@cfunc("intp(intp, intp, intp, intp, intp)", cache=True, **OPTIONS)
def block(args, begin, end, sums, stage):
    if stage == ${PREPARE}:
        return prepare(args, end)
    if stage == ${MEASURE}:
        set_float64(sums, 0, rows(args, begin, end))
    elif ${VALUE} and not ${EACH}:
        set_element(${VALUE}, 0, get_float64(sums, 0) * get_float64(word(args, 0), 2))
    return 0
"""

#: before it
SCALES = '''

@njit(**INNER)
def set_scales(args, n):
    """What gradients and the value are multiplied by, for a mean over this number or weight."""
    numbers = word(args, 0)
    gradient_scale, value_scale = get_float64(numbers, 0), 1.0
    if ${MEAN}:
        value_scale = 1 / n  # over nothing: infinite, which makes nan of the sum of nothing, as in torch
        gradient_scale /= n
    set_float64(numbers, 1, gradient_scale)
    set_float64(numbers, 2, value_scale)


@njit(**INNER)
def upstream_of(args, r):
    """The upstream gradient of a row, with the scale of a mean."""
    upstream, scale = ${UPSTREAM}, get_float64(word(args, 0), 1)
    return scale * float64(element(upstream, r)) if upstream else scale
'''

#: further words: classes, ignored class, elements between one class and the next; tensors: log-probabilities, classes,
#: weights of the classes
NLL = (
    TARGETS
    + SCALES
    + '''

@njit(**INNER)
def prepare(args, n):
    classes, ignored, target_at, weight_at = ${CLASSES}, ${IGNORED}, ${TARGET}, ${WEIGHT}
    kept, strangers = counted(target_at, n, classes, ignored)
    if strangers:  # whose weights must not be looked up
        return 1
    if weight_at:
        set_scales(args, weight_of_targets(target_at, weight_at, n, ignored))
    else:
        set_scales(args, float64(kept))
    return 0


@njit(**INNER)
def gathered(args, at, out, begin, n, step, apart):
    """Of rows whose elements of one class are `step` apart, and those of one row `apart`; `out` is clear."""
    ignored, target_at, weight_at = ${IGNORED}, ${TARGET} + 8 * begin, ${WEIGHT}
    values = ${VALUE} + ${SIZE} * begin if ${EACH} and ${VALUE} else 0
    total = 0.0
    for r in range(n):
        t = word(target_at, r)
        if t != ignored:
            w = float64(element(weight_at, t)) if weight_at else 1.0
            loss = -w * float64(element(at, r * step + t * apart))
            total += loss
            if values:
                set_element(values, r, ${REAL}(loss))
            if out:
                set_element(out, r * step + t * apart, ${REAL}(-w * upstream_of(args, begin + r)))
        elif values:
            set_element(values, r, ${REAL}(0))
    return total


@njit(**INNER)
def rows(args, begin, end):
    classes, apart, at, out = ${CLASSES}, ${APART}, ${INPUT}, ${OUT0}
    if apart == 1:
        skip = ${SIZE} * classes * begin
        if out:
            clear(out + skip, classes * (end - begin))
        return gathered(args, at + skip, out + skip if out else 0, begin, end - begin, classes, 1)
    total = 0.0
    while begin < end:
        position = begin % apart
        n = min(end - begin, apart - position)
        skip = ${SIZE} * ((begin - position) * classes + position)
        if out:
            for c in range(classes):
                clear(out + skip + ${SIZE} * apart * c, n)
        total += gathered(args, at + skip, out + skip if out else 0, begin, n, 1, apart)
        begin += n
    return total
'''
)

#: of scores; `hinge` and `hinge_slope` are of what a wrong class is above a right one, plus the margin
HINGES = (
    TARGETS
    + SCALES
    + '''

@traced
${HINGE}


@traced
${HINGE_SLOPE}


@njit(**INNER)
def hinges(at, n, shift):
    s = 0.0
    for begin in range(0, n, ${RUN}):
        part = ${REAL}(0)
        for i in range(begin, min(begin + ${RUN}, n)):
            part = add(part, hinge(shift + element(at, i)))
        s = add(s, float64(part))
    return s


@njit(**INNER)
def hinges_and_slopes(at, out, n, shift, factor):
    """Their sums; the slopes times `factor` go to `out`."""
    s = slopes = 0.0
    for begin in range(0, n, ${RUN}):
        part, part_of_slopes = ${REAL}(0), ${REAL}(0)
        for i in range(begin, min(begin + ${RUN}, n)):
            z = shift + element(at, i)
            slope = hinge_slope(z)
            part, part_of_slopes = add(part, hinge(z)), add(part_of_slopes, slope)
            set_element(out, i, ${SLOPE})
        s, slopes = add(s, float64(part)), add(slopes, float64(part_of_slopes))
    return s, slopes


@njit(**INNER)
def rows(args, begin, end):
    n, at, out = ${CLASSES}, ${INPUT}, ${OUT0}
    values = ${VALUE} if ${EACH} else 0
    total = 0.0
    for r in range(begin, end):
        skip, weight = ${SIZE} * n * r, weight_of(args, r) / n
        factor = ${REAL}(weight * upstream_of(args, r))
        loss = weight * row(args, at + skip, out + skip if out else 0, n, r, factor)
        total += loss
        if values:
            set_element(values, r, ${REAL}(loss))
    return total
'''
)

#: further words: classes; tensors: scores, classes, weights of the classes; constants: margin
ONE_RIGHT = """

@njit(**INNER)
def prepare(args, n):
    set_scales(args, float64(n))
    return counted(${TARGET}, n, ${CLASSES}, 0)[1]


@njit(**INNER)
def weight_of(args, r):
    weight_at = ${WEIGHT}
    return float64(element(weight_at, word(${TARGET}, r))) if weight_at else 1.0


@njit(**INNER)
def row(args, at, out, n, r, factor):
    t = word(${TARGET}, r)
    shift, after = ${REAL}(get_float64(word(args, 0), 3)) - element(at, t), ${SIZE} * (t + 1)
    if not out:
        return hinges(at, t, shift) + hinges(at + after, n - t - 1, shift)
    s, slopes = hinges_and_slopes(at, out, t, shift, factor)
    more, more_slopes = hinges_and_slopes(at + after, out + after, n - t - 1, shift, factor)
    set_element(out, t, ${REAL}(-float64(factor) * (slopes + more_slopes)))
    return s + more
"""

#: further words: classes, rows that share scratch; tensors: scores, right classes up to the first that is -1
MANY_RIGHT = '''

@njit(**INNER)
def prepare(args, n):
    classes = ${CLASSES}
    set_scales(args, float64(n))
    return counted(${TARGET}, n * classes, classes, -1)[1]


@njit(**INNER)
def weight_of(args, r):
    return 1.0


@traced
def scale_by(out, n, factor):
    loop(n, lambda i: set_${KIND}(out, i, factor * get_${KIND}(out, i)))


@njit(**INNER)
def row(args, at, out, n, r, factor):
    """Right classes are at minus infinity where others are compared with them."""
    rights = ${TARGET} + 8 * n * r
    wrong = ${SCRATCH} + 8 * n * (r // ${PIECE})
    for i in range(n):
        set_element(wrong, i, element(at, i))
    k = 0
    while k < n and word(rights, k) >= 0:
        set_element(wrong, word(rights, k), ${REAL}(-math.inf))
        k += 1
    if out:
        clear(out, n)
    total = 0.0
    for i in range(k):
        t = word(rights, i)
        shift = ${REAL}(1) - element(at, t)
        if out:
            s, slopes = hinges_and_slopes(wrong, out, n, shift, factor)
            set_element(out, t, ${REAL}(float64(element(out, t)) - slopes))
        else:
            s = hinges(wrong, n, shift)
        total += s
    if out:
        scale_by(out, n, factor)
    return total
'''

LABELS = """

@njit(**INNER)
def label_of(args, r):
    labels = ${LABEL}
    return float64(word(labels, r)) if ${INTEGERS} else float64(element(labels, r))
"""

#: `terms` of a row's elements are summed; `loss` makes of the sums the value and the slope of each sum, and `pull<k>`
#: of these the slope of an element of the vector k. Further words: length of a vector, whether labels are integers
VECTORS = (
    SCALES
    + """

${FUNCTIONS}


@njit(**INNER)
def measured(${AT}, n${C}):
    ${SUMS_0}
    for begin in range(0, n, ${RUN}):
        ${PARTS_0}
        for i in range(begin, min(begin + ${RUN}, n)):
            ${TERMS} = terms(${READ}${C})
            ${ADD}
        ${ADD_PARTS}
    return ${SUMMED}


${PULLED}

@njit(**INNER)
def prepare(args, n):
    set_scales(args, float64(n))
    return 0


@njit(**INNER)
def rows(args, begin, end):
    numbers, n = word(args, 0), ${LENGTH}
    values = ${VALUE} if ${EACH} else 0
    ${NUMBERS}
    total = 0.0
    for r in range(begin, end):
        skip = ${SIZE} * n * r
        ${PLACES}
        ${SUMMED} = measured(${AT}, n${CAST})
        value, ${SLOPES} = loss(${SUMMED}, ${LABELLED}${C})
        total += value
        if values:
            set_element(values, r, ${REAL}(value))
        if ${ANY}:
            here = upstream_of(args, r)
            ${SCALED}
            ${PULL}
    return total
"""
)
