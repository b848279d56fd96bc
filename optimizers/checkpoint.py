"""What a state dict must be to be loaded, and what torch's loading leaves to be put right."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from . import groups
from .executors import kernels
from .executors.tensors import PLAIN_TYPES, same_strides

if TYPE_CHECKING:
    from .optimizer import Optimizer


def check(optimizer: Optimizer, given: Mapping[str, Any]) -> None:
    """Raises for a value or a shape that would only fail in a step; what torch refuses is left to torch."""
    mine, saved = optimizer.param_groups, given["param_groups"]
    if [len(group["params"]) for group in mine] != [len(group["params"]) for group in saved]:
        return
    for index, group in enumerate(saved):
        groups.check_values(type(optimizer), group, index)
        groups.warn_of_misspelt_keys(group.keys() - mine[index].keys(), optimizer.defaults, index)
    for number, p, name in _parameters(mine, saved):
        state = given["state"].get(number)
        for key, value in state.items() if isinstance(state, dict) else ():
            shape = optimizer.state_shape(p, key) if isinstance(value, Tensor) else None
            if shape is None or value.shape == shape or (not shape and value.numel() == 1):
                continue
            raise ValueError(
                f"{key} of parameter {number}{name} has shape {tuple(value.shape)} in the state dict, but a parameter "
                f"of shape {tuple(p.shape)} needs {tuple(shape)}; load the state of the same model, with its "
                "parameters in the same order"
            )


def mend(optimizer: Optimizer, given: Mapping[str, Any], before: list[dict[str, Any]]) -> None:
    """Makes what torch loaded from `given` our own; `before`: the groups that were there.

    State gets the parameter's memory layout and shares no memory with `given`. Where torch rounds to the parameter's
    dtype, float32 beside half precision stays, and so does scalar state: a run goes on as if it had not been stopped.
    Options that the state dict lacks stay as they were.
    """
    for group, old in zip(optimizer.param_groups, before, strict=True):
        for key in optimizer.defaults.keys() & old.keys():
            group.setdefault(key, old[key])
    with torch.inference_mode(False):
        for number, p, _ in _parameters(optimizer.param_groups, given["param_groups"]):
            state, source = optimizer.state.get(p), given["state"].get(number)
            # LBFGS keeps vectors of all parameters together under the first
            if isinstance(state, dict) and isinstance(source, dict) and not isinstance(optimizer, torch.optim.LBFGS):
                for key in state.keys() & source.keys():
                    state[key] = _fitted(optimizer, p, key, state[key], source[key])
        theirs = {id(tensor) for tensor in _tensors(given["state"])}
        for p in optimizer.state:
            optimizer.state[p] = _own(optimizer.state[p], theirs)
    if hasattr(optimizer, "algorithm"):
        for group in optimizer.param_groups:
            for p in group["params"]:
                _mend_scalars(optimizer, optimizer.state.get(p, {}), group)


def _parameters(mine: list[dict[str, Any]], saved: list[dict[str, Any]]) -> Iterator[tuple[Any, Tensor, str]]:
    """For each parameter: its number in the state dict, itself, and its name in brackets, if it has one."""
    for group, other in zip(mine, saved, strict=True):
        names = group.get("param_names") or other.get("param_names") or []
        for i, (number, p) in enumerate(zip(other["params"], group["params"], strict=True)):
            yield number, p, f" ({names[i]})" if i < len(names) else ""


def _fitted(optimizer: Optimizer, p: Tensor, key: str, value: Any, source: Any) -> Any:
    """One entry of a parameter's state, as torch loaded it from `source`, in the dtype and layout it should have."""
    if not isinstance(value, Tensor) or not isinstance(source, Tensor):
        return source if isinstance(source, str | bytes) else value  # torch iterates over a string
    scalar = hasattr(optimizer, "algorithm") and key in optimizer.algorithm.scalars
    if key != "step" and (scalar or (source.dtype == torch.float32 and p.dtype in kernels.HALF)):
        value = source.to(value.device)
    if type(value) not in PLAIN_TYPES or type(p) not in PLAIN_TYPES or value.layout is not torch.strided:
        return value
    shape = optimizer.state_shape(p, key)
    if shape is not None and value.shape != shape:
        return value.reshape(shape).clone()  # one element
    if value.shape == p.shape and p.layout is torch.strided:
        strides = torch.empty_like(p, device="meta").stride()
        if not same_strides(p.shape, value.stride(), strides):
            return torch.empty_like(p, dtype=value.dtype, device=value.device).copy_(value)
    return value


def _mend_scalars(optimizer: Optimizer, state: dict[str, Any], group: Mapping[str, Any]) -> None:
    """Brings the scalar state of a parameter to where and what the executors expect."""
    for name in optimizer.algorithm.scalars.keys() & state.keys():
        value = state[name]
        if isinstance(value, int | float) and not groups.torch_class(type(optimizer)):
            value = torch.tensor(float(value))  # torch's classes do it themselves, but where it is to stay a number
        if isinstance(value, Tensor) and not group.get("capturable"):
            # torch's fused mode keeps it on the device; the coefficients are made on the host. What torch's reload has
            # rounded to the 16 bits of a parameter must not be rounded again in every step
            single = group.get("fused") or value.dtype in kernels.HALF
            value = value.to("cpu", torch.float32 if single else value.dtype)
        state[name] = value


def _tensors(value: Any) -> Iterator[Tensor]:
    """All tensors in nested dicts, lists and tuples."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, dict | list | tuple):
        for item in value.values() if isinstance(value, dict) else value:
            yield from _tensors(item)


def _own(value: Any, theirs: set[int]) -> Any:
    """The same with a copy of every tensor that is somebody else's, or that no step could write to."""
    if isinstance(value, Tensor):
        return value.clone() if id(value) in theirs or value.is_inference() else value
    if type(value) is dict:
        return {key: _own(item, theirs) for key, item in value.items()}
    if type(value) in (list, tuple):
        return type(value)(_own(item, theirs) for item in value)
    return value
