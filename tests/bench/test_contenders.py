import inspect

import pytest
import torch

from bench import contenders
from bench.contenders import CONTENDERS, OPTIMIZERS, TIMING_OPTIONS, TORCH_MODES, build, unavailable
from bench.problems.parameter_sets import make


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_capability_table_is_what_torch_says(optimizer):
    takes_fused = "fused" in inspect.signature(getattr(torch.optim, optimizer)).parameters
    assert (unavailable("fused", optimizer, "cpu") == "") == takes_fused
    assert unavailable("loop", optimizer, "cpu") == unavailable("foreach", optimizer, "cuda") == ""


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("contender", TORCH_MODES)
def test_torch_modes_step_in_the_mode_they_are_named_after(optimizer, contender):
    if unavailable(contender, optimizer, "cpu"):
        pytest.skip(unavailable(contender, optimizer, "cpu"))
    params = make("mlp")
    before = [param.detach().clone() for param in params]
    built = build(contender, optimizer, params, **TIMING_OPTIONS[optimizer])
    assert isinstance(built, getattr(torch.optim, optimizer))
    assert built.defaults["foreach"] is (None if contender == "fused" else contender == "foreach")
    assert bool(built.defaults.get("fused")) is (contender == "fused")
    built.step()
    assert all(not torch.equal(param, old) for param, old in zip(params, before, strict=True))


def test_timing_options_are_those_of_the_published_comparison():
    assert {name for name, options in TIMING_OPTIONS.items() if options} == {"SGD", "RMSprop"}
    assert build("loop", "SGD", make("mlp"), **TIMING_OPTIONS["SGD"]).param_groups[0]["momentum"] == 0.9
    assert build("loop", "RMSprop", make("mlp"), **TIMING_OPTIONS["RMSprop"]).param_groups[0]["momentum"] == 0.9


def test_reasons_are_sentences_that_name_what_is_missing(monkeypatch):
    assert unavailable("fused", "RMSprop", "cpu") == "torch has no fused RMSprop on cpu"
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
