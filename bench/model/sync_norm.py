"""BatchNorm whose batch is that of all ranks together.

Legend: `B` images of this rank, `C` channels, `H W` pixels.
"""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.autograd import Function

from bench import dist


def synchronised(module: nn.Module) -> nn.Module:
    """Return the module with its BatchNorms seeing the batch of all ranks, by the same names.

    On GPUs these are torch's own, which know no other device.
    """
    if next(module.parameters()).is_cuda:
        return nn.SyncBatchNorm.convert_sync_batchnorm(module)
    return _on_cpu(module)


def _on_cpu(module: nn.Module) -> nn.Module:
    for name, child in module.named_children():
        setattr(module, name, _on_cpu(child))
    if type(module) is not nn.BatchNorm2d:
        return module
    ours = _OnCPU(module.num_features, module.eps, module.momentum)
    ours.load_state_dict(module.state_dict())
    return ours.train(module.training)


class _Sum(Function):
    """The sum over all ranks; what it does to the loss of any of them is its gradient."""

    @staticmethod
    def forward(ctx: Any, *amounts: Tensor) -> Tensor:
        return dist.over_all(amounts[0])

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> Tensor:
        return dist.over_all(grad_outputs[0])


def _summed(amount: Tensor) -> Tensor:
    return _Sum.apply(amount)  # pyright: ignore[reportReturnType]: it is what forward returns


class _OnCPU(nn.BatchNorm2d):
    """In training the mean and the variance are those of all ranks' images."""

    def forward(self, input: Float[Tensor, "B C H W"]) -> Float[Tensor, "B C H W"]:
        if not self.training:
            return super().forward(input)
        count = dist.over_all(input.new_tensor(input.numel() / input.shape[1]))
        mean = _summed(input.sum((0, 2, 3))) / count
        away = input - mean[:, None, None]
        variance = _summed(away.square().sum((0, 2, 3))) / count
        with torch.no_grad():
            unbiased = variance * count / (count - 1)
            for kept, value in ((self.running_mean, mean), (self.running_var, unbiased)):
                assert kept is not None, "a ResNet's do keep them"
                kept.lerp_(value, self.momentum or 0.0)
            if self.num_batches_tracked is not None:
                self.num_batches_tracked.add_(1)
        scale = self.weight * (variance + self.eps).rsqrt()
        return away * scale[:, None, None] + self.bias[:, None, None]
