"""What the tests of the optimizers share."""

from __future__ import annotations

import pytest
import torch

from optimizers.executors import kernels

NAMES = ("SGD", "Adam", "AdamW", "Adamax", "NAdam", "RAdam", "Adagrad", "Adadelta", "RMSprop", "Rprop", "ASGD")


@pytest.fixture(params=["native", "python"])
def checks(request, monkeypatch):
    """Both ways of checking tensors before a step: compiled, and plain Python."""
    if request.param == "python":
        monkeypatch.setattr(kernels, "_native", lambda: None)
    elif kernels._native() is None:
        pytest.skip("the compiled checks do not work with this torch")
    return request.param


@pytest.fixture
def one_thread():
    """Small tensors are stepped in one thread: waking others takes far longer, on a busy machine above all."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def unchecked_sparse_tensors():
    torch.sparse.check_sparse_tensor_invariants.disable()  # or torch warns that it does not check
