"""Small data sets that need no download: scikit-learn's bundled ones and one made here. Splits and noise are fixed.

Inputs are standardised with the mean and standard deviation of the training part. All tensors are on the CPU.
"""

from __future__ import annotations

from functools import cache
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

TEST_SHARE = 0.2
SPLIT_SEED = 0


class Data(NamedTuple):
    """Inputs [samples, features] in float32 and targets: float32 [samples, values], or int64 [samples] for classes."""

    train_inputs: Tensor
    train_targets: Tensor
    test_inputs: Tensor
    test_targets: Tensor

    def to(self, device: str) -> Data:
        return Data(*(tensor.to(device) for tensor in self))


@cache
def curve() -> Data:
    """256 noisy samples of y = sin(x) + x/2 on [-3, 3]: one input, one output."""
    noise = np.random.default_rng(SPLIT_SEED)
    x = np.linspace(-3, 3, 256)[:, None]
    y = np.sin(x) + x / 2 + noise.normal(0, 0.1, x.shape)
    return _split(x, y, torch.float32, per_feature=True)


@cache
def breast_cancer() -> Data:
    """569 tumours, 30 measurements each, malignant (0) or benign (1); Wolberg, Street & Mangasarian 1995."""
    from sklearn.datasets import load_breast_cancer  # a second of import time, only for those who need it

    inputs, targets = load_breast_cancer(return_X_y=True)
    return _split(inputs, targets[:, None], torch.float32, per_feature=True)


@cache
def digits() -> Data:
    """1797 handwritten digits of 8 × 8 pixels, ten classes; Alpaydin & Kaynak 1998."""
    from sklearn.datasets import load_digits

    inputs, targets = load_digits(return_X_y=True)
    # One scale for all pixels: some hardly ever vary, and their own deviation would blow them up.
    return _split(inputs, targets, torch.int64, per_feature=False)


@cache
def pixels() -> Data:
    """The digits again, each image its own target: what an autoencoder learns."""
    found = digits()
    return Data(found.train_inputs, found.train_inputs, found.test_inputs, found.test_inputs)


def _split(inputs: np.ndarray, targets: np.ndarray, target_dtype: torch.dtype, per_feature: bool) -> Data:
    order = np.random.default_rng(SPLIT_SEED).permutation(len(inputs))
    test = round(TEST_SHARE * len(inputs))
    train = inputs[order[test:]]
    axis = 0 if per_feature else None
    inputs = (inputs - train.mean(axis)) / train.std(axis)
    x = torch.tensor(inputs[order], dtype=torch.float32)
    y = torch.tensor(targets[order], dtype=target_dtype)
    return Data(x[test:], y[test:], x[:test], y[:test])
