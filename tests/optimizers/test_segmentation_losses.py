"""Losses of overlap against loops over pixels and against monai and kornia, and at the edges."""

from __future__ import annotations

import itertools

import pytest
import torch

from optimizers import losses

from .agreement import assert_agree, indices, normal, value_and_gradients

BATCH = pytest.mark.parametrize("batch", [False, True])
MODES = pytest.mark.parametrize("mode", ["masks", "classes", "ignored masks", "ignored classes"])


def sample(mode, n=3, classes=4, size=(2, 3)):
    """Logits, a target, and the options that leave out a pixel or none."""
    logits = normal(n, classes, *size)
    if "masks" in mode:
        target = (normal(n, classes, *size, seed=1) > 0.5).double()
        target[:, 1] = normal(n, *size, seed=2).abs().clamp_max(1)  # one of them soft
    else:
        target = indices(n, *size, classes=classes)
    if "ignored" in mode:
        target.view(-1)[::5] = -100
        return logits, target, {"ignore_index": -100}
    return logits, target, {}


def regions(logits, target):
    """For each sample and channel, its pixels' probabilities and targets that are not ignored."""
    masks = target.shape == logits.shape
    found = {}
    for n, c in itertools.product(range(logits.shape[0]), range(logits.shape[1])):
        pixels = []
        for place in itertools.product(*map(range, logits.shape[2:])):
            x = logits[(n, slice(None), *place)]
            t = target[(n, c, *place)] if masks else target[(n, *place)]
            if t != -100:
                p = 1 / (1 + (-x[c]).exp()) if masks else x[c].exp() / x.exp().sum()
                pixels.append((p, float(t) if masks else float(t == c)))
        found[n, c] = pixels
    return found


def each(logits, target, batch, value):
    """`value` of each region, as (N, C), or of those of all samples together, as (C,)."""
    found = regions(logits, target)
    n, c = logits.shape[:2]
    if batch:
        return torch.stack([value([pixel for i in range(n) for pixel in found[i, j]]) for j in range(c)])
    return torch.stack([torch.stack([value(found[i, j]) for j in range(c)]) for i in range(n)])


@BATCH
@MODES
@pytest.mark.parametrize("squared", [False, True])
def test_dice_is_its_formula(mode, batch, squared):
    logits, target, options = sample(mode)

    def value(pixels):
        power = 2 if squared else 1
        size = sum(p**power + y**power for p, y in pixels)
        return 1 - (2 * sum(p * y for p, y in pixels) + 0.1) / (size + 0.1)

    def ours(x):
        return losses.dice_loss(x, target, smooth=0.1, squared=squared, batch=batch, reduction="none", **options)

    assert_agree(ours, lambda x: each(x, target, batch, value), logits)


@BATCH
@MODES
@pytest.mark.parametrize("gamma", [None, 4 / 3, 0.5])
def test_tversky_and_focal_tversky_are_their_formulas(mode, batch, gamma):
    logits, target, options = sample(mode)

    def value(pixels):
        both = sum(p * y for p, y in pixels)
        too_many, missed = sum(p * (1 - y) for p, y in pixels), sum((1 - p) * y for p, y in pixels)
        loss = 1 - (both + 0.1) / (both + 0.3 * too_many + 0.9 * missed + 0.1)
        return loss if gamma is None else loss ** (1 / gamma)

    def ours(x):
        common = {"smooth": 0.1, "batch": batch, "reduction": "none", **options}
        if gamma is None:
            return losses.tversky_loss(x, target, 0.3, 0.9, **common)
        return losses.focal_tversky_loss(x, target, 0.3, 0.9, gamma, **common)

    assert_agree(ours, lambda x: each(x, target, batch, value), logits)


@BATCH
@MODES
def test_generalized_dice_is_its_formula(mode, batch):
    logits, target, options = sample(mode)
    if mode == "classes":
        target[target == 2] = 3  # an absent class

    def theirs(x):
        size = each(x, target, batch, lambda pixels: x.new_tensor(sum(y for _, y in pixels)))
        both = each(x, target, batch, lambda pixels: sum(p * y for p, y in pixels) + x.new_zeros(()))
        wide = each(x, target, batch, lambda pixels: sum(p for p, _ in pixels) + x.new_zeros(()))
        values = []
        for sizes, boths, wides in zip(*(t.reshape(-1, x.shape[1]) for t in (size, both, wide)), strict=True):
            least = min(s for s in sizes.tolist() if s > 0)
            weights = [(least / s) ** 2 if s else 1.0 for s in sizes.tolist()]
            top = 2 * sum(w * b for w, b in zip(weights, boths, strict=True)) + 0.1
            bottom = sum(w * (a + s) for w, a, s in zip(weights, wides, sizes, strict=True)) + 0.1
            values.append(1 - top / bottom)
        return torch.stack(values)[0] if batch else torch.stack(values)

    def ours(x):
        return losses.generalized_dice_loss(x, target, smooth=0.1, batch=batch, reduction="none", **options)

    assert_agree(ours, theirs, logits)


def jaccard_extension(pixels):
    """Lovász's extension by its definition: the loss of the set of the k worst pixels, k from 1 on."""

    def jaccard_loss(wrong):
        union = {i for i, (_, y) in enumerate(pixels) if y} | wrong
        left = {i for i, (_, y) in enumerate(pixels) if y} - wrong
        return 1 - len(left) / len(union) if union else 0.0

    order = sorted(range(len(pixels)), key=lambda i: -pixels[i][0].item())
    total = 0.0
    for k, i in enumerate(order):
        total = total + pixels[i][0] * (jaccard_loss(set(order[: k + 1])) - jaccard_loss(set(order[:k])))
    return total


@BATCH
@pytest.mark.parametrize("ignored", [False, True])
def test_lovasz_hinge_is_its_definition(batch, ignored):
    x, y = normal(3, 2, 4, scale=2.0), (normal(3, 2, 4, seed=1) > 0).long()
    y[1] = 0  # nothing to find
    if ignored:
        y.view(-1)[::3] = 255

    def theirs(x):
        rows = [
            [((1 - a if b else 1 + a).relu(), b) for a, b in zip(r, t.tolist(), strict=True) if b != 255]
            for r, t in zip(x.flatten(1), y.flatten(1), strict=True)
        ]
        return (
            jaccard_extension([pixel for row in rows for pixel in row])
            if batch
            else torch.stack([jaccard_extension(row) for row in rows])
        )

    options = {"batch": batch, "ignore_index": 255 if ignored else None, "reduction": "none"}
    assert_agree(lambda x: losses.lovasz_hinge_loss(x, y, **options), theirs, x)


@BATCH
@pytest.mark.parametrize("classes", ["present", "all"])
@pytest.mark.parametrize("ignored", [False, True])
def test_lovasz_softmax_is_its_definition(batch, classes, ignored):
    logits, target, options = sample("ignored classes" if ignored else "classes")
    target[target == 2] = 3

    def theirs(x):
        def value(pixels):
            return jaccard_extension([((1 - p if y else p), y) for p, y in pixels])

        values = each(x, target, batch, value).reshape(-1, 4)
        counted = each(x, target, batch, lambda pixels: x.new_tensor(any(y for _, y in pixels))).reshape(-1, 4)
        rows = (values * counted).sum(1) / counted.sum(1) if classes == "present" else values.mean(1)
        return rows[0] if batch else rows

    def ours(x):
        return losses.lovasz_softmax_loss(x, target, classes=classes, batch=batch, reduction="none", **options)

    assert_agree(ours, theirs, logits)


def test_ties_cost_the_same_in_any_order():
    x, y = torch.zeros(1, 6, dtype=torch.float64), torch.tensor([[0, 1, 1, 0, 1, 0]])
    goal = jaccard_extension([(torch.tensor(1.0, dtype=torch.float64), b) for b in y[0].tolist()])
    for order in (range(6), range(5, -1, -1)):
        torch.testing.assert_close(losses.lovasz_hinge_loss(x, y[:, list(order)]), goal)


def test_lovasz_slopes_keep_their_precision_among_many_pixels():
    """Of 10⁶ pixels in float32 each slope is good to some roundings, where differences of neighbours lose 6 %."""
    x = normal(1, 1_000_000, seed=3)
    y = (normal(1, 1_000_000, seed=4) > 0).long()
    exact = value_and_gradients(lambda a: losses.lovasz_hinge_loss(a, y), x.float().double())
    got = value_and_gradients(lambda a: losses.lovasz_hinge_loss(a, y), x.float())
    same = exact[1].ne(0) & got[1].ne(0)
    close = (got[1].double() / exact[1] - 1).abs()[same] < 1e-5
    assert close.double().mean() > 0.999 and same.double().mean() > 0.5  # errors that float32 ties are sorted otherwise
    torch.testing.assert_close(got[0].double(), exact[0], rtol=1e-5, atol=0)


@pytest.mark.parametrize(
    "name", ["dice_loss", "generalized_dice_loss", "tversky_loss", "focal_tversky_loss", "lovasz_hinge_loss"]
)
def test_half_precision_does_not_overflow_where_the_pixels_are_many(name):
    """200 × 400 pixels, more than float16's largest number; one rounding is its unit."""
    x = normal(1, 1, 200, 400).half()
    y = (normal(1, 1, 200, 400, seed=1) > 0).half()
    value, gradient, _ = value_and_gradients(lambda a, b: getattr(losses, name)(a, b), x, y)
    goal = getattr(losses, name)(x.double(), y.double())
    assert value.dtype == torch.float16 and gradient.isfinite().all()
    torch.testing.assert_close(value.double(), goal, rtol=1e-3, atol=0)


@pytest.mark.parametrize("name", ["dice_loss", "generalized_dice_loss", "tversky_loss", "focal_tversky_loss"])
def test_empty_masks_and_perfect_predictions(name):
    loss = getattr(losses, name)
    low, zeros = torch.full((1, 2, 4), -200.0), torch.zeros(1, 2, 4)
    for x, y in ((low, zeros), (-low, zeros + 1)):
        value, gradient, _ = value_and_gradients(loss, x, y)
        assert value < 1e-6 and gradient.eq(0).all()
    if name != "generalized_dice_loss":
        assert loss(low, zeros, smooth=0.0).isnan()
    assert loss(-low, zeros) > 0.99  # all of it too many
    none = loss(torch.zeros(2, 3, 0), torch.zeros(2, 3, 0), reduction="none")
    assert none.shape == ((2,) if name == "generalized_dice_loss" else (2, 3)) and none.lt(1e-6).all()


def test_lovasz_of_nothing_costs_nothing():
    assert losses.lovasz_hinge_loss(torch.zeros(2, 0), torch.zeros(2, 0)) == 0
    assert losses.lovasz_softmax_loss(torch.zeros(2, 3, 0), torch.zeros(2, 0).long()) == 0
    ignored = torch.full((2, 4), 255)
    value, gradient = value_and_gradients(
        lambda x: losses.lovasz_softmax_loss(x, ignored, ignore_index=255), torch.zeros(2, 3, 4)
    )
    assert value == 0 and gradient.eq(0).all()


@BATCH
@pytest.mark.parametrize("mode", ["masks", "classes"])
def test_monais_dice_and_tversky(mode, batch):
    monai = pytest.importorskip("monai.losses")
    logits, target, _ = sample(mode)
    target = target.round() if mode == "masks" else target  # its products of soft targets are minima
    theirs = {"batch": batch, "smooth_nr": 0.1, "smooth_dr": 0.1, "reduction": "none"}
    theirs |= {"sigmoid": True} if mode == "masks" else {"softmax": True, "to_onehot_y": True}
    ours = {"batch": batch, "smooth": 0.1, "reduction": "none"}
    goal = target if mode == "masks" else target.unsqueeze(1)

    def agree(own, other, **tolerance):
        assert_agree(lambda x: own(x).squeeze(), lambda x: other(x, goal).squeeze(), logits, **tolerance)

    agree(lambda x: losses.dice_loss(x, target, **ours), monai.DiceLoss(**theirs))
    agree(lambda x: losses.tversky_loss(x, target, 0.3, 0.9, **ours), monai.TverskyLoss(alpha=0.3, beta=0.9, **theirs))
    ours, theirs = (
        {**ours, "smooth": 0.0},
        {**theirs, "smooth_nr": 0.0, "smooth_dr": 0.0},
    )  # it means another thing there
    generalized = monai.GeneralizedDiceLoss(**theirs)  # its weights are float32
    agree(lambda x: losses.generalized_dice_loss(x, target, **ours), generalized, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("ignored", [False, True])
def test_kornias_dice_and_tversky(ignored):
    """It averages over the classes that are present."""
    kornia = pytest.importorskip("kornia.losses")
    logits, target, options = sample("ignored classes" if ignored else "classes")
    target[:, 0] = torch.tensor([0, 1, 2])
    present = torch.stack([(target == c).flatten(1).any(1) for c in range(4)], 1)

    def of_present(values):
        return ((values * present).sum(1) / present.sum(1)).mean()

    ours = {"smooth": 0.0, "reduction": "none", **options}
    assert_agree(
        lambda x: of_present(losses.dice_loss(x, target, **ours)),
        lambda x: kornia.dice_loss(x, target, average="macro", eps=0.0),
        logits,
    )
    assert_agree(
        lambda x: of_present(losses.tversky_loss(x, target, 0.3, 0.9, **ours)),
        lambda x: kornia.tversky_loss(x, target, 0.3, 0.9, eps=0.0),
        logits,
    )


def test_kornias_lovasz():
    kornia = pytest.importorskip("kornia.losses")
    logits, target, _ = sample("classes")
    assert_agree(
        lambda x: losses.lovasz_softmax_loss(x, target, classes="all"),
        lambda x: kornia.lovasz_softmax_loss(x, target),
        logits,
    )
    mask = (target > 1).long()
    assert_agree(
        lambda x: losses.lovasz_hinge_loss(x[:, 0], mask),
        lambda x: kornia.lovasz_hinge_loss(x[:, :1], mask),
        logits,
    )


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda x, t: losses.dice_loss(x, t[:1]), ValueError, r"indices of shape \(2, 4\), and target has \(1, 4\)"),
        (lambda x, t: losses.dice_loss(x[:, :1], t), ValueError, "2 classes or more.*give target the shape of input"),
        (lambda x, t: losses.dice_loss(x, t + 1), ValueError, "target has class 3, and input 3 classes.*ignore_index"),
        (lambda x, t: losses.dice_loss(x, t - 1, ignore_index=7), ValueError, "target has class -1"),
        (lambda x, t: losses.dice_loss(x, t, smooth=-1.0), ValueError, "smooth must not be negative, and is -1.0"),
        (lambda x, t: losses.dice_loss(x, t, reduction="avg"), ValueError, "avg is not a valid value for reduction"),
        (lambda x, t: losses.dice_loss(x, t.int()), TypeError, r"convert it with .long\(\)"),
        (lambda x, t: losses.dice_loss(x.int(), t), TypeError, r"convert it with .float\(\)"),
        (lambda x, t: losses.generalized_dice_loss(x, t, smooth=-1.0), ValueError, "smooth must not be negative"),
        (lambda x, t: losses.tversky_loss(x, t, -0.1), ValueError, "alpha must not be negative, and is -0.1"),
        (lambda x, t: losses.tversky_loss(x, t, 0.1, -0.1), ValueError, "beta must not be negative, and is -0.1"),
        (lambda x, t: losses.focal_tversky_loss(x, t, gamma=0.0), ValueError, "gamma must be positive, and is 0.0"),
        (lambda x, t: losses.lovasz_hinge_loss(x, t), ValueError, "use lovasz_softmax_loss"),
        (lambda x, t: losses.lovasz_softmax_loss(x, x), TypeError, r"convert it with .long\(\)"),
        (lambda x, t: losses.lovasz_softmax_loss(x, t, classes="some"), ValueError, "one of present, all, and is some"),
    ],
)
def test_wrong_input_is_named(call, error, words):
    with pytest.raises(error, match=words):
        call(torch.zeros(2, 3, 4), torch.tensor([[0, 1, 2, 2]] * 2))
