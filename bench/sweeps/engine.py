"""Many runs of one elementwise optimizer on one test function, all steps of all of them in one compiled call.

Each run is what the optimizer's class does alone with one parameter: the same rule, the same coefficients, the scalar
state rounded to float32 as the class keeps it.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from bench.problems.disturbance import SEED_BITS, Disturbance
from bench.problems.function import Function
from bench.sweeps import disturb, kernel, rotation
from bench.sweeps.layout import COMMON, HEAD, LANES, PITCH, STRIDE
from optimizers.algorithm import ITEMS, Algorithm
from optimizers.executors import threads
from optimizers.optimizer import Optimizer

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
    """Whether a sweep of this optimizer can be compiled: each element is stepped by a rule of its own alone."""
    return issubclass(cls, Optimizer) and type(getattr(cls, "algorithm", None)) is Algorithm


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
    starts = np.atleast_2d(np.asarray(starts, np.float64))
    if starts.shape[1] != function.dimension or not len(starts):
        raise ValueError(f"{function.name} has {function.dimension} dimensions; starts are {starts.shape}")
    if steps < 0 or every < 0:
        raise ValueError(f"{steps} steps and a record every {every} make no sense; give 0 or more")
    targets = np.empty((len(starts), 0)) if targets is None else np.asarray(targets, np.float64)
    if len(targets) != len(starts) or (targets[:, 1:] > targets[:, :-1]).any():
        raise ValueError(f"targets are {targets.shape} for {len(starts)} runs; give each run's, highest first")
    columns, groups = _columns(cls, options, len(starts))
    low, high = bounds if bounds is not None else (-np.inf, np.inf)
    columns |= {"lowest": _array(low, len(starts)), "highest": _array(high, len(starts))}
    columns["seed"] = _seeds(seeds, len(starts))
    parts = []
    for present, chosen in groups.items():
        code = Code(function, cls.algorithm, present, dtype)
        rows = [columns[name][chosen] for name in [*code.step.columns, "highest", "lowest", "seed"]]
        inputs = np.stack([*rows, *starts[chosen].T])
        parts.append(_run(code, inputs, targets[chosen].T, steps, every, bounds is not None))
    if len(parts) == 1:
        return parts[0]
    back = np.argsort(np.concatenate(list(groups.values())))
    return _joined(parts, back)


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
        self.buffer = np.zeros((rows + function.dimension, PITCH))
        parts = kernel.parts(compiled)
        self.buffer[COMMON.index("parts"), : len(parts)] = parts
        self.arguments = [self.buffer.ctypes.data]
        self.call = ctypes.CFUNCTYPE(None, ctypes.c_ssize_t)(address)
        if turn["turned"]:
            self.call = ctypes.CFUNCTYPE(None, *[ctypes.c_ssize_t] * 5)(turn["turned"])
            self.arguments += [address, turn["matrix"], turn["kept_row"], function.dimension]
        typed = self.buffer.view(dtype)[HEAD : HEAD + STRIDE * function.dimension, :LANES]
        self.places, self.slopes = typed[::STRIDE].T, typed[1::STRIDE].T
        self.values = self.buffer[COMMON.index("value")]

    def __call__(self, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        values, gradients = np.empty(len(points)), np.empty(points.shape)
        for here in range(0, len(points), LANES):
            part = points[here : here + LANES]
            self.places[: len(part)] = part
            self.call(*self.arguments)
            values[here : here + LANES] = self.values[: len(part)]
            gradients[here : here + LANES] = self.slopes[: len(part)]
        return values, gradients


def _array(value: Any, runs: int) -> np.ndarray:
    return np.broadcast_to(np.asarray(value, np.float64), (runs,))


def _seeds(value: Any, runs: int) -> np.ndarray:
    """As float64, which has them exactly."""
    given = np.atleast_1d(np.asarray(value, np.float64))
    wrong = given[~((given >= 0) & (given < 1 << SEED_BITS) & (given == np.floor(given)))]
    if len(wrong):
        raise ValueError(f"{wrong[0]:g} is no seed of noise; give whole numbers from 0 to 2^{SEED_BITS} - 1")
    return _array(given, runs)


def _columns(cls: type, options: Mapping[str, Any], runs: int) -> tuple[dict[str, np.ndarray], dict[tuple, np.ndarray]]:
    """Each number of each run, and the runs that have the same states."""
    known = names(cls)
    unknown = [name for name in options if name not in known and name not in SHARED]
    if unknown:
        raise ValueError(f"{cls.__name__} has no {unknown[0]}; there are {', '.join(known)}")
    group = cls([torch.zeros(1)]).param_groups[0]
    shared = {name: options.get(name, group.get(name, False)) for name in SHARED}
    defaults = dict(zip(cls.algorithm.hyper, cls.algorithm.hyper_values(group), strict=True))
    columns = {name: _array(options.get(name, defaults.get(name, group.get(name))), runs) for name in known}
    _insist(cls, {name: columns[name] for name in options if name in columns}, group)
    columns["direction"] = _array(-1.0 if shared["maximize"] else 1.0, runs)
    switches = [slot.when for slot in cls.algorithm.slots.values()]
    code = np.zeros(runs, np.int64)  # bit i: whether slot i exists
    for i, when in enumerate(switches):
        there = True if when is None else _array(shared.get(when, columns.get(when)), runs) != 0
        code |= np.where(there, 1 << i, 0)
    groups = {
        tuple(bool(kind >> i & 1) for i in range(len(switches))): np.flatnonzero(code == kind)
        for kind in np.unique(code).tolist()
    }
    return columns, groups


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
        cls([torch.zeros(1)], **options)


class Code:
    """The compiled pieces of one optimizer on one function."""

    def __init__(self, function: Function, algorithm: Algorithm, present: tuple[bool, ...], real: str) -> None:
        compiled, self.step = kernel.step(algorithm, present, real)
        gradient, rows = kernel.evaluation(function, real)
        self.rows = rows + function.dimension * (function.rotation is not None)
        self.parts = kernel.parts(gradient)
        self.dimension = function.dimension
        self.body = kernel.loop(real).body.address
        self.words = {
            "evaluate": gradient.evaluate.address,
            **rotation.words(function, rows, real),
            "begin": compiled.begin.address,
            "powers": compiled.powers_of.address,
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


def _run(code: Code, inputs: np.ndarray, targets: np.ndarray, steps: int, every: int, judged: bool) -> Sweep:
    """One compiled sweep; `inputs` are the columns of the step, the bounds, the seeds and the coordinates, as rows.

    `targets` are a row for each, too.
    """
    runs, step = inputs.shape[1], code.step
    shared = [i for i, name in enumerate(step.columns) if name in step.split.depends]
    varying = [inputs[i] for i in shared if inputs[i].min() != inputs[i].max()]
    order = np.lexsort(varying) if varying else np.arange(runs)  # runs that share their powers lie together
    blocks = -(-runs // LANES)
    places = np.concatenate([order, np.repeat(order[-1:], blocks * LANES - runs)])
    whole, targets = (np.take(each, places, 1) for each in (inputs, targets))
    hits = np.full(targets.shape, -1.0)
    alone = bool(step.split.depends - {*step.columns, "step"})  # a power of what runs do not share
    distinct, first_of = _distinct(whole[shared], blocks, alone)
    outputs = np.empty((4 + code.dimension, blocks * LANES))
    records = np.empty((steps // every + 1 if every else 0, 1 + code.dimension, blocks * LANES))
    count = max(1, min(threads.count(), blocks))
    buffers = np.zeros((count, code.rows * PITCH + 8))  # eight more: no cache line belongs to two
    buffers[:, COMMON.index("parts") * PITCH :][:, : len(code.parts)] = code.parts
    words = np.zeros(len(kernel.JOB), np.int64)
    for name, value in {
        **code.words,
        "blocks": blocks,
        "buffers": buffers.ctypes.data,
        "buffer_bytes": buffers.strides[0],
        "inputs": whole.ctypes.data,
        "outputs": outputs.ctypes.data,
        "distinct": distinct.ctypes.data,
        "first_of": first_of.ctypes.data,
        "records": records.ctypes.data,
        "steps": steps,
        "every": every,
        "judged": judged,
        "runs": blocks * LANES,
        "targets": targets.ctypes.data,
        "hits": hits.ctypes.data,
        "target_count": len(targets),
    }.items():
        words[kernel.JOB.index(name)] = value
    _share(code.body, words.ctypes.data, count)
    at = np.empty(runs, np.int64)
    at[order] = np.arange(runs)
    outputs, records, hits = outputs[:, at], records[:, :, at], hits[:, at]
    value, best, bad_step, bad_value = outputs[:4]
    points = records[:, 1:].transpose(0, 2, 1)
    met = hits.T.astype(np.int64)
    return Sweep(value, outputs[4:].T, best, bad_step.astype(np.int64), bad_value, records[:, 0], points, met)


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
