"""The dialect of rules for Numba: the names of `optimizers.dialect`, as intrinsics, which compile with their caller."""

from __future__ import annotations

from . import llvm_dialect
from .llvm_dialect import offered

#: contraction lets the compiler fuse a*b+c into one rounding; nothing else of IEEE arithmetic is given up
OPTIONS = {"error_model": "numpy", "fastmath": {"contract"}, "boundscheck": False}
#: the same for what only compiled code calls: without what would let Python call it, which is a tenth of compiling it
INNER = {**OPTIONS, "no_cpython_wrapper": True, "no_cfunc_wrapper": True}

absolute, lerp, maximum, minimum, sign, sqrt, stored_float32, stored_float64 = (
    offered(getattr(llvm_dialect, name))
    for name in "absolute lerp maximum minimum sign sqrt stored_float32 stored_float64".split()
)
where = offered(llvm_dialect.where, conditions=1)
