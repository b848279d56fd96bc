"""A class of the user's own takes part like any other: what it is measured by is what it does alone."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from bench import (
    contenders,
    descents,
    folder,
    functions_race,
    hyper_map,
    journal,
    networks_race,
    own,
    plan,
    run,
    step_time,
    verify,
)
from bench.cell import Status
from bench.contenders import OPTIMIZERS, TRAITS
from bench.errors import BenchError
from bench.options import OptionSet
from bench.parity import compare
from bench.problems.functions import named
from bench.runner import Runner
from bench.score import costs
from bench.starts import starts
from bench.workload import make_workload
from tests.bench.own_classes import BESIDE_ITS_RULE, LION, NORM, REBINDING, SHRINKING, SIGN
from tests.bench.test_cli import call


@pytest.fixture
def both(write):
    """Lion, which has a rule, and a class that has none."""
    return own.named(write(LION, "Lion", "lion.py")), own.named(write(SIGN, "SignSGD", "sign.py"))


def test_two_classes_of_one_name_are_refused_and_one_asked_for_twice_is_one(write):
    first = write(LION, "Lion", "lion.py")
    assert own.named(first) == own.named(first) == "Lion"
    with pytest.raises(BenchError, match="two classes of yours are called Lion"):
        own.named(write(LION, "Lion", "other.py"))


def test_a_module_is_found_like_a_file_and_what_lies_beside_both(write, tmp_path, monkeypatch):
    (tmp_path / "mine_too.py").write_text("RATE = 0.25")
    text = SIGN.replace("import torch", "import torch\nfrom mine_too import RATE", 1).replace("lr=0.01", "lr=RATE")
    place = write(text, "SignSGD", "mine.py")
    assert functions_race.sweep.default_lr(own.named(place)) == 0.25
    monkeypatch.chdir(tmp_path)
    TRAITS.pop("SignSGD")
    assert own.named("mine:SignSGD") == "SignSGD" and TRAITS["SignSGD"].own.__module__ == "mine"


def cells(place: str, **asked) -> list:
    return list(plan.make("smoke", "cpu", [place], ["rosenbrock"], 0, ["functions"], **asked).cells)


def test_an_edited_optimizer_is_another_cell_and_an_equal_one_is_not(write, tmp_path):
    (tmp_path / "mine_too.py").write_text("RATE = 0.25")
    text = SIGN.replace("import torch", "import torch, mine_too", 1)
    place = write(text, "SignSGD")
    (before,), (again,) = cells(place), cells(place)
    assert before.id == again.id
    (edited,) = cells(write(text.replace(".sign()", ".tanh()"), "SignSGD"))
    write(text, "SignSGD")
    (tmp_path / "mine_too.py").write_text("RATE = 0.5")
    (beside,) = cells(place)
    assert len({before.id, edited.id, beside.id}) == 3
    # of the others nothing changes
    assert [cell.settings.get("source") for cell in cells("Adam")] == [None]


def test_all_means_those_of_the_table(write):
    made = plan.make("smoke", "cpu", ["all", write(LION, "Lion")], ["booth"], 0, ["functions"])
    assert [cell.optimizer for cell in made.cells] == [*OPTIMIZERS, "Lion"]


def by_hand(function, name: str, start: list[float], lr: float, steps: int) -> float:
    """The value after `steps` steps of the class with one parameter."""
    point = torch.tensor(start, dtype=torch.float64)
    optimizer = TRAITS[name].own([point], lr=lr)
    for _ in range(steps):
        point.grad = function.value_and_gradient(point)[1]
        optimizer.step()
    return function(point).item()


def test_a_run_measures_it_wherever_it_can(both, tmp_path):
    asked = ["mlp", "rosenbrock", "regression"]
    made = plan.make("smoke", "cpu", [*both, "AdamW"], asked, 0, plan.PARTS["run"], race={"seeds": 2})
    assert run.execute(made, tmp_path / "results") == 0
    path = folder.latest(tmp_path / "results")
    tables = run.tables.all_rows(path)
    of = {name: {table: [r for r in rows if r["optimizer"] == name] for table, rows in tables.items()} for name in both}
    for name, on_functions, on_networks in (
        ("Lion", functions_race.COMPILED, networks_race.STACKED),
        ("SignSGD", functions_race.ALONE, networks_race.ALONE),
    ):
        mine = of[name]
        assert {row["executor"] for row in mine["functions"]} == {on_functions}
        assert {row["executor"] for row in mine["networks"]} == {on_networks}
        usual = TRAITS[name].own([torch.zeros(1)]).defaults["lr"]
        assert all(math.isclose(row["lr"], usual * row["lr_multiple"]) for row in mine["functions"] + mine["networks"])
        assert {1.0} < {row["lr_multiple"] for row in mine["functions"]}
        ((timed,), scores) = mine["step_time"], mine["scores"]
        assert timed["contender"] == "yours" and timed["median_us"] > 0 and timed["ratio"] is None
        assert f"--optimizer {TRAITS[name].place} " in timed["command"]
        assert {row["step_us"] for row in scores if "step_us" in row} == {timed["median_us"]}
        assert {row["race"] for row in scores} == {"functions", "networks"}
    (checked,), (skipped,) = of["Lion"]["parity"], of["SignSGD"]["parity"]
    assert (checked["status"], checked["contender"], checked["dtype"]) == ("ok", "cpu", "float64")
    assert "b: the same rule as plain torch" in checked["tolerance"] and checked["elements"] > 1000
    assert skipped["status"] == "skipped" and "no reference" in skipped["reason"]
    page = (path / "index.html").read_text()
    assert page.count("Lion") > 5 and page.count("SignSGD") > 5
    # where the class is no longer known, the same is made of the journal
    written = {file.name: file.read_bytes() for file in path.glob("*.csv")}
    costs.state_bytes.cache_clear()
    for name in both:
        del TRAITS[name]
    assert run.derive(path)
    assert {file.name: file.read_bytes() for file in path.glob("*.csv")} == written
    assert {record.cell.settings["source"] for record in journal.read(path) if record.cell.optimizer == "Lion"} != {""}


CLASSES = {
    "Lion": LION,
    "SignSGD": SIGN,
    "NormSGD": NORM,
    **{name: SHRINKING + more for name, more in BESIDE_ITS_RULE.items()},
    **REBINDING,
}


@pytest.mark.parametrize("text", CLASSES.values(), ids=CLASSES)
def test_each_run_on_a_function_is_that_of_the_class_alone(write, text):
    name = own.named(write(text, text.split("class ")[1].split("(")[0]))
    function, lrs = named("rosenbrock"), [0.001, 0.02]
    begins = starts(function, 0, 3)
    rates = functions_race.MAKERS[functions_race.executor_of(name, "cpu", function)](
        function, name, begins, lrs, 25, "cpu"
    )
    for lr, rate in zip(lrs, rates, strict=True):
        for seed, start in enumerate(begins.points):
            assert rate.runs.initial[seed] == pytest.approx(begins.losses[seed])
            assert rate.runs.final[seed] == pytest.approx(by_hand(function, name, start, lr, 25), rel=1e-9)
        losses, points, kept = rate.curve()
        assert losses[-1] == rate.runs.final[0] and points.shape == (len(kept), 2)


def test_to_share_a_step_would_have_changed_it(write):
    """Or the test above could not tell."""
    name = own.named(write(NORM, "NormSGD"))
    function = named("rosenbrock")
    begins = starts(function, 0, 2)
    shared = descents.batched(function, lambda groups: contenders.build("ours", name, groups), begins, [0.02], 25)
    assert shared.losses[-1, 0] != pytest.approx(by_hand(function, name, begins.points[0], 0.02, 25), rel=1e-3)


@pytest.mark.parametrize("text", [NORM, *REBINDING.values()], ids=["in place", *REBINDING])
def test_each_run_on_a_network_is_that_of_the_class_alone(write, text):
    name = own.named(write(text, "NormSGD"))
    race = {"seeds": 2, "steps": 20, "lrs": "1,3"}
    (cell,) = plan.make("smoke", "cpu", [name], ["regression"], 0, ["networks"], race=race).cells
    rows = networks_race.run(cell).rows
    network = networks_race.named("regression")
    data = network.data()
    for seed in range(2):
        initial, picks = networks_race.draw(network, data, cell, seed)
        for multiple in (1.0, 3.0):
            model = network.build(initial)
            optimizer = TRAITS[name].own(model.parameters(), lr=0.01 * multiple)
            for some in picks:
                networks_race.evaluation(network, model, data.train_inputs[some], data.train_targets[some])()
                optimizer.step()
            expected = network.loss(model, data.train_inputs, data.train_targets).item()
            (last,) = [row for row in rows if (row["lr_multiple"], row["seed"], row["step"]) == (multiple, seed, 20)]
            assert last["loss"] == pytest.approx(expected, rel=1e-5)
    assert len({row["loss"] for row in rows if row["step"] == 20}) == 4


@pytest.mark.parametrize(("text", "y", "usual"), [(LION, "beta1", 256), (SIGN, "momentum", 32)])
def test_each_pixel_of_its_map_is_a_run_of_the_class(write, text, y, usual, monkeypatch):
    place = write(text, text.split("class ")[1].split("(")[0])
    made = hyper_map.make(place, "rosenbrock", "lr", y, 3, 20, "1e-3:0.1")
    function, (cls,) = named("rosenbrock"), {traits.own for traits in TRAITS.values()} - {None}
    for down, value in enumerate(made.y.values):
        for across, lr in enumerate(made.x.values):
            point = torch.tensor(function.start, dtype=torch.float64)
            optimizer = cls([point], lr=float(lr), **({y: float(value)} if y == "momentum" else {}))
            if y == "beta1":
                optimizer.param_groups[0]["betas"] = (float(value), 0.99)
            for _ in range(20):
                point.grad = function.value_and_gradient(point)[1]
                optimizer.step()
            assert made.gaps[down, across] == pytest.approx(function(point).item(), rel=1e-8)
    sizes = []
    monkeypatch.setattr(hyper_map, "plane", lambda function, cls, x, y, *rest, **how: sizes.append(len(x.values)))
    hyper_map.make(place, "rosenbrock", "lr", y)
    assert sizes == [usual]


def test_a_map_of_a_network_and_what_a_map_refuses(write, tmp_path):
    place = write(SIGN, "SignSGD")
    arguments = ["map", place, "regression", "--y", "beta2", "--size", "2", "--steps", "4", "--out", tmp_path / "maps"]
    assert call(*arguments)[0] == 0
    names = sorted(path.name for path in (tmp_path / "maps").iterdir())
    assert names == ["SignSGD-regression-lr-beta2.csv", "SignSGD-regression-lr-beta2.png"]
    for change, says in (
        (("--y", "rho"), "there are: lr, momentum, beta1, beta2."),
        (("--y", "momentum", "--y-range", "1:3"), "there is no such map: momentum is a share."),
        (("--y", "momentum", "--device", "cuda"), "made on the CPU"),
    ):
        for problem in ("booth", "regression"):
            code, out = call("map", place, problem, "--size", "2", "--steps", "2", *change, "--out", tmp_path / "maps")
            assert code == 2 and says in out


def test_a_run_in_the_map_of_a_network_is_not_changed_by_others(write):
    place = write(
        NORM.replace("lr=0.01", "lr=0.01, weight=1.0").replace('{"lr": lr}', '{"lr": lr, "weight": weight}'), "NormSGD"
    )
    limits = ("0.01:0.1", "1:2")
    many = hyper_map.make(place, "regression", "lr", "weight", 3, 20, *limits)
    few = hyper_map.make(place, "regression", "lr", "weight", 2, 20, *limits)
    np.testing.assert_array_equal(many.gaps[::2, ::2], few.gaps)
    assert len(np.unique(many.gaps)) == 3  # of lr; the weight does nothing


@pytest.mark.parametrize("problem", ["booth", "regression"])
@pytest.mark.parametrize("text", REBINDING.values(), ids=REBINDING)
def test_a_map_of_a_class_that_puts_other_tensors_in_place(write, text, problem):
    def gaps(text):
        text = text.replace("lr=0.01", "lr=0.01, weight=1.0").replace('{"lr": lr}', '{"lr": lr, "weight": weight}')
        place = write(text, "NormSGD")
        return hyper_map.make(place, problem, "lr", "weight", 2, 8, "0.01:0.1", "1:2").gaps

    np.testing.assert_array_equal(gaps(text), gaps(NORM))


def test_what_diverges_in_a_map_says_when(write):
    made = hyper_map.make(write(SIGN, "SignSGD"), "rosenbrock", "lr", "momentum", 3, 30, "1e-5:1e3")
    assert (made.bad_step[:, 0] == -1).all() and (made.bad_step[:, 2] == 1).all() and np.isinf(made.gaps[:, 2]).all()


def test_a_kernel_that_is_not_its_rule_fails_verification(both, monkeypatch):
    def other(contender, name, groups, **options):
        count.append(name)
        return contenders.build(contender, name, groups, **options, lr=1e-4 if len(count) == 1 else 2e-4)

    count = []
    monkeypatch.setattr(verify, "build", other)
    (cell,) = plan.make("smoke", "cpu", ["Lion"], [], 0, ["verify"]).cells
    outcome = verify.run(cell)
    assert outcome.status is Status.WRONG and "differs by" in outcome.reason
    assert len(count) == 2


def test_a_kernel_is_compared_with_plain_torch(both, monkeypatch):
    def seen(runner, reference, *rest):
        measured = compare(runner, reference, *rest)
        for one, executor in ((reference, "eager"), (runner, "cpu")):
            assert executor in {ran for tensor, ran, _ in one.optimizer.executors() if tensor.numel() > 1}
        ran.append(measured)
        return measured

    ran = []
    monkeypatch.setattr(verify, "compare", seen)
    (cell,) = plan.make("smoke", "cpu", ["Lion"], [], 0, ["verify"]).cells
    assert verify.run(cell).status is Status.OK and len(ran) == 1


def test_a_rule_that_no_kernel_runs_is_not_timed_as_one(both, monkeypatch):
    monkeypatch.setattr(contenders, "fallback", lambda optimizer: "too odd")
    (cell, other) = plan.make("smoke", "cpu", both, ["mlp"], 0, ["step_time"]).cells
    (row,), (without,) = step_time.run(cell).rows, step_time.run(other).rows
    assert (row["status"], row["reason"]) == ("skipped", "too odd") and without["status"] == "ok"


@pytest.mark.parametrize("fault", ["state", "another state", "gradients"])
def test_the_comparison_sees(both, fault):
    """What shows in the parameters later, or never."""

    class Faulty(TRAITS["SignSGD"].own):
        def step(self, closure=None):
            super().step()
            for p in self.param_groups[0]["params"]:
                if fault == "gradients":
                    p.grad.add_(1)
                elif fault == "state":
                    self.state[p]["buffer"].add_(1)
                else:
                    self.state[p]["more"] = torch.zeros(1)

    class Right(TRAITS["SignSGD"].own):
        def step(self, closure=None):
            super().step()

    option_set = OptionSet(tensors="big")
    workload = make_workload(option_set, "float64", 1, 0)

    def runner(cls) -> Runner:
        return Runner("cpu", lambda groups, options: cls(groups, **options), workload, option_set, "cpu")

    equal = compare(runner(Right), runner(Right), workload, 1)
    assert not equal.fault and {key: one.largest for key, one in equal.errors.items()} == {"param": 0.0, "buffer": 0.0}
    found = compare(runner(Faulty), runner(Right), workload, 1)
    assert found.errors["buffer"].largest > 0.1 if fault == "state" else found.fault


def test_the_list_says_how():
    assert "file.py:Class" in call("list")[1]
