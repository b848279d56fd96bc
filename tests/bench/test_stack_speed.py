"""The measurement of stacked training measures what it says."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from bench import stack_speed
from bench.errors import BenchError, Exit
from bench.problems.networks import NETWORKS


def test_both_ways_train_the_same():
    """After a turn each configuration has the same weights, whichever way it was trained."""
    built, network = [], NETWORKS["regression"]
    kept = dataclasses.replace(network, build=lambda seed: built.append(network.build(seed)) or built[-1])
    for make in (stack_speed.one_after_the_other, stack_speed.stacked):
        assert make(kept, "Adam", 3)() > 0
    assert len(built) == 6
    for alone, together in zip(built[:3], built[3:], strict=True):
        for a, b in zip(alone.parameters(), together.parameters(), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)  # sums in another order, divided by small moments
    assert not torch.equal(built[0][0].weight, built[1][0].weight)


def test_it_prints_times_and_an_interval(capsys):
    stack_speed.main("logistic", "SGD", configurations=4, threads=torch.get_num_threads(), rounds=6)
    assert "4 × logistic with SGD" in (out := capsys.readouterr().out) and "× faster (" in out


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"network": "digts"}, "digits"),
        ({"optimizer": "LBFGS"}, "LBFGS"),
        ({"configurations": 0}, "--configurations 0"),
        ({"threads": 0}, "--threads 0"),
        ({"rounds": 1}, "--rounds 1"),
    ],
)
def test_wrong_input_is_a_sentence_and_exit_2(change, words):
    given = {"network": "digits", "optimizer": "Adam", "configurations": 2, "threads": 1, "rounds": 6}
    with pytest.raises(BenchError, match=words) as caught:
        stack_speed.main(**{**given, **change})
    assert caught.value.exit_code == Exit.USAGE
