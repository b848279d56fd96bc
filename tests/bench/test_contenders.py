import importlib
import inspect

import pytest
import torch

from bench import contenders, subjects
from bench.contenders import CONTENDERS, OPTIMIZERS, TORCH_MODES, TRAITS, Takes, build, unavailable
from bench.problems.parameter_sets import make


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_capability_table_is_what_torch_says(optimizer):
    keywords = inspect.signature(getattr(torch.optim, optimizer)).parameters
    assert (unavailable("fused", optimizer, "cpu") == "") == ("fused" in keywords) == TRAITS[optimizer].fused
    assert (unavailable("foreach", optimizer, "cuda") == "") == ("foreach" in keywords) == TRAITS[optimizer].foreach
    assert unavailable("loop", optimizer, "cpu") == ""


def test_every_optimizer_of_torch_competes():
    theirs = {
        name
        for name, value in vars(torch.optim).items()
        if isinstance(value, type) and issubclass(value, torch.optim.Optimizer) and value is not torch.optim.Optimizer
    }
    assert theirs == set(OPTIMIZERS) and len(OPTIMIZERS) == 15


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_the_options_for_plain_torch_make_ours_plain_torch(optimizer):
    """And where there are none, it is because the signature is torch's and has none."""
    options = TRAITS[optimizer].eager
    ours = importlib.import_module("optimizers")
    keywords = inspect.signature(getattr(ours, optimizer)).parameters
    if options is None:
        assert not {"foreach", "fused"} & set(keywords)
        return
    subject = subjects.maker(optimizer, "mlp", "cpu", torch.float32, 0)()
    for chosen, only in ((options, {"eager"}), ({}, {"eager", "cpu"})):
        built = build("ours", optimizer, subject.params, **chosen)
        built.step()
        assert {executor for _, executor, _ in built.executors()} <= only


def test_what_an_optimizer_takes_is_what_torch_says():
    vector, matrix = (torch.ones(shape, requires_grad=True) for shape in ((3,), (3, 3)))
    for name, traits in TRAITS.items():
        if traits.takes is Takes.MATRICES:
            with pytest.raises(ValueError, match="2D"):
                build("loop", name, [vector])
        elif traits.takes is Takes.SPARSE:
            vector.grad = torch.ones(3)
            with pytest.raises(RuntimeError, match="does not support dense"):
                build("loop", name, [vector]).step()
        elif traits.takes is Takes.CLOSURE:
            with pytest.raises(TypeError, match="closure"):
                build("loop", name, [vector]).step()
        else:
            matrix.grad = torch.ones(3, 3)
            build("loop", name, [vector, matrix]).step()


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("contender", TORCH_MODES)
def test_torch_modes_step_in_the_mode_they_are_named_after(optimizer, contender):
    if unavailable(contender, optimizer, "cpu"):
        pytest.skip(unavailable(contender, optimizer, "cpu"))
    name = "embedding" if TRAITS[optimizer].takes is Takes.SPARSE else "mlp"
    subject = subjects.maker(optimizer, name, "cpu", torch.float32, 0)()
    params = subject.params
    before = [param.detach().clone() for param in params]
    built = build(contender, optimizer, params, **TRAITS[optimizer].timed_with)
    assert isinstance(built, getattr(torch.optim, optimizer))
    expected = None if contender == "fused" or not TRAITS[optimizer].foreach else contender == "foreach"
    assert built.defaults.get("foreach") is expected
    assert bool(built.defaults.get("fused")) is (contender == "fused")
    built.step(*([subject.closure] if subject.closure else []))
    assert all(not torch.equal(param, old) for param, old in zip(params, before, strict=True))


def test_timing_options_are_those_of_the_published_comparison():
    options = {name: dict(traits.timed_with) for name, traits in TRAITS.items() if traits.timed_with}
    momentum = {"momentum": 0.9}
    assert options == {"SGD": momentum, "RMSprop": momentum, "LBFGS": {"lr": 1e-3, "max_iter": 4}}
    for name in options:
        assert options[name].items() <= build("loop", name, make("mlp"), **options[name]).param_groups[0].items()


def test_reasons_are_sentences_that_name_what_is_missing(monkeypatch):
    assert unavailable("fused", "RMSprop", "cpu") == "torch has no fused RMSprop on cpu"
    assert unavailable("foreach", "Muon", "cpu") == "torch has no foreach Muon"
    assert "torch has no foreach LBFGS" in unavailable("compiled", "LBFGS", "cpu")
    assert unavailable("loop", "Lion", "cpu") == "torch has no Lion"
    monkeypatch.setattr(contenders.shutil, "which", lambda program: None)
    assert "install g++" in unavailable("compiled", "Adam", "cpu")
    assert unavailable("compiled", "Adam", "cuda") == ""


def test_ours_is_imported_only_when_asked_for(monkeypatch):
    class Library:
        class Adam:
            def __init__(self, params, **options):
                self.params, self.options = params, options

    monkeypatch.setattr(contenders.importlib, "import_module", lambda name: {"optimizers": Library}[name])
    assert unavailable("ours", "Adam", "cpu") == ""
    assert unavailable("ours", "Lion", "cpu") == "our library has no Lion"
    assert build("ours", "Adam", [1], lr=2).options == {"lr": 2}  # no mode: the default executor is what is timed


def test_compiled_compiles_the_step_of_the_foreach_version(monkeypatch):
    compiled = []
    monkeypatch.setattr(torch.compiler, "reset", lambda: compiled.append("reset"))
    monkeypatch.setattr(torch, "compile", lambda function: compiled.append(function) or function)
    built = build("compiled", "Adam", make("mlp"))
    assert built.defaults["foreach"] is True and not built.defaults["fused"]
    assert compiled == ["reset", built.step]


def test_unknown_contender():
    with pytest.raises(ValueError, match=r"unknown contender 'fast'.*ours, loop"):
        build("fast", "Adam", make("mlp"))
    assert CONTENDERS[0] == "ours"
