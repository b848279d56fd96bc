"""The base class: groups, state, hooks and the choice of executor; no arithmetic."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar

import torch
import torch.optim.optimizer as torch_optimizer
from torch import Tensor
from torch.optim.optimizer import _get_capturable_supported_devices

from . import checkpoint, groups
from .algorithm import Algorithm, Slot
from .executors.plan import Plan, choose


class Optimizer(torch.optim.Optimizer):
    """A `torch.optim.Optimizer` whose arithmetic is an `Algorithm`, run by the fastest executor that is safe.

    The optimizers of this package derive from it and from torch's class of the same name, whose constructor, group
    keys, state keys and errors they keep. To bring a rule of your own, derive from this class alone, set `algorithm`,
    and call ``super().__init__(params, defaults)``.

    Which executor steps a parameter:

    - by default a compiled kernel (Numba on CPU, Triton on CUDA), and plain torch where none is safe;
      `executors` tells which, and why.
    - ``foreach=True``, ``foreach=False`` or ``fused=False``: plain torch for the whole group.
    - ``fused=True``: a kernel, or a RuntimeError in the first step that says why there is none.
    - ``capturable=True``: plain torch; the scalar state lives on the parameter's device and stays there, so that a
      CUDA graph can capture the step.
    - ``differentiable=True``: plain torch that autograd follows, through parameters, state and a tensor ``lr``.

    Half-precision parameters are stepped in float32 and rounded once (plain torch steps float32 in float64, where the
    device has that, for the same reason). ``.grad`` is never written.
    """

    algorithm: ClassVar[Algorithm]
    sparse_error: ClassVar[str] = ""
    capturable_words: ClassVar[str] = "params and state_steps"
    _plan: Plan | None = None

    if not TYPE_CHECKING:  # for type checkers, the constructor is the one of torch's class

        def __init__(self, params, *args, **kwargs):
            if isinstance(params, (set, frozenset)):
                raise TypeError(groups.UNORDERED)
            super().__init__(params, *args, **kwargs)

    __signature__ = groups.ConstructorSignature()

    def accept_fused(self, fused: bool | None) -> None:
        """Takes the option ``fused`` for the classes whose counterpart in torch has none."""
        if fused is None:
            return  # and then the group keys are exactly torch's
        if fused and any(group.get("differentiable") for group in self.param_groups):
            raise RuntimeError("`fused` does not support `differentiable`")
        if fused and any(group.get("foreach") for group in self.param_groups):
            raise RuntimeError("`fused` and `foreach` cannot be `True` together.")
        self.defaults["fused"] = fused
        for group in self.param_groups:
            group.setdefault("fused", fused)

    def executors(self) -> list[tuple[Tensor, str, str]]:
        """For each parameter: the executor that steps it (``eager``, ``cpu``, ``cuda``) and, if eager, the reason.

        Parameters without a gradient and without state are left out: they are not stepped, and what their gradient
        will be like decides.
        """
        return [(row.p, "eager" if row.reason else row.p.device.type, row.reason) for row in choose(self)[0]]

    def mode_reason(self, group: Mapping[str, Any]) -> str:
        """Why the options of a group ask for the eager executor, or an empty string."""
        if group.get("differentiable"):
            return "differentiable=True"
        if group.get("capturable"):
            return "capturable=True"
        if group.get("foreach") is not None:
            return f"foreach={group['foreach']}"
        return "fused=False" if group.get("fused") is False else ""

    def check_gradient(self, p: Tensor, group: Mapping[str, Any]) -> None:
        """Refuses the gradients that torch refuses, in its words."""
        assert p.grad is not None
        if group.get("capturable"):
            supported = _get_capturable_supported_devices(supports_xla=not isinstance(self, torch.optim.Adadelta))
            if p.device.type not in supported:
                raise AssertionError(
                    f"If capturable=True, {self.capturable_words} must be on supported devices: {supported}."
                )
        if p.grad.is_sparse:
            if self.algorithm.sparse is None:
                message = self.sparse_error or f"{type(self).__name__} does not support sparse gradients"
                raise RuntimeError(message)
            if not self.algorithm.sparse(group) and isinstance(self, torch.optim.Adagrad):
                raise RuntimeError("weight_decay option is not compatible with sparse gradients")

    def slots(self, p: Tensor, group: Mapping[str, Any]) -> dict[str, Slot]:
        """The state tensors that a parameter has under the options of its group."""
        there = self.algorithm.present(group, p.shape)
        return {
            name: slot
            for (name, slot), is_there in zip(self.algorithm.slots.items(), there, strict=True)
            if is_there and not slot.work
        }

    def states(self, p: Tensor, group: Mapping[str, Any]) -> tuple[list[Tensor | None], list[Tensor]]:
        """The state tensors of a parameter in the order of the rule (None where absent), and its scalars."""
        slots = self.slots(p, group)
        state = self.state[p] if self.algorithm.scalars or slots else {}
        return [state[name] if name in slots else None for name in self.algorithm.slots], [
            state[name] for name in self.algorithm.scalars
        ]

    def lacks_state(self, p: Tensor, group: Mapping[str, Any]) -> bool:
        """Whether `initialize` has something to do before this parameter can be stepped."""
        state = self.state.get(p, {})
        return any(state.get(name) is None for name in [*self.algorithm.scalars, *self.slots(p, group)])

    def initialize(self, p: Tensor, group: Mapping[str, Any]) -> None:
        """Creates what state is missing, as declared."""
        state = self.state[p]
        double = torch.get_default_dtype() == torch.float64 and not group.get("fused")
        dtype = torch.float64 if double else torch.float32
        device = p.device if group.get("capturable") else "cpu"
        with torch.inference_mode(False), torch.no_grad():
            for name, init in self.algorithm.scalars.items():
                if state.get(name) is None:
                    state[name] = torch.full((), _number(init, group), dtype=dtype, device=device)
            for name, slot in self.slots(p, group).items():
                if state.get(name) is not None:
                    continue
                value = _number(slot.init, group)
                if slot.shape is None:
                    fill = complex(value, value) if p.is_complex() else value
                    state[name] = torch.full_like(p, fill, memory_format=torch.preserve_format, requires_grad=False)
                else:
                    state[name] = torch.full(tuple(slot.shape(p.shape) or ()), value, dtype=p.dtype, device=p.device)

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Steps every parameter that has a gradient, and returns the loss if a `closure` computes it."""
        if torch.compiler.is_compiling():
            return _uncompiled_step(self, closure)  # raw pointers are nothing to trace
        if (
            self._optimizer_step_pre_hooks
            or self._optimizer_step_post_hooks
            or torch_optimizer._global_optimizer_pre_hooks
            or torch_optimizer._global_optimizer_post_hooks
            or torch._C._autograd._profiler_enabled()
        ):
            return _hooked_step(self, closure)
        return _step(self, closure)

    # torch wraps a step that is not marked so in a profiler record and hooks: 7 us, which `step` pays when used
    step.hooked = True  # type: ignore[attr-defined]

    def state_shape(self, p: Tensor, name: str) -> torch.Size | None:
        """The shape that a state tensor of a parameter must have to be loaded; None if any will do."""
        algorithm = getattr(self, "algorithm", None)
        if algorithm is not None and name in algorithm.scalars:
            return torch.Size()
        slot = algorithm.slots.get(name) if algorithm is not None else None
        shape = None if slot is None or slot.work else p.shape if slot.shape is None else slot.shape(p.shape)
        return None if shape is None else torch.Size(shape)

    @torch._disable_dynamo
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Takes a state dict of this class or of torch's of the same name; all of it or, raising, nothing."""
        self._plan = None  # or it would keep the old state's tables
        state, param_groups = self.state, self.param_groups
        given: dict[str, Any] = {}

        def check(optimizer: Any, loaded: dict[str, Any]) -> None:
            given.update(loaded)
            checkpoint.check(self, given)

        # what the hooks that are there have made of the state dict is checked, and they see what was mended
        last = self.register_load_state_dict_pre_hook(check)
        first = self.register_load_state_dict_post_hook(
            lambda optimizer: checkpoint.mend(self, given, param_groups), prepend=True
        )
        try:
            super().load_state_dict(state_dict)
        except BaseException:  # Ctrl-C too may not leave half a checkpoint loaded
            self.state, self.param_groups = state, param_groups
            raise
        finally:
            last.remove()
            first.remove()

    @torch._disable_dynamo
    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Adds a group of parameters, with options of its own; refused, it leaves the optimizer as it was."""
        if isinstance(param_group, dict):
            index = len(self.param_groups)
            if isinstance(param_group.get("params"), frozenset):
                raise TypeError(groups.UNORDERED)
            groups.warn_of_misspelt_keys(param_group, self.defaults, index)
            groups.check_values(type(self), {**self.defaults, **param_group}, index)
        super().add_param_group(param_group)
        groups.plain_numbers(self.param_groups[-1])

    def update(self, scale: float) -> None:
        """Steps every parameter that has a gradient, which is to be divided by `scale`; all of them or none."""
        if self._plan is None or not self._plan.step(self, scale):
            self._plan = None
            plan = Plan(self)
            if not plan.step(self, scale):
                raise RuntimeError("the parameters changed while they were stepped; step from one thread at a time")
            self._plan = plan

    def _scale(self) -> float | None:
        """What gradients are to be divided by, or None if a GradScaler found an infinity: then nothing changes."""
        found, scale = self.__dict__.get("found_inf"), self.__dict__.get("grad_scale")
        if found is not None and found.item():
            return None
        return 1.0 if scale is None else float(scale)


def _step(self: Optimizer, closure: Callable[[], Any] | None = None) -> Any:
    loss = None
    if closure is not None:
        with torch.enable_grad():
            loss = closure()
    scale = 1.0 if "grad_scale" not in self.__dict__ and "found_inf" not in self.__dict__ else self._scale()
    if scale is None:
        return loss
    if torch.cuda.is_initialized():
        _health_check(self)
    self.update(scale)
    return loss


# torch's question whether a CUDA graph is being captured without capturable=True, by its newer or its older name
_health_check = getattr(
    torch.optim.Optimizer,
    "_accelerator_graph_capture_health_check",
    getattr(torch.optim.Optimizer, "_cuda_graph_capture_health_check", lambda self: None),
)
_hooked_step = torch.optim.Optimizer.profile_hook_step(_step)
_uncompiled_step = torch._disable_dynamo(_step)


def _number(init: float | str, group: Mapping[str, Any]) -> float:
    """An initial value: itself, or the group entry of that name."""
    return float(group[init]) if isinstance(init, str) else init
