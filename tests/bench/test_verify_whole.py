"""Verify must see what is wrong in the four that are not plain elementwise: broken ones turn its rows red."""

import pytest
import torch

from bench import verify
from bench.budgets import FULL
from bench.cell import Status
from bench.contenders import OPTIMIZERS, TRAITS, Takes
from bench.options import OPTION_SETS
from bench.verify import contenders


class Posing:
    """torch's own loop, posing as ours."""

    def executors(self):
        return [(p, "cpu", "") for group in self.param_groups for p in group["params"]]


def posing(name):
    return type(name, (Posing, getattr(torch.optim, name)), {})


Adafactor, Muon, SparseAdam, LBFGS = map(posing, ("Adafactor", "Muon", "SparseAdam", "LBFGS"))


def with_options(cls, change):
    """The optimizer with other options than it was given, as one that ignores or mistakes them."""

    class Mutant(cls):
        def __init__(self, params, **options):
            super().__init__(params, **options)
            for group in self.param_groups:
                group.update(change(group))

    return Mutant


def with_step(cls, instead):
    """The optimizer with `instead(self, step, closure)` for its step."""

    class Mutant(cls):
        def step(self, closure=None):
            arguments = () if closure is None else (closure,)
            return instead(self, lambda: super(Mutant, self).step(*arguments))

    return Mutant


def one_row(name, cls, label, dtype, steps=8):
    options = next(one for one in OPTION_SETS[name] if one.label.startswith(label))
    builds = {"loop": contenders(name, "cpu")["loop"], "cpu": lambda groups, chosen: cls(groups, **chosen)}
    rows = verify.verify(name, options, dtype, steps, 0, builds)
    assert [row["contender"] for row in rows] == ["loop", "cpu"]
    return rows[1]


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("label", ["defaults", "lr=0"])
@pytest.mark.parametrize("cls", [Adafactor, Muon, SparseAdam, LBFGS], ids=lambda cls: cls.__name__)
def test_the_right_one_passes(cls, label, dtype):
    row = one_row(cls.__name__, cls, label, dtype)
    assert row["status"] == Status.OK and row["reason"] == "" and row["tolerance"] and row["worst"]
    assert (row["update_distance"] > 0) == (cls is Muon)


def steps_transposed(self, step):
    """Rows for columns."""
    params = [p for group in self.param_groups for p in group["params"] if p.dim() == 2 and p.grad is not None]
    for p in params:
        p.data, p.grad = p.data.t(), None if p.grad is None else p.grad.t()
    step()
    for p in params:
        p.data, p.grad = p.data.t(), p.grad.t()


@torch.no_grad()
def decays_untouched_rows(self, step):
    """As dense Adam does: the moments of rows without gradient shrink too."""
    before = {p: self.state[p]["exp_avg"].clone() for p in self.state}
    step()
    for p, moment in before.items():
        untouched = self.state[p]["exp_avg"] == moment
        self.state[p]["exp_avg"][untouched] *= 0.9


def does_not_coalesce(self, step):
    """Entries of one row, each taken for a row of its own: the last one wins."""
    params = [p for group in self.param_groups for p in group["params"] if p.grad is not None]
    kept = [p.grad for p in params]
    for p, grad in zip(params, kept, strict=True):
        half = grad._indices().shape[1] // 2 if not grad.is_coalesced() else 0
        p.grad = torch.sparse_coo_tensor(
            grad._indices()[:, half:], grad._values()[half:], grad.shape, check_invariants=False
        )
    step()
    for p, grad in zip(params, kept, strict=True):
        p.grad = grad


def counts_only_steps_with_rows(self, step):
    before = {p: self.state[p]["step"] for p in self.state}
    step()
    for p, count in before.items():
        if p.grad is not None and p.grad._values().numel() == 0:
            self.state[p]["step"] = count


@torch.no_grad()
def scales_momentum(self, step):
    """As a sum instead of a mean would be, where eps does not show it."""
    step()
    for state in self.state.values():
        state["momentum_buffer"] *= 1.001


def state_of(self):
    return self.state[self.param_groups[0]["params"][0]]


def keeps_the_first_scale(self, step):
    """The recursion begins from the identity."""
    step()
    state_of(self)["H_diag"] = 1.0


def evaluates_once_more(self, step):
    step()
    state_of(self)["func_evals"] += 1


def keeps_the_first_gradient(self, step):
    first = state_of(self).setdefault("prev_flat_grad", None)
    first = first if first is None else first.clone()
    step()
    if first is not None:
        state_of(self)["prev_flat_grad"] = first


MUTANTS = {
    "Adafactor ignores d": (with_options(Adafactor, lambda group: {"d": 1e9}), "defaults"),
    "Adafactor without decay": (with_options(Adafactor, lambda group: {"weight_decay": 0.0}), "weight_decay"),
    "Adafactor with another beta2": (with_options(Adafactor, lambda group: {"beta2_decay": -0.79}), "defaults"),
    "Adafactor, eps of another dtype": (with_options(Adafactor, lambda group: {"eps": (1e-2, 1e-3)}), "defaults"),
    "Adafactor, rows for columns": (with_step(Adafactor, steps_transposed), "defaults"),
    "Muon, an iteration fewer": (with_options(Muon, lambda group: {"ns_steps": 4}), "defaults"),
    "Muon, an iteration more": (with_options(Muon, lambda group: {"ns_steps": 6}), "defaults"),
    "Muon, one coefficient": (with_options(Muon, lambda group: {"ns_coefficients": (3.3, -4.775, 2.0315)}), "defaults"),
    "Muon without Nesterov": (with_options(Muon, lambda group: {"nesterov": False}), "momentum=0.7"),
    "Muon without decay": (with_options(Muon, lambda group: {"weight_decay": 0.0}), "weight_decay"),
    "Muon, the other adjustment": (with_options(Muon, lambda group: {"adjust_lr_fn": None}), "adjust_lr_fn=match"),
    "Muon, a wrong buffer": (with_step(Muon, scales_momentum), "defaults"),
    "SparseAdam, all rows": (with_step(SparseAdam, decays_untouched_rows), "defaults"),
    "SparseAdam, not coalesced": (with_step(SparseAdam, does_not_coalesce), "defaults"),
    "SparseAdam, steps of empty gradients": (with_step(SparseAdam, counts_only_steps_with_rows), "defaults"),
    "SparseAdam, another eps": (with_options(SparseAdam, lambda group: {"eps": 1.1 * group["eps"]}), "betas"),
    "LBFGS, a longer memory": (with_options(LBFGS, lambda group: {"history_size": 4}), "max_iter=4 history_size=3"),
    "LBFGS, no line search": (
        with_options(LBFGS, lambda group: {"line_search_fn": None}),
        "max_iter=3 line_search_fn",
    ),
    "LBFGS, another learning rate": (with_options(LBFGS, lambda group: {"lr": 1.01}), "max_iter=4 history_size=3"),
    "LBFGS, no scale": (with_step(LBFGS, keeps_the_first_scale), "max_iter=4 history_size=3"),
    "LBFGS, a wrong count": (with_step(LBFGS, evaluates_once_more), "defaults"),
    "LBFGS, a stale gradient": (with_step(LBFGS, keeps_the_first_gradient), "max_iter=4 history_size=3"),
}


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("name", MUTANTS)
def test_a_broken_one_is_wrong(name, dtype):
    cls, label = MUTANTS[name]
    row = one_row(cls.__mro__[1].__name__, cls, label, dtype)
    assert row["status"] in (Status.WRONG, Status.ERROR) and row["reason"]


def test_an_update_by_the_exact_polar_factor_is_not_what_the_iterations_give(monkeypatch):
    """The singular values of the iterations spread around 1, so the exact 1 is too far off."""
    muon = torch.optim._muon

    def polar(matrix, *_):
        u, _, v = torch.linalg.svd(matrix.double(), full_matrices=False)
        return (u @ v).to(matrix.dtype)

    class Exact(Muon):
        def step(self, closure=None):
            with monkeypatch.context() as patch:
                patch.setattr(muon, "_zeropower_via_newtonschulz", polar)
                super().step()

    row = one_row("Muon", Exact, "defaults", "float32")
    assert row["status"] == Status.WRONG and row["update_distance"] > 0.1 and "update of tensor" in row["worst"]


def test_torch_overwrites_the_momentum_in_bfloat16_and_it_shows():
    options = next(one for one in OPTION_SETS["Muon"] if one.label == "momentum=0.7 nesterov=False")
    builds = {"loop": contenders("Muon", "cpu")["loop"]}
    for dtype, status in (("bfloat16", Status.REFERENCE_FAULT), ("float16", Status.OK), ("float64", Status.OK)):
        (row,) = verify.verify("Muon", options, dtype, 3, 0, builds)
        assert row["status"] == status and ("momentum_buffer of" in row["reason"]) == (dtype == "bfloat16")


def test_torchs_lbfgs_takes_a_changed_tensor_lr_for_the_length_of_its_last_step():
    """Its `t` is the tensor itself; a scheduler changes that in place, and the next pair is of a step never made."""
    options = next(one for one in OPTION_SETS["LBFGS"] if one.tensor_lr)
    builds = {"loop": contenders("LBFGS", "cpu")["loop"]}
    (row,) = verify.verify("LBFGS", options, "float64", 8, 0, builds)
    assert row["status"] == Status.REFERENCE_FAULT and row["max_difference"] > 1e-3


def test_sixteen_bits_are_verified_where_they_mean_something():
    """L-BFGS is sums of products: in 16 bits nobody's says anything."""
    (cell,) = verify.cells(FULL, "cpu", ["LBFGS"], None, 0)
    builds = {"loop": contenders("LBFGS", "cpu")["loop"]}
    assert {"bfloat16", "float16"} < set(cell.settings["dtypes"])
    assert verify.verify("LBFGS", OPTION_SETS["LBFGS"][0], "bfloat16", 5, 0, builds) == []
    for name in ("Adafactor", "Muon", "SparseAdam"):
        builds = {"loop": contenders(name, "cpu")["loop"]}
        assert len(verify.verify(name, OPTION_SETS[name][0], "bfloat16", 2, 0, builds)) == 1


def test_a_row_says_why_a_contender_is_not_there():
    assert verify.why_absent("foreach", "Muon", "cpu") == "torch has no foreach Muon"
    assert "no option that leaves its kernel out" in verify.why_absent("eager", "LBFGS", "cpu")
    assert "plain torch there" in verify.why_absent("cuda", "Adafactor", "cuda")
    for name in OPTIMIZERS:
        for device in ("cpu", "cuda"):
            absent = {one for one in ("eager", device, "foreach", "fused") if verify.why_absent(one, name, device)}
            there = set(contenders(name, device)) - {"loop"}
            # where ours has neither kernel nor option it is plain torch, and stands in the row of that
            alone = {"eager"} if TRAITS[name].eager is None and device not in TRAITS[name].kernels else set()
            assert absent - alone == {"eager", device, "foreach", "fused"} - there


def test_every_optimizer_is_verified_on_tensors_that_it_takes():
    sees = {name: {one.sees for one in OPTION_SETS[name]} for name in OPTIMIZERS}
    assert all(len(kinds) == 1 for kinds in sees.values())
    special = {Takes.MATRICES: {"matrices"}, Takes.SPARSE: {"rows"}, Takes.CLOSURE: {"everything"}}
    for name, traits in TRAITS.items():
        assert sees[name] == special.get(traits.takes, {"tensors"} if name == "Adafactor" else {"elements"})
