"""Networks that are trained together are trained exactly as each of them alone."""

from __future__ import annotations

import itertools

import pytest
import torch

from bench import contenders, sweep
from bench.problems import layers
from bench.problems.data import Data
from bench.problems.networks import FITTING, NETWORKS, named
from bench.problems.stack import Stack, draw_picks, spread, train

ALL = pytest.mark.parametrize("name", NETWORKS)
OPTIMIZERS = ("SGD", "Adam", "Adafactor", "RMSprop", "Adagrad")
MULTIPLES, SEEDS = (0.3, 1.0, 3.0), 2
STEPS = 25

# Products of matrices and sums over a batch are added up in another order when they are batched, which differs in the
# last places; an optimizer that divides by small second moments lets that grow a thousandfold in STEPS steps, and how
# far depends on the processor. float32 has room for ten times that; the proof is in float64.
CLOSE = {torch.float64: 1e-12, torch.float32: 1e-3}

# RMSprop's first step is ten learning rates. At three defaults the larger networks are chaotic then: of two runs
# alike the difference grows a thousandfold every five steps, however they are made.
SMALLER = {"RMSprop": (0.1, 0.3, 1.0)}


def cast(data: Data, dtype: torch.dtype) -> Data:
    return Data(*(tensor.to(dtype) if tensor.is_floating_point() else tensor for tensor in data))


def picks_of(data: Data, seed: int, steps: int = STEPS, size: int = 64) -> torch.Tensor:
    return draw_picks(len(data.train_inputs), size, steps, sweep.generator("test", seed))


def built(network, dtype, count=3):
    """Copies, learning rate by learning rate."""
    return [network.build(seed).to(dtype) for _ in range(count) for seed in range(SEEDS)]


def alone(network, optimizer, dtype, multiple, seed, steps=STEPS):
    """The losses on the full set of a run of its own, by autograd, before each fifth step and at the end."""
    data, model = cast(network.data(), dtype), network.build(seed).to(dtype)
    lr = multiple * sweep.default_lr(optimizer)
    stepper, losses = contenders.build("ours", optimizer, model.parameters(), lr=lr), []
    for step, some in enumerate(picks_of(data, seed, steps)):
        if step % 5 == 0:
            losses.append(full(network, model, data))
        stepper.zero_grad()
        network.loss(model, data.train_inputs[some], data.train_targets[some]).backward()
        stepper.step()
    return [*losses, full(network, model, data)]


def full(network, model, data):
    with torch.no_grad():
        return network.loss(model, data.train_inputs, data.train_targets).item()


def together(network, optimizer, dtype, steps=STEPS, multiples=MULTIPLES):
    """The same of all runs at once, [runs][evaluations]."""
    data, models = cast(network.data(), dtype), built(network, dtype, len(multiples))
    base = sweep.default_lr(optimizer)
    groups = [
        {"params": [p for m in models[at * SEEDS : (at + 1) * SEEDS] for p in m.parameters()], "lr": base * multiple}
        for at, multiple in enumerate(multiples)
    ]
    stack = Stack(network, models)
    picks = torch.stack([picks_of(data, seed, steps) for seed in range(SEEDS)], 1)
    stepper = contenders.build("ours", optimizer, groups)
    looks = [
        [full(network, m, data) for m in models] for _ in train(stack, stepper, data, picks, range(5, len(picks), 5))
    ]
    return [list(run) for run in zip(*looks, strict=True)]


@pytest.fixture(autouse=True)
def one_thread():
    with sweep.one_thread():
        yield


@ALL
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("dtype", CLOSE, ids=str)
def test_together_is_as_alone_run_for_run(name, optimizer, dtype):
    network = NETWORKS[name]
    multiples = SMALLER.get(optimizer, MULTIPLES)
    found = together(network, optimizer, dtype, multiples=multiples)
    for place, multiple in enumerate(multiples):
        for seed in range(SEEDS):
            expected = alone(network, optimizer, dtype, multiple, seed)
            assert found[place * SEEDS + seed] == pytest.approx(expected, rel=CLOSE[dtype], abs=0)
    if dtype == torch.float64:  # six different runs, so that none can be taken for another
        finals = sorted(run[-1] for run in found)
        assert all(b - a > 1e3 * CLOSE[dtype] * b for a, b in itertools.pairwise(finals))


@pytest.mark.parametrize(
    "name", [f"{name} on {loss}" for name, network in NETWORKS.items() for loss in FITTING[network.kind]]
)
def test_gradients_are_those_of_each_copy_on_every_loss(name):
    network = named(name)
    data, models = cast(network.data(), torch.float64), built(network, torch.float64)
    stack = Stack(network, models)
    picks = torch.stack([picks_of(data, place, 1)[0] for place in range(len(models))])
    stack.gradients(data.train_inputs[picks], data.train_targets[picks])
    for place, some in enumerate(picks):
        other = network.build(place % SEEDS).double()
        network.loss(other, data.train_inputs[some], data.train_targets[some]).backward()
        for mine, theirs in zip(models[place].parameters(), other.parameters(), strict=True):
            torch.testing.assert_close(mine.grad, theirs.grad, rtol=1e-9, atol=1e-15)


@ALL
def test_copies_that_diverge_leave_the_others_alone(name):
    network = NETWORKS[name]
    calm = together(network, "SGD", torch.float32, multiples=(1.0, 2.0, 3.0))
    wild = together(network, "SGD", torch.float32, multiples=(1.0, 1e30, 3.0))
    assert not all(torch.isfinite(torch.tensor(run)).all() for run in wild[SEEDS : 2 * SEEDS])
    assert wild[:SEEDS] == calm[:SEEDS] and wild[2 * SEEDS :] == calm[2 * SEEDS :]


@ALL
def test_models_are_views_of_the_stack(name):
    network = NETWORKS[name]
    models = built(network, torch.float32)
    before = [[parameter.clone() for parameter in model.parameters()] for model in models]
    Stack(network, models)
    for model, old in zip(models, before, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(model.parameters(), old, strict=True))
    for parameters in zip(*(model.parameters() for model in models), strict=True):
        assert len({parameter.untyped_storage().data_ptr() for parameter in parameters}) == 1
        assert len({parameter.data_ptr() for parameter in parameters}) == len(models)


def test_which_networks_have_their_gradients_written_out():
    out = {name for name, network in NETWORKS.items() if layers.chain(network.build(0)) and not network.penalty}
    assert {"regression", "digits"} <= out and "logistic" not in out
    nn = torch.nn
    assert layers.chain(nn.Sequential(nn.Linear(2, 2), nn.GELU())) is None
    assert layers.chain(nn.Sequential(nn.ReLU(), nn.Linear(2, 2))) is None  # it would overwrite the data
    assert layers.chain(nn.Sequential(nn.Linear(2, 2), nn.Tanh(), nn.ReLU())) is None


def test_buffers_are_refused():
    network, nn = NETWORKS["digits"], torch.nn
    with pytest.raises(ValueError, match="buffers"):
        Stack(network, [nn.Sequential(nn.Linear(64, 10), nn.BatchNorm1d(10))])


def test_each_copy_gets_the_batch_of_its_seed():
    batches = torch.arange(6).reshape(2, 3)
    assert spread(batches, 6)[:, 0].tolist() == [0, 3, 0, 3, 0, 3]
    alone = spread(batches[:1], 4)
    assert alone.shape == (4, 3) and alone.stride(0) == 0  # no memory of its own


def test_picks_use_every_sample_once_an_epoch_in_fresh_order():
    an_epoch = 1438 // 64
    picks = draw_picks(1438, 64, 2 * an_epoch, sweep.generator(0))
    assert picks.shape == (2 * an_epoch, 64) and picks.min() >= 0 and picks.max() < 1438
    first, second = picks[:an_epoch].flatten().tolist(), picks[an_epoch:].flatten().tolist()
    assert len(set(first)) == len(first) and len(set(second)) == len(second) and first != second
    assert torch.equal(draw_picks(1438, 64, 3, sweep.generator(0)), picks[:3])


def test_training_is_off_and_on_the_clock_where_it_should_be():
    network = NETWORKS["regression"]
    data, models = network.data(), built(network, torch.float32)
    stepper = torch.optim.SGD([p for model in models for p in model.parameters()], lr=0.01)
    picks = torch.stack([picks_of(data, seed, 12) for seed in range(SEEDS)], 1)
    points = list(train(Stack(network, models), stepper, data, picks, range(5, len(picks), 5)))
    assert [step for step, _ in points] == [0, 5, 10, 12]
    seconds = [second for _, second in points]
    assert seconds[0] == 0 and seconds == sorted(set(seconds))
