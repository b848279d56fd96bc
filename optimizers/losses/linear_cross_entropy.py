"""Cross-entropy of the logits that a linear layer makes, in one call. For a torch that has it: 2.13 on."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F


def linear_cross_entropy(
    input,
    linear_weight,
    target,
    *,
    linear_bias=None,
    weight=None,
    reduction="mean",
    ignore_index=None,
    label_smoothing=0.0,
    options=None,
) -> Tensor:
    """``cross_entropy(input @ linear_weight.T + linear_bias, target)``, which need not keep all of the logits.

    `input` is ``(N, D)`` or ``(D,)`` and `linear_weight` ``(C, D)``. It is torch's own: with `options` it works in
    chunks of rows, in memory for one chunk of logits; without, it makes them all. Source: Wijmans et al., "Cut your
    losses in large-vocabulary language models", arXiv 2411.09009. See `torch.nn.functional.linear_cross_entropy`.
    """
    return F.linear_cross_entropy(
        input,
        linear_weight,
        target,
        linear_bias=linear_bias,
        weight=weight,
        reduction=reduction,
        ignore_index=ignore_index,
        label_smoothing=label_smoothing,
        options=options,
    )


class LinearCrossEntropyLoss(nn.LinearCrossEntropyLoss):
    """`linear_cross_entropy` as a module that owns the linear layer."""

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        layer, shape = self.linear, (self.num_classes, *self.out_features)
        return linear_cross_entropy(
            input,
            layer.weight.reshape(*shape, layer.in_features),
            target,
            linear_bias=None if layer.bias is None else layer.bias.reshape(shape),
            weight=self.weight,
            reduction=self.reduction,
            ignore_index=self.ignore_index,
            label_smoothing=self.label_smoothing,
            options=self.options,
        )
