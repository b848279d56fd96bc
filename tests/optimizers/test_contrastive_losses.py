"""Contrastive losses against loops over pairs and triplets, against pytorch-metric-learning, and at the edges."""

from __future__ import annotations

import math

import pytest
import torch

from optimizers import losses

from .agreement import assert_agree, normal, value_and_gradients

LABELS = torch.tensor([0, 1, 0, 2, 1, 0, 3, 1])  # of 2 and 3 one only


def cosine(a, b):
    return (a * b).sum() / (a.square().sum().sqrt() * b.square().sum().sqrt())


def log_share(chosen, others):
    """The logarithm of the share of one exponential in the sum of several."""
    return chosen - sum(x.exp() for x in others).log()


@pytest.mark.parametrize("symmetric", [False, True])
def test_info_nce_is_its_formula(symmetric):
    def looped(q, k, t):
        n = len(q)
        values = []
        for i in range(n):
            value = -log_share(cosine(q[i], k[i]) / t, [cosine(q[i], k[j]) / t for j in range(n)])
            if symmetric:
                value = (value - log_share(cosine(q[i], k[i]) / t, [cosine(q[j], k[i]) / t for j in range(n)])) / 2
            values.append(value)
        return torch.stack(values)

    def ours(q, k, t):
        return losses.info_nce_loss(q, k, temperature=t, symmetric=symmetric, reduction="none")

    assert_agree(ours, looped, normal(5, 3), normal(5, 3, seed=1), torch.tensor(0.3, dtype=torch.float64))


def test_nt_xent_is_its_formula():
    def looped(a, b, t):
        views = torch.cat((a, b))
        n = len(views)
        s = [[cosine(x, y) / t for y in views] for x in views]
        partners = [(i + n // 2) % n for i in range(n)]
        return torch.stack([-log_share(s[i][partners[i]], [s[i][k] for k in range(n) if k != i]) for i in range(n)])

    def ours(a, b, t):
        return losses.nt_xent_loss(a, b, temperature=t, reduction="none")

    assert_agree(ours, looped, normal(4, 3), normal(4, 3, seed=1), torch.tensor(0.2, dtype=torch.float64))


def test_siglip_is_its_formula():
    def looped(image, text, scale, bias):
        rows = []
        for i in range(len(image)):
            z = [1 if i == j else -1 for j in range(len(text))]
            logits = [scale * cosine(image[i], text[j]) + bias for j in range(len(text))]
            rows.append(sum((1 + (-a * x).exp()).log() for a, x in zip(z, logits, strict=True)))
        return torch.stack(rows)

    def ours(image, text, scale, bias):
        return losses.siglip_loss(image, text, scale=scale, bias=bias, reduction="none")

    scale, bias = torch.tensor(10.0, dtype=torch.float64), torch.tensor(-3.0, dtype=torch.float64)
    assert_agree(ours, looped, normal(5, 3), normal(5, 3, seed=1), scale, bias)


def test_supervised_contrastive_is_its_formula():
    def looped(z, t):
        values = []
        for i in range(len(z)):
            others = [a for a in range(len(z)) if a != i]
            positives = [p for p in others if LABELS[p] == LABELS[i]]
            shares = [log_share(cosine(z[i], z[p]) / t, [cosine(z[i], z[a]) / t for a in others]) for p in positives]
            values.append(-sum(shares) / len(shares) if shares else z.sum() * 0)
        return torch.stack(values)

    def ours(z, t):
        return losses.supervised_contrastive_loss(z, LABELS, temperature=t, reduction="none")

    assert_agree(ours, looped, normal(8, 3), torch.tensor(0.2, dtype=torch.float64))
    values = ours(normal(8, 3), 0.1)
    assert values[3] == values[6] == 0  # the two without a partner, over which the mean is not taken
    torch.testing.assert_close(losses.supervised_contrastive_loss(normal(8, 3), LABELS), values.sum() / 6)


def test_labels_may_be_any_numbers_and_two_views_with_labels_of_their_own_are_simclrs():
    a, b = normal(6, 4), normal(6, 4, seed=1)
    goal = losses.nt_xent_loss(a, b, temperature=0.1, reduction="none")
    labels = torch.tensor([70, -3, 12, 5, 10**12, 6]).repeat(2)
    got = losses.supervised_contrastive_loss(torch.cat((a, b)), labels, temperature=0.1, reduction="none")
    torch.testing.assert_close(got, goal)


@pytest.mark.parametrize("margin", [0.0, 0.7, None])
@pytest.mark.parametrize("squared", [False, True])
@pytest.mark.parametrize("mining", ["batch_hard", "semi_hard"])
def test_mined_triplets_are_those_of_the_definition(mining, squared, margin):
    def looped(x):
        n = len(x)
        d = [[(a - b).square().sum() if squared else (a - b).norm() for b in x] for a in x]
        values = []
        for a in range(n):
            partners = [p for p in range(n) if p != a and LABELS[p] == LABELS[a]]
            opponents = [d[a][o] for o in range(n) if LABELS[o] != LABELS[a]]
            if mining == "batch_hard":
                chosen = [(max(d[a][p] for p in partners), min(opponents))] if partners else []
            else:
                farther = [[o for o in opponents if o > d[a][p]] for p in partners]
                chosen = [
                    (d[a][p], min(far) if far else max(opponents)) for p, far in zip(partners, farther, strict=True)
                ]
            for near, far in chosen:
                values.append((1 + (near - far).exp()).log() if margin is None else (near - far + margin).relu())
        return torch.stack(values)

    def ours(x):
        options = {"margin": margin, "mining": mining, "squared": squared, "reduction": "none"}
        return losses.triplet_mining_loss(x, LABELS, **options)

    x = normal(8, 2)
    x[0] = 5  # so far off that no opponent of some pairs is farther
    assert_agree(ours, looped, x)
    assert len(ours(x)) == (6 if mining == "batch_hard" else 12)
    torch.testing.assert_close(
        losses.triplet_mining_loss(x, LABELS, margin=margin, mining=mining, squared=squared), ours(x).mean()
    )


@pytest.mark.parametrize("mining", ["batch_hard", "semi_hard"])
def test_without_triplets_and_with_equal_points(mining):
    for labels in (torch.arange(4), torch.zeros(4, dtype=torch.long)):
        value, gradient = value_and_gradients(
            lambda x, y=labels: losses.triplet_mining_loss(x, y, mining=mining), normal(4, 2)
        )
        assert value == 0 and gradient.eq(0).all()
        assert losses.triplet_mining_loss(normal(4, 2), labels, mining=mining, reduction="none").shape == (0,)
    same = torch.ones(4, 2)
    value, gradient = value_and_gradients(
        lambda x: losses.triplet_mining_loss(x, torch.tensor([0, 0, 1, 1]), margin=0.3, mining=mining), same
    )
    assert value == torch.tensor(0.3) and gradient.eq(0).all()
    assert losses.triplet_mining_loss(same[:0], torch.zeros(0).long(), mining=mining) == 0


def test_close_points_keep_their_distance():
    """Far from the origin, where a distance by |a|² - 2ab + |b|² is all rounding."""
    x = torch.tensor([[1000.0], [1000.001], [1001.0]])
    value = losses.triplet_mining_loss(x, torch.tensor([0, 0, 1]), margin=0.0, reduction="sum")
    assert value == 0
    exact = losses.triplet_mining_loss(x.double(), torch.tensor([0, 0, 1]), margin=2.0)
    torch.testing.assert_close(losses.triplet_mining_loss(x, torch.tensor([0, 0, 1]), margin=2.0).double(), exact)


def test_the_nearest_is_found_among_close_points_far_from_the_origin():
    """Half a unit of 1000 is 3e-5, and the choice between 0.1 and 0.11 must not be lost in 1000²."""
    x = torch.tensor([[1000.0], [1000.3], [1000.11], [1000.1], [1000.4], [999.89]])
    labels = torch.tensor([0, 0, 1, 1, 1, 1])
    for mining in ("batch_hard", "semi_hard"):
        options = {"margin": 5.0, "mining": mining, "reduction": "none"}
        exact = losses.triplet_mining_loss(x.double(), labels, **options)
        torch.testing.assert_close(losses.triplet_mining_loss(x, labels, **options).double(), exact, rtol=1e-6, atol=0)


def test_an_opponent_as_far_as_the_partner_is_not_farther():
    x, labels = torch.tensor([[0.0], [1.0], [-1.0], [3.0]]), torch.tensor([0, 0, 1, 1])
    value = losses.triplet_mining_loss(x, labels, margin=5.0, mining="semi_hard", reduction="none")
    # 0 with 1: not -1 but 3; 1 with 0: -1 and 3 are alike; -1 with 3: the farther of 0 and 1; 3 with -1: of them too
    assert value.tolist() == [1 - 3 + 5, 1 - 2 + 5, 4 - 2 + 5, 4 - 3 + 5]


def test_rows_without_a_positive():
    for rows, labels in ((normal(4, 2), torch.arange(4)), (normal(1, 2), torch.zeros(1).long())):
        value, gradient = value_and_gradients(lambda x, y=labels: losses.supervised_contrastive_loss(x, y), rows)
        assert value == 0 and gradient.eq(0).all()
    assert losses.supervised_contrastive_loss(torch.zeros(0, 2), torch.zeros(0).long()) == 0


def test_one_pair_is_always_right():
    a, b = normal(1, 3), normal(1, 3, seed=1)
    for loss in (losses.info_nce_loss, losses.nt_xent_loss):
        value, *gradients = value_and_gradients(loss, a, b)
        assert value.abs() < 1e-15 and all(g.abs().max() < 1e-15 for g in gradients)


PAIRED = {
    "info_nce": losses.info_nce_loss,
    "clip": lambda a, b, **options: losses.info_nce_loss(a, b, symmetric=True, **options),
    "nt_xent": losses.nt_xent_loss,
    "siglip": losses.siglip_loss,
    "supcon": lambda a, b, **o: losses.supervised_contrastive_loss(torch.cat((a, b)), torch.arange(6).repeat(2), **o),
}


@pytest.mark.parametrize("name", sorted(PAIRED))
def test_temperatures_close_to_0_and_rows_of_zeros_leave_gradients_finite(name):
    a, b = normal(6, 4).float(), normal(6, 4, seed=1).float()
    a[0] = 0
    options = {"scale": 1e4} if name == "siglip" else {"temperature": 1e-4}
    value, *gradients = value_and_gradients(lambda x, y: PAIRED[name](x, y, **options), a, b)
    assert value.isfinite() and all(g.isfinite().all() for g in gradients)
    exact, *_ = value_and_gradients(lambda x, y: PAIRED[name](x, y, **options), a.double(), b.double())
    torch.testing.assert_close(value.double(), exact, rtol=1e-4, atol=0)  # the cosines' roundings, times 10⁴


@pytest.mark.parametrize("name", sorted(PAIRED))
def test_the_scale_of_embeddings_does_not_matter_also_in_half_precision(name):
    """Squares of 300 overflow in float16; one rounding of the result is half its unit."""
    a, b = (300 * normal(6, 4)).half(), (300 * normal(6, 4, seed=1)).half()
    value, *gradients = value_and_gradients(PAIRED[name], a, b)
    goal = PAIRED[name](a.double(), b.double())
    assert value.dtype == torch.float16 and all(g.isfinite().all() for g in gradients)
    torch.testing.assert_close(value.double(), goal, rtol=torch.finfo(torch.float16).eps / 2 * 1.01, atol=0)
    torch.testing.assert_close(PAIRED[name](a.double() * 1e-3, b.double()), goal)


@pytest.mark.parametrize("name", sorted(PAIRED))
def test_autocast_does_not_round_the_cosines(name):
    a, b = normal(6, 40).float(), normal(6, 40, seed=1).float()
    goal = PAIRED[name](a, b)
    with torch.autocast("cpu"):
        got = PAIRED[name](a, b)
    torch.testing.assert_close(got, goal, rtol=1e-6, atol=0)


@pytest.mark.parametrize("name", sorted(PAIRED))
def test_one_square_is_kept_for_the_backward_pass(name):
    """Of 64 rows of 2 numbers, a tensor of 64 × 64 (of all 128 rows where both views are compared)."""
    a, b = normal(64, 2).requires_grad_(), normal(64, 2, seed=1).requires_grad_()
    squares = {}

    def pack(x):
        if x.numel() >= 64 * 64:
            squares[x.untyped_storage().data_ptr()] = x
        return x

    loss = (
        PAIRED[name]
        if name != "supcon"
        else lambda a, b: losses.supervised_contrastive_loss(torch.cat((a, b)), torch.arange(64).repeat(2))
    )
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        loss(a, b)
    assert len(squares) == 1


def test_pytorch_metric_learnings_nt_xent_and_supervised_contrastive():
    """A small number is added to the share of the positives in its logarithm."""
    metric = pytest.importorskip("pytorch_metric_learning.losses")
    theirs = metric.NTXentLoss(temperature=0.3)
    pairs = torch.arange(6).repeat(2)
    assert_agree(
        lambda a, b: losses.nt_xent_loss(a, b, temperature=0.3),
        lambda a, b: theirs(torch.cat((a, b)), pairs),
        normal(6, 4),
        normal(6, 4, seed=1),
        rtol=1e-6,
        atol=1e-8,
    )
    theirs_too = metric.SupConLoss(temperature=0.3)
    assert_agree(
        lambda z: losses.supervised_contrastive_loss(z, LABELS, temperature=0.3),
        lambda z: theirs_too(z, LABELS),
        normal(8, 4),
        rtol=1e-6,
        atol=1e-8,
    )


def test_pytorch_metric_learnings_batch_hard_triplets():
    metric = pytest.importorskip("pytorch_metric_learning.losses")
    from pytorch_metric_learning.distances import LpDistance
    from pytorch_metric_learning.miners import BatchHardMiner
    from pytorch_metric_learning.reducers import MeanReducer

    distance = LpDistance(normalize_embeddings=False)
    miner = BatchHardMiner(distance=distance)
    loss = metric.TripletMarginLoss(margin=0.5, distance=distance, reducer=MeanReducer())
    assert_agree(
        lambda x: losses.triplet_mining_loss(x, LABELS, margin=0.5),
        lambda x: loss(x, LABELS, miner(x, LABELS)),
        normal(8, 3),
    )


def test_semi_hard_triplets_are_the_nearest_of_pytorch_metric_learnings():
    miners = pytest.importorskip("pytorch_metric_learning.miners")
    from pytorch_metric_learning.distances import LpDistance

    x = normal(8, 3)
    miner = miners.TripletMarginMiner(1e9, "semihard", distance=LpDistance(normalize_embeddings=False))
    nearest: dict[tuple[int, int], float] = {}
    for a, p, n in zip(*(t.tolist() for t in miner(x, LABELS)), strict=True):
        gap = (x[a] - x[p]).norm() - (x[a] - x[n]).norm()
        nearest[a, p] = max(nearest.get((a, p), -math.inf), gap.item())
    pairs = [(a, p) for a in range(8) for p in range(8) if a != p and LABELS[a] == LABELS[p]]
    got = losses.triplet_mining_loss(x, LABELS, margin=10.0, mining="semi_hard", reduction="none")
    kept = [place for place, pair in enumerate(pairs) if pair in nearest]  # of some no opponent is farther
    assert len(kept) == 11
    goal = torch.tensor([nearest[pairs[place]] + 10 for place in kept], dtype=torch.float64)
    torch.testing.assert_close(got[kept], goal)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda x, y: losses.info_nce_loss(x, x, temperature=0.0), "temperature must be positive, and is 0.0"),
        (lambda x, y: losses.info_nce_loss(x, x[:2]), r"query and key must have one shape, and have \(4, 3\) and \(2"),
        (lambda x, y: losses.info_nce_loss(x[0], x[0]), r"query and key must be \(N, D\).*\(3,\)"),
        (lambda x, y: losses.nt_xent_loss(x, x, temperature=-1.0), "temperature must be positive, and is -1.0"),
        (lambda x, y: losses.nt_xent_loss(x, x, reduction="avg"), "avg is not a valid value for reduction"),
        (lambda x, y: losses.siglip_loss(x, x, scale=0.0), "scale must be positive, and is 0.0"),
        (lambda x, y: losses.siglip_loss(x, x.T), "image and text must have one shape"),
        (lambda x, y: losses.supervised_contrastive_loss(x, y[:3]), r"labels must be 4.*\(3,\)"),
        (lambda x, y: losses.supervised_contrastive_loss(x, y, temperature=0.0), "temperature must be positive"),
        (lambda x, y: losses.triplet_mining_loss(x[0], y), r"embeddings must be \(N, D\).*\(3,\)"),
        (lambda x, y: losses.triplet_mining_loss(x, y[:, None]), r"labels must be 4.*\(4, 1\)"),
        (lambda x, y: losses.triplet_mining_loss(x, y, margin=-0.1), "margin must not be negative, and is -0.1"),
        (lambda x, y: losses.triplet_mining_loss(x, y, mining="hard"), "one of batch_hard, semi_hard, and is hard"),
        (lambda x, y: losses.TripletMiningLoss(mining="hard"), "one of batch_hard, semi_hard, and is hard"),
    ],
)
def test_wrong_input_is_named(call, words):
    with pytest.raises(ValueError, match=words):
        call(torch.ones(4, 3), torch.arange(4))


def test_integers_are_refused():
    for call in (losses.info_nce_loss, losses.nt_xent_loss, losses.siglip_loss):
        with pytest.raises(TypeError, match=r"convert it with .float\(\)"):
            call(torch.ones(4, 3).int(), torch.ones(4, 3))
    for call in (losses.supervised_contrastive_loss, losses.triplet_mining_loss):
        with pytest.raises(TypeError, match=r"convert it with .float\(\)"):
            call(torch.ones(4, 3).int(), torch.arange(4))
