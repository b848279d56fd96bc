"""Losses: drop-in replacements for those of torch.nn and torch.nn.functional."""

from optimizers.losses.mse import MSELoss, mse_loss

__all__ = ["MSELoss", "mse_loss"]
