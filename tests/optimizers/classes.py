"""All of torch's optimizers that are there under our name too, and how each is put to work."""

from __future__ import annotations

import inspect
from collections.abc import Sequence

import torch

import optimizers

TORCH = sorted(
    name
    for name, cls in vars(torch.optim).items()
    if isinstance(cls, type) and issubclass(cls, torch.optim.Optimizer) and cls is not torch.optim.Optimizer
)
CLASSES = [name for name in TORCH if hasattr(optimizers, name)]

#: whose step is a function of each element alone, or nearly: the reference is torch's to the last bits of a float64
EXACT = [name for name in CLASSES if name != "Muon"]
#: who take several parameter groups
GROUPED = [name for name in CLASSES if name != "LBFGS"]
#: who take the dense gradients of a backward pass, and no closure
DENSE = [name for name in CLASSES if name not in ("LBFGS", "SparseAdam")]

#: options under which a class keeps all of its state
OPTIONS: dict[str, dict] = {
    "SGD": {"momentum": 0.9},
    "Adam": {"amsgrad": True},
    "AdamW": {"amsgrad": True},
    "RMSprop": {"momentum": 0.9, "centered": True},
    "LBFGS": {"lr": 0.02, "max_iter": 4, "history_size": 3},  # too slow to arrive, or roundings say when it does
}


def shapes_of(name: str) -> tuple[tuple[int, ...], ...]:
    """Shapes that the optimizer takes."""
    return ((4, 3), (3, 5)) if name in ("Muon", "SparseAdam") else ((4, 3), (3,))


def parameters(name: str, dtype: torch.dtype = torch.float32, seed: int = 0) -> list[torch.nn.Parameter]:
    """The same parameters for the same seed."""
    generator = torch.Generator().manual_seed(seed)
    return [torch.nn.Parameter(torch.randn(shape, generator=generator).to(dtype)) for shape in shapes_of(name)]


def build(module, name: str, params, **options) -> torch.optim.Optimizer:
    """An optimizer of ours or of torch's; torch's steps in a loop."""
    cls = getattr(module, name)
    if module is torch.optim and "foreach" in inspect.signature(cls).parameters:
        options = {"foreach": False, **options}
    return cls(params, **options)


def both(name: str, dtype: torch.dtype = torch.float32, **options) -> tuple:
    """(parameters, optimizer) twice from the same point: ours and torch's."""
    options = {**OPTIONS.get(name, {}), **options}
    sides = []
    for module in (optimizers, torch.optim):
        params = parameters(name, dtype)
        sides.append((params, build(module, name, params, **options)))
    return tuple(sides)


def gradients(name: str, params: Sequence[torch.Tensor], generator: torch.Generator) -> list[torch.Tensor]:
    """Random gradients of the kind that the optimizer takes."""
    dense = [torch.empty_like(p.detach()).copy_(torch.randn(p.shape, generator=generator)) for p in params]
    if name != "SparseAdam":
        return dense
    rows = torch.arange(2)
    return [torch.sparse_coo_tensor(rows[None], g[: len(rows)], g.shape, check_invariants=True) for g in dense]


def step(optimizer: torch.optim.Optimizer, params: Sequence[torch.Tensor], grads: Sequence[torch.Tensor]):
    """Sets the gradients and steps; LBFGS, which wants one function for the whole run, walks down a bowl instead."""
    if not isinstance(optimizer, torch.optim.LBFGS):
        for p, g in zip(params, grads, strict=True):
            p.grad = g.clone()
        return optimizer.step()
    bowls = [torch.linspace(1, 3, p.numel(), dtype=p.dtype).reshape(p.shape) for p in params]

    def closure():
        loss = torch.zeros((), dtype=params[0].dtype)
        for p, c in zip(params, bowls, strict=True):
            p.grad = c * (p.detach() - c)
            loss += (p.grad * (p.detach() - c)).sum() / 2
        return loss

    return optimizer.step(closure)


def train(name: str, *sides, steps: int, seed: int = 0) -> None:
    """The same random gradients for all sides, each a pair (parameters, optimizer)."""
    generator = torch.Generator().manual_seed(seed)
    for _ in range(steps):
        grads = gradients(name, sides[0][0], generator)
        for params, optimizer in sides:
            step(optimizer, params, grads)


def assert_same(name: str, ours, theirs, scale: float = 1.0) -> None:
    """Parameters and state are equal, up to roundings of the parameters' dtype.

    `scale`: how much further than one step's worth of roundings they may be apart. Muon's update is a bfloat16
    product, so its parameters may differ by a part of all that they moved; its state may not.
    """
    dtype = ours[0][0].dtype
    tolerance = scale * {torch.float64: 1e-12, torch.float32: 3e-6}.get(dtype, 2e-2)
    loose = 0.05 * 1e-3 * scale
    for p, q in zip(ours[0], theirs[0], strict=True):
        slack = {"rtol": 0.0, "atol": loose} if name == "Muon" else {"rtol": tolerance, "atol": tolerance}
        torch.testing.assert_close(p.detach(), q.detach(), **slack)
        mine, other = ours[1].state.get(p, {}), theirs[1].state.get(q, {})
        assert mine.keys() == other.keys()
        for key in mine:
            told = {"check_dtype": False, "msg": lambda words, key=key: f"{key}: {words}"}
            torch.testing.assert_close(mine[key], other[key], rtol=tolerance, atol=tolerance, **told)


def assert_equal(a, b) -> None:
    """Equal bit by bit."""
    torch.testing.assert_close(a, b, rtol=0.0, atol=0.0, equal_nan=True)


def tensors(value) -> list[torch.Tensor]:
    """All tensors in nested dicts, lists and tuples."""
    if isinstance(value, torch.Tensor):
        return [value]
    items = value.values() if isinstance(value, dict) else value if isinstance(value, list | tuple) else ()
    return [tensor for item in items for tensor in tensors(item)]


def contents(optimizer: torch.optim.Optimizer) -> tuple:
    """All that a step may change, copied: values and versions of parameters and state, and the groups."""
    state = [
        {key: (v.clone(), v._version) if isinstance(v, torch.Tensor) else v for key, v in optimizer.state[p].items()}
        for p in optimizer.state
    ]
    groups = [{key: value for key, value in group.items() if key != "params"} for group in optimizer.param_groups]
    params = [(p.detach().clone(), p._version) for group in optimizer.param_groups for p in group["params"]]
    return params, state, groups


def assert_unchanged(optimizer: torch.optim.Optimizer, before: tuple) -> None:
    """Nothing of it is other than it was."""
    now = contents(optimizer)
    torch.testing.assert_close(now[:2], before[:2], rtol=0, atol=0, equal_nan=True)
    assert now[2] == before[2]
