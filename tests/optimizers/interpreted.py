"""Steps every optimizer through its Triton kernel, interpreted on the CPU; prints the errors as JSON.

A program of its own, because Triton reads TRITON_INTERPRET when it is imported.
"""

from __future__ import annotations

import json
import os

os.environ["TRITON_INTERPRET"] = "1"

import torch

import optimizers
from optimizers.executors import cuda, kernels
from tests.optimizers.conftest import NAMES

kernels.executor = lambda device: cuda  # CPU tensors stand for CUDA's
SHAPES = [(), (0,), (1,), (33,), (2047,), (2049,), (8193,), (20, 31)]
OPTIONS = {
    "SGD": {"momentum": 0.9, "nesterov": True, "weight_decay": 0.1},
    "Adam": {"amsgrad": True, "weight_decay": 0.1, "maximize": True},
    "RMSprop": {"momentum": 0.9, "centered": True},
    "ASGD": {"t0": 1},
}


def steps(name: str, dtype: torch.dtype, **mode) -> list[list[torch.Tensor]]:
    """Parameters and state after each of four steps, each from a state that does not depend on `mode`."""
    generator = torch.Generator().manual_seed(1)

    def random(shape):
        return torch.randn(shape, dtype=torch.float64, generator=generator).to(dtype)

    params = [torch.nn.Parameter(random(s)) for s in SHAPES]
    groups = [{"params": params[:4]}, {"params": params[4:], "lr": 0.05}]
    optimizer = getattr(optimizers, name)(groups, **OPTIONS.get(name, {}), **mode)
    history = []
    for step in range(4):
        for p in params:
            p.grad = random(p.shape)
        if step == 2:
            params[3].grad = None
        optimizer.step()
        tensors = [*params, *(t for p in params for t in optimizer.state[p].values())]
        history.append([t.detach().clone() for t in tensors])
        for p in params:  # the next step starts from the same values, whatever this one's rounding was
            p.data.copy_(random(p.shape))
            for key, t in optimizer.state[p].items():
                if t.shape == p.shape and key not in optimizer.algorithm.scalars:
                    low, high = (1.0, 2.0) if "sq" in key else (0.1, 0.9)  # a variance is larger than a mean squared
                    t.copy_(torch.rand(p.shape, generator=generator, dtype=torch.float64) * (high - low) + low)
    return history


def difference(a: torch.Tensor, b: torch.Tensor) -> float:
    """The largest difference, in units of 1 + the larger value."""
    a, b = a.double(), b.double()
    return ((a - b).abs() / (1 + b.abs())).max().item() if a.numel() else 0.0


def main() -> None:
    errors = {}
    for name in NAMES:
        for dtype in (torch.float32, torch.float64, torch.bfloat16, torch.float16):
            ours, reference = steps(name, dtype), steps(name, dtype, foreach=False)
            pairs = [p for a, b in zip(ours, reference, strict=True) for p in zip(a, b, strict=True)]
            errors[f"{name} {str(dtype).removeprefix('torch.')}"] = max(difference(a, b) for a, b in pairs)
    print(json.dumps(errors))


if __name__ == "__main__":
    main()
