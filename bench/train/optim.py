"""The optimiser and its rate (paper section 5.1: AdamW, linear warm-up; PeizeSun/SparseR-CNN)."""

from torch import nn
from torch.optim import AdamW
from torch.optim.optimizer import Optimizer

from protocols.stages import Optim, Stage


def adamw(parameters: list[nn.Parameter], stage: Stage, optim: Optim) -> AdamW:
    """Return AdamW over all of `parameters`, norms and embeddings decayed like the rest."""
    return AdamW(parameters, lr=stage.lr, weight_decay=optim.weight_decay, fused=True)


def set_rate(optimiser: Optimizer, rate: float) -> None:
    """Set the learning rate of every group."""
    for group in optimiser.param_groups:
        group["lr"] = rate
