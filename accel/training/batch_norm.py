"""Batch norm over the batches of all processes together."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor, nn

from accel.reductions import world_size


class SyncedBatchNorm(nn.BatchNorm2d):
    """Batch norm whose mean and variance are taken over all processes' batches.

    It also works on the CPU, which `torch.nn.SyncBatchNorm` refuses. It has the same parameters and buffers as one
    process with the whole batch and, up to rounding, the same numbers.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Normalise x (B, C, H, W). Processes may have different B, H and W."""
        if not self.training:
            return super().forward(x)
        values = x.float()
        number = torch.full((1,), x.numel() / x.shape[1], dtype=torch.float64)
        dist.all_reduce(number)
        total = float(number)
        mean = _Sum.apply(values.sum((0, 2, 3))) / total
        centred = values - mean[:, None, None]
        variance = _Sum.apply(centred.square().sum((0, 2, 3))) / total
        assert self.num_batches_tracked is not None and self.running_mean is not None and self.running_var is not None
        with torch.no_grad():
            self.num_batches_tracked.add_(1)
            momentum = 1 / float(self.num_batches_tracked) if self.momentum is None else self.momentum
            self.running_mean.lerp_(mean, momentum)
            self.running_var.lerp_(variance * (total / max(total - 1, 1)), momentum)
        scale = (variance + self.eps).rsqrt() * self.weight
        return (centred * scale[:, None, None] + self.bias[:, None, None]).to(x.dtype)


class _Sum(torch.autograd.Function):
    """The sum over the processes. Each process's loss depends on it, so the gradients are summed too."""

    @staticmethod
    def forward(context, x: Tensor) -> Tensor:
        x = x.clone()
        dist.all_reduce(x)
        return x

    @staticmethod
    def backward(context, gradient: Tensor) -> Tensor:
        gradient = gradient.clone()
        dist.all_reduce(gradient)
        return gradient


def synchronise_batch_norms(model: nn.Module, device: torch.device) -> None:
    """Make the model's batch norms use the batches of all processes together. This is done in place and keeps the
    weights.

    On the GPU they become `torch.nn.SyncBatchNorm`. In a run of one process, nothing is done.
    """
    if world_size() == 1:
        return
    for name, module in list(model.named_modules()):
        if type(module) is not nn.BatchNorm2d or not module.affine or not module.track_running_stats:
            continue
        parent = model.get_submodule(name.rpartition(".")[0])
        if device.type == "cuda":
            synced = nn.SyncBatchNorm.convert_sync_batchnorm(module)
        else:
            synced = SyncedBatchNorm(module.num_features, module.eps, module.momentum)
            synced.weight, synced.bias = module.weight, module.bias
            synced.running_mean, synced.running_var = module.running_mean, module.running_var
            synced.num_batches_tracked = module.num_batches_tracked
        setattr(parent, name.rpartition(".")[2], synced.train(module.training))
