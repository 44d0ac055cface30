"""Position-sensitive pooling of regions: the definition."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from accel_ops.reference.tensors import FLOATING
from torch import Tensor

SMALLEST_SIDE = 0.1  # cells


def check_psroi_pool(features: Tensor, rois: Tensor, outputs: int, pooled: int, group: int, scale: float) -> None:
    """Raise a `ValueError` unless `psroi_pool` is defined for these; says the same as csrc/psroi_pool.h."""
    if features.dim() != 4:
        raise ValueError(f"psroi_pool: features must be (B, C, H, W), got {list(features.shape)}")
    if features.dtype not in FLOATING:
        raise ValueError(f"psroi_pool: features must be float16, bfloat16, float32 or float64, got {features.dtype}")
    _check_rois(rois, features)
    if outputs < 1 or pooled < 1 or group < 1:
        raise ValueError(f"psroi_pool: outputs, pooled and group must be 1 or more, got {outputs}, {pooled}, {group}")
    if features.shape[1] != outputs * group * group:
        raise ValueError(
            f"psroi_pool: features must have outputs * group * group = {outputs * group * group} channels, "
            f"got {features.shape[1]}"
        )
    if not 0 < scale < float("inf"):
        raise ValueError(f"psroi_pool: scale must be positive, got {scale}")


def check_psroi_pool_backward(gradient: Tensor, rois: Tensor, shape: Sequence[int], group: int, scale: float) -> None:
    """Raise a `ValueError` unless `psroi_pool_backward` is defined for these."""
    if gradient.dim() != 4 or gradient.shape[0] != rois.shape[0] or gradient.shape[2] != gradient.shape[3]:
        raise ValueError(
            f"psroi_pool: the gradient must be (R, outputs, pooled, pooled) for rois {list(rois.shape)}, "
            f"got {list(gradient.shape)}"
        )
    if len(shape) != 4 or group < 1 or shape[1] != gradient.shape[1] * group * group:
        raise ValueError(
            f"psroi_pool: features {list(shape)} and gradient {list(gradient.shape)} do not belong together"
        )
    if gradient.dtype not in FLOATING:
        raise ValueError(
            f"psroi_pool: the gradient must be float16, bfloat16, float32 or float64, got {gradient.dtype}"
        )
    _check_rois(rois, gradient)


def _check_rois(rois: Tensor, features: Tensor) -> None:
    if rois.dim() != 2 or rois.shape[1] != 5:
        raise ValueError(f"psroi_pool: rois must be (R, 5), got {list(rois.shape)}")
    if rois.dtype != torch.float32:
        raise ValueError(f"psroi_pool: rois must be float32, got {rois.dtype}")
    if rois.device != features.device:
        raise ValueError(f"psroi_pool: features are on {features.device} but rois are on {rois.device}")


def psroi_pool(
    features: Tensor, rois: Tensor, outputs: int, pooled: int = 7, group: int = 7, scale: float = 0.0625
) -> Tensor:
    """Means of `features` (B, C, H, W) in the bins of `rois` (R, 5), (R, outputs, pooled, pooled). See
    `accel_ops.psroi_pool`.

    Differentiable by autograd, any number of times. Sums what is not in a bin times zero, so features have to be
    finite.
    """
    check_psroi_pool(features, rois, outputs, pooled, group, scale)
    batch, _, height, width = features.shape
    rows, columns, size = bins(rois, pooled, scale, height, width)
    wide = features.to(torch.float64 if features.dtype == torch.float64 else torch.float32)
    maps = wide.reshape(batch, outputs, group, group, height, width)
    pooled_maps = wide.new_zeros(len(rois), outputs, pooled, pooled)
    if batch == 0:
        return (pooled_maps + wide.sum()).to(features.dtype)  # zeros, whose gradient is an empty map
    for image in range(batch):
        own = (rois[:, 0] == image).nonzero()[:, 0]
        means = [
            torch.einsum(
                "khw,rh,rw->rk",
                maps[image, :, i * group // pooled, j * group // pooled],
                rows[own, i].to(wide.dtype),
                columns[own, j].to(wide.dtype),
            )
            / size[own, i, j, None]
            for i in range(pooled)
            for j in range(pooled)
        ]
        pooled_maps = pooled_maps.index_add(0, own, torch.stack(means, -1).unflatten(-1, (pooled, pooled)))
    return pooled_maps.to(features.dtype)


def psroi_pool_backward(gradient: Tensor, rois: Tensor, shape: Sequence[int], group: int, scale: float) -> Tensor:
    """Gradient of `psroi_pool` to features of `shape` (B, C, H, W), from that of its result, `gradient`
    (R, outputs, pooled, pooled)."""
    check_psroi_pool_backward(gradient, rois, shape, group, scale)
    batch, _, height, width = shape
    outputs, pooled = gradient.shape[1:3]
    rows, columns, size = bins(rois, pooled, scale, height, width)
    wide = gradient.to(torch.float64 if gradient.dtype == torch.float64 else torch.float32)
    share = wide / size[:, None]
    maps = wide.new_zeros(batch, outputs, group, group, height, width)
    for image in range(batch):
        own = (rois[:, 0] == image).nonzero()[:, 0]
        for i in range(pooled):
            for j in range(pooled):
                maps[image, :, i * group // pooled, j * group // pooled] += torch.einsum(
                    "rk,rh,rw->khw",
                    share[own, :, i, j],
                    rows[own, i].to(wide.dtype),
                    columns[own, j].to(wide.dtype),
                )
    return maps.view(*shape).to(gradient.dtype)


def bins(rois: Tensor, pooled: int, scale: float, height: int, width: int) -> tuple[Tensor, Tensor, Tensor]:
    """Which rows and columns of a map each bin covers, (R, pooled, height) and (R, pooled, width) bool; and how many
    cells these are, (R, pooled, pooled), 1 where there are none."""
    known = rois[:, 1:].isfinite().all(1)
    corners = torch.where(known[:, None], rois[:, 1:], 0)
    corners = corners.trunc() + corners.frac().mul(2).trunc()  # rounded, halves away from zero
    masks = []
    for first, last, cells in ((corners[:, 1], corners[:, 3], height), (corners[:, 0], corners[:, 2], width)):
        start, end = first * scale, (last + 1) * scale
        # Divided by a tensor: by a number, PyTorch multiplies by its inverse, which rounds otherwise.
        bin_size = (end - start).clamp_min(SMALLEST_SIDE) / torch.full_like(start, pooled)
        step = torch.arange(pooled + 1, device=rois.device, dtype=rois.dtype)
        borders = step * bin_size[:, None] + start[:, None]  # (R, pooled + 1)
        cell = torch.arange(cells, device=rois.device)
        after = cell >= borders[:, :-1, None].floor()
        masks.append(after & (cell < borders[:, 1:, None].ceil()) & known[:, None, None])
    rows, columns = masks
    return rows, columns, (rows.sum(2)[:, :, None] * columns.sum(2)[:, None, :]).clamp_min(1)
