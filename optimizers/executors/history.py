"""What L-BFGS remembers: pairs of a gradient's difference and a step, and the direction that they give."""

from __future__ import annotations

import functools
import math
from array import array
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from . import generate, kernels, threads
from .tensors import refusal

#: a pair with less curvature than this is left out, as in torch
CURVATURE = 1e-10


class History:
    """The last pairs, in plain torch; on a device nothing in `direction` waits for it.

    The lists are replaced and never changed, so that who keeps one has what was there then. `ro` and `diagonal` hold
    0-d tensors or numbers.
    """

    def __init__(self, size: int, state: Mapping[str, Any] | None = None):
        state = state or {}
        self.size = size
        self.differences: list[Tensor] = state.get("old_dirs") or []
        self.steps: list[Tensor] = state.get("old_stps") or []
        self.ro: list[Any] = state.get("ro") or []
        self.al: list[Any] | None = None  # of the last direction
        self.diagonal: Any = state.get("H_diag", 1)

    def remember(self, gradient: Tensor, previous: Tensor, direction: Tensor, length: Any) -> None:
        """Adds the pair of the last step: from the `previous` gradient to this one, by `length` times `direction`."""
        difference, step = gradient - previous, direction * length
        ys = difference.dot(step)
        if ys > CURVATURE:
            self._add(difference, step, 1.0 / ys, ys / difference.dot(difference))

    def _add(self, difference: Tensor, step: Tensor, ro: Any, diagonal: Any) -> None:
        self.differences = self._last([*self.differences, difference])
        self.steps = self._last([*self.steps, step])
        self.ro = self._last([*self.ro, ro])
        self.diagonal = diagonal

    def _last(self, items: list[Any]) -> list[Any]:
        more = len(items) - self.size
        return items[int(more) :] if more > 0 else items

    def direction(self, gradient: Tensor) -> tuple[Tensor, Any]:
        """Minus the gradient times the approximate inverse Hessian, and its product with the gradient."""
        q, al = -gradient, []
        for y, s, ro in zip(reversed(self.differences), reversed(self.steps), reversed(self.ro), strict=True):
            al.append(s.dot(q) * ro)
            _add(q, y, -al[-1])
        q.mul_(self.diagonal)
        self.al = al[::-1]
        for y, s, ro, a in zip(self.differences, self.steps, self.ro, self.al, strict=True):
            _add(q, s, a - y.dot(q) * ro)
        return q, gradient.dot(q)

    def largest(self, vector: Tensor) -> float:
        """The largest absolute value; nan if there is a nan."""
        return largest(vector)

    def saved(self) -> dict[str, Any]:
        """Its part of the state, as it is now, under torch's keys."""
        pairs = {"old_dirs": self.differences, "old_stps": self.steps, "ro": self.ro, "H_diag": self.diagonal}
        return pairs if self.al is None else {"al": self.al, **pairs}


def _add(q: Tensor, v: Tensor, factor: Tensor) -> None:
    """Adds a multiple of `v` to `q`."""
    if q.device.type == "cpu":
        q.add_(v, alpha=factor.item())
    else:
        q.addcmul_(v, factor)  # the other would wait for the device


class CompiledHistory(History):
    """The same for float32 and float64 vectors on the CPU: one call, and one pass over memory for each vector."""

    def __init__(self, size: int, like: Tensor, state: Mapping[str, Any] | None = None):
        super().__init__(size, state)
        self.ro = [float(x) for x in self.ro]
        self.places = _addresses(self.differences), _addresses(self.steps)
        _, self.driver, self._remember, self._direction, self._largest = _compiled()
        n, driver = like.numel(), self.driver
        self.numbers = array("d", bytes(8 * 5))
        self.sums = torch.zeros(2 * (n // driver.CHUNK + 1), dtype=torch.float64)
        self.job = array("q", bytes(8 * len(driver.JOB)))
        self.address = self.job.buffer_info()[0]
        parallel, thread_num, num_threads = threads.openmp() or (0, 0, 0)
        words = {
            driver.DOUBLE: int(like.dtype == torch.float64),
            driver.N: n,
            driver.NUMBERS: self.numbers.buffer_info()[0],
            driver.SUMS: self.sums.data_ptr(),
            driver.THREADS: threads.count(),
            driver.PARALLEL: parallel,
            driver.THREAD_NUM: thread_num,
            driver.NUM_THREADS: num_threads,
            driver.BODY: driver.openmp_body.address,
        }
        for at, value in words.items():
            self.job[at] = value

    def remember(self, gradient: Tensor, previous: Tensor, direction: Tensor, length: Any) -> None:
        driver, job = self.driver, self.job
        difference, step = torch.empty_like(gradient), torch.empty_like(gradient)
        vectors = _addresses([gradient, previous, direction, difference, step])
        job[driver.GRADIENT : driver.GRADIENT + 5] = vectors
        self.numbers[driver.LENGTH] = float(length)
        self._remember(self.address)
        ys, yy = self.numbers[driver.SUM], self.numbers[driver.OTHER_SUM]
        if ys > CURVATURE:
            self._add(difference, step, 1.0 / ys, ys / yy)
            for places, address in zip(self.places, vectors[3:], strict=True):
                places.append(address)
                del places[: len(places) - len(self.differences)]

    def direction(self, gradient: Tensor) -> tuple[Tensor, Any]:
        driver, job = self.driver, self.job
        q, ro, al = torch.empty_like(gradient), array("d", self.ro), array("d", self.ro)
        job[driver.GRADIENT], job[driver.Q] = gradient.data_ptr(), q.data_ptr()
        job[driver.COUNT] = len(ro)
        for at, values in (
            (driver.DIRECTIONS, self.places[0]),
            (driver.STEPS, self.places[1]),
            (driver.RO, ro),
            (driver.AL, al),
        ):
            job[at] = values.buffer_info()[0]
        self.numbers[driver.SCALE] = float(self.diagonal)
        self._direction(self.address)
        self.al = list(al)
        return q, self.numbers[driver.SUM]

    def largest(self, vector: Tensor) -> float:
        self.job[self.driver.V] = vector.data_ptr()
        self._largest(self.address)
        return self.numbers[self.driver.SUM]


def largest(vector: Tensor) -> float:
    """The largest absolute value; nan if there is a nan."""
    return torch.linalg.vector_norm(vector, math.inf).item()


def history(size: int, gradient: Tensor, state: Mapping[str, Any] | None = None) -> History:
    """The pairs that a state holds (None: none), for gradients like this one."""
    vectors = []
    if state is not None:
        vectors = [*(state["old_dirs"] or ()), *(state["old_stps"] or ()), state["d"], state["prev_flat_grad"]]
    unfit = refuse(gradient.device, gradient.dtype) or refusal(gradient)
    if unfit or not all(_fits(v, gradient) for v in vectors):
        return History(size, state)
    return CompiledHistory(size, gradient, state)


def refuse(device: torch.device, dtype: torch.dtype) -> str:
    """Why there is no kernel for vectors of this device and dtype, or an empty string."""
    if device.type != "cpu":
        return f"there are kernels for cpu, not for {device.type}"
    if dtype not in kernels.SINGLE_AND_DOUBLE:
        return f"there is no kernel for {dtype}"
    cpu = kernels.executor("cpu")
    return cpu if isinstance(cpu, str) else _compiled().reason


def _fits(v: Any, like: Tensor) -> bool:
    """Whether a kernel may read a vector of the state as one like the gradient."""
    return (
        type(v) is Tensor
        and v.dtype is like.dtype
        and v.device == like.device
        and v.shape == like.shape
        and v.is_contiguous()
        and not v.is_neg()
    )


def _addresses(tensors: Sequence[Tensor]) -> array:
    return array("q", [t.data_ptr() for t in tensors])


class _Compiled(NamedTuple):
    """The compiled module and its functions for Python, or the reason why there are none."""

    reason: str = ""
    driver: Any = None
    remember: Any = None
    direction: Any = None
    largest: Any = None


@functools.cache
def _compiled() -> _Compiled:
    try:
        from . import cpu

        driver = generate.compiled("lbfgs")
        functions = (driver.remember, driver.direction, driver.largest)
        return _Compiled("", driver, *[cpu.callable_address(f.address) for f in functions])
    except Exception as error:  # a compiler that fails must cost speed, not the training
        return _Compiled(kernels.not_made(error))
