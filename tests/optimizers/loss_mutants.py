"""Mistakes in the losses' CUDA kernels, what other libraries shipped among them: each must fail a case."""

from __future__ import annotations

import importlib
import sys
from contextlib import contextmanager

from optimizers.losses import fused, probabilities

#: in which file, what is written there, the mistake, and the case that must notice it
MUTANTS = {
    "off-target gradients dropped": ("cross_entropy_cuda", "tl.expand_dims(factor, AXIS)", "0", "10 classes"),
    "weight dropped": ("cross_entropy_cuda", "if weight is not None:", "if False:", "10 classes"),
    "weights of no smoothing": ("cross_entropy_cuda", "hard + spread * all_weights", "hard", "10 classes"),
    "smoothing not subtracted": ("cross_entropy_cuda", "tl.expand_dims(shift, AXIS) * w", "0", "10 classes"),
    "first upstream for all rows": ("cross_entropy_cuda", "upstream + row", "upstream + 0 * row", "10 classes"),
    "upstream dropped": ("cross_entropy_cuda", "scale *= tl", "scale = scale + 0 * tl", "11 classes float16"),
    "ignored rows counted": ("cross_entropy_cuda", "(at < rows) & (t != ignored)", "at < rows", "10 classes"),
    "ignored rows keep old memory": ("cross_entropy_cuda", "tl.expand_dims(there, AXIS) &", "inside &", "10 classes"),
    "lanes not rescaled": ("cross_entropy_cuda", "part * e + 1", "part + 1", "31 classes in blocks"),
    "lanes not brought together": ("cross_entropy_cuda", "tl.exp(peak - tl.expand_dims(top, AXIS))", "1",
                                   "31 classes in blocks"),
    "lanes begin at -inf": ("cross_entropy_cuda", "(ROWS,), LEAST", "(ROWS,), -float('inf')",
                            "edge_rows_in_blocks"),
    "the last block dropped": ("cross_entropy_cuda", "in range(0, classes, BLOCK)", "in range(0, classes - 7, BLOCK)",
                               "33 classes in blocks"),
    "logits from 0": ("cross_entropy_cuda", 'tl.where(tl.abs(x_t) < float("inf"), x_t, 0)', "0 * x_t",
                      "large_logits_keep_their_digits"),
    "one program counts": ("cross_entropy_cuda", "_count[(len(shares),)]", "_count[(1,)]", "many_targets_are_counted"),
    "bad targets read": ("cross_entropy_cuda", "tl.where(good, value, float(\"nan\"))", "value", "bad_targets"),
    "bad targets' gradient": ("cross_entropy_cuda", "tl.where(good, here * scale.to(REAL), float(\"nan\"))",
                              "here * scale.to(REAL)", "bad_targets"),
    "over no weight": ("cross_entropy_cuda", "tl.where(n != 0, 1 / n, 0)", "1 / n", "weights_of_zero"),
    "tail summed": ("cuda", "tl.where({mask}, value({call}), 0)", "value({call})", "piece_boundaries"),
    "next piece": ("cuda", "tl.minimum(start + PIECE, n)", "tl.minimum(start + PIECE + 1, n)", "piece_boundaries"),
    "mean as sum": ("cuda", "1 / input.numel() if", "1.0 if", "mse float32"),
    "slope without scale": ("cuda", "(share * slope", "(slope", "mse float32"),
    "one upstream for all": ("cuda", "tl.load(upstream + at{masked})", "tl.load(upstream)", "mse float32"),
    "upstream not looked at": ("cuda", "if factor != 1:", "if False:", "piece_boundaries"),
    "first sums only": ("cuda", "in range(0, n, BLOCK)", "in range(0, 1, BLOCK)",
                        "more_partial_sums_than_are_added_at_once"),
    "nll: classes side by side": ("by_rows_cuda", "tl.load(input + start + t * apart", "tl.load(input + start + t",
                                  "nll (3, 4, 2, 3) float64"),
    "nll: gradients side by side": ("by_rows_cuda", "tl.store(out + start + t * apart", "tl.store(out + start + t",
                                    "nll (3, 4, 2, 3) float64"),
    "nll: weight dropped": ("by_rows_cuda", "if weight is not None:", "if False:", "nll (520, 3) float32"),
    "nll: one upstream": ("by_rows_cuda", "upstream + row", "upstream + 0 * row", "nll (520, 3) float32"),
    "nll: ignored kept": ("by_rows_cuda", "there & (t != ignored)", "there", "nll (520, 3) float32"),
    "nll: mean as sum": ("by_rows_cuda", "scale / tl.load(denominator)", "scale", "nll (7, 5) float16"),
    "nll: bad values": ("by_rows_cuda", 'tl.where(good, value, float("nan"))', "value", "nll_bad_targets"),
    "nll: bad gradients": ("by_rows_cuda", "> 0:\n            nan", "> 9:\n            nan", "nll_bad_targets"),
}  # fmt: skip


def forget():
    """Kernels that were prepared are of the module that was there."""
    fused.on.cache_clear()
    probabilities._nll.cache_clear()


@contextmanager
def mutant(module, text):
    """Another text in the place of a module of kernels."""
    full = f"optimizers.losses.{module}"
    original = importlib.import_module(full)
    sys.modules[full] = text
    forget()
    try:
        yield
    finally:
        sys.modules[full] = original
        forget()
