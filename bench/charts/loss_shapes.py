"""The losses themselves: how each measures an error, and how hard it pulls."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import pandas as pd
import torch
from matplotlib.figure import Figure
from torch import Tensor

from bench.charts import rows, style
from optimizers import losses

NAME = "loss_shapes"
TITLE = "What a loss says of an error, and how hard its gradient pulls"
SOURCE = "loss_parity"
EMPTY = "No loss was verified."
READING = (
    "Left, regression: the loss of one prediction against its distance from the target, and below it the gradient, the "
    "pull on the prediction. The squared error pulls the harder the farther off, so one outlier outweighs many good "
    "predictions; Huber, log-cosh and Charbonnier pull with a constant force from some distance on; Cauchy, "
    "Geman-McClure, Welsch and Tukey let outliers go. The pinball loss pulls nine times harder from below than from "
    "above, so its minimum is the 90 % quantile. Right, classification: the same against the margin, the logit of the "
    "right answer; cross-entropy of one logit and the soft margin are one curve. All pull wrong answers to the right; "
    "focal loss hardly counts those that are right already. These curves are computed by our losses, and are the same "
    "in every run."
)
REGRESSION = "regression"
CLASSIFICATION = "classification"


class Curve(NamedTuple):
    """A loss as it is drawn: its values at x, and its look."""

    family: str
    values: Callable[[Tensor], Tensor]
    look: style.Style


def _of_error(name: str, **options: float) -> Callable[[Tensor], Tensor]:
    function = getattr(losses, name)
    return lambda error: function(error, torch.zeros_like(error), reduction="none", **options)


def _of_margin(name: str, right: float) -> Callable[[Tensor], Tensor]:
    """Of the logit of an answer whose target is `right`."""
    function = getattr(losses, name)
    return lambda margin: function(margin, torch.full_like(margin, right), reduction="none")


def _hinge(margin: Tensor) -> Tensor:
    """max(0, 1 - margin): the hinge of the embedding loss, whose distance is the margin."""
    return losses.hinge_embedding_loss(margin, -torch.ones_like(margin), margin=1.0, reduction="none")


CURVES = {
    "MSE": Curve(REGRESSION, _of_error("mse_loss"), style.Style(style.BLACK, "", style.SOLID)),
    "L1": Curve(REGRESSION, _of_error("l1_loss"), style.Style(style.BLACK, "", style.DASHED)),
    "Huber": Curve(REGRESSION, _of_error("huber_loss"), style.Style(style.BLUE, "", style.SOLID)),
    "log-cosh": Curve(REGRESSION, _of_error("log_cosh_loss"), style.Style(style.SKY, "", style.SOLID)),
    "Charbonnier (ε = 0.3)": Curve(
        REGRESSION, _of_error("charbonnier_loss", eps=0.3), style.Style(style.BLUE, "", style.DASHED)
    ),
    "pinball (0.9)": Curve(
        REGRESSION, _of_error("pinball_loss", quantile=0.9), style.Style(style.PURPLE, "", style.SOLID)
    ),
    "Cauchy": Curve(REGRESSION, _of_error("cauchy_loss"), style.Style(style.GREEN, "", style.SOLID)),
    "Geman-McClure": Curve(REGRESSION, _of_error("geman_mcclure_loss"), style.Style(style.GREEN, "", style.DASHED)),
    "Welsch": Curve(REGRESSION, _of_error("welsch_loss"), style.Style(style.ORANGE, "", style.SOLID)),
    "Tukey (c = 2.5)": Curve(
        REGRESSION, _of_error("tukey_loss", c=2.5), style.Style(style.VERMILLION, "", style.SOLID)
    ),
    "cross-entropy of a logit": Curve(
        CLASSIFICATION, _of_margin("binary_cross_entropy_with_logits", 1.0), style.Style(style.BLUE, "", style.SOLID)
    ),
    "soft margin": Curve(
        CLASSIFICATION, _of_margin("soft_margin_loss", 1.0), style.Style(style.ORANGE, "", style.DOTTED)
    ),
    "hinge": Curve(CLASSIFICATION, _hinge, style.Style(style.BLACK, "", style.DASHED)),
    "focal (α = 0.25, γ = 2)": Curve(
        CLASSIFICATION, _of_margin("sigmoid_focal_loss", 1.0), style.Style(style.VERMILLION, "", style.SOLID)
    ),
}
REACH = {REGRESSION: 4, CLASSIFICATION: 4}
STEPS = 40  # points in an error of 1
TOP = {REGRESSION: 4.2, CLASSIFICATION: 4.2}  # the squared error would make all the others flat
PULL = {REGRESSION: (-2.2, 2.2), CLASSIFICATION: (-1.15, 0.15)}
ACROSS = {REGRESSION: "error: prediction − target (1)", CLASSIFICATION: "margin: logit of the right answer (1)"}


def table(tables: dict[str, pd.DataFrame]) -> pd.DataFrame:
    """One row per curve and point: panel (the family), curve, x, value, slope; empty where no loss was verified."""
    verified = rows.rows_of(tables, SOURCE, ("loss", "value_ulp", "status"))
    if not rows.numbers(verified["value_ulp"]).notna().any():
        return pd.DataFrame(columns=["panel", "curve", "x", "value", "slope"])
    return pd.concat([points(name, curve) for name, curve in CURVES.items()], ignore_index=True)


def points(name: str, curve: Curve) -> pd.DataFrame:
    """The loss and its gradient, at points evenly spaced."""
    reach = REACH[curve.family]
    x = (torch.arange(-reach * STEPS, reach * STEPS + 1, dtype=torch.float64) / STEPS).requires_grad_()
    values = curve.values(x)
    (slopes,) = torch.autograd.grad(values.sum(), x)
    columns = {"x": x, "value": values, "slope": slopes}
    return pd.DataFrame({key: column.detach().numpy() for key, column in columns.items()}).assign(
        panel=curve.family, curve=name
    )


def draw(figure: Figure, table: pd.DataFrame) -> None:
    """Loss above gradient for each family: regression in the left half, classification in the right."""
    families = list(dict.fromkeys(table["panel"]))
    names = list(dict.fromkeys(table["curve"]))
    handles = [
        style.note(name, linestyle=CURVES[name].look.line, color=CURVES[name].look.color, linewidth=1.8)
        for name in names
    ]
    axes = style.sheet(
        figure, TITLE, handles, 2 * len(families), columns=2, size=(4.3, 2.9), left=0.7, between=(0.8, 0.9)
    )
    for place, family in enumerate(families):
        above, below = axes[place], axes[place + len(families)]
        for name in names:
            here = table[(table["panel"] == family) & (table["curve"] == name)]
            look = CURVES[name].look
            above.plot(here["x"], here["value"], color=look.color, linestyle=look.line, linewidth=1.7)
            below.plot(here["x"], here["slope"], color=look.color, linestyle=look.line, linewidth=1.7)
        reach = REACH[family]
        above.set(xlim=(-reach, reach), ylim=(-0.1, TOP[family]))
        below.set(xlim=(-reach, reach), ylim=PULL[family])
        below.axhline(0, color=style.INK, linewidth=0.8)
        for axis, title, label in (
            (above, f"{family}: the loss", "loss"),
            (below, f"{family}: its gradient", "gradient"),
        ):
            axis.axvline(0, color=style.INK, linewidth=0.8)
            axis.set_title(title, loc="left")
            axis.set_xlabel(ACROSS[family])
            axis.set_ylabel(f"{label} (1)")
