"""The examples in the docstrings print what they say they print."""

from __future__ import annotations

import doctest
import importlib

import pytest


@pytest.mark.parametrize("name", ["sgd", "adam", "adagrad"])
def test_examples(name):
    module = importlib.import_module(f"optimizers.{name}")
    result = doctest.testmod(module)
    assert result.attempted and not result.failed
