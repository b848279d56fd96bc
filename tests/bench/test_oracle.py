"""The oracle against torch's for-loop in float64: written apart, equal to 1e-12 in every option; and by hand."""

import numpy as np
import pytest
import torch

from bench.contenders import OPTIMIZERS
from bench.deviation import FREE_TOLERANCE
from bench.options import OPTION_SETS
from bench.oracle import ELEMENTWISE, adam, asgd, nadam, rmsprop, sparse_adam
from bench.orthogonal import LARGEST_DISTANCE
from bench.parity import side_by_side
from bench.verify import BIG_STEPS, ORACLES, contenders
from bench.workload import make_workload

STEPS = 100
TABLE = [(name, options) for name in ORACLES for options in OPTION_SETS[name]]


def difference(optimizer, options, steps):
    """The largest |loop - oracle| / (1 + |oracle|) over all steps, parameters and state, and what else the loop did."""
    loop = {"loop": contenders(optimizer, "cpu")["loop"]}
    workload = make_workload(options, "float64", steps, seed=3)
    result = side_by_side(ORACLES[optimizer], loop, options, workload, steps, aligned=False)["loop"]
    assert not result.raised and not result.fault
    return max(stats.largest for stats in result.errors.values()), result


def disagrees(options):
    """The two places where torch's for-loop does not follow the textbook."""
    values = [
        options.options.get("initial_accumulator_value"),
        *(g.get("initial_accumulator_value") for g in options.groups),
    ]
    return options.gradients == "constant" or len(set(values)) > 1


@pytest.mark.parametrize(("optimizer", "options"), TABLE, ids=lambda value: getattr(value, "label", value))
def test_oracle_is_torchs_for_loop(optimizer, options):
    steps = BIG_STEPS if options.tensors == "big" else STEPS if options.sees == "elements" else STEPS // 5
    largest, result = difference(optimizer, options, steps)
    if options.gradients == "constant":
        assert result.not_finite > 0, "torch no longer takes the root of a negative variance: drop this exception"
    elif disagrees(options):
        assert largest > 0.1, "torch now heeds initial_accumulator_value of each group: drop this exception"
        assert result.errors["sum"].where.startswith("sum of tensor")
    else:
        assert largest <= FREE_TOLERANCE
        assert result.update.largest <= LARGEST_DISTANCE and (result.update.count > 0) == (optimizer == "Muon")


def test_every_optimizer_has_a_rule_and_option_sets():
    assert {*ORACLES, "LBFGS"} == set(OPTION_SETS) == set(OPTIMIZERS)
    for name in OPTIMIZERS:
        labels = [options.label for options in OPTION_SETS[name]]
        assert labels[0] == "defaults" and len(labels) == len(set(labels))
        assert sum(options.rich for options in OPTION_SETS[name]) == 1


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_option_sets_cover_every_option(optimizer):
    """Each keyword of torch's constructor that changes the arithmetic is set to something else at least once."""
    modes = {"params", "foreach", "fused", "capturable", "differentiable"}
    known = set(getattr(torch.optim, optimizer)([torch.ones(1, 1)]).defaults) - modes
    known.discard("decoupled_weight_decay" if optimizer == "AdamW" else "")
    used = {key for options in OPTION_SETS[optimizer] for group in (options.options, *options.groups) for key in group}
    assert known == used


def test_first_step_of_adam_by_hand():
    options = {
        "lr": 0.5, "betas": (0.9, 0.99), "eps": 1.0, "weight_decay": 0.0, "amsgrad": False, "maximize": False,
        "decoupled_weight_decay": False,
    }  # fmt: skip
    p, state = adam(np.array([2.0]), np.array([3.0]), {}, options)
    assert p[0] == pytest.approx(2.0 - 0.5 * 3.0 / (3.0 + 1.0), rel=1e-15)
    assert (
        state["step"] == 1.0
        and state["exp_avg"][0] == pytest.approx(0.3)
        and state["exp_avg_sq"][0] == pytest.approx(0.09)
    )


def test_sparse_adam_by_hand_leaves_what_has_no_gradient():
    options = {"lr": 0.5, "betas": (0.9, 0.99), "eps": 1.0, "maximize": False}
    p, state = sparse_adam(np.array([2.0, 7.0]), np.array([3.0, np.nan]), {"step": 1}, options)
    size = 0.5 * np.sqrt(1 - 0.99**2) / (1 - 0.9**2)
    assert p[0] == pytest.approx(2.0 - size * 0.3 / (np.sqrt(0.09) + 1.0), rel=1e-15)
    assert p[1] == 7.0 and state["exp_avg"][1] == state["exp_avg_sq"][1] == 0.0 and state["step"] == 2


def test_variance_is_clamped_at_zero():
    options = {
        "lr": 0.1, "alpha": 0.9, "eps": 0.5, "weight_decay": 0.0, "momentum": 0.0, "centered": True, "maximize": False,
    }  # fmt: skip
    state = {"step": 1.0, "square_avg": np.array([0.9]), "grad_avg": np.array([1.0])}
    p, _ = rmsprop(np.array([1.0]), np.array([1.0]), state, options)  # variance 0.91 - 1 < 0
    assert p[0] == pytest.approx(1.0 - 0.1 * 1.0 / 0.5, rel=1e-15)


def test_scalar_state_is_rounded_as_asked():
    options = {"lr": 0.1, "lambd": 0.3, "alpha": 0.75, "t0": 0.0, "weight_decay": 0.0, "maximize": False}
    p, g = np.array([1.0]), np.array([0.5])
    _, single = asgd(p, g, {}, options, np.float32)
    _, double = asgd(p, g, {}, options, np.float64)
    assert single["eta"] == float(np.float32(double["eta"])) != double["eta"]
    options = {
        "lr": 0.1, "betas": (0.9, 0.99), "eps": 1e-8, "weight_decay": 0.0, "momentum_decay": 0.3, "maximize": False,
        "decoupled_weight_decay": False,
    }  # fmt: skip
    _, single = nadam(p, g, {}, options, np.float32)
    _, double = nadam(p, g, {}, options, np.float64)
    assert single["mu_product"] == float(np.float32(double["mu_product"])) != double["mu_product"]


def test_nothing_is_changed_in_place():
    for name, rule in ELEMENTWISE.items():
        options = getattr(torch.optim, name)([torch.ones(1)]).defaults | {"amsgrad": True, "momentum": 0.9}
        p, g, state = np.array([1.0, 2.0]), np.array([0.5, -1.0]), {}
        for _ in range(3):
            before = [p.copy(), g.copy(), {key: np.copy(value) for key, value in state.items()}]
            new_p, new_state = rule(p, g, state, options, np.float32)
            assert p.tolist() == before[0].tolist() and g.tolist() == before[1].tolist()
            assert all(np.array_equal(state[key], before[2][key]) for key in state)
            p, state = new_p, new_state
