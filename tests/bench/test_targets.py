"""The targets of the networks are kept, met in the right place, and made as they say."""

from __future__ import annotations

import json
import math

import pytest
import torch

from bench.errors import BenchError
from bench.problems import make_targets, targets
from bench.problems.networks import NETWORKS

REFERENCE = 1.0


def met(*losses: float) -> list[int]:
    """The hits of a run from loss 11, so ten above the reference, looked at every five gradients."""
    return targets.first_hits([11.0, *losses], [5 * place for place in range(len(losses) + 1)], REFERENCE)


def test_standing_still_and_climbing_meet_nothing():
    assert met(11.0, 11.0, 11.0) == met(12.0, 20.0) == met(math.nan, math.inf) == met() == []


def test_a_target_is_met_where_the_loss_comes_down_to_it_and_stays():
    assert met(8.0, 6.0, 6.0) == [10]  # 56 % are left at 6.62, 32 % at 4.16
    assert met(6.0, 8.0, 6.0, 6.0) == [15]  # the first time it did not stay
    assert met(6.0, 8.0, 6.0) == [15]  # the last loss has no next one
    assert met(6.0, math.nan) == []
    assert met(6.0, 4.0, 1.2, 0.5) == [5, 10, 15, 15, 15, 15, 20, 20, 20]
    assert met(1.0, 1.0) == [5] * len(targets.LEFT)  # at the reference counts


def test_who_starts_at_the_reference_has_nothing_to_gain():
    assert targets.first_hits([1.0, 0.5], [0, 5], REFERENCE) == []
    assert targets.first_hits([1.0, 0.5], [0, 5], math.nan) == []


def test_targets_come_down_from_a_quarter_of_a_decade_below_the_start_to_the_reference():
    assert targets.LEFT[0] == pytest.approx(10**-0.25) and targets.LEFT[-1] == 0
    assert sorted(targets.LEFT, reverse=True) == list(targets.LEFT)


@pytest.mark.parametrize("name", NETWORKS)
def test_every_network_has_a_reference_below_every_start_and_above_its_minimum(name):
    network, reference = NETWORKS[name], targets.reference(name)
    starts = [make_targets.full_loss(network, network.build(seed)) for seed in range(5)]
    assert 0 < reference < 0.7 * min(starts)
    assert network.optimum is None or reference > network.optimum()


def test_the_file_says_where_it_comes_from():
    kept = targets.kept()
    assert set(kept["networks"]) == set(NETWORKS)
    provenance = kept["provenance"]
    assert provenance["trials"] == 40 and provenance["seeds"] == 20 and provenance["steps"] == 200
    assert provenance["torch"] and provenance["date"] and provenance["made_by"]
    for found in kept["networks"].values():
        assert set(found["optimizers"]) == set(make_targets.TUNED)
        assert found["reference"] == min(one["reference"] for one in found["optimizers"].values())


def test_variants_have_no_targets():
    assert math.isnan(targets.reference("digits on huber_loss"))


def test_making_it_again_gives_what_is_kept():
    """The winner on the logistic network, whose loss differs least between machines, at its tuned options."""
    kept = targets.kept()["networks"]["logistic"]
    options = dict(kept["optimizers"][kept["by"]])
    expected = options.pop("reference")
    options.pop("worst")
    tuned = make_targets.TUNED[kept["by"]]
    ((median, losses),) = make_targets.lowest(NETWORKS["logistic"], tuned, [options], make_targets.SEEDS)
    assert median == pytest.approx(expected, rel=1e-3) and len(losses) == 20


def test_the_best_trial_is_chosen_and_the_file_is_written(monkeypatch, tmp_path):
    logistic = NETWORKS["logistic"]
    one = make_targets.Tuned(lambda groups: torch.optim.SGD(groups), (1e-6, 1e-1), ({"momentum": 0.0},))
    monkeypatch.setattr(make_targets, "TUNED", {"SGD": one})
    monkeypatch.setattr(make_targets, "NETWORKS", {"logistic": logistic})
    monkeypatch.setattr(make_targets, "LEARNING_RATES", 2)
    monkeypatch.setattr(make_targets, "SEEDS", range(3, 5))
    monkeypatch.setattr(make_targets, "STEPS", 20)
    monkeypatch.setattr(make_targets, "FILE", tmp_path / "targets.json")
    make_targets.main()
    made = json.loads((tmp_path / "targets.json").read_text())["networks"]["logistic"]
    assert made["by"] == "SGD" and made["optimizers"]["SGD"]["lr"] == 0.1 and made["reference"] < 0.6


def test_targets_of_networks_by_name_leave_the_others_as_they_are(monkeypatch, tmp_path):
    before = targets.kept()["networks"]
    monkeypatch.setattr(make_targets, "target", lambda network: {"reference": network.batch_size})
    monkeypatch.setattr(make_targets, "FILE", tmp_path / "targets.json")
    make_targets.main(["logistic"])
    made = json.loads((tmp_path / "targets.json").read_text())["networks"]
    assert made == {**before, "logistic": {"reference": 64}}
    with pytest.raises(BenchError, match="unknown network 'logistc'"):
        make_targets.main(["logistc"])


def test_a_trial_that_diverged_is_no_best():
    one = make_targets.Tuned(lambda groups: torch.optim.SGD(groups), (1.0, 1.0), ())
    ((median, _),) = make_targets.lowest(NETWORKS["regression"], one, [{"lr": 1e30}], range(2))
    assert median == math.inf
