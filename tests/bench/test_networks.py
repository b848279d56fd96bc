"""The small networks and their data are what they say."""

from __future__ import annotations

import codecs
import math
import sys

import pytest
import torch

from bench.problems import data, networks, transformer
from bench.problems.networks import NETWORKS

ALL = pytest.mark.parametrize("network", NETWORKS.values(), ids=NETWORKS)


@pytest.mark.parametrize(
    "network", [one for one in NETWORKS.values() if one.data is not data.zen], ids=lambda n: n.name
)
def test_data_is_standardised_float32_and_split(network):
    found = network.data()
    inputs = found.train_inputs
    assert inputs.dtype == found.test_inputs.dtype == torch.float32
    assert abs(inputs.mean().item()) < 1e-5 and inputs.std().item() == pytest.approx(1, abs=0.01)
    share = len(found.test_inputs) / (len(found.test_inputs) + len(inputs))
    assert share == pytest.approx(0.2, abs=0.01)
    assert len(found.train_targets) == len(inputs) and len(found.test_targets) == len(found.test_inputs)
    assert all(torch.isfinite(tensor).all() for tensor in found)


def test_known_sizes_and_classes():
    digits, tumours = data.digits(), data.breast_cancer()
    assert digits.train_inputs.shape == (1438, 64) and digits.test_inputs.shape == (359, 64)
    assert set(digits.train_targets.tolist()) == set(range(10))
    assert tumours.train_inputs.shape == (455, 30) and set(tumours.train_targets[:, 0].tolist()) == {0, 1}
    per_feature = tumours.train_inputs.std(0, correction=0)
    torch.testing.assert_close(per_feature, torch.ones(30), rtol=1e-4, atol=1e-4)


@ALL
def test_weights_depend_on_the_seed_only(network):
    state = torch.random.get_rng_state()
    first, again, other = (torch.nn.utils.parameters_to_vector(network.build(seed).parameters()) for seed in (1, 1, 2))
    assert torch.equal(first, again) and not torch.equal(first, other)
    assert torch.equal(state, torch.random.get_rng_state())


@ALL
def test_loss_is_a_scalar_with_gradients_for_everything(network):
    found, model = network.data(), network.build(0)
    loss = network.loss(model, found.train_inputs, found.train_targets)
    loss.backward()
    assert loss.shape == () and torch.isfinite(loss)
    assert all(parameter.grad.abs().max() > 0 for parameter in model.parameters())


@ALL
def test_accuracy(network):
    found, model = network.data(), network.build(0)
    accuracy = network.accuracy(model, found.test_inputs, found.test_targets)
    assert math.isnan(accuracy) if network.correct is None else 0 <= accuracy <= 1


def test_right_predictions_are_counted_as_right():
    outputs = torch.tensor([[2.0], [-1.0], [3.0], [-1.0]])
    assert NETWORKS["logistic"].correct(outputs, torch.tensor([[1.0], [0.0], [0.0], [1.0]])).float().mean() == 0.5
    outputs = torch.eye(10)[[3, 4, 5]]
    assert NETWORKS["digits"].correct(outputs, torch.tensor([3, 4, 6])).tolist() == [True, True, False]


def test_logistic_optimum_is_that_of_lbfgs_and_nothing_is_lower():
    network = NETWORKS["logistic"]
    inputs, targets = (tensor.double() for tensor in network.data()[:2])
    model = network.build(0).double()
    lbfgs = torch.optim.LBFGS(
        model.parameters(), max_iter=2000, tolerance_grad=1e-9, tolerance_change=0, line_search_fn="strong_wolfe"
    )

    def closure():
        lbfgs.zero_grad()
        loss = network.loss(model, inputs, targets)
        loss.backward()
        return loss

    lbfgs.step(closure)
    found = network.loss(model, inputs, targets).item()
    optimum = networks.logistic_optimum()
    assert found >= optimum - 1e-14
    assert found == pytest.approx(optimum, abs=1e-9)


def test_rank_optimum_is_the_error_of_the_principal_components_and_nothing_is_lower():
    network = NETWORKS["factorisation"]
    inputs = network.data().train_inputs.double()
    _, vectors = torch.linalg.eigh(inputs.T @ inputs)
    model = network.build(0).double()
    with torch.no_grad():
        model[0].weight.copy_(vectors[:, -networks.RANK :].T)
        model[1].weight.copy_(vectors[:, -networks.RANK :])
    best = network.loss(model, inputs, inputs).item()
    assert best == pytest.approx(networks.rank_optimum(), rel=1e-12)
    for _ in range(5):
        with torch.no_grad():
            model[0].weight += 1e-3 * torch.randn(networks.RANK, 64, generator=torch.Generator().manual_seed(0))
        assert network.loss(model, inputs, inputs).item() > best


def test_the_factorisation_starts_near_its_saddle():
    network = NETWORKS["factorisation"]
    inputs = network.data().train_inputs
    start = network.loss(network.build(0), inputs, inputs).item()
    assert start == pytest.approx(inputs.square().mean().item(), rel=0.02)  # the loss of predicting 0


def test_learn_learns():
    losses = networks.learn()
    assert losses[0] > 1 and losses[-1] < 0.1
    assert networks.learn(steps=3) == losses[:3]


def every_variant():
    return [(name, loss) for name, network in NETWORKS.items() for loss in networks.FITTING[network.kind]]


# A mean over 64 pixels has small gradients, smaller still near a saddle; so have convolutions at first.
GENTLE = {"factorisation": 1.0, "digits_cnn": 0.05}


@pytest.mark.parametrize(("name", "loss"), every_variant())
def test_a_network_trains_on_every_loss_that_fits(name, loss):
    """Plain gradient descent lowers it, whichever it is."""
    network = networks.named(f"{name} on {loss}")
    found, model = network.data(), network.build(0)
    losses, lr = [], GENTLE.get(name, 0.02)
    for _ in range(30):
        value = network.loss(model, found.train_inputs, found.train_targets)
        losses.append(value.item())
        model.zero_grad()
        value.backward()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter -= lr * parameter.grad
    assert losses[-1] < 0.99 * losses[0] and network.optimum is None


def test_its_own_loss_by_name_is_the_same_training():
    plain, named = NETWORKS["digits"], networks.named("digits on cross_entropy")
    found, model = plain.data(), plain.build(0)
    assert plain.loss(model, *found[:2]) == named.loss(model, *found[:2])
    ours = NETWORKS["logistic"]
    found, model = ours.data(), ours.build(0)
    penalty = networks.L2 / 2 * model.weight.square().sum()
    goal = torch.nn.functional.binary_cross_entropy_with_logits(model(found[0]), found[1]) + penalty
    torch.testing.assert_close(ours.loss(model, *found[:2]), goal)


def test_classes_are_a_one_against_zeros():
    network = networks.named("digits on mse_loss")
    logits, target = torch.arange(6.0).reshape(2, 3), torch.tensor([2, 0])
    goal = torch.tensor([[0.0, 1.0, 1.0], [2.0, 4.0, 5.0]]).square().sum(1).mean()  # of a row, added up
    torch.testing.assert_close(network.measure(logits, target), goal)


def test_variants_fit():
    of_values = [f"{name} on huber_loss" for name in NETWORKS if name not in ("logistic", "char_transformer")]
    assert networks.variants(None, ["huber_loss"]) == of_values
    assert networks.variants(["char_transformer"], ["huber_loss"]) == ["char_transformer on huber_loss"]
    assert networks.variants(["logistic"], ["huber_loss", "sigmoid_focal_loss"]) == ["logistic on sigmoid_focal_loss"]
    assert networks.variants(["mlp"], ["mse_loss"]) == []
    assert networks.named("mlp") is networks.named("logistic on huber_loss") is None
    assert networks.named("digits") is NETWORKS["digits"]


def test_the_text_is_in_windows_and_every_target_is_the_next_character():
    found = data.zen()
    assert found.train_inputs.shape == found.train_targets.shape == (168, data.PLACES)
    assert found.test_inputs.shape == found.test_targets.shape == (39, data.PLACES)
    for inputs, targets in (found[:2], found[2:]):
        assert torch.equal(inputs[:, 1:], targets[:, :-1]) and torch.equal(inputs[1:, :-4], inputs[:-1, 4:])
    characters = sorted(set(codecs.decode(sys.modules["this"].s, "rot13")))
    assert len(characters) == data.CHARACTERS
    assert "".join(characters[code] for code in found.train_inputs[0]) == "The Zen of Pytho"
    assert characters[found.test_targets[-1, -1]] in characters


def test_the_transformer_sees_no_character_that_comes_later():
    """And all that came before: one character changed changes what is said there and after, and nothing ahead."""
    network = NETWORKS["char_transformer"]
    model, windows = network.build(0).double(), network.data().train_inputs[:2].clone()
    before = model(windows).view(2, data.PLACES, data.CHARACTERS)
    windows[0, 7] = (windows[0, 7] + 1) % data.CHARACTERS
    after = model(windows).view(2, data.PLACES, data.CHARACTERS)
    changed = (before != after).any(-1)
    assert changed[0].tolist() == [place >= 7 for place in range(data.PLACES)] and not changed[1].any()


def test_attention_is_torchs():
    block = transformer.Block().double()
    inputs = torch.randn(3, 5, transformer.WIDTH, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    queries, keys, values = (
        part.unflatten(-1, (transformer.HEADS, -1)).transpose(1, 2) for part in block.asked(inputs).chunk(3, -1)
    )
    expected = torch.nn.functional.scaled_dot_product_attention(queries, keys, values, is_causal=True)
    torch.testing.assert_close(block.attention(inputs), expected.transpose(1, 2).flatten(2), rtol=1e-12, atol=1e-13)


def test_a_row_of_text_is_sixteen_predictions_of_one_class_each():
    network = NETWORKS["char_transformer"]
    model, (windows, targets, *_) = network.build(0), network.data()
    by_hand = torch.nn.functional.cross_entropy(model(windows[:4]), targets[:4].reshape(-1))
    assert network.loss(model, windows[:4], targets[:4]).item() == pytest.approx(by_hand.item(), rel=1e-6)
    right = sum(model(windows[:4]).argmax(1) == targets[:4].reshape(-1)).item() / 64
    assert network.accuracy(model, windows[:4], targets[:4]) == right
