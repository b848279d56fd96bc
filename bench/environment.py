"""Where and with what a run was measured: ``environment.json``, and an id that tells comparable runs from others."""

from __future__ import annotations

import hashlib
import importlib.metadata
import importlib.util
import json
import os
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch

NAME = "environment.json"
ROOT = Path(__file__).parent.parent
PACKAGES = ("torch", "numba", "llvmlite", "triton", "numpy", "scipy", "pandas", "matplotlib", "scikit-learn")
# What is set outside and changes how fast or how exactly things run.
VARIABLES = (
    *("OMP_NUM_THREADS", "OMP_WAIT_POLICY", "OMP_PROC_BIND", "OMP_PLACES", "GOMP_CPU_AFFINITY", "GOMP_SPINCOUNT"),
    *("MKL_NUM_THREADS", "NUMBA_NUM_THREADS", "NUMBA_DISABLE_JIT", "NUMBA_THREADING_LAYER", "NUMBA_CPU_NAME"),
    *("TRITON_INTERPRET", "TRITON_DEFAULT_FP_FUSION", "CUDA_VISIBLE_DEVICES", "CUDA_LAUNCH_BLOCKING"),
    *("PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF", "ATEN_CPU_CAPABILITY", "LD_PRELOAD"),
)


def collect(devices: tuple[str, ...]) -> dict[str, Any]:
    """Versions, processor, memory, GPU, code; `id` is the same exactly where timings may stand side by side."""
    what_counts = {
        "versions": {"python": platform.python_version(), **{name: version(name) for name in PACKAGES}},
        "system": f"{platform.system()} {platform.machine()}",
        "cpu": cpu_model(),
        "cores": os.cpu_count(),
        "usable_cores": usable_cores(),
        "threads": torch.get_num_threads(),
        "memory_gib": memory_gib(),
        "caches": caches(),
        "gpu": gpu() if "cuda" in devices else None,
        "variables": variables(),
        "source": source_hash(),
    }
    text = json.dumps(what_counts, sort_keys=True)
    return {"id": hashlib.sha256(text.encode()).hexdigest()[:16], **what_counts, "git": git()}


def version(package: str) -> str | None:
    """The installed version, None if it is not installed."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def cpu_model() -> str:
    """The name of the processor as its maker writes it."""
    if sys.platform == "linux":
        for line in _read("/proc/cpuinfo").splitlines():
            if line.startswith(("model name", "Model")):
                return line.partition(":")[2].strip()
    if sys.platform == "darwin":
        return _output("sysctl", "-n", "machdep.cpu.brand_string")
    return platform.processor() or platform.machine()


def usable_cores() -> int | None:
    """How many logical cores this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()


def memory_gib() -> int | None:
    """Main memory in GiB, rounded: the last megabytes vary from boot to boot."""
    if sys.platform == "darwin":
        return round(int(_output("sysctl", "-n", "hw.memsize") or 0) / 2**30)
    if hasattr(os, "sysconf"):
        return round(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30)
    return None


def caches() -> list[str]:
    """The first core's caches, such as ``L1 Data 48K``; empty where the system does not tell."""
    folders = sorted(Path("/sys/devices/system/cpu/cpu0/cache").glob("index*"))
    return [f"L{_read(folder / 'level')} {_read(folder / 'type')} {_read(folder / 'size')}" for folder in folders]


def gpu() -> dict[str, Any]:
    """Name, memory, capability, driver and CUDA version of the first GPU."""
    properties = torch.cuda.get_device_properties(0)
    return {
        "name": properties.name,
        "memory_gib": round(properties.total_memory / 2**30),
        "capability": f"{properties.major}.{properties.minor}",
        "multiprocessors": properties.multi_processor_count,
        "driver": _output("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader").partition("\n")[0],
        "cuda": torch.version.cuda,
    }


def variables() -> dict[str, str]:
    """The environment variables that change what is measured."""
    return {name: os.environ[name] for name in VARIABLES if name in os.environ}


def source_hash() -> str:
    """A hash of our own code; unlike the commit it also sees what is not committed."""
    digest = hashlib.sha256()
    for package in ("optimizers", "bench"):
        for path in sorted((ROOT / package).rglob("*.py")):
            digest.update(path.relative_to(ROOT).as_posix().encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()[:16]


def git() -> dict[str, Any]:
    """The commit of the code and whether the files differ from it; commit ``nogit`` outside a repository."""
    commit = _output("git", "-C", str(ROOT), "rev-parse", "HEAD")
    if not commit:
        return {"commit": "nogit", "dirty": None}
    return {"commit": commit, "dirty": bool(_output("git", "-C", str(ROOT), "status", "--porcelain"))}


def short_commit(environment: dict[str, Any]) -> str:
    """Eight letters of the commit, ``-dirty`` if the files differ from it."""
    return environment["git"]["commit"][:8] + ("-dirty" if environment["git"]["dirty"] else "")


def machine_line(environment: dict[str, Any]) -> str:
    """One line for people: processor, cores, threads, memory, GPU, torch."""
    parts = [
        environment["cpu"],
        f"{environment['usable_cores']} cores",
        f"{environment['threads']} threads",
        f"{environment['memory_gib']} GiB",
    ]
    if environment["gpu"]:
        parts.append(f"{environment['gpu']['name']}, CUDA {environment['gpu']['cuda']}")
    parts += [f"torch {environment['versions']['torch']}", f"Python {environment['versions']['python']}"]
    for optional in ("numba", "triton"):
        parts.append(f"{optional} {environment['versions'][optional] or 'not installed'}")
    return " · ".join(parts)


def _read(path: str | Path) -> str:
    try:
        return Path(path).read_text().strip()
    except OSError:
        return ""


def _output(*command: str) -> str:
    """What a command prints; empty if it is not there or fails."""
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=20, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return ""
