"""Losses over rows by CPU kernels: against torch in float64, edges against torch, and mutants that do not pass."""

from __future__ import annotations

import importlib
import itertools

import pytest
import torch
from torch.nn import functional

from optimizers import losses
from optimizers.losses import vectors

from .agreement import by_rows_for_the_smallest, forget_rows, indices, normal

pytest.importorskip("numba")
kernel = importlib.import_module("optimizers.losses.by_rows_cpu")

#: a few roundings in the working precision, and one to the dtype; of gradients relative to the largest
TOLERANCES = {torch.float32: 4e-6, torch.float64: 1e-12, torch.bfloat16: 2**-8, torch.float16: 2**-10}
ALL_DTYPES, SINGLE_AND_DOUBLE = list(TOLERANCES), [torch.float32, torch.float64]
INF, NAN = float("inf"), float("nan")


@pytest.fixture(autouse=True)
def kernels_for_the_smallest():
    with by_rows_for_the_smallest():
        yield


def rights(n, classes, seed=2):
    """Right classes of each row, some named twice, then -1, and after that what nobody looks at."""
    found = indices(n, classes, classes=classes, seed=seed)
    lengths = indices(n, classes=classes, seed=seed + 1)
    for row, length in zip(found, lengths.tolist(), strict=True):
        row[length] = -1
    return found


def labels(n):
    return indices(n, classes=3) - 1  # 0 is neither like nor unlike


def nll_cases():
    for shape in ((300, 5), (7, 1000), (3, 4, 50), (2, 3, 50, 100)):
        target = indices(shape[0], *shape[2:], classes=shape[1])
        weight = normal(shape[1], seed=3).abs()
        for ignored, w in itertools.product((-100, 1), (None, weight)):
            some = target.clone()
            some.view(-1)[::7] = ignored
            yield (normal(*shape),), (some,), {"ignore_index": ignored, "weight": w}


def cases(name):
    """Predictions, which want gradients, what else the loss takes, and options."""
    if name == "nll_loss":
        yield from nll_cases()
    for n, length in ((9, 5), (50, 33), (3, 1000), (150, 600)):
        x, y, z = (normal(n, length, seed=seed) for seed in range(3))
        if name == "multi_margin_loss":
            weight = normal(length, seed=3).abs()
            for p, w in itertools.product((1, 2), (None, weight)):
                yield (x,), (indices(n, classes=length),), {"p": p, "margin": 0.7, "weight": w}
        elif name == "multilabel_margin_loss" and length < 1000:
            yield (x,), (rights(n, length),), {}
        elif name == "cosine_embedding_loss":
            yield (x, y), (labels(n),), {"margin": -0.02}
            yield (x, y), (labels(n).double(),), {}
        elif name == "triplet_margin_loss":
            for swap in (False, True):
                yield (x, y, z), (), {"swap": swap, "margin": 0.8, "eps": 0.01}
        elif name == "triplet_margin_with_distance_loss":
            yield (x, y, z), (), {"swap": n == 9, "margin": 0.8}


def follows_float64(name, dtype):
    """Values and gradients, made in the forward pass, made anew, and for an upstream gradient of each row."""
    for (predictions, others, options), reduction in itertools.product(cases(name), ("mean", "sum", "none")):
        answers = []
        for module, work in ((losses, dtype), (functional, torch.float64)):

            def given(t, work=work):
                return t.to(dtype).to(work) if isinstance(t, torch.Tensor) and t.is_floating_point() else t

            x = [given(t).requires_grad_() for t in predictions]
            chosen = {key: given(value) for key, value in options.items()}
            value = getattr(module, name)(*x, *map(given, others), reduction=reduction, **chosen)
            assert value.dtype == work and (module is functional or "_Fused" in type(value.grad_fn).__name__)
            upstream = torch.linspace(-1, 2, value.numel(), dtype=torch.float64).reshape(value.shape).to(work)
            answers.append([value.detach()])
            for factor in (1, -2):
                answers[-1] += torch.autograd.grad(value, x, factor * upstream, retain_graph=True)
        for got, goal in zip(*answers, strict=True):
            atol = TOLERANCES[dtype] * goal.abs().max().item()
            torch.testing.assert_close(got.double(), goal, rtol=TOLERANCES[dtype], atol=atol)


DTYPES_OF = {
    "nll_loss": ALL_DTYPES,
    "multi_margin_loss": SINGLE_AND_DOUBLE,  # torch has it for no others
    "multilabel_margin_loss": SINGLE_AND_DOUBLE,
    "cosine_embedding_loss": ALL_DTYPES,
    "triplet_margin_loss": SINGLE_AND_DOUBLE,
    "triplet_margin_with_distance_loss": [torch.float32],
}


@pytest.mark.parametrize(("name", "dtype"), [(name, dtype) for name, all_ in DTYPES_OF.items() for dtype in all_])
def test_the_kernels_follow_float64(name, dtype):
    follows_float64(name, dtype)


def agree(name, predictions, others=(), *, kernel=True, **options):
    """Value and gradients are torch's, and a kernel made them or not."""
    answers = []
    for module in (losses, functional):
        x = [t.detach().clone().requires_grad_() for t in predictions]
        value = getattr(module, name)(*x, *others, **options)
        if module is losses:
            assert ("_Fused" in type(value.grad_fn).__name__) == kernel, value.grad_fn
        answers.append((value.detach(), *torch.autograd.grad(value, x, torch.full_like(value, 1.5))))
    torch.testing.assert_close(*answers, equal_nan=True)
    return answers[0]


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_edges_of_nll_are_as_in_torch(reduction):
    for shape in ((4, 3), (4, 3, 2)):
        target = torch.full((shape[0], *shape[2:]), -100)
        value, gradient = agree("nll_loss", (normal(*shape),), (target,), reduction=reduction)
        assert gradient.eq(0).all() and (reduction != "mean" or value.isnan())
        weight = torch.tensor([0.0, 1.0, 2.0], dtype=torch.float64)
        agree("nll_loss", (normal(*shape),), (target * 0,), weight=weight, reduction=reduction)
    x = torch.tensor([[-INF, 0.0], [1.0, NAN], [INF, 2.0]])
    agree("nll_loss", (x,), (torch.tensor([0, 1, 1]),), reduction=reduction)
    agree("nll_loss", (x,), (torch.tensor([0, 0, 0]),), weight=torch.tensor([0.0, 1.0]), reduction=reduction)
    agree("nll_loss", (x[:0],), (torch.zeros(0, dtype=torch.int64),), kernel=False, reduction=reduction)
    agree("nll_loss", (x[0],), (torch.tensor(1),), kernel=False, reduction=reduction)
    agree("nll_loss", (x.t(),), (torch.tensor([0, 2]),), kernel=False, reduction=reduction)


@pytest.mark.parametrize("bad", [3, -1, -101, 2**40])
def test_a_target_that_is_no_class_is_refused(bad):
    target = torch.tensor([1, bad])
    for x, t in ((torch.ones(2, 3), target), (torch.ones(1, 3, 2), target[None])):
        with pytest.raises(IndexError, match=f"Target {bad} is out of bounds"):
            losses.nll_loss(x, t)
    with pytest.raises(RuntimeError, match="target"):
        losses.multi_margin_loss(torch.ones(2, 3), target)
    if bad != -1:
        rows = torch.tensor([[0, -1, -1], [-1, 0, bad]])  # behind the end too, as torch does
        with pytest.raises(RuntimeError, match="target"):
            losses.multilabel_margin_loss(torch.ones(2, 3), rows)


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_edges_of_margins_are_as_in_torch(reduction):
    x = torch.tensor([[1.0, 2.0, 0.0], [INF, 0.0, 1.0], [NAN, 0.0, 1.0], [0.0, -INF, 1.0], [1e8, 1e8, 0.0]])
    for p in (1, 2):
        for t in range(3):
            agree("multi_margin_loss", (x,), (torch.full((5,), t),), p=p, reduction=reduction)
        agree("multi_margin_loss", (x[:, :1],), (torch.zeros(5, dtype=torch.int64),), p=p, reduction=reduction)
    none, every, twice = torch.full((5, 3), -1), torch.arange(3).expand(5, 3).contiguous(), torch.zeros(5, 3).long()
    for target in (none, every, twice, twice + 1, none.clone().index_fill_(1, torch.tensor([0]), 2)):
        agree("multilabel_margin_loss", (x[[0, 3, 4]],), (target[:3],), reduction=reduction)
    agree("multi_margin_loss", (x[0],), (torch.tensor(1),), kernel=False, reduction=reduction)
    agree("multilabel_margin_loss", (x[0],), (every[0],), kernel=False, reduction=reduction)
    with pytest.raises(ValueError, match="only p == 1 and p == 2 supported"):
        losses.multi_margin_loss(x, twice[:, 0], p=3)


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_edges_of_vectors_are_as_in_torch(reduction):
    zero, x, y = torch.zeros(4, 3), normal(4, 3).float(), normal(4, 3, seed=1).float()
    for a, b in ((zero, x), (x, zero), (zero, zero), (x, x), (x, -x)):
        for label in (-1, 0, 1, 2):
            agree("cosine_embedding_loss", (a, b), (torch.full((4,), label),), margin=-1.0, reduction=reduction)
    for swap, eps in itertools.product((False, True), (0.0, 1e-6)):
        options = {"swap": swap, "eps": eps, "reduction": reduction}
        for triple in ((x, y, zero), (x, x, y), (x, y, x), (x, y, y), (x, x, x), (zero, x, -x)):
            agree("triplet_margin_loss", triple, **options)
    # a loss of exactly 0 still has the slope of the hinge, as torch's clamp has
    ones = torch.ones(2, 4)
    value, *slopes = agree("triplet_margin_loss", (0 * ones, ones, 2 * ones), margin=2.0, eps=0.0, reduction=reduction)
    assert value.eq(0).all() and slopes[1].ne(0).all()
    agree("triplet_margin_loss", (x, y, zero), p=1, kernel=False, reduction=reduction)
    agree("triplet_margin_loss", (x, y, zero[:1]), kernel=False, reduction=reduction)
    agree("cosine_embedding_loss", (x, y[:1]), (torch.ones(4),), kernel=False, reduction=reduction)
    agree("cosine_embedding_loss", (x[0], y[0]), (torch.tensor(1),), kernel=False, reduction=reduction)
    agree("triplet_margin_loss", (x[0], y[0], zero[0]), kernel=False, reduction=reduction)
    with pytest.raises(ValueError, match="margin must be greater than 0, got 0"):
        losses.triplet_margin_loss(x, y, zero, margin=0)


SMALLEST = {
    "nll_loss": ((normal(5, 3),), (indices(5, classes=3),)),
    "multi_margin_loss": ((normal(5, 3),), (indices(5, classes=3),)),
    "multilabel_margin_loss": ((normal(5, 3),), (rights(5, 3),)),
    "cosine_embedding_loss": ((normal(5, 3), normal(5, 3, seed=1)), (labels(5),)),
    "triplet_margin_loss": (tuple(normal(5, 3, seed=seed) for seed in range(3)), ()),
    "triplet_margin_with_distance_loss": (tuple(normal(5, 3, seed=seed) for seed in range(3)), ()),
}
NAMES = pytest.mark.parametrize("name", SMALLEST)


@NAMES
def test_every_set_of_gradients(name):
    predictions, others = SMALLEST[name]
    for wanted in itertools.product((False, True), repeat=len(predictions)):
        answers = []
        for module in (losses, functional):
            x = [t.clone().requires_grad_(w) for t, w in zip(predictions, wanted, strict=True)]
            value = getattr(module, name)(*x, *others)
            those = [t for t in x if t.requires_grad]
            answers.append((value.detach(), *(torch.autograd.grad(value, those) if those else ())))
        torch.testing.assert_close(*answers)


@pytest.mark.parametrize("name", ["nll_loss", "cosine_embedding_loss", "triplet_margin_loss"])
def test_the_gradients_have_gradients(name):
    """Of the others torch has none."""
    predictions, others = SMALLEST[name]
    answers = []
    for module in (losses, functional):
        x = [t.clone().requires_grad_() for t in predictions]
        upstream = torch.tensor(0.7, dtype=torch.float64, requires_grad=True)
        gradients = torch.autograd.grad(getattr(module, name)(*x, *others), x, upstream, create_graph=True)
        total = sum(gradient.square().sum() for gradient in gradients)
        answers.append(torch.autograd.grad(total, [*x, upstream], allow_unused=True, materialize_grads=True))
    torch.testing.assert_close(*answers)


@NAMES
def test_transforms_and_tracing_go_to_torch(name):
    predictions, others = SMALLEST[name]
    loss, reference = getattr(losses, name), getattr(functional, name)
    goal, slope = reference(*predictions, *others), torch.func.grad(reference)(*predictions, *others)
    torch.testing.assert_close(torch.func.grad(loss)(*predictions, *others), slope)
    compiled = torch.compile(loss, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(*predictions, *others), goal)


def test_labels_and_options_that_no_kernel_takes():
    x, y = SMALLEST["cosine_embedding_loss"][0]
    agree("cosine_embedding_loss", (x, y), (labels(5).float(),), kernel=False)
    agree("cosine_embedding_loss", (x, y), (labels(5).int(),), kernel=False)
    margin = torch.tensor(0.25)
    for _ in range(2):  # read anew
        agree("cosine_embedding_loss", (x, y), (labels(5),), margin=margin.item())
        loss = losses.cosine_embedding_loss(x, y, labels(5), margin=float(margin))
        torch.testing.assert_close(loss, functional.cosine_embedding_loss(x, y, labels(5), margin=float(margin)))
        margin += 0.25
    with pytest.raises(ValueError, match="avg is not a valid value for reduction"):
        losses.cosine_embedding_loss(x, y, labels(5), reduction="avg")


@pytest.mark.parametrize("name", ["COSINE", "TRIPLET", "SWAPPED_TRIPLET"])
def test_slopes_of_vectors_are_the_derivatives(name):
    """In the dialect, against autograd: of the sums and of the elements."""
    loss = getattr(vectors, name)
    constants = (0.1,) if name == "COSINE" else (5.0, 0.01)
    xs = [normal(6, 4, seed=seed).requires_grad_() for seed in range(len(loss.pulls))]
    terms = loss.terms(*xs, *constants)
    assert len(terms) == loss.sums
    sums = [term.sum(1).detach().requires_grad_() for term in terms]
    value, *slopes = loss.loss(*sums, torch.tensor([1, -1, 1, -1, 0, 0]), *constants)
    for slope, goal in zip(slopes, torch.autograd.grad(value.sum(), sums), strict=True):
        torch.testing.assert_close(slope.double().expand(6), goal)
    weights = [normal(6, seed=9 + k)[:, None] for k in range(len(terms))]
    goals = torch.autograd.grad(sum((w * term).sum() for w, term in zip(weights, terms, strict=True)), xs)
    for pull, goal in zip(loss.pulls, goals, strict=True):
        torch.testing.assert_close(pull(*xs, *weights, *constants), goal)


def test_vectors_are_read_on_all_threads_with_the_same_bits():
    x, y = normal(3000, 40).float(), normal(3000, 40, seed=1).float()
    before, found = torch.get_num_threads(), []
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            found.append(agree("cosine_embedding_loss", (x, y), (labels(3000),)))
            found[-1] += agree("multilabel_margin_loss", (x[:900],), (rights(900, 40),))
    finally:
        torch.set_num_threads(before)
    assert all(map(torch.equal, *found))


#: in which source, what is written there, the mistake, and the loss that must notice
MUTANTS = {
    "gradient keeps old memory": ("NLL", "clear(out + skip, classes * (end - begin))", "pass", "nll_loss"),
    "columns keep old memory": ("NLL", "clear(out + skip + ${SIZE} * apart * c, n)", "pass", "nll_loss"),
    "weight left out of the gradient": ("NLL", "-w * upstream_of", "-upstream_of", "nll_loss"),
    "columns of the next sample": ("NLL", "(begin - position) * classes + position", "begin", "nll_loss"),
    "first upstream for all": ("NLL", "element(upstream, r)", "element(upstream, 0)", "nll_loss"),
    "upstream dropped": ("NLL", "= get_float64(numbers, 0), 1.0", "= 1.0, 1.0", "nll_loss"),
    "mean over all rows": ("NLL", "float64(kept)", "float64(n)", "nll_loss"),
    "ignored rows keep old memory": ("NLL", "elif values:", "elif False:", "nll_loss"),
    "the right class pulls nothing": ("ONE_RIGHT", "(slopes + more_slopes)", "slopes", "multi_margin_loss"),
    "the right class counted": ("ONE_RIGHT", "hinges(at, t, shift)", "hinges(at, t + 1, shift)", "multi_margin_loss"),
    "margin of 1": ("ONE_RIGHT", "get_float64(word(args, 0), 3)", "1.0", "multi_margin_loss"),
    "sum over classes": ("HINGES", "weight_of(args, r) / n", "weight_of(args, r)", "multi_margin_loss"),
    "right classes are compared": ("MANY_RIGHT", "${REAL}(-math.inf)", "${REAL}(0)", "multilabel_margin_loss"),
    "one right class": ("MANY_RIGHT", "while k < n and", "while k < 1 and", "multilabel_margin_loss"),
    "pulls over each other": ("MANY_RIGHT", "float64(element(out, t)) - slopes", "-slopes", "multilabel_margin_loss"),
    "scratch is old": ("MANY_RIGHT", "set_element(wrong, i, element(at, i))", "pass", "multilabel_margin_loss"),
    "labels as bits": ("LABELS", "float64(word(labels, r))", "float64(element(labels, r))", "cosine_embedding_loss"),
    "first label for all": ("LABELS", "element(labels, r)", "element(labels, 0)", "cosine_embedding_loss"),
    "gradient unscaled": ("VECTORS", "here = upstream_of(args, r)", "here = 1.0", "triplet_margin_loss"),
    "rows added up": ("VECTORS", "set_element(values, r,", "set_element(values, 0,", "triplet_margin_loss"),
}  # fmt: skip


@pytest.mark.parametrize("name", MUTANTS)
def test_mutants_do_not_pass(name, monkeypatch):
    source, before, after, loss = MUTANTS[name]
    text = getattr(kernel, source)
    assert before in text
    monkeypatch.setattr(kernel, source, text.replace(before, after))
    forget()
    try:
        with pytest.raises(AssertionError):
            follows_float64(loss, torch.float32)
    finally:
        monkeypatch.undo()
        forget()


def forget():
    forget_rows()
    for kept in (kernel._block, kernel._block_of_vectors):
        kept.cache_clear()
