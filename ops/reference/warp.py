"""Warping along a flow: the definition."""

from __future__ import annotations

import torch
from accel_ops.reference.tensors import FLOATING, layout_of
from torch import Tensor


def check_warp(features: Tensor, flow: Tensor) -> None:
    """Raise a `ValueError` unless `warp` is defined for these two. Its messages are those of csrc/warp.h."""
    if features.dim() != 4:
        raise ValueError(f"warp: features must be (B, C, H, W), got {list(features.shape)}")
    batch, _, height, width = features.shape
    if flow.dim() != 4 or flow.shape != (batch, 2, height, width):
        raise ValueError(f"warp: flow must be (B, 2, H, W) for features {list(features.shape)}, got {list(flow.shape)}")
    if features.dtype not in FLOATING:
        raise ValueError(f"warp: features must be float16, bfloat16, float32 or float64, got {features.dtype}")
    if flow.dtype not in (features.dtype, torch.float32):
        raise ValueError(f"warp: flow must be float32 or of the features' type {features.dtype}, got {flow.dtype}")
    if flow.device != features.device:
        raise ValueError(f"warp: features are on {features.device} but flow is on {flow.device}")


def check_warp_backward(gradient: Tensor, features: Tensor, flow: Tensor) -> None:
    """Raise a `ValueError` unless `warp_backward` is defined for these three."""
    check_warp(features, flow)
    same = (gradient.shape, gradient.dtype, gradient.device) == (
        features.shape,
        features.dtype,
        features.device,
    )
    if not same:
        raise ValueError("warp: the gradient must have the features' shape, type and device")


def warp(features: Tensor, flow: Tensor) -> Tensor:
    """Sample `features` (B, C, H, W) bilinearly where `flow` (B, 2, H, W) points. See `accel_ops.warp`.

    Autograd can differentiate it any number of times.
    """
    check_warp(features, flow)
    inside, cell, right, lower = taps(features, flow)
    weight = weights(right, lower)
    wide = features.to(right.dtype)  # once, so that autograd sums their gradient in float32 too
    parts = [weight[k] * values(wide, inside[k], cell[k]) for k in range(4)]
    out = parts[0] + parts[1] + parts[2] + parts[3]
    return out.to(features.dtype).contiguous(memory_format=layout_of(features))


def warp_backward(gradient: Tensor, features: Tensor, flow: Tensor, needs: list[bool]) -> tuple[Tensor, Tensor]:
    """Return the gradients of `warp` by features (B, C, H, W) and flow (B, 2, H, W), from that of its result,
    `gradient` (B, C, H, W).

    needs: which of them to compute. An empty tensor replaces the other.
    """
    check_warp_backward(gradient, features, flow)
    inside, cell, right, lower = taps(features, flow)
    to_features, to_flow = features.new_empty(0), flow.new_empty(0)
    slope = gradient.to(right.dtype)  # (B, C, H, W)
    if needs[0]:
        sums = torch.zeros_like(slope).flatten(2)  # (B, C, H*W)
        for k, weight in enumerate(weights(right, lower)):
            share = torch.where(inside[k], weight * slope, 0).flatten(2)
            sums = sums.scatter_add(2, cell[k].flatten(2).expand_as(share), share)
        to_features = sums.view(features.shape).to(features.dtype)
        to_features = to_features.contiguous(memory_format=layout_of(features))
    if needs[1]:
        wide = features.to(right.dtype)
        v0, v1, v2, v3 = (values(wide, inside[k], cell[k]) for k in range(4))
        dx = slope * ((1 - lower) * (v1 - v0) + lower * (v3 - v2))
        dy = slope * ((1 - right) * (v2 - v0) + right * (v3 - v1))
        somewhere = inside[0] | inside[1] | inside[2] | inside[3]
        both = [torch.where(somewhere, d, 0).sum(1) for d in (dx, dy)]
        to_flow = torch.stack(both, 1).to(flow.dtype)
    return to_features, to_flow


def taps(features: Tensor, flow: Tensor) -> tuple[list[Tensor], list[Tensor], Tensor, Tensor]:
    """Return the four cells around each position: upper left, upper right, lower left, lower right.

    The results are: whether each is inside the map; its index y * W + x (0 if not); and how far right of and below the
    first cell the position is. All are (B, 1, H, W).
    """
    height, width = features.shape[2:]
    flow = flow.to(torch.float64 if features.dtype == torch.float64 else torch.float32)
    x = flow[:, 0:1] + torch.arange(width, device=flow.device, dtype=flow.dtype)
    y = flow[:, 1:2] + torch.arange(height, device=flow.device, dtype=flow.dtype)[:, None]
    # False for NaN and infinities.
    near = (x >= -1) & (x < width) & (y >= -1) & (y < height)
    x, y = torch.where(near, x, 0), torch.where(near, y, 0)
    left, upper = x.detach().floor(), y.detach().floor()
    inside, cell = [], []
    for below, beside in ((0, 0), (0, 1), (1, 0), (1, 1)):
        row, column = upper + below, left + beside
        inside.append(near & (row >= 0) & (row < height) & (column >= 0) & (column < width))
        cell.append(torch.where(inside[-1], row.long() * width + column.long(), 0))
    return inside, cell, x - left, y - upper


def weights(right: Tensor, lower: Tensor) -> list[Tensor]:
    return [(1 - lower) * (1 - right), (1 - lower) * right, lower * (1 - right), lower * right]


def values(features: Tensor, inside: Tensor, cell: Tensor) -> Tensor:
    """Return the features (B, C, H, W) at `cell` (B, 1, ...), and zero where not `inside`: (B, C, ...)."""
    shape = (*features.shape[:2], *cell.shape[2:])
    if features.numel() == 0:
        return features.sum().expand(shape)  # zeros, whose gradient is an empty map
    index = cell.flatten(2).expand(*shape[:2], -1)
    return torch.where(inside, features.flatten(2).gather(2, index).view(shape), 0)
