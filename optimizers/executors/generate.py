"""Turns generated source text into a module on disk, whose machine code is kept from one process to the next.

The compilers read real files, and Numba keeps its machine code beside them; the name of a file is the hash of all
that went into it, so a changed rule, dialect or compiler never meets an old binary.
"""

from __future__ import annotations

import atexit
import functools
import hashlib
import importlib.util
import os
import shutil
import sys
import tempfile
from pathlib import Path
from types import ModuleType
from typing import Any

#: words of a table row before the addresses of its scalars: numel, group, coefficients, first, active
ROW_HEAD = 5
NUMEL, GROUP, COEFFICIENTS, FIRST, ACTIVE = range(ROW_HEAD)


def name(dtype: Any) -> str:
    """``float32`` for ``torch.float32``."""
    return str(dtype).removeprefix("torch.")


@functools.cache
def cache_folder() -> Path:
    """A folder of this user's for generated sources; a private temporary one where the usual place is no good."""
    try:
        base = os.environ.get("XDG_CACHE_HOME") or os.environ.get("LOCALAPPDATA") or Path.home() / ".cache"
        folder = Path(base) / "torch-optimizer-kernels"
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        if hasattr(os, "getuid") and folder.stat().st_uid != os.getuid():
            raise PermissionError(f"{folder} belongs to somebody else, and what lies in it would be executed")
        with tempfile.TemporaryFile(dir=folder):
            return folder
    except (OSError, RuntimeError):  # the latter: there is no home directory
        folder = Path(tempfile.mkdtemp(prefix="torch-optimizer-kernels-"))
        atexit.register(shutil.rmtree, folder, ignore_errors=True)
        return folder


def load(text: str, kind: str, *ingredients: str) -> ModuleType:
    """The module with this source; `ingredients` are what else decides the machine code (dialect, versions)."""
    digest = hashlib.sha256("\0".join([text, sys.version, *ingredients]).encode()).hexdigest()[:20]
    key = f"optimizers_generated_{kind}_{digest}"
    if key in sys.modules:
        return sys.modules[key]
    path = cache_folder() / f"{key}.py"
    if not path.exists() or path.read_text(encoding="utf-8") != text:  # or a power cut left half of it
        with tempfile.NamedTemporaryFile("w", dir=path.parent, suffix=".tmp", delete=False, encoding="utf-8") as draft:
            draft.write(text)
        os.replace(draft.name, path)
    spec = importlib.util.spec_from_file_location(key, path)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[key] = module  # before it runs: its functions are found again by this name when loaded from cache
    try:
        spec.loader.exec_module(module)
    except BaseException:  # Ctrl-C too may not leave half a module behind
        del sys.modules[key]
        raise
    return module


#: the modules that Numba's machine code is made of
_NUMBA_SOURCES = "generate raw numba_dialect numba_math numba_waves llvm_dialect llvm_numbers".split()


@functools.cache
def numba_ingredients() -> tuple[str, ...]:
    """What decides Numba's machine code besides the text that is compiled."""
    import llvmlite
    import numba

    sources = [Path(__file__).with_name(f"{file}.py") for file in _NUMBA_SOURCES]
    return (numba.__version__, llvmlite.__version__, *[source.read_text(encoding="utf-8") for source in sources])


@functools.cache
def compiled(kind: str) -> ModuleType:
    """The module ``jit_<kind>.py`` of this package, compiled anew when anything it was made of has changed.

    Numba by itself looks only at the file that a function stands in, not at what it takes from others.
    """
    text = Path(__file__).with_name(f"jit_{kind}.py").read_text(encoding="utf-8")
    return load(text, kind, *numba_ingredients())
