"""The textbook rule of each elementwise optimizer, in float64 numpy: what every contender is compared with.

`bench.oracle_matrices` has those that see a tensor as a whole, `bench.oracle_lbfgs` the one that sees all of them.

Written from the papers and from the formulas in torch's documentation, not from anybody's code. Every function takes
one parameter array `p`, its gradient `g`, the state before the step (an empty dict before the first) and the options of
its parameter group under torch's names, and returns the new parameter and the new state; nothing is changed in place.

State has torch's keys. Arrays stay float64. Scalar state (`step`, NAdam's `mu_product`, ASGD's `eta` and `mu`) is what
torch keeps in a 0-dimensional tensor of the default dtype, so it is rounded to `scalar`, float32 unless told otherwise.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
State = dict[str, Any]
Options = Mapping[str, Any]
Scalar = type[np.floating]
Rule = Callable[[Array, Array, State, Options, Scalar], tuple[Array, State]]


def _gradient(p: Array, g: Array, options: Options, decoupled: bool = False) -> Array:
    """The direction to descend: `maximize` flips the gradient first, then coupled weight decay (L2) is added."""
    g = -g if options["maximize"] else g
    return g if decoupled else g + float(options["weight_decay"]) * p


def _decayed(p: Array, options: Options, decoupled: bool) -> Array:
    """Decoupled weight decay comes before the update (Loshchilov & Hutter 2019, with torch's factor lr)."""
    return p * (1 - float(options["lr"]) * options["weight_decay"]) if decoupled else p


def next_step(state: State, scalar: Scalar) -> float:
    return float(scalar(state.get("step", 0.0) + 1))


def average(old: Array | float, new: Array, decay: float) -> Array:
    """Exponential moving average that starts at zero."""
    return decay * old + (1 - decay) * new


def sgd(p: Array, g: Array, state: State, options: Options, scalar: Scalar = np.float32) -> tuple[Array, State]:
    """b = mu b + (1 - tau) g, first b = g; p -= lr b. Sutskever et al. 2013; torch.optim.SGD's formula box."""
    g = _gradient(p, g, options)
    momentum = options["momentum"]
    if momentum == 0:
        return p - float(options["lr"]) * g, {}
    buffer = state.get("momentum_buffer")
    buffer = g if buffer is None else momentum * buffer + (1 - options["dampening"]) * g
    direction = g + momentum * buffer if options["nesterov"] else buffer
    return p - float(options["lr"]) * direction, {"momentum_buffer": buffer}


def _adam(p: Array, g: Array, state: State, options: Options, scalar: Scalar, decoupled: bool) -> tuple[Array, State]:
    beta1, beta2 = (float(beta) for beta in options["betas"])
    step = next_step(state, scalar)
    g = _gradient(p, g, options, decoupled)
    p = _decayed(p, options, decoupled)
    m = average(state.get("exp_avg", 0.0), g, beta1)
    v = average(state.get("exp_avg_sq", 0.0), g * g, beta2)
    new = {"step": step, "exp_avg": m, "exp_avg_sq": v}
    if options["amsgrad"]:  # the maximum is of the raw moment; bias correction comes after (torch's formula box)
        v = new["max_exp_avg_sq"] = np.maximum(state.get("max_exp_avg_sq", 0.0), v)
    m_hat = m / (1 - beta1**step)
    v_hat = v / (1 - beta2**step)
    return p - float(options["lr"]) * m_hat / (np.sqrt(v_hat) + options["eps"]), new


def adam(p: Array, g: Array, state: State, options: Options, scalar: Scalar = np.float32) -> tuple[Array, State]:
    """Kingma & Ba 2015 (arXiv 1412.6980), algorithm 1; amsgrad: Reddi et al. 2018 (arXiv 1904.09237)."""
    return _adam(p, g, state, options, scalar, bool(options["decoupled_weight_decay"]))


def adamw(p: Array, g: Array, state: State, options: Options, scalar: Scalar = np.float32) -> tuple[Array, State]:
    """Loshchilov & Hutter 2019 (arXiv 1711.05101), algorithm 2, decay scaled by lr as torch documents it."""
    return _adam(p, g, state, options, scalar, True)


def adamax(p: Array, g: Array, state: State, options: Options, scalar: Scalar = np.float32) -> tuple[Array, State]:
    """Kingma & Ba 2015 (arXiv 1412.6980), algorithm 2; u = max(beta2 u, |g| + eps) as torch documents it."""
    beta1, beta2 = options["betas"]
    step = next_step(state, scalar)
    g = _gradient(p, g, options)
    m = average(state.get("exp_avg", 0.0), g, beta1)
    u = np.maximum(beta2 * state.get("exp_inf", 0.0), np.abs(g) + options["eps"])
    p = p - float(options["lr"]) / (1 - beta1**step) * m / u
    return p, {"step": step, "exp_avg": m, "exp_inf": u}


def nadam(p: Array, g: Array, state: State, options: Options, scalar: Scalar = np.float32) -> tuple[Array, State]:
    """Dozat 2016, "Incorporating Nesterov momentum into Adam", with the momentum schedule 0.96^(t psi)."""
    beta1, beta2 = options["betas"]
    lr, decay = float(options["lr"]), options["momentum_decay"]
    decoupled = options["decoupled_weight_decay"]
    step = next_step(state, scalar)
    g = _gradient(p, g, options, decoupled)
    p = _decayed(p, options, decoupled)
    mu = beta1 * (1 - 0.5 * 0.96 ** (step * decay))
    mu_next = beta1 * (1 - 0.5 * 0.96 ** ((step + 1) * decay))
    # torch multiplies in the precision of the stored product: both factors are rounded, then the result
    mu_product = float(scalar(state.get("mu_product", 1.0)) * scalar(mu))
    m = average(state.get("exp_avg", 0.0), g, beta1)
    v = average(state.get("exp_avg_sq", 0.0), g * g, beta2)
    m_hat = mu_next * m / (1 - mu_product * mu_next) + (1 - mu) * g / (1 - mu_product)
    v_hat = v / (1 - beta2**step)
    p = p - lr * m_hat / (np.sqrt(v_hat) + options["eps"])
    return p, {"step": step, "mu_product": mu_product, "exp_avg": m, "exp_avg_sq": v}


def radam(p: Array, g: Array, state: State, options: Options, scalar: Scalar = np.float32) -> tuple[Array, State]:
    """Liu et al. 2020 (arXiv 1908.03265), algorithm 2; rectified where rho > 5, eps beside the raw sqrt(v)."""
    beta1, beta2 = options["betas"]
    lr = float(options["lr"])
    decoupled = options["decoupled_weight_decay"]
    step = next_step(state, scalar)
    g = _gradient(p, g, options, decoupled)
    p = _decayed(p, options, decoupled)
    m = average(state.get("exp_avg", 0.0), g, beta1)
    v = average(state.get("exp_avg_sq", 0.0), g * g, beta2)
    m_hat = m / (1 - beta1**step)
    rho_inf = 2 / (1 - beta2) - 1
    rho = rho_inf - 2 * step * beta2**step / (1 - beta2**step)
    if rho > 5:
        rectification = np.sqrt((rho - 4) * (rho - 2) * rho_inf / ((rho_inf - 4) * (rho_inf - 2) * rho))
        adaptive = np.sqrt(1 - beta2**step) / (np.sqrt(v) + options["eps"])
        p = p - lr * m_hat * rectification * adaptive
    else:
        p = p - lr * m_hat
    return p, {"step": step, "exp_avg": m, "exp_avg_sq": v}


def adagrad(p: Array, g: Array, state: State, options: Options, scalar: Scalar = np.float32) -> tuple[Array, State]:
    """Duchi, Hazan & Singer 2011 (JMLR 12); lr decay and initial accumulator as torch documents them."""
    step = next_step(state, scalar)
    g = _gradient(p, g, options)
    total = state.get("sum", float(options["initial_accumulator_value"])) + g * g
    lr = float(options["lr"]) / (1 + (step - 1) * options["lr_decay"])
    return p - lr * g / (np.sqrt(total) + options["eps"]), {"step": step, "sum": total}


def adadelta(p: Array, g: Array, state: State, options: Options, scalar: Scalar = np.float32) -> tuple[Array, State]:
    """Zeiler 2012 (arXiv 1212.5701), algorithm 1: eps inside both square roots; lr scales the finished update."""
    rho, eps = options["rho"], options["eps"]
    g = _gradient(p, g, options)
    v = average(state.get("square_avg", 0.0), g * g, rho)
    old = state.get("acc_delta", 0.0)
    delta = np.sqrt(old + eps) / np.sqrt(v + eps) * g
    p = p - float(options["lr"]) * delta
    return p, {"step": next_step(state, scalar), "square_avg": v, "acc_delta": average(old, delta * delta, rho)}


def rmsprop(p: Array, g: Array, state: State, options: Options, scalar: Scalar = np.float32) -> tuple[Array, State]:
    """Hinton 2012, lecture 6; centered: Graves 2013 (arXiv 1308.0850), eq. 38-45, the variance clamped at zero.

    torch does not clamp: with a constant gradient rounding makes its variance negative and its root nan.
    """
    alpha = options["alpha"]
    g = _gradient(p, g, options)
    v = average(state.get("square_avg", 0.0), g * g, alpha)
    new = {"step": next_step(state, scalar), "square_avg": v}
    if options["centered"]:
        mean = new["grad_avg"] = average(state.get("grad_avg", 0.0), g, alpha)
        v = np.maximum(v - mean * mean, 0.0)
    update = g / (np.sqrt(v) + options["eps"])
    if options["momentum"] > 0:
        update = new["momentum_buffer"] = options["momentum"] * state.get("momentum_buffer", 0.0) + update
    return p - float(options["lr"]) * update, new


def rprop(p: Array, g: Array, state: State, options: Options, scalar: Scalar = np.float32) -> tuple[Array, State]:
    """Riedmiller & Braun 1993, without backtracking (Rprop- of Igel & Hüsken 2000); step sizes start at lr, clamped."""
    eta_minus, eta_plus = options["etas"]
    low, high = options["step_sizes"]
    g = -g if options["maximize"] else g
    agreement = np.sign(g * state.get("prev", np.zeros_like(p)))
    factor = np.where(agreement > 0, eta_plus, np.where(agreement < 0, eta_minus, 1.0))
    size = np.clip(state.get("step_size", float(options["lr"])) * factor, low, high)
    g = np.where(agreement < 0, 0.0, g)
    return p - np.sign(g) * size, {"step": next_step(state, scalar), "prev": g, "step_size": size}


def sparse_adam(p: Array, g: Array, state: State, options: Options, scalar: Scalar = np.float32) -> tuple[Array, State]:
    """Adam on the elements that a sparse gradient holds; the others, nan in `g`, stay as they are, moments too.

    `step` counts the tensor's steps, not those of an element, and eps stands beside the raw root of the second moment
    (torch documents it as a masked Adam; this place of eps is the one of Kingma & Ba, end of section 2).
    """
    beta1, beta2 = options["betas"]
    step = state.get("step", 0) + 1  # not a tensor in torch
    g = -g if options["maximize"] else g
    held = ~np.isnan(g)
    m, v = state.get("exp_avg", np.zeros_like(p)), state.get("exp_avg_sq", np.zeros_like(p))
    m, v = np.where(held, average(m, g, beta1), m), np.where(held, average(v, g * g, beta2), v)
    size = float(options["lr"]) * np.sqrt(1 - beta2**step) / (1 - beta1**step)
    p = np.where(held, p - size * m / (np.sqrt(v) + options["eps"]), p)
    return p, {"step": step, "exp_avg": m, "exp_avg_sq": v}


def asgd(p: Array, g: Array, state: State, options: Options, scalar: Scalar = np.float32) -> tuple[Array, State]:
    """Polyak & Juditsky 1992 with Bottou's schedule eta = lr / (1 + lambd lr t)^alpha, mu = 1 / max(1, t - t0).

    The step uses the eta and mu stored by the step before; `ax` is the average and does not act on p.
    """
    lr, lambd = float(options["lr"]), options["lambd"]
    step = next_step(state, scalar)
    eta = state.get("eta", float(scalar(lr)))
    mu = state.get("mu", 1.0)
    g = _gradient(p, g, options)
    p = p * (1 - lambd * eta) - eta * g
    ax = state.get("ax", 0.0)
    new_eta = float(scalar(lr / (1 + lambd * lr * step) ** options["alpha"]))
    new_mu = float(scalar(1 / max(1.0, step - options["t0"])))
    return p, {"step": step, "eta": new_eta, "mu": new_mu, "ax": p if mu == 1 else ax + mu * (p - ax)}


ELEMENTWISE: dict[str, Rule] = {
    "SGD": sgd,
    "Adam": adam,
    "AdamW": adamw,
    "Adamax": adamax,
    "NAdam": nadam,
    "RAdam": radam,
    "Adagrad": adagrad,
    "Adadelta": adadelta,
    "RMSprop": rmsprop,
    "Rprop": rprop,
    "ASGD": asgd,
    "SparseAdam": sparse_adam,
}
