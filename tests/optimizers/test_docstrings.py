"""The examples in the docstrings print what they say they print."""

from __future__ import annotations

import doctest
import importlib

import pytest
import torch


@pytest.mark.parametrize("name", ["sgd", "adam", "adagrad", "adafactor", "muon", "lbfgs", "sparse_adam"])
def test_examples(name):
    module = importlib.import_module(f"optimizers.{name}")
    result = doctest.testmod(module, extraglobs={"torch": torch})
    assert result.attempted and not result.failed
