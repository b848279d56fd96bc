"""SparseAdam: Adam over those rows of a parameter that have a gradient."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .algorithm import Algorithm, Slot
from .dialect import lerp, sqrt
from .executors.sparse import Rows
from .optimizer import Optimizer


def coefficients(step, direction, lr, beta1, beta2, eps):
    # `step` counts the step that is taken: a number of the optimizer's, not a tensor, and no state of the table
    step_size = lr * sqrt(1 - beta2**step) / (1 - beta1**step)
    return direction, 1 - beta1, 1 - beta2, step_size, eps


def rule(p, g, exp_avg, exp_avg_sq, direction, take1, take2, step_size, eps):
    g = direction * g
    exp_avg = lerp(exp_avg, g, take1)
    exp_avg_sq = lerp(exp_avg_sq, g * g, take2)
    p = p - step_size * exp_avg / (sqrt(exp_avg_sq) + eps)
    return p, exp_avg, exp_avg_sq


SPARSE_ADAM = Algorithm(
    coefficients,
    rule,
    scalars={},
    slots={"exp_avg": Slot(), "exp_avg_sq": Slot()},
    sparse=lambda group: True,
)


class SparseAdam(Optimizer, torch.optim.SparseAdam):
    r"""Adam that steps the rows with a gradient and neither reads nor writes the others.

    :math:`p - \gamma\,\frac{\sqrt{1-\beta_2^t}}{1-\beta_1^t}\,m/(\sqrt{v}+\epsilon)`, for gradients from modules such
    as ``nn.Embedding(sparse=True)``. A row that is left out of a batch keeps its moments as they were, where those of
    Adam decay; :math:`t` counts the steps of the whole parameter. Rows that occur more than once count with the sum
    of their gradients. eps is added before the bias correction, unlike in :class:`~optimizers.Adam`. Arguments, state
    (``step``, a Python int; ``exp_avg``, ``exp_avg_sq``) and errors are those of :class:`torch.optim.SparseAdam`.

    Source: Kingma and Ba, "Adam", arXiv 1412.6980, the form with :math:`\hat\epsilon` at the end of section 2.

    Example::

        >>> table = torch.nn.Embedding.from_pretrained(torch.ones(5, 2), freeze=False, sparse=True)
        >>> optimizer = SparseAdam(table.parameters(), lr=0.25)
        >>> for _ in range(3):
        ...     optimizer.zero_grad()
        ...     loss = table(torch.tensor([1, 3])).square().sum()
        ...     loss.backward()
        ...     optimizer.step()
        ...     print(round(loss.item(), 2))
        4.0
        2.25
        1.02
        >>> [round(x, 3) for x in table.weight[:, 0].tolist()]
        [1.0, 0.268, 1.0, 0.268, 1.0]
    """

    algorithm = SPARSE_ADAM
    _rows: Rows | None = None

    def executors(self) -> list[tuple[Tensor, str, str]]:
        """For each parameter: the executor that steps it (``eager``, ``cpu``) and, if eager, the reason.

        Parameters without a gradient are left out: what it will be like decides.
        """
        answer = Rows(self.algorithm).examine(self)
        return [(item.p, "eager" if item.reason else "cpu", item.reason) for item in answer]

    def check_gradient(self, p: Tensor, group: Any) -> None:
        """Refuses dense gradients, in torch's words."""
        assert p.grad is not None
        if not p.grad.is_sparse:
            raise RuntimeError("SparseAdam does not support dense gradients, please consider Adam instead")

    def lacks_state(self, p: Tensor, group: Any) -> bool:
        """Whether `initialize` has something to do before this parameter can be stepped."""
        state = self.state.get(p, {})
        return any(state.get(name) is None for name in ("step", *self.algorithm.slots))

    def initialize(self, p: Tensor, group: Any) -> None:
        """Creates what state is missing; torch keeps this optimizer's `step` as a Python int."""
        self.state[p].setdefault("step", 0)
        super().initialize(p, group)

    def update(self, scale: float) -> None:
        """Steps the rows that have a gradient, which is to be divided by `scale`; all of them or, raising, none."""
        if self._rows is None:
            self._rows = Rows(self.algorithm)
        self._rows.step(self, scale)
