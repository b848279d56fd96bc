"""Optimizers as somebody might bring them along, as the text of a file."""

from pathlib import Path

ROOT = Path(__file__).parents[2]
LION = (ROOT / "README.md").read_text(encoding="utf-8").split("```python\n")[-1].split("```")[0]
SIGN = """
import torch

class SignSGD(torch.optim.Optimizer):
    def __init__(self, params, lr=0.01, momentum=0.9, betas=(0.5, 0.5)):
        if not 0 <= momentum < 2:
            raise RuntimeError("momentum is a share")
        super().__init__(params, {"lr": lr, "momentum": momentum, "betas": betas})

    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            for p in group["params"]:
                buffer = self.state[p].setdefault("buffer", torch.zeros_like(p))
                buffer.mul_(group["momentum"]).add_(p.grad)
                p.sub_(group["lr"] * buffer.sign())
"""
# all parameters at once: to share a step with another run would change it
NORM = """
import torch

class NormSGD(torch.optim.Optimizer):
    def __init__(self, params, lr=0.01):
        super().__init__(params, {"lr": lr})

    @torch.no_grad()
    def step(self, closure=None):
        groups = self.param_groups
        norm = sum(p.grad.square().sum() for group in groups for p in group["params"]).sqrt()
        for group in groups:
            for p in group["params"]:
                p.sub_(group["lr"] / norm * p.grad)
"""
# with a rule of ours, and more than the rule: all parameters at once again
BESIDE_ITS_RULE = {
    "in update": """
    def update(self, scale):
        shrink(self)
        super().update(scale)
""",
    "in a hook": """
    def __init__(self, params, lr=0.01):
        super().__init__(params, lr=lr)
        self.register_step_pre_hook(lambda optimizer, *arguments: shrink(optimizer))
""",
}
SHRINKING = """
from optimizers import SGD

def shrink(optimizer):
    gradients = [p.grad for group in optimizer.param_groups for p in group["params"]]
    norm = sum(g.square().sum() for g in gradients).sqrt()
    for g in gradients:
        g.div_(norm)

class Shrinking(SGD):"""
# the same as in place, each in its own words
REBINDING = {
    "parameters": NORM.replace('p.sub_(group["lr"] / norm * p.grad)', 'p.data = p - group["lr"] / norm * p.grad'),
    "gradients": NORM + "                p.grad = None\n",
}
OPTIMIZER = "import torch\nclass Mine(torch.optim.Optimizer):\n"
