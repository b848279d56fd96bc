"""Compiles all that the losses would launch on a GPU, which need not be here; prints what the code shows as JSON.

A program of its own, because it takes the place of Triton's driver. Its argument is the GPU's compute capability.
"""

from __future__ import annotations

import json
import re
import sys
from types import SimpleNamespace

import torch
from triton.backends.compiler import GPUTarget
from triton.runtime import driver, jit

from optimizers import losses
from optimizers.executors import cuda, kernels
from optimizers.losses import fused

from .loss_cases import kernels_for_the_smallest


def shown(kernel) -> dict:
    """What matters of a kernel's PTX: 128-bit moves, places in 32 and in 64 bits, approximate functions, atomics."""
    ptx = kernel.asm["ptx"]
    program = re.search(r"mov\.u32\s+(%r\d+), %ctaid\.x", ptx)
    return {
        "loads": len(re.findall(r"ld\.global\.v(?:4\.b32|2\.b64)", ptx)),
        "stores": len(re.findall(r"st\.global\.v(?:4\.b32|2\.b64)", ptx)),
        "narrow": bool(program and re.search(rf"(?:shl\.b32|mul\.lo\.s32)\s+%r\d+, {program.group(1)},", ptx)),
        "products": len(re.findall(r"(?:mul|mad)\.lo\.s64", ptx)),
        "approximate": sorted(set(re.findall(r"\b(?:div|sqrt|ex2|lg2|tanh)\.(?:full|approx)", ptx))),
        "atomics": len(re.findall(r"\b(?:atom|red)\.", ptx)),
    }


def listen(capability: int) -> list[dict]:
    """From here on kernels are compiled instead of launched; the list grows with each."""
    nothing = SimpleNamespace(
        get_current_device=lambda: 0,
        get_current_stream=lambda device: 0,
        get_current_target=lambda: GPUTarget("cuda", capability, 32),
    )
    driver.set_active(nothing)
    run, seen = jit.JITFunction.run, []

    def compile_only(self, *args, grid, warmup, **options):
        kernel = run(self, *args, grid=grid, warmup=True, **options)
        tensors = [(list(a.shape), str(a.dtype)) for a in args if torch.is_tensor(a)]
        seen.append({"kernel": self.__name__, "tensors": tensors, **shown(kernel)})

    jit.JITFunction.run = compile_only
    return seen


def backward(value: torch.Tensor) -> None:
    value.backward(torch.full_like(value, 2.0))


def use(dtype: torch.dtype) -> None:
    """Every kernel, with and without what may be absent."""
    x, y = torch.zeros(6000, dtype=dtype, requires_grad=True), torch.zeros(6000, dtype=dtype)
    for reduction in ("mean", "none"):
        backward(losses.sigmoid_focal_loss(x, y, reduction=reduction))
        backward(losses.log_cosh_loss(x, y, reduction=reduction))
    losses.mse_loss(x.detach(), y)
    target, weight = torch.zeros(8, dtype=torch.int64), torch.zeros(64, dtype=dtype)
    for classes in (1, 64, 4096, 32000):
        logits = torch.zeros(8, classes, dtype=dtype, requires_grad=True)
        backward(losses.cross_entropy(logits, target))
        backward(losses.cross_entropy(logits, target, reduction="none", label_smoothing=0.1))
    logits = torch.zeros(8, 64, dtype=dtype, requires_grad=True)
    backward(losses.cross_entropy(logits, target, weight))
    backward(losses.cross_entropy(logits, target, weight, reduction="sum", label_smoothing=0.1))
    backward(losses.nll_loss(logits, target, weight))
    backward(losses.nll_loss(logits, target, reduction="none"))


def main(capability: int) -> None:
    kernels.executor = lambda device: cuda  # CPU tensors stand for CUDA's
    fused.DEVICES["cpu"] = "cuda"
    seen = listen(capability)
    with kernels_for_the_smallest():
        for dtype in (torch.float32, torch.float16) if capability == 90 else (torch.bfloat16,):
            use(dtype)
    print(json.dumps(seen))


if __name__ == "__main__":
    main(int(sys.argv[1]))
