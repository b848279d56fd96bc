"""The template of cross-entropy's CPU kernel over logits whose classes lie apart: those of an image or a sequence.

It takes as many neighbouring positions together as fit into the cache, class by class. Its arguments are those of
`cross_entropy_source`, and before the last two how many elements lie between one class and the next.
"""

from __future__ import annotations

COLUMNS = '''

@traced
def raise_tops(at, tops, n):
    def raised(i):
        x, top = float64(get_${KIND}(at, i)), get_float64(tops, i)
        set_float64(tops, i, where(x > top, x, top))

    loop(n, raised)


def add_exps(at, out, tops, sums, n, keep):
    def add(i):
        e = exp_negative(get_${KIND}(at, i) - ${REAL}(get_float64(tops, i)))
        set_float64(sums, i, get_float64(sums, i) + float64(e))
        if keep:
            set_${KIND}(out, i, e)

    loop(n, add)


make_exps, keep_all_exps = traced(add_exps, keep=False), traced(add_exps, keep=True)


@traced
def add_distances(at, lses, sums, n, weight):
    def add(i):
        distance = get_float64(lses, i) - float64(get_${KIND}(at, i))
        set_float64(sums, i, get_float64(sums, i) + weight * distance)

    loop(n, add)


def chances(at, out, lses, factors, n, keep):
    def put(i):
        e = get_${KIND}(out, i) if keep else exp_negative(get_${KIND}(at, i) - ${REAL}(get_float64(lses, i)))
        set_${KIND}(out, i, ${REAL}(get_float64(factors, i)) * e)

    loop(n, put)


chances_of_logits, chances_of_exps = traced(chances, keep=False), traced(chances, keep=True)


@traced
def subtract(out, n, factor):
    loop(n, lambda i: set_${KIND}(out, i, get_${KIND}(out, i) - factor))


@traced
def subtract_each(out, upstream, n, factor):
    loop(n, lambda i: set_${KIND}(out, i, get_${KIND}(out, i) - factor * get_${KIND}(upstream, i)))


@njit(**INNER)
def columns(args, begin, end, position):
    """The loss of the positions [begin, end) of one sample, whose logits of a class lie side by side.

    position: of `begin` within the sample.
    """
    numbers, what, n, ignored = word(args, 0), word(args, 1), word(args, 2), word(args, 3)
    target_at, weight_at, value_at = word(args, 5), word(args, 6), word(args, 7)
    apart = word(args, 10)  # elements from one class to the next
    skip = ${SIZE} * ((begin - position) * n + position)
    logits, gradient = word(args, 4) + skip, word(args, 8)
    out = gradient + skip
    upstream = word(args, 9) + ${SIZE} * begin if word(args, 9) else 0
    smoothing, all_weights, scale = get_float64(numbers, 1), get_float64(numbers, 2), get_float64(numbers, 3)
    spread, size, step = smoothing / n, end - begin, ${SIZE} * apart
    lses = word(args, 11) + 8 * begin
    sums, smooth = lses + 8 * word(args, 12), lses + 16 * word(args, 12)
    keep = IN_PLACE and gradient != 0
    for i in range(size):
        set_float64(lses, i, -math.inf)
        set_float64(sums, i, 0.0)
        set_float64(smooth, i, 0.0)
    for c in range(n):
        raise_tops(logits + step * c, lses, size)
    for c in range(n):
        if keep:
            keep_all_exps(logits + step * c, out + step * c, lses, sums, size)
        else:
            make_exps(logits + step * c, out, lses, sums, size)
    add_logs(lses, sums, size)
    if smoothing > 0 and what < ${GRADIENT_OF_MEAN}:
        for c in range(n):
            weight = float64(element(weight_at, c)) if weight_at else 1.0
            add_distances(logits + step * c, lses, smooth, size, spread * weight)
    loss_sum = 0.0
    for i in range(size):
        t = word(target_at, begin + i)
        if t == ignored:
            set_float64(sums, i, 0.0)
            if what == ${EACH}:
                set_element(value_at, begin + i, ${REAL}(0))
            continue
        w = float64(element(weight_at, t)) if weight_at else 1.0
        if what < ${GRADIENT_OF_MEAN}:
            distance = get_float64(lses, i) - float64(element(logits + step * t, i))
            loss = (1 - smoothing) * w * distance + get_float64(smooth, i)
            loss_sum += loss
            if what == ${EACH}:
                set_element(value_at, begin + i, ${REAL}(loss))
        if gradient:
            here = scale * float64(element(upstream, i)) if upstream else scale
            whole, s = here * ((1 - smoothing) * w + spread * all_weights), get_float64(sums, i)
            # the difference at the target in float64, rounded once
            if keep:
                chance = float64(element(out + step * t, i)) / s
                set_float64(sums, i, whole / s)
            else:
                chance = math.exp(float64(element(logits + step * t, i)) - get_float64(lses, i))
                set_float64(sums, i, whole)
            right = whole * chance - here * spread * (w if weight_at else 1.0)
            set_float64(smooth, i, right - here * (1 - smoothing) * w)
    if gradient:
        for c in range(n):
            if keep:
                chances_of_exps(logits, out + step * c, lses, sums, size)
            else:
                chances_of_logits(logits + step * c, out + step * c, lses, sums, size)
            if smoothing > 0:
                weight = float64(element(weight_at, c)) if weight_at else 1.0
                factor = ${REAL}(scale * spread * weight)
                if upstream:
                    subtract_each(out + step * c, upstream, size, factor)
                else:
                    subtract(out + step * c, size, factor)
        for i in range(size):
            t = word(target_at, begin + i)
            if t != ignored:
                set_element(out + step * t, i, ${REAL}(get_float64(smooth, i)))
            else:
                for c in range(n):
                    set_element(out + step * c, i, ${REAL}(0))
    return loss_sum


@cfunc("intp(intp, intp, intp, intp, intp)", cache=True, **OPTIONS)
def block(args, begin, end, sums, stage):
    if stage == ${PREPARE}:
        return prepare(args, end, word(args, 2))
    if stage == ${FINISH}:
        finish(args, sums)
        return 0
    apart, loss_sum = word(args, 10), 0.0
    while begin < end:
        position = begin % apart
        stop = min(end, begin - position + apart)
        loss_sum += columns(args, begin, stop, position)
        begin = stop
    set_float64(sums, 0, loss_sum)
    return 0
'''
