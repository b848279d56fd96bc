"""The compiled loop over blocks of runs and their steps; it calls a function's and an optimizer's code by address."""

from __future__ import annotations

from bench.sweeps.layout import BEGINNING, COMMON, HEAD, PITCH, STRIDE
from bench.sweeps.step import TABLE, TABLE_WIDTH

#: what the words of a job hold; the last are of the disturbance, and addresses of what it does not have are 0
JOB = (
    "next next_buffer blocks buffers buffer_bytes dimension runs order columns inputs lowest highest seeds starts "
    "steps every judged evaluate turned matrix kept_row table begins begin_count uniform coefficients rule "
    "distinct first_of values points best bad_step bad_values recorded_values recorded_points targets hits "
    "target_count own_rows numbers move back disturb"
).split()

LOOP = """
{WORDS}
call = caller(types.void, types.intp)
call_turned = caller(types.void, types.intp, types.intp, types.intp, types.intp, types.intp)
call_uniform = caller(types.void, types.intp, types.intp, types.intp, types.float64)
call_coefficients = caller(types.void, types.intp, types.intp, types.float64, types.intp, types.intp)
call_rule = caller(types.void, types.intp, types.intp, types.intp)
call_disturbance = caller(types.void, types.intp, types.intp, types.intp, types.intp, types.intp)


@njit(**INNER)
def evaluate(b, job):
    turned = word(job, TURNED)
    if turned == 0:
        call(word(job, EVALUATE), (b,))
    else:
        rotation = (word(job, MATRIX), word(job, KEPT_ROW), word(job, DIMENSION))
        call_turned(turned, (b, word(job, EVALUATE), *rotation))


@njit(**INNER)
def judge(b, t):
    for l in range(LANES):
        value = float64(get_{REAL}(b, {value} + l))
        bad = get_float64(b, {bad_step} + l)
        out = not ((value <= get_float64(b, {highest} + l)) & (value >= get_float64(b, {lowest} + l)))
        fresh = out & (bad < 0.0)
        set_float64(b, {bad_value} + l, value if fresh else get_float64(b, {bad_value} + l))
        bad = t if fresh else bad
        set_float64(b, {bad_step} + l, bad)
        best = get_float64(b, {best} + l)
        set_float64(b, {best} + l, value if (bad < 0.0) & (value < best) else best)


@njit(**INNER)
def aim(b, job, run, l, k):
    count = word(job, TARGET_COUNT)
    set_float64(b, {met} + l, float64(k))
    set_float64(b, {target} + l, get_float64(word(job, TARGETS), run * count + k) if k < count else -np.inf)


@njit(**INNER)
def meet(b, job, places, t):
    crossed = 0
    for l in range(LANES):
        crossed += float64(get_{REAL}(b, {value} + l)) <= get_float64(b, {target} + l)
    if crossed == 0:
        return
    count = word(job, TARGET_COUNT)
    for l in range(LANES):
        k = int(get_float64(b, {met} + l))
        while k < count and float64(get_{REAL}(b, {value} + l)) <= get_float64(b, {target} + l):
            set_word(word(job, HITS), word(places, l) * count + k, t)
            k += 1
            aim(b, job, word(places, l), l, k)


@njit(**INNER)
def look(b, job, places, t):
    if word(job, JUDGED):
        judge(b, float64(t))
    if word(job, TARGET_COUNT) > 0:
        meet(b, job, places, t)


@njit(**INNER)
def gather(b, row, source, places):
    if source != 0:
        for l in range(LANES):
            set_float64(b, row + l, get_float64(source, word(places, l)))


@njit(**INNER)
def begin_row(b, row, source, value, dimension):
    count = 1 if row < {head} else dimension  # a scalar, or a state of each coordinate
    for i in range(count):
        for l in range(LANES):
            init = value if source < 0 else get_float64(b, source * {PITCH} + l)
            if row < {head}:
                set_float64(b, row * {PITCH} + l, stored_float32(init))
            else:
                set_{REAL}(b, (row + i * {stride}) * {SIZE} + l, {REAL}(init))


@njit(**INNER)
def begin(b, job, places):
    for c in range(word(job, COLUMNS)):
        gather(b, ({common} + c) * {PITCH}, word(job, INPUTS) + 8 * c * word(job, RUNS), places)
    gather(b, {highest}, word(job, HIGHEST), places)
    gather(b, {lowest}, word(job, LOWEST), places)
    gather(b, {seed}, word(job, SEEDS), places)
    for l in range(LANES):
        set_float64(b, {best} + l, np.inf)
        set_float64(b, {bad_step} + l, -1.0)
        set_float64(b, {bad_value} + l, 0.0)
        aim(b, job, word(places, l), l, 0)
    for i in range(word(job, DIMENSION)):
        for l in range(LANES):
            start = get_float64(word(job, STARTS), word(places, l) * word(job, DIMENSION) + i)
            set_{REAL}(b, {X} + l, {REAL}(start))
    for k in range(word(job, BEGIN_COUNT)):
        at = word(job, BEGINS) + 24 * k
        begin_row(b, int(get_float64(at, 0)), int(get_float64(at, 1)), get_float64(at, 2), word(job, DIMENSION))


@njit(**INNER)
def scatter(b, job, places, values, points):
    for l in range(LANES):
        set_float64(values, word(places, l), float64(get_{REAL}(b, {value} + l)))
    for i in range(word(job, DIMENSION)):
        for l in range(LANES):
            set_float64(points, word(places, l) * word(job, DIMENSION) + i, float64(get_{REAL}(b, {X} + l)))


@njit(**INNER)
def end(b, job, places):
    scatter(b, job, places, word(job, VALUES), word(job, POINTS))
    for l in range(LANES):
        set_float64(word(job, BEST), word(places, l), get_float64(b, {best} + l))
        set_float64(word(job, BAD_VALUES), word(places, l), get_float64(b, {bad_value} + l))
        set_word(word(job, BAD_STEP), word(places, l), int(get_float64(b, {bad_step} + l)))


@njit(**INNER)
def disturbed(b, job, t, which):
    stage = word(job, which)
    if stage != 0:
        own = b + word(job, OWN_ROWS) * {ROW}
        call_disturbance(stage, (b, own, t, word(job, DIMENSION), word(job, NUMBERS)))


@njit(**INNER)
def observe(b, job, t):
    disturbed(b, job, t, MOVE)
    evaluate(b, job)
    disturbed(b, job, t, BACK)


@njit(**INNER)
def record(b, job, places, t):
    if word(job, EVERY) > 0 and t % word(job, EVERY) == 0:
        at = t // word(job, EVERY) * 8 * word(job, RUNS)
        observe(b, job, t)
        scatter(b, job, places, word(job, RECORDED_VALUES) + at, word(job, RECORDED_POINTS) + at * word(job, DIMENSION))


@njit(**INNER)
def step(b, job, block, row, t):
    disturbed(b, job, t, DISTURB)
    settings = (word(word(job, DISTINCT), block), word(job, FIRST_OF) + 8 * block * LANES)
    call_coefficients(word(job, COEFFICIENTS), (b, row, float64(t == 0), *settings))
    for i in range(word(job, DIMENSION)):
        call_rule(word(job, RULE), (b, b + i * {COORDINATE}, row))


@njit(**INNER)
def work(job):
    b = word(job, BUFFERS) + fetch_add(job + 8 * NEXT_BUFFER, 1) * word(job, BUFFER_BYTES)
    steps, table, known = word(job, STEPS), b + word(job, TABLE), False
    while True:
        block = fetch_add(job + 8 * NEXT, 1)
        if block >= word(job, BLOCKS):
            return
        places = word(job, ORDER) + 8 * block * LANES
        begin(b, job, places)
        for t in range(steps):
            k = t % {STEPS_KNOWN}
            if k == 0 and not known:
                call_uniform(word(job, UNIFORM), (b, table, min(steps - t, {STEPS_KNOWN}), float64(t == 0)))
                known = steps <= {STEPS_KNOWN}  # then the table is the same for every block
            record(b, job, places, t)
            observe(b, job, t)
            look(b, job, places, t)
            step(b, job, block, table + {TABLE_ROW} * k, t)
        observe(b, job, steps)
        look(b, job, places, steps)
        record(b, job, places, steps)
        end(b, job, places)


@cfunc("void(intp)", cache=True, **OPTIONS)
def body(job):
    work(job)
"""


def loop_source(real: str) -> str:
    """The loop over blocks and steps, for coordinates of one type."""
    size = PITCH * (1 if real == "float64" else 2)
    names = {name: str(row * PITCH) for row, name in enumerate(COMMON)}
    names |= {
        "REAL": real,
        "X": f"{HEAD * size} + i * {STRIDE * size}",
        "common": str(len(COMMON)),
        "PITCH": str(PITCH),
        "SIZE": str(size),
        "head": str(HEAD),
        "stride": str(STRIDE),
        "ROW": str(8 * PITCH),
        "COORDINATE": str(8 * STRIDE * PITCH),
        "STEPS_KNOWN": str(TABLE),
        "TABLE_ROW": str(8 * TABLE_WIDTH),
    }
    names["WORDS"] = "\n".join(f"{name.upper()} = {i}" for i, name in enumerate(JOB))
    text = LOOP
    for name, value in names.items():
        text = text.replace(f"{{{name}}}", value)
    return BEGINNING + text
