"""The examples in the docstrings print what they say they print."""

from __future__ import annotations

import doctest
import importlib

import pytest
import torch

OPTIMIZERS = ["sgd", "adam", "adagrad", "adafactor", "muon", "lbfgs", "sparse_adam"]
LOSSES = ["classification", "contrastive", "cross_entropy", "divergences", "preference", "robust", "segmentation"]


@pytest.mark.parametrize("name", OPTIMIZERS + [f"losses.{name}" for name in LOSSES])
def test_examples(name):
    module = importlib.import_module(f"optimizers.{name}")
    result = doctest.testmod(module, extraglobs={"torch": torch})
    assert result.attempted and not result.failed
