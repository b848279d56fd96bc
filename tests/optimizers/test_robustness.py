"""What users do to an optimizer between and during steps, and what machines do to its files."""

from __future__ import annotations

import gc
import subprocess
import sys
import threading
import weakref

import numpy as np
import pytest
import torch

import optimizers
from optimizers import Algorithm, Slot
from optimizers.executors import generate, kernels, plan

from .test_contract import assert_close, pair, train
from .test_threads import python


def test_a_gradient_dropped_by_another_thread_lives_until_the_step_has_read_it():
    """Dropped once the step holds it: in the moment before, reading ``p.grad`` is a race within torch itself."""
    done = python(
        """
        import threading, torch, optimizers
        torch.set_num_threads(1)
        p = torch.nn.Parameter(torch.zeros(20_000_000))
        optimizer = optimizers.SGD([p], lr=0.5)
        p.grad = torch.ones_like(p); optimizer.step()
        held, watch = threading.Event(), optimizer._plan.watch
        refresh = watch.refresh
        watch.refresh = lambda: (refresh(), held.set())[0]
        for _ in range(10):
            p.grad = torch.ones_like(p)
            held.clear()
            def drop():
                held.wait()
                p.grad = None
            thread = threading.Thread(target=drop); thread.start()
            optimizer.step()
            thread.join()
        assert set(p[::100_000].tolist()) == {-5.5}, p
        """
    )
    assert done.returncode == 0, (done.returncode, done.stderr)


def test_two_threads_may_step_one_optimizer():
    p = torch.nn.Parameter(torch.zeros(plan.UNLOCK_ABOVE + 1))
    p.grad = torch.ones_like(p)
    optimizer = optimizers.SGD([p], lr=1.0)
    optimizer.step()
    threads = [threading.Thread(target=lambda: [optimizer.step() for _ in range(3)]) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert p.min() == p.max() == -7


def test_replaced_state_is_freed():
    if kernels._native() is None:
        pytest.skip("the plain checks keep state alive until the next step")
    (params, optimizer), theirs = pair("Adam")
    train((params, optimizer), theirs, steps=2)
    old = [weakref.ref(t) for p in params for t in optimizer.state[p].values()]
    for p in params:
        optimizer.state[p] = {key: t.clone() for key, t in optimizer.state[p].items()}
    gc.collect()
    assert not any(ref() is not None for ref in old)
    train((params, optimizer), theirs, steps=2, seed=1)
    assert_close(params, theirs[0])


@pytest.mark.parametrize("kind", ["list of betas", "numpy lr", "one-element tensor lr"])
def test_hyper_parameters_that_change_in_place_count_in_the_next_step(kind, checks):
    sides = []
    for build, mode in ((optimizers.Adam, {}), (torch.optim.Adam, {"foreach": False})):
        p = torch.nn.Parameter(torch.ones(3))
        optimizer = build([p], lr=0.1, **mode)
        group = optimizer.param_groups[0]
        if kind == "list of betas":
            group["betas"] = [0.9, 0.999]
        else:
            group["lr"] = np.array(0.1) if kind == "numpy lr" else torch.tensor([0.1])
        for step in range(4):
            p.grad = torch.full((3,), 1.0 + step)
            optimizer.step()
            if kind == "list of betas":
                group["betas"][0] *= 0.5
            else:
                group["lr"] *= 0.5
        sides.append([p])
    assert_close(*sides)


def test_a_mode_given_to_a_group_later_counts():
    (params, optimizer), theirs = pair("Adamax")
    train((params, optimizer), theirs, steps=1)
    optimizer.param_groups[0]["fused"] = False
    train((params, optimizer), theirs, steps=1)
    assert {name for _, name, _ in optimizer.executors()} == {"eager"} and len(optimizer._plan.rest) == 2
    assert_close(params, theirs[0])


def test_fused_survives_torchs_state_dict():
    (params, _), (_, theirs) = pair("Adamax")
    optimizer = optimizers.Adamax(params, fused=True)
    optimizer.load_state_dict(theirs.state_dict())
    assert optimizer.param_groups[0]["fused"] is True


def test_foreign_entries_in_the_state_are_left_alone(checks):
    (params, optimizer), theirs = pair("Adam")
    optimizer.state["note"] = 3
    train((params, optimizer), theirs, steps=3)
    assert optimizer.state["note"] == 3
    assert_close(params, theirs[0])


def _coefficients(lr):
    return (lr,)


def _rule(p, g, lr):
    return (p - lr * g,)


class Plain(optimizers.Optimizer):
    algorithm = Algorithm(_coefficients, _rule, scalars={}, slots={})

    def __init__(self, params, lr):
        super().__init__(params, {"lr": lr})


def test_the_smallest_rule_of_ones_own():
    p = torch.nn.Parameter(torch.ones(3))
    optimizer = Plain([p], lr=0.5)
    for _ in range(2):
        p.grad = torch.ones(3)
        optimizer.step()
    assert p.tolist() == [0.0] * 3 and optimizer.executors()[0][1] == "cpu"
    optimizer.param_groups[0]["lr"] = 0.25
    optimizer.step()
    assert p.tolist() == [-0.25] * 3


@pytest.mark.parametrize("name", ["Adam", "NAdam", "ASGD", "Adadelta"])
def test_capturable_on_the_cpu_is_refused_in_torchs_words(name):
    messages = []
    for module in (optimizers, torch.optim):
        p = torch.nn.Parameter(torch.ones(3))
        p.grad = torch.ones(3)
        with pytest.raises(AssertionError) as error:
            getattr(module, name)([p], capturable=True, foreach=False).step()
        messages.append(str(error.value))
    assert messages[0] == messages[1]


def test_overlapping_parameters_of_different_executors_keep_torchs_order():
    sides = []
    for module in (optimizers, torch.optim):
        base = torch.ones(6)
        strided, whole = torch.nn.Parameter(base[::2]), torch.nn.Parameter(base)
        optimizer = module.SGD([strided, whole], lr=0.1, weight_decay=0.5)
        for _ in range(2):
            strided.grad, whole.grad = torch.ones(3), torch.full((6,), 2.0)
            optimizer.step()
        sides.append([base])
    assert_close(*sides)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")
@pytest.mark.parametrize("planned", [False, True])
def test_a_compiled_training_step_may_hold_the_optimizer(planned):
    p, q = torch.nn.Parameter(torch.ones(3)), torch.nn.Parameter(torch.ones(3))
    optimizer, reference = optimizers.AdamW([p], lr=0.1), torch.optim.AdamW([q], lr=0.1, foreach=False)
    for x in (p, q):
        x.grad = torch.arange(3.0)
    if planned:
        optimizer.step()
        reference.step()

    @torch.compile(backend="eager")
    def train_step():
        optimizer.step()

    for _ in range(3):
        train_step()
        reference.step()
    assert_close([p], [q])


def test_a_torn_file_in_the_cache_is_written_anew(tmp_path, monkeypatch):
    monkeypatch.setattr(generate, "cache_folder", lambda: tmp_path)
    text = "answer = 42\n"
    name = generate.load(text, "torn").__name__
    del sys.modules[name]
    (tmp_path / f"{name}.py").write_text("answ")
    assert generate.load(text, "torn").answer == 42


def test_without_a_home_or_with_somebody_elses_cache_a_private_folder_serves(tmp_path, monkeypatch):
    def no_home():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.delenv("LOCALAPPDATA", raising=False)
    monkeypatch.setattr(generate.Path, "home", no_home)
    generate.cache_folder.cache_clear()
    try:
        assert generate.cache_folder().name.startswith("torch-optimizer-kernels-")
    finally:
        generate.cache_folder.cache_clear()


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (ValueError("no such instruction\nat all"), "ValueError: no such instruction"),
        (AssertionError(), "AssertionError"),
    ],
    ids=["with words", "without"],
)
def test_a_kernel_that_cannot_be_made_costs_speed_and_not_the_training(error, said, monkeypatch):
    def broken(*arguments):
        raise error

    monkeypatch.setattr(kernels, "job", broken)
    (params, optimizer), theirs = pair("Adam")
    with pytest.warns(UserWarning, match=rf"without a kernel, slower: its kernel could not be made \({said}\)"):
        train((params, optimizer), theirs, steps=1)
    train((params, optimizer), theirs, steps=2, seed=1)
    assert_close(params, theirs[0])
    with pytest.raises(RuntimeError, match=said), pytest.warns(UserWarning, match="slower"):
        train((params, optimizers.Adam(params, fused=True)), theirs, steps=1)


def test_changed_sources_never_meet_old_machine_code(tmp_path):
    """A copy of the package in which the words of a table row trade places still steps every element."""
    import shutil
    from pathlib import Path

    shutil.copytree(Path(optimizers.__file__).parent, tmp_path / "optimizers")
    script = (
        "import torch, optimizers\n"
        "p = torch.nn.Parameter(torch.ones(5)); p.grad = torch.ones(5)\n"
        "optimizers.Adam([p], lr=0.1).step()\n"
        "assert len(set(p.tolist())) == 1 and p[0] < 0.95, p\n"
    )
    generator = tmp_path / "optimizers" / "executors" / "generate.py"
    for swap in (False, True):
        if swap:
            text = generator.read_text()
            head = "NUMEL, GROUP, COEFFICIENTS, FIRST, ACTIVE = range(ROW_HEAD)"
            assert head in text
            generator.write_text(text.replace(head, "ACTIVE, GROUP, COEFFICIENTS, FIRST, NUMEL = range(ROW_HEAD)"))
        done = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr


def test_slots_take_their_first_value_from_the_group():
    assert Slot(init="lr").init == "lr"
    p = torch.nn.Parameter(torch.zeros(2))
    p.grad = torch.ones(2)
    optimizer = optimizers.Rprop([{"params": [p], "lr": 0.5}])
    optimizer.step()
    assert optimizer.state[p]["step_size"].tolist() == [0.5, 0.5]
