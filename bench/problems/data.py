"""Small data sets that need no download: scikit-learn's bundled ones, Python's own, one made here. All is fixed.

Inputs that are numbers are standardised with the mean and standard deviation of the training part. All tensors are on
the CPU.
"""

from __future__ import annotations

import codecs
import contextlib
import io
from functools import cache
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

TEST_SHARE = 0.2
PLACES = 16  # characters in a window of text
CHARACTERS = 45  # different ones in the text
SPLIT_SEED = 0


class Data(NamedTuple):
    """Inputs [samples, features] in float32 and targets: float32 [samples, values], or int64 [samples] for classes.

    Of a text both are int64 [samples, PLACES]: a window of characters, and for each of them the next one.
    """

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


@cache
def zen() -> Data:
    """The Zen of Python, in the public domain (Peters 2004, PEP 20), in windows of `PLACES` characters, four apart.

    856 characters, 45 of them different. Its end is the test set, so the two share no text.
    """
    with contextlib.redirect_stdout(io.StringIO()):  # it prints itself
        import this
    text = codecs.decode(this.s, "rot13")
    number = {character: place for place, character in enumerate(sorted(set(text)))}
    codes = torch.tensor([number[character] for character in text])
    end = round((1 - TEST_SHARE) * len(codes))
    windows = [part.unfold(0, PLACES + 1, 4) for part in (codes[:end], codes[end:])]
    return Data(*(part for both in windows for part in (both[:, :-1].contiguous(), both[:, 1:].contiguous())))


def _split(inputs: np.ndarray, targets: np.ndarray, target_dtype: torch.dtype, per_feature: bool) -> Data:
    order = np.random.default_rng(SPLIT_SEED).permutation(len(inputs))
    test = round(TEST_SHARE * len(inputs))
    train = inputs[order[test:]]
    axis = 0 if per_feature else None
    inputs = (inputs - train.mean(axis)) / train.std(axis)
    x = torch.tensor(inputs[order], dtype=torch.float32)
    y = torch.tensor(targets[order], dtype=target_dtype)
    return Data(x[test:], y[test:], x[:test], y[:test])
