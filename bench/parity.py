"""Runs contenders and the oracle side by side on one workload, and measures how far apart they are.

Two tests. *Free*: everybody starts from the same parameters and goes its own way; the difference is measured after
each step, |a - b| / (1 + |b|). *Aligned*: before each step everybody is set to the same state, and the error of that
one step against the float64 oracle is measured in ulp of the larger of |old| and |new|. The next step begins from the
oracle's state, rounded once to the storage type, and from the parameters of the beginning: were they to walk, some
would come so near to 0 that a relative measure tells only who was lucky there.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np
import torch

from bench import orthogonal
from bench.deviation import FREE_TOLERANCE, Array, Measured, Stats, distance, ulp_errors
from bench.errors import first_line
from bench.options import OptionSet
from bench.oracle import Rule
from bench.oracle_matrices import muon
from bench.reference import Layout, Reference
from bench.runner import Build, Runner, copy, parts
from bench.ulp import rounded
from bench.workload import LR_CHANGE_STEP, Workload, has_gradient

# An element that is the small difference of large numbers (gradient + weight_decay * parameter near 0) has an error of
# many ulp in any arithmetic, and how many is luck. So errors are counted in ulp or, where it is larger, in the move of
# the exact result when the gradient moves by this factor: one rounding of float32, or in the 16-bit types, whose errors
# are held against a limit and not against the loop's, the four roundings of a weighted sum.
PERTURBATION = {"float32": 2.0**-23, "bfloat16": 2.0**-21, "float16": 2.0**-21}


def describer(workload: Workload) -> Callable[[Layout, int], str]:
    """Names the tensor that an element of a flat array belongs to."""

    def describe(layout: Layout, element: int) -> str:
        for (key, bucket), where in zip(layout.pieces, layout.slices, strict=True):
            if where.start <= element < where.stop:
                offset = element - where.start
                for i in workload.buckets[bucket].tensors:
                    if offset < workload.sizes[i]:
                        shape = "x".join(map(str, workload.shapes[i])) or "0-d"
                        return f"{key} of tensor {i} ({shape}), element {offset}"
                    offset -= workload.sizes[i]
        return ""

    return describe


def start_all(builds: Mapping[str, Build], make: Callable[[str, Build], Any]) -> dict[str, Measured]:
    """A runner for each contender, or what it said when it refused to be built; the for-loop must not."""
    measured = {name: Measured() for name in builds}
    for name, build in builds.items():
        try:
            measured[name].runner = make(name, build)
        except Exception as refusal:  # torch and users' optimizers refuse with any class
            measured[name].raised = f"refused: {first_line(refusal)}"
    if measured["loop"].raised:
        raise RuntimeError(measured["loop"].raised)
    return measured


def side_by_side(
    rule: Rule,
    builds: Mapping[str, Build],
    option_set: OptionSet,
    workload: Workload,
    steps: int,
    aligned: bool,
    device: str = "cpu",
) -> dict[str, Measured]:
    """Run every contender of `builds`, the first of which must be "loop", and measure each of them.

    In the free test contenders are compared with the loop for as long as the loop itself agrees with the oracle, and
    from then on with the oracle; the loop is compared with the oracle. Muon's parameters are left to `orthogonal`.
    """
    measured = start_all(builds, lambda name, build: Runner(name, build, workload, option_set, device))
    reference = Reference(rule, workload, measured["loop"].runner.optimizer.param_groups)
    with np.errstate(all="ignore"):  # overflow to infinity is compared like any other value
        _run(measured, reference, workload, steps, aligned, device)
    for m in measured.values():
        m.fault = m.runner.fault if m.runner else ""
    return measured


def compare(runner: Runner, reference: Runner, workload: Workload, steps: int) -> Measured:
    """How far `runner` gets from `reference`, another optimizer of the same workload, while both go their own way."""
    measured = Measured(runner=runner)
    for step in range(1, steps + 1):
        gradients = parts(workload.gradients[step - 1], workload.shapes, workload.dtype, "cpu")
        for one in (reference, runner):
            one.step(step, gradients)
        for place, (mine, theirs) in enumerate(zip(runner.params, reference.params, strict=True)):
            expected = {"param": theirs, **reference.optimizer.state[theirs]}
            found = {"param": mine, **runner.optimizer.state[mine]}
            if found.keys() != expected.keys():
                measured.fault = f"state of tensor {place} holds {sorted(found)} and not {sorted(expected)}"
                return measured
            for key, value in expected.items():
                a, b = (torch.as_tensor(one).detach().double().cpu().reshape(-1).numpy() for one in (found[key], value))
                if a.size:
                    where = f"{key} of tensor {place}"
                    measured.errors.setdefault(key, Stats()).add(
                        distance(a, b), lambda at, w=where: f"{w}, element {at}", step
                    )
        if runner.wrote_gradients(step):
            measured.fault = f"wrote into .grad in step {step}"
    return measured


def _run(
    measured: Mapping[str, Measured],
    reference: Reference,
    workload: Workload,
    steps: int,
    aligned: bool,
    device: str,
) -> None:
    """All steps of `side_by_side`."""
    loop_is_right = True
    describe = describer(workload)
    approximate = reference.rule is muon
    for step in range(1, steps + 1):
        active = [m for m in measured.values() if m.runner and not m.raised]
        begun = reference.layout
        if aligned and step > 1:
            start = parts(reference.flat(begun), begun.shapes, workload.dtype, device)
            for m in active:  # scalar state is not handed over: it is each contender's own business, and is checked
                try:
                    copy(start, m.runner.tensors(begun))
                except Exception as error:  # as below
                    m.raised = f"state of step {step - 1} cannot be replaced: {first_line(error)}"
            active = [m for m in active if not m.raised]
        before = {id(m): m.runner.params_now() for m in active} if approximate else {}
        gradients = parts(workload.gradients[step - 1], workload.shapes, workload.dtype, device)
        exactly = not aligned or approximate
        old, new, moved = reference.step(step, 0.0 if exactly else PERTURBATION[workload.dtype])
        layout = reference.layout
        target = new
        for m in active:  # the loop comes first
            try:
                m.runner.step(step, gradients)
                if step <= LR_CHANGE_STEP + 2 or step % 10 == 0 or step == steps:
                    m.runner.check(reference, step)
                values = m.runner.values(layout)
            except Exception as error:  # whatever a contender raises is its result; the others go on
                m.raised = f"{type(error).__name__} in step {step}: {first_line(error)}"
                continue
            m.not_finite = max(m.not_finite, int((~np.isfinite(values) & np.isfinite(new)).sum()))
            if aligned:
                errors = ulp_errors(values, old, new, moved, workload.dtype)
            else:
                errors = distance(values, target)
            if approximate:
                pair = (before[id(m)], values), (old, new)
                _compare_updates(m, *pair, reference, step, step == steps)
                errors[layout.keys["param"]] = 0.0
            m.add(errors, layout.keys, step, partial(describe, layout))
            if m.runner is measured["loop"].runner and not aligned and loop_is_right:
                loop_is_right = bool((errors <= FREE_TOLERANCE).all())
                target = values if loop_is_right else new
        if aligned:
            start_again = rounded(new, workload.dtype)
            start_again[layout.keys["param"]] = workload.params
            reference.assign(start_again)


Pair = tuple[Array, Array]  # before and after a step; the parameters come first


def _compare_updates(m: Measured, mine: Pair, exact: Pair, reference: Reference, step: int, last: bool) -> None:
    """Every matrix's update beside the exact one; its singular values in the last step only, which they take long."""
    workload, layout = reference.workload, reference.layout
    for (key, index), where in zip(layout.pieces, layout.slices, strict=True):
        bucket = workload.buckets[index]
        if key != "param" or not has_gradient(bucket.schedule, step):
            continue
        options = reference.groups[bucket.group]
        (was, now), (exact_was, exact_now) = ([x[where].reshape(bucket.shape) for x in pair] for pair in (mine, exact))
        update, target = orthogonal.updates(was, now, options), orthogonal.updates(exact_was, exact_now, options)
        rounding = orthogonal.rounding(exact_now, workload.dtype)
        name = f"update of tensor {bucket.tensors.start} ({'x'.join(map(str, bucket.shape))})"
        m.update.add(np.array([orthogonal.distance(update, target, rounding)]), lambda _, name=name: name, step)
        if last:
            shift = orthogonal.shift(update, target, rounding, options)
            m.spectrum.add(np.array([shift]), lambda _, name=name: f"singular values of the {name}", step)
