import warnings

import pytest

from bench import plan
from bench.budgets import BUDGETS
from bench.errors import BenchError, Exit
from tests.bench import fakes


def make(**changes):
    asked = {
        "budget": "smoke",
        "device": "cpu",
        "optimizers": (),
        "problems": (),
        "seed": 0,
        "kinds": tuple(plan.KINDS),
    }
    return plan.make(**{**asked, **changes})


@pytest.fixture
def fake_kinds(monkeypatch):
    for name in plan.KINDS:
        monkeypatch.setitem(plan.KINDS, name, fakes.kind(name, fakes.good))


def test_cells_come_kind_by_kind_and_verification_first(fake_kinds):
    cells = make(optimizers=["Adam", "SGD"]).cells
    assert list(dict.fromkeys(cell.kind for cell in cells)) == [
        "verify",
        "step_time",
        "sweep_time",
        "functions",
        "nulls",
        "networks",
        "network_nulls",
    ]
    assert len(cells) == 7 * 2 * 3 == len({cell.id for cell in cells})
    assert list(dict.fromkeys(cell.kind for cell in make().cells)) == list(plan.KINDS)


def test_the_parts_together_are_the_run():
    assert plan.PARTS["run"] == tuple(plan.KINDS)
    measured = ["verify", "loss_parity", "step_time", "loss_time", "sweep_time"]
    assert list(plan.KINDS) == [*measured, "functions", "nulls", "networks", "network_nulls"]
    parts = [kind for part in ("verify", "time", "losses", "race") for kind in plan.PARTS[part]]
    assert sorted(parts) == sorted(plan.KINDS)


@pytest.mark.parametrize(
    ("asked", "kinds"),
    [
        ({"optimizers": ["Adam"]}, {"verify", "step_time", "sweep_time", *plan.PARTS["race"]}),
        ({"problems": ["mlp"]}, {"verify", "step_time"}),
        ({"problems": ["digits"]}, {"verify", "networks", "network_nulls"}),
        ({"problems": ["64Ki"]}, {"loss_parity", "loss_time"}),
        ({"problems": ["64Ki", "mlp"]}, {"loss_parity", "loss_time", "verify", "step_time"}),
        ({"losses": ["mse_loss"]}, {"loss_parity", "loss_time", "networks"}),
        ({"losses": ["mse_loss"], "problems": ["4Mi"]}, {"loss_parity", "loss_time"}),
        ({"losses": ["mse_loss"], "problems": ["digits"]}, {"networks"}),
        ({"losses": ["mse_loss"], "optimizers": ["Adam"]}, {"networks"}),
        ({}, set(plan.KINDS)),
    ],
)
def test_what_is_named_is_what_is_measured(asked, kinds):
    assert {cell.kind for cell in make(**asked).cells} == kinds


def test_a_loss_by_name_is_what_the_networks_train_on():
    cells = make(kinds=["networks"], optimizers=["Adam"], losses=["Huber_Loss"], problems=["digits", "logistic"]).cells
    assert [cell.settings["name"] for cell in cells] == ["digits on huber_loss"]  # of yes or no it is no loss
    both = make(kinds=plan.PARTS["losses"], losses=["huber", "BCE_with_logits"]).cells
    assert {cell.optimizer for cell in both} == {"huber_loss", "binary_cross_entropy_with_logits"}


def test_the_id_follows_the_content(fake_kinds):
    assert make().id == make().id
    assert len({make().id, make(seed=1).id, make(optimizers=["Adam"]).id, make(kinds=["verify"]).id}) == 4


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"budget": "smok"}, "unknown budget 'smok': did you mean 'smoke'?"),
        ({"optimizers": ["adma"]}, "unknown optimizer 'adma': did you mean 'Adam'?"),
        ({"optimizers": ["Adam", "RMSPropp"]}, "unknown optimizer 'RMSPropp': did you mean 'RMSprop'?"),
        ({"problems": ["rosenbrok"]}, "unknown problem 'rosenbrok': did you mean 'rosenbrock'?"),
        ({"problems": ["beale-5d"]}, "beale has 2 dimensions; beale-5d does not exist."),
        ({"problems": ["booth", "trid-1d-rotated"]}, "trid has 2 to 100 dimensions; trid-1d does not exist."),
        (
            {"problems": ["schwefel-2.20-rotatd"]},
            "schwefel-2.20 may be followed by a number of dimensions",
        ),
        ({"problems": ["digits-rotated"]}, "unknown problem 'digits-rotated': did you mean"),
        ({"losses": ["mse_los"]}, "unknown loss 'mse_los': did you mean 'mse_loss'?"),
        ({"losses": ["kl_div"], "kinds": ["networks"]}, "has these problems, optimizers and losses"),
        ({"losses": ["kl_div"], "kinds": ["step_time"]}, "has these problems, optimizers and losses"),
        ({"optimizers": ["Adam"], "kinds": ["loss_time"]}, "nothing to run: no part of loss_time"),
        ({"device": "cud"}, "unknown device 'cud': did you mean 'cuda'?"),
        ({"budget": "zzzz"}, "unknown budget 'zzzz': there are: smoke, default, full."),
        ({"race": {"seeds": 0}}, "--seeds 0 is out of range: give a whole number from 1 to 100000."),
        ({"race": {"seeds": 10**11}}, "--seeds 100000000000 is out of range"),
        ({"race": {"steps": -5}}, "--steps -5 is out of range: give a whole number from 2 to 10000000."),
        ({"race": {"steps": 10**20}}, "--steps 100000000000000000000 is out of range"),
        ({"race": {"steps": 1}}, "has no early and late; give 2 or more."),
        ({"race": {"lrs": "0.1,nan,1"}}, "--lrs 0.1,nan,1: 'nan' is no learning rate; give multiples"),
        ({"race": {"lrs": "0,1"}}, "--lrs 0,1: '0' is no learning rate"),
        ({"race": {"lrs": "1,-2"}}, "'-2' is no learning rate"),
        ({"race": {"lrs": "1,inf"}}, "'inf' is no learning rate"),
        ({"race": {"lrs": "1,,2"}}, "'nothing' is no learning rate"),
        ({"race": {"lrs": "fast"}}, "'fast' is no learning rate"),
        ({"seed": -1}, "--seed -1 is out of range"),
        ({"seed": 2**32}, "--seed 4294967296 is out of range"),
    ],
)
def test_wrong_input_ends_with_exit_2_and_the_remedy(changes, says):
    with pytest.raises(BenchError) as caught:
        make(**changes)
    assert says in str(caught.value)
    assert caught.value.exit_code == Exit.USAGE == 2


def test_what_a_race_is_asked_for_takes_the_place_of_the_budgets():
    asked = {"seeds": 7, "steps": 30, "lrs": "10, 1,1"}
    made = make(kinds=["functions", "networks"], optimizers=["Adam", "LBFGS"], race=asked)
    for cell in made.cells:
        assert (cell.settings["seeds"], cell.settings["steps"]) == (7, 30)
        assert cell.settings["lr_multiples"] == [1.0, 10.0]
    assert make(budget="full", race={"seeds": 3}).budget.function_tuning_seeds == 2  # one is left to score
    assert make(race={"seeds": None, "steps": None, "lrs": None}).id == make().id != make(race={"steps": 5}).id


def test_case_does_not_matter(fake_kinds):
    assert {cell.optimizer for cell in make(optimizers=["adamw", "SGD"]).cells} == {"AdamW", "SGD"}


def test_functions_of_other_dimensions_shifted_and_rotated_are_problems_too():
    asked = ["Ackley-10d", "ackley-2d", "booth-rotated-3", "rosenbrock-shifted"]
    cells = make(kinds=["functions", "nulls"], optimizers=["Adam"], problems=asked).cells
    names = ["ackley-10d", "ackley", "booth-rotated-3", "rosenbrock-shifted"]
    assert [cell.settings["name"] for cell in cells if cell.kind == "functions"] == names
    assert list(dict.fromkeys(cell.settings["name"] for cell in cells if cell.kind == "nulls")) == names


def test_an_empty_selection_is_an_error(monkeypatch):
    monkeypatch.setitem(plan.KINDS, "functions", fakes.kind("functions", fakes.good, problems=()))
    with pytest.raises(BenchError, match="nothing to run") as caught:
        make(kinds=["functions"])
    assert caught.value.exit_code == 2


def test_cuda_without_one_is_one_sentence(monkeypatch):
    def no_driver():
        warnings.warn("the driver is too old\nand more", stacklevel=1)
        return False

    monkeypatch.setattr(plan.torch.cuda, "is_available", no_driver)
    with pytest.raises(BenchError, match=r"sees no CUDA device \(the driver is too old\)") as caught:
        plan.devices_of("cuda")
    assert caught.value.exit_code == 2 and "\n" not in str(caught.value)
    assert plan.devices_of("all") == ("cpu",)


def test_all_means_what_is_there(monkeypatch):
    monkeypatch.setattr(plan.torch.cuda, "is_available", lambda: True)
    assert plan.devices_of("all") == ("cpu", "cuda")
    assert plan.devices_of("cuda") == ("cuda",)


def test_the_description_says_how_much_and_where(fake_kinds, tmp_path):
    made = make(optimizers=["Adam"], kinds=["verify", "functions"])
    done = {made.cells[0].id}
    text = "\n".join(plan.describe(made, done, "a machine", tmp_path))
    assert "a machine" in text and str(tmp_path) in text
    assert "smoke: 5 of 6 cells left" in text
    assert "functions        3 cells" in text


@pytest.mark.parametrize(("seconds", "text"), [(0, "00:00"), (190.4, "03:10"), (59.6, "01:00"), (3790, "1:03:10")])
def test_clock(seconds, text):
    assert plan.clock(seconds) == text


@pytest.mark.parametrize("budget", BUDGETS)
def test_every_real_kind_plans_cells_with_plain_settings_and_ids_of_their_own(budget):
    """Against the real measuring modules: the ids must be stable and the journal must take the settings."""
    from bench.journal import encode

    made = make(budget=budget)
    assert {cell.kind for cell in made.cells} == set(plan.KINDS)
    assert made.id == make(budget=budget).id
    for cell in made.cells:
        assert encode(cell.settings) and cell.expected_seconds > 0
        assert "name" in cell.settings
