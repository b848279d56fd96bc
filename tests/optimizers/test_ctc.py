"""CTC by its CPU kernel: against all alignments written out, against torch in float64 and at the edges, and mutants."""

from __future__ import annotations

import importlib
import itertools

import pytest
import torch
from torch.nn import functional

from optimizers import losses

from .agreement import by_rows_for_the_smallest, forget_rows, indices, normal

pytest.importorskip("numba")
kernel = importlib.import_module("optimizers.losses.ctc_cpu")

#: of the gradient relative to the largest
TOLERANCES = {torch.float32: 4e-7, torch.float64: 1e-11}
INF, NAN = float("inf"), float("nan")
REDUCTIONS = pytest.mark.parametrize("reduction", ["mean", "sum", "none"])


@pytest.fixture(autouse=True)
def kernels_for_the_smallest():
    with by_rows_for_the_smallest():
        yield


def said(path, blank):
    """What an alignment says: repetitions once, and no blanks."""
    return [c for c, _ in itertools.groupby(path) if c != blank]


def enumerated(log_probs, target, blank):
    """Minus the log of the summed probability of all alignments of ``(T, C)`` that say the target."""
    times, classes = log_probs.shape
    paths = [path for path in itertools.product(range(classes), repeat=times) if said(path, blank) == target]
    return -sum(log_probs[range(times), list(path)].sum().exp() for path in paths).log()


@pytest.mark.parametrize("blank", [0, 2])
def test_all_alignments_written_out(blank):
    a, b = (c for c in range(3) if c != blank)
    targets = [[], [a], [a, b], [a, a], [b, b, a], [a, b, a]]
    logits = normal(5, len(targets), 3).requires_grad_()
    log_probs = logits.log_softmax(2)
    goal = torch.stack([enumerated(log_probs[:, r], target, blank) for r, target in enumerate(targets)])
    flat, lengths = torch.tensor(list(itertools.chain(*targets))), [len(target) for target in targets]
    value = losses.ctc_loss(log_probs, flat, [5] * len(targets), lengths, blank, "none")
    assert "_Fused" in type(value.grad_fn).__name__
    torch.testing.assert_close(value, goal, rtol=1e-13, atol=0)
    upstream = torch.linspace(-1, 2, len(targets), dtype=torch.float64)
    gradients = [torch.autograd.grad(v, logits, upstream, retain_graph=True)[0] for v in (value, goal)]
    torch.testing.assert_close(*gradients, rtol=1e-12, atol=1e-14)


def cases():
    """Log-probabilities, targets, lengths and options."""
    for times, n, classes, longest in ((12, 5, 4, 4), (60, 3, 50, 20), (9, 2, 1000, 3)):
        log_probs = normal(times, n, classes, scale=3).log_softmax(2)
        targets = 1 + indices(n, longest, classes=classes - 1)
        targets[::2, 1] = targets[::2, 0]
        lengths = times - indices(n, classes=3), longest - indices(n, classes=longest)
        options = {"blank": 0}
        yield log_probs, targets, *lengths, options
        flat = torch.cat([row[:length] for row, length in zip(targets, lengths[1].tolist(), strict=True)])
        yield log_probs, flat.int(), *(tuple(those.tolist()) for those in lengths), options
        yield log_probs, targets - 1, lengths[0].int(), lengths[1].int(), {"blank": classes - 1}


def follows_float64(reduction, dtype):
    """Values and gradients: those made in the forward pass and those made anew, of both orders in memory."""
    for (log_probs, targets, *lengths, options), batch_first in itertools.product(cases(), (False, True)):
        answers = []
        for module, work in ((losses, dtype), (functional, torch.float64)):
            x = log_probs.to(dtype).to(work)
            x = x.transpose(0, 1).contiguous() if batch_first else x
            x.requires_grad_()
            given = x.transpose(0, 1) if batch_first else x
            value = module.ctc_loss(given, targets, *lengths, reduction=reduction, **options)
            assert value.dtype == work and (module is functional or "_Fused" in type(value.grad_fn).__name__)
            upstream = torch.linspace(-1, 2, value.numel(), dtype=torch.float64).reshape(value.shape).to(work)
            answers.append([value.detach()])
            for factor in (1, -2):
                answers[-1] += torch.autograd.grad(value, x, factor * upstream, retain_graph=True)
        for got, goal in zip(*answers, strict=True):
            atol = TOLERANCES[dtype] * goal.abs().max().item()
            torch.testing.assert_close(got.double(), goal, rtol=TOLERANCES[dtype], atol=atol)


@REDUCTIONS
@pytest.mark.parametrize("dtype", list(TOLERANCES))
def test_the_kernel_follows_float64(reduction, dtype):
    follows_float64(reduction, dtype)


def agree(log_probs, *others, kernel=True, **options):
    """As torch's in float64, in value and gradient; answers both, or the error that both raise."""
    answers = []
    for module in (losses, functional):
        exact = module is functional and log_probs.dtype == torch.float32
        x = (log_probs.double() if exact else log_probs).detach().clone().requires_grad_()
        try:
            value = module.ctc_loss(x, *others, **options)
            answers.append((value.detach(), *torch.autograd.grad(value, x, torch.full_like(value, 1.5))))
        except (RuntimeError, TypeError, ValueError) as error:
            answers.append((type(error), str(error)))
            continue
        if module is losses and log_probs.dim() == 3:
            assert ("_Fused" in type(value.grad_fn).__name__) == kernel, value.grad_fn
    if isinstance(answers[1][0], type):
        assert answers[0] == answers[1]
    else:
        torch.testing.assert_close(*answers, equal_nan=True, check_dtype=False)
    return answers[0]


LOG_PROBS, TARGETS = normal(6, 3, 4).log_softmax(2), torch.tensor([[1, 2], [3, 3], [2, 1]])
TIMES, LENGTHS = torch.tensor([6, 4, 5]), torch.tensor([2, 1, 0])


@REDUCTIONS
def test_edges_are_as_in_torch(reduction):
    for times, lengths in (((1, 2, 0), (2, 2, 1)), ((0, 0, 3), (0, 2, 1)), ((2, 3, 6), (2, 2, 2))):
        for zero in (False, True):
            agree(LOG_PROBS, TARGETS, times, lengths, zero_infinity=zero, reduction=reduction)
    agree(LOG_PROBS, TARGETS[:, :0], TIMES, 0 * TIMES, reduction=reduction)
    agree(LOG_PROBS, TARGETS, TIMES, 0 * TIMES, reduction=reduction)
    agree(LOG_PROBS, TARGETS, (6, 4, 5), (2, 2, 2), blank=3, reduction=reduction)  # which is a label too
    agree(LOG_PROBS, TARGETS, TIMES[:, None], LENGTHS, reduction=reduction)
    for lengths in (((6,), (2,)), (torch.tensor(6), torch.tensor(2)), (TIMES[:1], LENGTHS[:1])):
        value, gradient = agree(LOG_PROBS[:, 0], TARGETS[0], *lengths, reduction=reduction)
        assert value.shape == () and gradient.shape == (6, 4)
    for x in (LOG_PROBS * 1000, LOG_PROBS + 900, LOG_PROBS - 400, LOG_PROBS + 300):
        agree(x, TARGETS, TIMES, LENGTHS, reduction=reduction)
    agree(LOG_PROBS.float() * 1000, TARGETS, TIMES, LENGTHS, reduction=reduction)
    for strange, c in itertools.product((-INF, INF, NAN, -1e9, -2e5), range(4)):
        x = LOG_PROBS.clone()
        x[2, 0, c] = strange
        agree(x, TARGETS, TIMES, LENGTHS, reduction=reduction)
    agree(torch.full_like(LOG_PROBS, -INF), TARGETS, TIMES, LENGTHS, reduction=reduction)


def test_what_cannot_be_is_0_on_request_and_nothing_beside_it():
    value, gradient = agree(LOG_PROBS, TARGETS, (1, 6, 6), (2, 2, 2), zero_infinity=True, reduction="none")
    assert value[0] == 0 and gradient[:, 0].eq(0).all() and gradient[:, 1:].ne(0).all()
    value, gradient = agree(LOG_PROBS, TARGETS, (1, 6, 6), (2, 2, 2), reduction="none")
    assert value[0] == INF and gradient[:1, 0].isnan().all() and gradient[1:, 0].eq(0).all()


def test_likelihoods_far_below_the_smallest_number():
    """A model that is sure of blanks: the alignments that count are e^-2000 of what else there is on the way."""
    logits = torch.full((300, 2, 5), -20.0, dtype=torch.float64)
    logits[:, :, 0] = 0
    targets = 1 + indices(2, 100, classes=4)
    value, _ = agree(logits.log_softmax(2), targets, (300, 300), (100, 100), reduction="none")
    assert value.gt(1500).all()
    agree(logits.log_softmax(2).float(), targets, (300, 300), (100, 100), reduction="none")


REFUSED = {
    "longer than there are times": (TARGETS, (7, 4, 5), LENGTHS.tolist()),
    "less than no time": (TARGETS, (-1, 4, 5), LENGTHS.tolist()),
    "longer than targets": (TARGETS, TIMES.tolist(), (3, 1, 0)),
    "less than no label": (TARGETS, TIMES.tolist(), (-1, 1, 0)),
    "two lengths of three": (TARGETS, TIMES[:2], LENGTHS),
    "lengths that are no integers": (TARGETS, TIMES.double(), LENGTHS),
    "one kind of lengths and another": (TARGETS, TIMES, tuple(LENGTHS.tolist())),
    "labels left over": (TARGETS.flatten()[:4], TIMES, LENGTHS),
    "labels too few": (TARGETS.flatten()[:2], TIMES, LENGTHS),
    "targets of two of three": (TARGETS[:2], TIMES, LENGTHS),
    "targets of three dimensions": (TARGETS[None], TIMES, LENGTHS),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_torch_refuses_is_refused_in_its_words(what):
    assert issubclass(agree(LOG_PROBS, *REFUSED[what])[0], Exception)


def test_options_that_torch_refuses():
    for options in ({"blank": 4}, {"blank": -1}, {"reduction": "avg"}):
        assert issubclass(agree(LOG_PROBS, TARGETS, TIMES, LENGTHS, **options)[0], Exception)
    for x in (LOG_PROBS[:0], LOG_PROBS[:, :0], LOG_PROBS.half(), LOG_PROBS[0, 0]):
        assert issubclass(agree(x, TARGETS, TIMES, LENGTHS)[0], Exception)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_what_goes_to_torch():
    def loss(x, module=losses):
        return module.ctc_loss(x, TARGETS, (6, 4, 5), (2, 1, 0))

    goal = loss(LOG_PROBS, functional)
    torch.testing.assert_close(torch.compile(loss, backend="eager")(LOG_PROBS), goal)
    for module in (losses, functional):  # torch itself has no transforms of it
        with pytest.raises(RuntimeError, match="data pointer"):
            torch.func.grad(lambda x, module=module: loss(x, module))(LOG_PROBS)
    agree(LOG_PROBS, TARGETS.double(), TIMES, LENGTHS, kernel=False)
    agree(LOG_PROBS, TARGETS.t().contiguous().t(), TIMES, LENGTHS, kernel=False)
    apart = torch.empty(6, 3, 8, dtype=torch.float64)[:, :, ::2].copy_(LOG_PROBS).requires_grad_()
    value = loss(apart)
    assert "_Fused" not in type(value.grad_fn).__name__
    torch.testing.assert_close(value.detach(), goal)


def test_a_gradient_that_keeps_its_graph_is_the_same_and_has_no_gradient_as_in_torch():
    x = LOG_PROBS.clone().requires_grad_()
    value = losses.ctc_loss(x, TARGETS, TIMES, LENGTHS)
    (goal,) = torch.autograd.grad(value, x, retain_graph=True)
    (gradient,) = torch.autograd.grad(value, x, create_graph=True)
    torch.testing.assert_close(gradient.detach(), goal)
    with pytest.raises(RuntimeError, match="not implemented"):
        torch.autograd.grad(gradient.sum(), x)


def test_threads_change_no_bit_and_nothing_is_written_to():
    log_probs, targets = normal(100, 20, 30).log_softmax(2).float(), 1 + indices(20, 15, classes=29)
    given = log_probs.clone(), targets.clone()
    before, found = torch.get_num_threads(), []
    try:
        for threads in (1, 3):
            torch.set_num_threads(threads)
            forget_rows()
            found.append(agree(log_probs, targets, [100] * 20, [15] * 20, reduction="sum"))
    finally:
        torch.set_num_threads(before)
    assert all(map(torch.equal, *found))
    assert torch.equal(given[0], log_probs) and torch.equal(given[1], targets)


def test_a_small_loss_goes_to_torch(monkeypatch):
    module = importlib.import_module("optimizers.losses.ctc")
    monkeypatch.setattr(module, "SMALL", 1500)
    agree(LOG_PROBS, TARGETS, TIMES, LENGTHS, kernel=False)
    agree(normal(50, 4, 5).log_softmax(2), 1 + indices(4, 8, classes=4), [50] * 4, [8] * 4)


#: what is written in the kernel, and the mistake
MUTANTS = {
    "jumps between equal labels": ("word(targets, k) != word(targets, k - 1)", "True"),
    "no jumps": ("1.0 if differ else 0.0", "0.0"),
    "the end is a blank": ("get_float64(last, 4 * n + 2), get_float64(last, 4 * n + 3)", "0.0, NOWHERE"),
    "the first blank for all": ("times_one(new, get_float64(p, 2 * n)", "times_one(new, get_float64(p, 0)"),
    "a label's last share only": ("get_float64(sums, c) + get_float64(spare, k)", "get_float64(spare, k)"),
    "sums of labels kept": ("set_float64(sums, word(targets, k), 0.0)", "pass"),
    "times after the end keep old memory": ("if m == 0 else times_, ${TIMES}", "if m == 0 else times_, times_"),
    "mean of sums": ("1.0 / max(n, 1) if ${MEAN}", "1.0 if ${MEAN}"),
    "gradient of the sum": ("factor /= word(args, ${N})", "pass"),
    "first upstream for all": ("element(${UPSTREAM}, r)", "element(${UPSTREAM}, 0)"),
    "upstream dropped": ("get_float64(word(args, 0), 0) * share", "share"),
    "first sequence's labels": ("start += word(${TARGET_LENGTHS}, i)", "pass"),
    "order of dimensions": ("if ${BATCH_FIRST} else", "if False else"),
    "labels added up once more": ("start = r * ${LONGEST}\n", "start = 0\n"),
    "blanks from the next label": ("of_two(now, now + labels + 16,", "of_two(now, now + labels,"),
    "another blank": ("element(at, ${BLANK})", "element(at, 0)"),
    "states of the time after": ("alphas, new = states + row * (t + 1)", "alphas, new = states + row * t"),
}  # fmt: skip


@pytest.mark.parametrize("name", MUTANTS)
def test_mutants_do_not_pass(name, monkeypatch):
    before, after = MUTANTS[name]
    assert before in kernel.CTC
    monkeypatch.setattr(kernel, "CTC", kernel.CTC.replace(before, after))
    forget()
    try:
        with pytest.raises(AssertionError):
            for reduction in ("mean", "none"):
                follows_float64(reduction, torch.float32)
    finally:
        monkeypatch.undo()
        forget()


def forget():
    forget_rows()
    kernel._block.cache_clear()
