"""Many runs of one elementwise optimizer on one test function, all steps of all of them in one compiled call.

Each run is what the optimizer's class does alone with one parameter: the same rule, the same coefficients, the scalar
state rounded to float32 as the class keeps it.
"""

from __future__ import annotations

import ctypes
import functools
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from bench.problems.disturbance import SEED_BITS, Disturbance
from bench.problems.function import Function
from bench.sweeps import disturb, kernel, rotation
from bench.sweeps.layout import COMMON, HEAD, LANES, PITCH, STRIDE
from bench.sweeps.loop import JOB
from bench.sweeps.step import TABLE, TABLE_WIDTH, Step
from optimizers.algorithm import ITEMS, Algorithm
from optimizers.executors import threads
from optimizers.optimizer import Optimizer

#: options whose code is for runs that differ in them, whether they do or not: so it is compiled once, not twice
ALWAYS = ("lr",)
#: options that are not numbers of a run: they choose the code, so all runs share them
SHARED = ("maximize", "amsgrad", "centered")


@dataclass
class Sweep:
    """What the runs did. With judged=False `best` and `bad_step` say nothing.

    values [runs]: after the last step. points [runs, dimension]: there. best [runs]: the least value at any step, the
    start and the end among them, before the run went out of bounds. bad_step [runs]: when that was, -1 for never;
    bad_values [runs]: the value then. records: values and points of every k-th step, [kept, runs] and
    [kept, runs, dimension]. hits [runs, targets]: the first step with a value at or below each target, -1 for none,
    whatever the bounds.
    """

    values: np.ndarray
    points: np.ndarray
    best: np.ndarray
    bad_step: np.ndarray
    bad_values: np.ndarray
    recorded_values: np.ndarray
    recorded_points: np.ndarray
    hits: np.ndarray


def elementwise(cls: type) -> bool:
    """Whether a sweep of this optimizer can be compiled: its step is its rule, by which each element goes alone."""
    by_rule = issubclass(cls, Optimizer) and cls.step is Optimizer.step  # a class may have a step of its own
    return by_rule and type(getattr(cls, "algorithm", None)) is Algorithm


def names(cls: type) -> list[str]:
    """The options of an optimizer that may differ from run to run, by the names its coefficients have for them."""
    algorithm = cls.algorithm
    inits = [slot.init for slot in algorithm.slots.values()] + list(algorithm.scalars.values())
    switches = [slot.when for slot in algorithm.slots.values() if slot.when]
    found = dict.fromkeys([*algorithm.hyper, *(i for i in inits if isinstance(i, str)), *switches])
    return [name for name in found if name not in SHARED]


def default(name: str, group: Mapping[str, Any]) -> float:
    """What an option is when it is not given; 0 for one that is off."""
    key, place = ITEMS.get(name, (name, None))
    value = group[key] if place is None else group[key][place]
    return 0.0 if value is None else float(value)


def sweep(
    function: Function,
    cls: type,
    options: Mapping[str, Any],
    starts: np.ndarray,
    steps: int,
    *,
    dtype: str = "float64",
    every: int = 0,
    bounds: tuple[np.ndarray | float, np.ndarray | float] | None = None,
    targets: np.ndarray | None = None,
    seeds: np.ndarray | int = 0,
) -> Sweep:
    """Makes `steps` steps from each of `starts` [runs, dimension].

    options: numbers or arrays [runs] by `names`, beside them ``maximize``, ``amsgrad``, ``centered`` as booleans.
    every: records the value and the point before every k-th step, and after the last if its turn comes; 0: none.
    bounds: the least and the greatest value of a run; one outside has diverged. None: not looked at, a little faster.
    targets: values to come down to [runs, targets], each run's from the highest to the lowest.
    seeds: of each run's noise, whole numbers below 2^53; only for a function whose disturbance is random.

    Raises ValueError for options the optimizer refuses or does not have, for starts of another dimension, for targets
    that rise, and for numbers that are no seeds.
    """
    starts, targets = checked(function, starts, steps, every, targets)
    columns, groups = _columns(cls, options, len(starts))
    arrays = {"starts": starts, "targets": targets}
    seeds = _seeds(seeds, len(starts))
    if function.disturbance is not None:
        arrays["seeds"] = seeds
    if bounds is not None:
        arrays |= {name: _array(bound, len(starts)) for name, bound in zip(("lowest", "highest"), bounds, strict=True)}
    parts = []
    for present, chosen in groups.items():
        own = {name: column[chosen] for name, column in columns.items()}
        varying = frozenset(name for name, column in own.items() if name in ALWAYS or _differ(column))
        code = Code(function, cls.algorithm, present, dtype, varying)
        parts.append(_run(code, own, {name: array[chosen] for name, array in arrays.items()}, steps, every))
    return parts[0] if len(parts) == 1 else _joined(parts, np.argsort(np.concatenate(list(groups.values()))))


def checked(function: Function, starts: Any, steps: int, every: int, targets: Any) -> tuple[np.ndarray, np.ndarray]:
    """The starts and the targets as arrays [runs, ...]; ValueError for what no sweep can do."""
    starts = np.atleast_2d(np.asarray(starts, np.float64))
    if starts.shape[1] != function.dimension or not len(starts):
        raise ValueError(f"{function.name} has {function.dimension} dimensions; starts are {starts.shape}")
    if steps < 0 or every < 0:
        raise ValueError(f"{steps} steps and a record every {every} make no sense; give 0 or more")
    targets = np.empty((len(starts), 0)) if targets is None else np.asarray(targets, np.float64)
    if len(targets) != len(starts) or (targets[:, 1:] > targets[:, :-1]).any():
        raise ValueError(f"targets are {targets.shape} for {len(starts)} runs; give each run's, highest first")
    return starts, targets


def evaluate(function: Function, points: np.ndarray, dtype: str = "float64") -> tuple[np.ndarray, np.ndarray]:
    """Values [runs] and gradients [runs, dimension] at `points` [runs, dimension], by the code a sweep runs."""
    return _Evaluation(function, dtype)(points)


def evaluator(function: Function) -> Callable[[torch.Tensor], tuple[torch.Tensor, torch.Tensor]]:
    """`Function.value_and_gradient` in float64 on the CPU by the code a sweep runs, for one call after the other.

    Takes points [..., dimension], and returns new tensors.
    """
    made = _Evaluation(function, "float64")

    def evaluated(points: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        values, gradients = made(points.numpy().reshape(-1, function.dimension))
        return torch.from_numpy(values).view(points.shape[:-1]), torch.from_numpy(gradients).view(points.shape)

    return evaluated


class _Evaluation:
    """A compiled value and gradient with the buffer that they work in."""

    def __init__(self, function: Function, dtype: str) -> None:
        compiled, rows = kernel.evaluation(function, dtype)
        address, turn = compiled.evaluate.address, rotation.words(function, rows, dtype)
        self.buffer = _aligned((rows + function.dimension, PITCH))
        parts = kernel.parts(compiled)
        self.buffer[COMMON.index("parts"), : len(parts)] = parts
        self.arguments = [self.buffer.ctypes.data]
        self.call = ctypes.CFUNCTYPE(None, ctypes.c_ssize_t)(address)
        if turn["turned"]:
            self.call = ctypes.CFUNCTYPE(None, *[ctypes.c_ssize_t] * 5)(turn["turned"])
            self.arguments += [address, turn["matrix"], turn["kept_row"], function.dimension]
        typed = self.buffer.view(dtype)[:, :LANES]
        coordinates = typed[HEAD : HEAD + STRIDE * function.dimension]
        self.places, self.slopes = coordinates[::STRIDE].T, coordinates[1::STRIDE].T
        self.values = typed[COMMON.index("value")]

    def __call__(self, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        values, gradients = np.empty(len(points)), np.empty(points.shape)
        for here in range(0, len(points), LANES):
            part = points[here : here + LANES]
            self.places[: len(part)] = part
            self.call(*self.arguments)
            values[here : here + LANES] = self.values[: len(part)]
            gradients[here : here + LANES] = self.slopes[: len(part)]
        return values, gradients


def _differ(column: np.ndarray) -> bool:
    """Whether runs differ in a number; one that is said once for all has no strides."""
    return column.strides != (0,) and column.min() != column.max()


def _array(value: Any, runs: int) -> np.ndarray:
    return np.broadcast_to(np.asarray(value, np.float64), (runs,))


def _seeds(value: Any, runs: int) -> np.ndarray:
    """As float64, which has them exactly."""
    given = np.atleast_1d(np.asarray(value, np.float64))
    wrong = given[~((given >= 0) & (given < 1 << SEED_BITS) & (given == np.floor(given)))]
    if len(wrong):
        raise ValueError(f"{wrong[0]:g} is no seed of noise; give whole numbers from 0 to 2^{SEED_BITS} - 1")
    return _array(given, runs)


def _columns(cls: type, options: Mapping[str, Any], runs: int) -> tuple[dict[str, np.ndarray], dict[tuple, Any]]:
    """Each number of each run, and for each set of states the runs that have it."""
    known = names(cls)
    unknown = [name for name in options if name not in known and name not in SHARED]
    if unknown:
        raise ValueError(f"{cls.__name__} has no {unknown[0]}; there are {', '.join(known)}")
    group = _group(cls)
    shared = {name: options.get(name, group.get(name, False)) for name in SHARED}
    defaults = dict(zip(cls.algorithm.hyper, cls.algorithm.hyper_values(group), strict=True))
    columns = {name: _array(options.get(name, defaults.get(name, group.get(name))), runs) for name in known}
    _insist(cls, {name: columns[name] for name in options if name in columns}, group)
    columns["direction"] = _array(-1.0 if shared["maximize"] else 1.0, runs)
    switches = [slot.when for slot in cls.algorithm.slots.values()]
    return columns, _kinds([1 if when is None else shared.get(when, columns.get(when)) for when in switches], runs)


def _kinds(switches: list[Any], runs: int) -> dict[tuple[bool, ...], Any]:
    """Which runs have the same of several switches on, each said for all runs or an array of them."""
    on = [np.broadcast_to(np.asarray(switch) != 0, (runs,)) for switch in switches]
    if not any(_differ(one) for one in on):
        return {tuple(bool(one[0]) for one in on): slice(None)}
    kinds, kind = np.unique(np.stack(on), axis=1, return_inverse=True)
    return {tuple(one): np.flatnonzero(kind == k) for k, one in enumerate(kinds.T.tolist())}


@functools.cache
def _group(cls: type) -> Mapping[str, Any]:
    """The options of an optimizer that is told none."""
    return cls([torch.zeros(1)]).param_groups[0]


@functools.lru_cache(4096)
def _accepted(cls: type, options: tuple[tuple[str, Any], ...]) -> None:
    """Raises what the class does; making one takes longer than many a sweep, so what was accepted is kept."""
    cls([torch.zeros(1)], **dict(options))


def _insist(cls: type, given: Mapping[str, np.ndarray], group: Mapping[str, Any]) -> None:
    """Has the class itself refuse options, at the least and at the greatest of each."""
    for name, values in given.items():
        if np.isnan(values).any():
            raise ValueError(f"{name} is nan in {np.isnan(values).sum()} of {len(values)} runs")
    for extreme in (np.min, np.max):
        options: dict[str, Any] = {}
        for name, values in given.items():
            key, place = ITEMS.get(name, (name, None))
            value = float(extreme(values))
            if place is not None:
                whole = list(options.get(key, group[key]))
                whole[place] = value
                options[key] = tuple(whole)
            else:
                options[key] = bool(value) if isinstance(group[key], bool) else value
        _accepted(cls, tuple(options.items()))


class Code:
    """The compiled pieces of one optimizer on one function, for runs that differ in some of its options."""

    def __init__(
        self, function: Function, algorithm: Algorithm, present: tuple[bool, ...], real: str, varying: frozenset[str]
    ) -> None:
        compiled, self.step = kernel.step(algorithm, present, real, varying)
        gradient, rows = kernel.evaluation(function, real)
        self.rows = rows + function.dimension * (function.rotation is not None)
        self.parts = kernel.parts(gradient)
        self.dimension = function.dimension
        self.body = kernel.loop(real).body.address
        self.words = {
            "evaluate": gradient.evaluate.address,
            **rotation.words(function, rows, real),
            "uniform": compiled.uniform_of.address,
            "coefficients": compiled.coefficients_of.address,
            "rule": compiled.rule_of.address,
            "dimension": self.dimension,
            "columns": len(self.step.columns),
        }
        if function.disturbance is not None:
            self._add(function.disturbance, real)

    def _add(self, disturbance: Disturbance, real: str) -> None:
        stages = kernel.disturbance(type(disturbance), real)
        for name in ("move", "back", "disturb"):
            if hasattr(stages, name):
                self.words[name] = getattr(stages, name).address
        self.numbers = disturbance.numbers()  # kept here, as their address is all that the compiled code gets
        self.words |= {"own_rows": self.rows, "numbers": self.numbers.ctypes.data}
        self.rows += disturb.FIRST + disturbance.rows(self.dimension)


def _run(
    code: Code, columns: Mapping[str, np.ndarray], arrays: Mapping[str, np.ndarray], steps: int, every: int
) -> Sweep:
    """One compiled sweep; `arrays` are each run's start and targets, and its seed and bounds if it has some."""
    step, given = code.step, {name: np.ascontiguousarray(array) for name, array in arrays.items()}
    runs, blocks = len(given["starts"]), -(-len(given["starts"]) // LANES)
    inputs = np.array([columns[name] for name in step.columns])
    order, distinct, first_of = _settings(step, inputs, blocks)
    count = max(1, min(threads.count(), blocks))
    table = 8 * PITCH * code.rows
    buffers = _aligned((count, code.rows * PITCH + min(steps, TABLE) * TABLE_WIDTH + 8))  # 8: threads share no line
    buffers[:, COMMON.index("parts") * PITCH :][:, : len(code.parts)] = code.parts
    for name in step.common:
        buffers[:, step.row[name] * PITCH] = columns[name][0]
    begins = step.begin({name: columns[name][0] for name in step.common})
    kept, size, aims = steps // every + 1 if every else 0, given["starts"].shape, given["targets"].shape
    found = Sweep(
        *(np.empty(shape) for shape in (runs, size, runs)),
        bad_step=np.empty(runs, np.int64),
        bad_values=np.empty(runs),
        recorded_values=np.empty((kept, runs)),
        recorded_points=np.empty((kept, *size)),
        hits=np.full(aims, -1),
    )
    numbers = {
        **code.words,
        "blocks": blocks,
        "buffer_bytes": buffers.strides[0],
        "runs": runs,
        "table": table,
        "begin_count": len(begins),
        "steps": steps,
        "every": every,
        "judged": "lowest" in given,
        "target_count": aims[1],
    }
    places = {"buffers": buffers, "begins": begins, "inputs": inputs, "order": order} | given | vars(found)
    places |= {"distinct": distinct, "first_of": first_of}
    words = np.zeros(len(JOB), np.int64)
    for name, value in (numbers | {name: array.ctypes.data for name, array in places.items()}).items():
        words[JOB.index(name)] = value
    _share(code.body, words.ctypes.data, count)
    return found


def _aligned(shape: tuple[int, int]) -> np.ndarray:
    """Zeros that begin with a line of the cache: rows are whole lines, and no vector is then parted between two."""
    room = np.zeros(math.prod(shape) + 8)
    return room[-room.ctypes.data // 8 % 8 :][: math.prod(shape)].reshape(shape)


def _settings(step: Step, inputs: np.ndarray, blocks: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The run in each lane, those that share their powers together; for each block how many powers, whose lanes."""
    shared = inputs[[name in step.split.depends for name in step.columns]]
    order = np.lexsort(shared) if len(shared) else np.arange(inputs.shape[1])
    order = np.concatenate([order, np.repeat(order[-1:], blocks * LANES - len(order))])
    if not step.split.power_names:
        return order, np.zeros(blocks, np.int64), np.empty(0, np.int64)
    alone = not step.split.depends <= {*step.columns}  # a power of what runs do not share
    return order, *_distinct(shared[:, order], blocks, alone)


def _distinct(shared: np.ndarray, blocks: int, alone: bool) -> tuple[np.ndarray, np.ndarray]:
    """For each block how many settings of the `shared` columns it has, and the first lane of each."""
    new = np.full((blocks, LANES), alone)
    new[:, 0] = True
    for row in shared.reshape(len(shared), blocks, LANES):
        new[:, 1:] |= row[:, 1:] != row[:, :-1]
    distinct = new.sum(1).astype(np.int64)
    first_of = np.zeros((blocks, LANES), np.int64)
    block, lane = np.nonzero(new)
    before = np.cumsum(distinct) - distinct
    first_of[block, np.arange(len(block)) - before[block]] = lane
    return distinct, first_of


def _share(body: int, job: int, count: int) -> None:
    """Calls the compiled body on so many threads of torch's own pool, or on Python's where that is not to be had."""
    alone = ctypes.CFUNCTYPE(None, ctypes.c_ssize_t)(body)
    openmp = threads.openmp()
    if count == 1:
        alone(job)
    elif openmp is None:
        threads.python_threads(lambda thread, many: alone(job), count)
    else:
        ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint)(openmp[0])(
            body, job, count, 0
        )


def _joined(parts: list[Sweep], back: np.ndarray) -> Sweep:
    """Sweeps of different states as one, in the order of the runs."""

    def joined(name: str, axis: int) -> np.ndarray:
        return np.concatenate([getattr(part, name) for part in parts], axis).take(back, axis)

    ends = {name: joined(name, 0) for name in ("values", "points", "best", "bad_step", "bad_values", "hits")}
    return Sweep(**ends, **{name: joined(name, 1) for name in ("recorded_values", "recorded_points")})
