"""The class around a loss function: dumb, and the same for all that are not torch's."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn


class FunctionLoss(nn.Module):
    """A loss function with its options, which its representation tells; options that are tensors are buffers.

    Options are given by name, and those that the function would refuse at every call are refused at once.
    """

    function: Callable[..., Tensor]

    def __init__(self, **options: Any):
        super().__init__()
        known = list(inspect.signature(type(self).function).parameters)
        for name, value in options.items():
            if name not in known:
                raise TypeError(f"{type(self).__name__} has no option {name}; its options are those of its function")
            if isinstance(value, Tensor) and not isinstance(value, nn.Parameter):
                self.register_buffer(name, value)
            else:
                setattr(self, name, value)
        self._names = tuple(options)
        with torch.no_grad():
            type(self).function(*self.trial(), **self._options())

    def trial(self) -> tuple[Tensor, ...]:
        """The smallest arguments that the function takes."""
        return torch.zeros(0), torch.zeros(0)

    def _options(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in self._names}

    def forward(self, *arguments: Tensor) -> Tensor:
        return type(self).function(*arguments, **self._options())

    def extra_repr(self) -> str:
        return ", ".join(f"{name}={value!r}" for name, value in self._options().items())
