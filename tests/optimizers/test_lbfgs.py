"""LBFGS agrees with torch's step for step, keeps its state, and leaves no half-done iteration behind."""

from __future__ import annotations

import copy
import gc
import inspect
import io
import pickle

import pytest
import torch

from optimizers import LBFGS, lbfgs
from optimizers.executors import kernels

from .lbfgs_sides import BUILDS, PLAIN, WOLFE, Side, assert_same, pair

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def plain(monkeypatch):
    """Without the compiled half."""
    monkeypatch.setattr(kernels, "executor", lambda device: PLAIN)


OPTIONS = [
    {"lr": 0.1},
    {"lr": 0.3, "max_iter": 1},
    {"lr": 0.05, "max_iter": 4, "history_size": 3},
    {"lr": 0.1, "history_size": 1, "max_eval": 7},
    {"lr": torch.tensor(0.25, dtype=torch.float64), "max_iter": 3},
    {"lr": torch.tensor([[0.25]], dtype=torch.float64), "max_iter": 3},
    {"lr": 0.2, "tolerance_grad": 0.03},
    {"lr": 0.2, "tolerance_change": 1e-3},
    WOLFE,
    {**WOLFE, "lr": 30.0, "max_iter": 3, "history_size": 2},
    {**WOLFE, "lr": 1e-3, "max_eval": 5},
    {**WOLFE, "lr": 300.0, "max_eval": 4},  # ends where it has looked before
    {**WOLFE, "lr": torch.tensor(0.5, dtype=torch.float64), "max_iter": 3},
]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_a_free_run_agrees_with_torch_in_every_step(options):
    ours, theirs = pair(**options)
    assert {name for _, name, _ in ours.optimizer.executors()} == {"cpu"}
    for _ in range(10):  # after that, at the minimum, differences of gradients are all rounding
        assert ours.step().item() == pytest.approx(theirs.step().item(), rel=1e-12)
        assert_same(ours, theirs)


LONG = [{"lr": 0.02, "max_iter": 2}, {**WOLFE, "max_iter": 1, "max_eval": 20}]


@pytest.mark.parametrize("options", LONG, ids=str)
def test_a_run_of_100_steps_agrees_with_torch(options):
    ours, theirs = pair(history_size=7, **options)
    for side in (ours, theirs):
        side.step(100)
    assert_same(ours, theirs)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.complex128])
@pytest.mark.parametrize("options", [{"lr": 0.1, "history_size": 4}, {**WOLFE, "max_iter": 4}], ids=str)
def test_without_kernels_it_agrees_with_torch_too(dtype, options, plain):
    ours, theirs = pair(dtype=dtype, **options)
    for _ in range(3):
        ours.step()
        theirs.step()
    tolerance = {torch.float32: 1e-5, torch.bfloat16: 0.05}.get(dtype, 1e-12)
    assert_same(ours, theirs, tolerance)


def test_float32_comes_as_near_to_float64_as_torch():
    sides = [Side(LBFGS, lr=0.1), *pair(dtype=torch.float32, lr=0.1)]
    for side in sides:
        side.step(2)
    exact, ours, theirs = (torch.cat([p.detach().double().reshape(-1) for p in side.params]) for side in sides)
    assert (ours - exact).norm() <= 3 * (theirs - exact).norm() + 1e-6


@pytest.mark.parametrize("options", [{"lr": 0.1}, WOLFE], ids=str)
@pytest.mark.parametrize("kind", ["complex", "mixed dtypes", "missing", "sparse"])
def test_parameters_and_gradients_of_any_kind(kind, options):
    sides = []
    for build in BUILDS:
        side = Side(
            build,
            shapes=((3, 4), (4, 3)),
            dtype=torch.complex128 if kind == "complex" else torch.float64,
            max_iter=5,
            **options,
        )
        if kind == "mixed dtypes":
            side.params[0].data = side.params[0].data.float()
        if kind == "missing":
            side.loss = lambda side=side: (side.params[1] - 2).pow(4).sum()
        if kind == "sparse":
            side.loss = lambda side=side: (
                (torch.nn.functional.embedding(torch.tensor([1, 2, 1]), side.params[0], sparse=True) - 1).pow(4).sum()
                + side.params[1].pow(2).sum()
            )
        sides.append(side)
    torch.sparse.check_sparse_tensor_invariants.disable()
    for _ in range(3):
        for side in sides:
            side.step()
    assert_same(*sides, tolerance=1e-6 if kind == "mixed dtypes" else 1e-10)
    if kind == "missing":
        assert torch.equal(sides[0].params[0], Side(LBFGS, shapes=((3, 4),)).params[0])


@pytest.mark.parametrize("options", [{"lr": 0.1}, WOLFE], ids=str)
def test_parameters_and_gradients_of_any_layout_where_torch_refuses_them(options):
    layouts = [lambda t: t, lambda t: t.t().contiguous().t(), lambda t: t.repeat_interleave(2, 1)[:, ::2]]
    sides = [Side(LBFGS, shapes=((3, 4), (4, 3)), layout=layout, **options) for layout in layouts]
    for side in sides:
        side.step(2)
    assert sides[1].params[0].grad.stride() == (1, 3)
    for side in sides[1:]:
        torch.testing.assert_close(side.params, sides[0].params, rtol=1e-12, atol=1e-12)
    refused = Side(torch.optim.LBFGS, shapes=((3, 4),), layout=layouts[1])
    with pytest.raises(RuntimeError, match="view size is not compatible"):
        refused.step()  # torch has mended it when this fails: compare with it


@pytest.mark.parametrize("options", [{"lr": 0.1}, WOLFE], ids=str)
def test_parameters_listed_twice_and_sharing_memory_move_as_under_torch(options):
    sides = []
    for build in BUILDS:
        side = Side(torch.optim.SGD, shapes=((6,),), lr=0.1)
        memory = side.params[0].detach()
        side.params = [torch.nn.Parameter(memory[:4]), torch.nn.Parameter(memory[2:])]
        with pytest.warns(UserWarning, match="duplicate parameters"):
            side.optimizer = build([*side.params, side.params[0]], max_iter=3, **options)
        sides.append(side)
    for _ in range(2):
        for side in sides:
            side.step()
    assert_same(*sides)


@pytest.mark.parametrize("direction", ["torch to ours", "ours to torch"])
@pytest.mark.parametrize("options", LONG, ids=str)
def test_checkpoints_cross_in_the_middle_of_a_run_and_100_more_steps_are_equal(direction, options):
    ours, theirs = pair(history_size=5, **options)
    for side in (ours, theirs):
        side.step(4)
    source, target = (theirs, ours) if direction == "torch to ours" else (ours, theirs)
    file = io.BytesIO()
    torch.save(source.optimizer.state_dict(), file)
    file.seek(0)
    with torch.no_grad():
        for p, q in zip(target.params, source.params, strict=True):
            p.copy_(q)
    target.optimizer.load_state_dict(torch.load(file, weights_only=True))
    for side in (ours, theirs):
        side.step(100)
    assert_same(ours, theirs)


@pytest.mark.parametrize("options", [{"lr": 0.1, "max_iter": 3}, {**WOLFE, "max_iter": 2}], ids=str)
def test_copies_go_on_alike_where_torchs_have_lost_their_parameters(options):
    ours, theirs = pair(**options)
    for side in (ours, theirs):
        side.step(2)
    broken = copy.deepcopy(theirs.optimizer)
    with pytest.raises(AttributeError, match="_params"):
        broken.step(lambda: torch.tensor(0.0))  # torch has mended it when this fails: compare copies with copies
    clones = copy.deepcopy(ours), pickle.loads(pickle.dumps(ours))
    theirs.step(3)
    for clone in clones:
        clone.step(3)
        assert_same(clone, theirs)


def test_a_saved_state_is_not_changed_by_later_steps():
    side = Side(LBFGS, lr=0.1, max_iter=3, history_size=4)
    side.step(2, new_data=True)
    saved = dict(side.state)
    before = copy.deepcopy(saved)
    side.step(2, new_data=True)
    for key in ("d", "old_dirs", "old_stps", "ro", "prev_flat_grad", "al"):
        assert saved[key] is not side.state[key]
        torch.testing.assert_close(saved[key], before[key], rtol=0, atol=0)


def test_fewer_vectors_are_alive_while_a_closure_runs_than_under_torch():
    most = []
    gc.collect()
    gc.freeze()  # only what is new is looked at
    for build in BUILDS:
        side, alive = Side(build, shapes=((77,),), lr=0.1, max_iter=9, history_size=3), []

        def counting(side=side, alive=alive):
            alive.append(sum(type(x) is torch.Tensor and x.shape == (77,) for x in gc.get_objects()))
            return side.closure()

        for _ in range(2):
            side.optimizer.step(counting)
        most.append(max(alive) - alive[0])
    gc.unfreeze()
    assert most[0] < most[1]


def test_schedulers_change_the_next_step():
    sides = pair(lr=0.5, max_iter=2)
    schedules = [torch.optim.lr_scheduler.ExponentialLR(side.optimizer, 0.5) for side in sides]
    for _ in range(4):
        for side, schedule in zip(sides, schedules, strict=True):
            side.step()
            schedule.step()
    assert_same(*sides)


def test_hooks_and_profiler_see_the_step():
    side, seen = Side(LBFGS, max_iter=2), []
    side.optimizer.register_step_pre_hook(lambda *_: seen.append(("pre", side.calls)))
    side.optimizer.register_step_post_hook(lambda *_: seen.append(("post", side.calls)))
    with torch.profiler.profile() as profile:
        side.step()
    assert seen == [("pre", 0), ("post", 2)]
    assert "Optimizer.step#LBFGS.step" in {event.name for event in profile.events()}


def test_the_signatures_are_torchs():
    assert str(inspect.signature(LBFGS)) == str(inspect.signature(torch.optim.LBFGS))
    assert list(inspect.signature(LBFGS.step).parameters) == ["self", "closure"]
    with pytest.raises(TypeError, match="missing 1 required positional argument: 'closure'"):
        Side(LBFGS).optimizer.step()


def test_a_torch_without_its_private_line_search_searches_by_itself(monkeypatch):
    monkeypatch.setattr(lbfgs, "strong_wolfe", None)
    ours, theirs = pair(max_iter=3, **WOLFE)
    ours = copy.deepcopy(ours)
    for side in (ours, theirs):
        side.step(3)
    assert_same(ours, theirs, 1e-11)


def test_executors_say_what_steps_a_parameter_and_why():
    def chosen(*params):
        return [entry[1:] for entry in LBFGS(params).executors()]

    single, double = torch.nn.Parameter(torch.ones(2)), torch.nn.Parameter(torch.ones(2, dtype=torch.float64))
    assert chosen(single) == [("cpu", "")]
    assert chosen(single, double) == [("cpu", "")] * 2
    half = torch.nn.Parameter(torch.ones(2, dtype=torch.bfloat16))
    assert chosen(half) == [("eager", "there is no kernel for torch.bfloat16")]
    meta = torch.nn.Parameter(torch.ones(2, device="meta"))
    assert chosen(meta) == [("eager", "there are kernels for cpu, not for meta")]
