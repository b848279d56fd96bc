"""Runs the cases of the losses' CUDA kernels, interpreted on the CPU; prints what went wrong in each as JSON.

A program of its own, because Triton reads TRITON_INTERPRET when it is imported. Its argument says which cases.
"""

from __future__ import annotations

import importlib.util
import json
import os
import sys
import tempfile
import traceback
from pathlib import Path

os.environ["TRITON_INTERPRET"] = "1"

import numpy as np
import torch

from optimizers.executors import cuda, generate, kernels
from optimizers.losses import fused

from . import exponentials, loss_cases
from .loss_mutants import MUTANTS, mutant

DIALECT = """
import triton
import triton.language as tl
from optimizers.executors.triton_math import {name}

@triton.jit
def kernel(x, y, N: tl.constexpr):
    at = tl.arange(0, N)
    tl.store(y + at, {name}(tl.load(x + at)))
"""


def applied(name, x):
    """A function of the dialect over an array."""
    wide = np.resize(x, 1 << (len(x) - 1).bit_length())
    source, target = torch.from_numpy(wide), torch.empty(len(wide), dtype=torch.from_numpy(wide).dtype)
    generate.load(DIALECT.format(name=name), "dialect").kernel[(1,)](source, target, N=len(wide))
    return target.numpy()[: len(x)]


def functions():
    """The largest error of each function of the dialect, and the special values that are not as in C."""
    found = {}
    for name in exponentials.EXPONENTIALS:
        for kind in (np.float32, np.float64):
            x, special = exponentials.samples(name, kind), exponentials.special(name, kind)
            wrong = exponentials.unlike_c(name, special, applied(name, special))
            error = exponentials.largest_error(name, x, applied(name, x))
            found[f"{name} {kind.__name__}"] = error, [float(value) for value in wrong]
    return found


def outcome(case):
    """What goes wrong in a case, or an empty string."""
    try:
        case("cpu")
    except Exception:  # whatever a case raises is what it found
        return traceback.format_exc()
    return ""


def mutants(folder):
    """What goes wrong in the case that must notice a mistake."""
    found = {}
    for number, (name, (module, right, wrong, case)) in enumerate(MUTANTS.items()):
        text = Path(fused.__file__).with_name(f"{module}.py").read_text(encoding="utf-8")
        assert right in text, f"{module} no longer says {right!r}: bring the mutant up to date"
        copy = folder / f"mutant_{number}.py"
        copy.write_text(text.replace(right, wrong), encoding="utf-8")
        spec = importlib.util.spec_from_file_location(f"optimizers.losses.mutant_{number}", copy)
        changed = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(changed)
        with mutant(module, changed):
            found[name] = outcome(loss_cases.CASES[case])
    return found


def main(what: str, folder: Path) -> None:
    kernels.executor = lambda device: cuda  # CPU tensors stand for CUDA's
    fused.DEVICES["cpu"] = "cuda"
    generate.cache_folder = lambda: folder
    torch.use_deterministic_algorithms(True, warn_only=True)  # with which memory that nobody wrote is nan
    torch.utils.deterministic.fill_uninitialized_memory = True
    run = {
        "cases": lambda: {name: outcome(case) for name, case in loss_cases.CASES.items()},
        "long": lambda: {name: outcome(case) for name, case in loss_cases.LONG.items()},
        "mutants": lambda: mutants(folder),
        "functions": functions,
    }[what]
    with loss_cases.kernels_for_the_smallest():
        print(json.dumps(run()))


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        main(sys.argv[1], Path(folder))
