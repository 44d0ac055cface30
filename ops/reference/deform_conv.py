"""Deformable convolution: the definition."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from accel_ops.reference.tensors import FLOATING, layout_of
from accel_ops.reference.warp import values, weights
from torch import Tensor


def check_deform_conv(
    features: Tensor,
    offset: Tensor,
    weight: Tensor,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
) -> tuple[int, int]:
    """Raise a `ValueError` unless `deform_conv` is defined for these. Its messages are those of csrc/deform_conv.h.

    Return the height and width of its result.
    """
    shape = list(features.shape)
    if features.dim() != 4:
        raise ValueError(f"deform_conv: features must be (B, C, H, W), got {shape}")
    if features.dtype not in FLOATING:
        raise ValueError(f"deform_conv: features must be float16, bfloat16, float32 or float64, got {features.dtype}")
    if weight.dim() != 4 or weight.shape[1] != shape[1] or weight.shape[2] == 0 or weight.shape[3] == 0:
        raise ValueError(
            f"deform_conv: weight must be (C', C, kh, kw) for features {shape}, got {list(weight.shape)}; "
            "groups of weights are not supported"
        )
    if weight.dtype != features.dtype:
        raise ValueError(f"deform_conv: weight must be of the features' type {features.dtype}, got {weight.dtype}")
    for name, pair, least in (("stride", stride, 1), ("padding", padding, 0), ("dilation", dilation, 1)):
        if len(pair) != 2 or min(pair) < least:
            raise ValueError(f"deform_conv: {name} must be two integers, {least} or more, got {list(pair)}")
    room = [shape[2 + k] + 2 * padding[k] - dilation[k] * (weight.shape[2 + k] - 1) - 1 for k in range(2)]
    if room[0] < 0 or room[1] < 0:
        raise ValueError(
            f"deform_conv: weight {list(weight.shape)} at dilation {list(dilation)} is larger than features {shape} "
            f"with padding {list(padding)}"
        )
    size = room[0] // stride[0] + 1, room[1] // stride[1] + 1
    of_a_group = 2 * weight.shape[2] * weight.shape[3]
    fits = offset.dim() == 4 and (offset.shape[0], *offset.shape[2:]) == (shape[0], *size)
    if not fits or offset.shape[1] == 0 or offset.shape[1] % of_a_group or shape[1] % (offset.shape[1] // of_a_group):
        raise ValueError(
            f"deform_conv: offset must be ({shape[0]}, G * {of_a_group}, {size[0]}, {size[1]}) with a G that divides "
            f"the {shape[1]} channels, got {list(offset.shape)}"
        )
    if offset.dtype not in (features.dtype, torch.float32):
        raise ValueError(
            f"deform_conv: offset must be float32 or of the features' type {features.dtype}, got {offset.dtype}"
        )
    for name, tensor in (("offset", offset), ("weight", weight)):
        if tensor.device != features.device:
            raise ValueError(f"deform_conv: features are on {features.device} but {name} is on {tensor.device}")
    return size


def check_deform_conv_backward(gradient: Tensor, features: Tensor, offset: Tensor, weight: Tensor, *geometry) -> None:
    """Raise a `ValueError` unless `deform_conv_backward` is defined for these."""
    size = check_deform_conv(features, offset, weight, *geometry)
    expected = (features.shape[0], weight.shape[0], *size), features.dtype, features.device
    if (tuple(gradient.shape), gradient.dtype, gradient.device) != expected:
        raise ValueError("deform_conv: the gradient must have the result's shape and the features' type and device")


def deform_conv(
    features: Tensor,
    offset: Tensor,
    weight: Tensor,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
) -> Tensor:
    """Convolve `features` (B, C, H, W) by `weight` (C', C, kh, kw), with taps moved by `offset` (B, G*kh*kw*2, H', W').

    The result is (B, C', H', W'). See `accel_ops.deform_conv`; stride, padding and dilation are pairs here. Autograd
    can differentiate it any number of times.
    """
    check_deform_conv(features, offset, weight, stride, padding, dilation)
    inside, cell, right, lower = _moved_taps(features, offset, weight.shape[2:], stride, padding, dilation)
    share = weights(right, lower)
    maps = _maps(features, offset, weight)
    batch, rows, cells = offset.shape[0], weight.shape[1:].numel(), offset.shape[2:].numel()
    parts = [share[k] * values(maps, inside, cell[k]) for k in range(4)]
    samples = parts[0] + parts[1] + parts[2] + parts[3]  # (B*G, C/G, kh*kw, H', W')
    with torch.autocast(features.device.type, enabled=False):
        out = weight.flatten(1).to(maps.dtype) @ samples.reshape(batch, rows, cells)
    out = out.view(batch, weight.shape[0], *offset.shape[2:]).to(features.dtype)
    return out.contiguous(memory_format=layout_of(features))


def deform_conv_backward(
    gradient: Tensor,
    features: Tensor,
    offset: Tensor,
    weight: Tensor,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    needs: Sequence[bool],
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradients of `deform_conv` by features, offset and weight, from that of its result, `gradient` (B, C',
    H', W').

    needs: which of them to compute. An empty tensor replaces each other.
    """
    check_deform_conv_backward(gradient, features, offset, weight, stride, padding, dilation)
    inside, cell, right, lower = _moved_taps(features, offset, weight.shape[2:], stride, padding, dilation)
    share = weights(right, lower)
    maps = _maps(features, offset, weight)
    batch, rows, cells = offset.shape[0], weight.shape[1:].numel(), offset.shape[2:].numel()
    to_features, to_offset, to_weight = features.new_empty(0), offset.new_empty(0), weight.new_empty(0)
    slope = gradient.to(maps.dtype).flatten(2)  # (B, C', H'*W')
    with torch.autocast(features.device.type, enabled=False):
        to_samples = weight.flatten(1).to(maps.dtype).T @ slope
    to_samples = to_samples.view(*maps.shape[:2], *cell[0].shape[2:])
    v0, v1, v2, v3 = (values(maps, inside, cell[k]) for k in range(4))
    if needs[0]:
        sums = torch.zeros_like(maps).flatten(2)
        for k in range(4):
            added = torch.where(inside, share[k] * to_samples, 0).flatten(2)
            if sums.numel():
                sums = sums.scatter_add(2, cell[k].flatten(2).expand_as(added), added)
        to_features = sums.view(features.shape).to(features.dtype)
        to_features = to_features.contiguous(memory_format=layout_of(features))
    if needs[1]:
        dy = to_samples * ((1 - right) * (v2 - v0) + right * (v3 - v1))
        dx = to_samples * ((1 - lower) * (v1 - v0) + lower * (v3 - v2))
        both = [torch.where(inside, d, 0).sum(1) for d in (dy, dx)]  # (B*G, kh*kw, H', W')
        to_offset = torch.stack(both, 2).view(offset.shape).to(offset.dtype)
        to_offset = to_offset.contiguous(memory_format=layout_of(offset))
    if needs[2]:
        samples = share[0] * v0 + share[1] * v1 + share[2] * v2 + share[3] * v3
        with torch.autocast(features.device.type, enabled=False):
            to_weight = (slope @ samples.reshape(batch, rows, cells).transpose(1, 2)).sum(0)
        to_weight = to_weight.view(weight.shape).to(weight.dtype).contiguous(memory_format=layout_of(weight))
    return to_features, to_offset, to_weight


def _maps(features: Tensor, offset: Tensor, weight: Tensor) -> Tensor:
    """Return the features as (B * G, C / G, H, W), a map for every group of offsets, in the type of sums."""
    groups = offset.shape[1] // (2 * weight.shape[2] * weight.shape[3])
    batch, channels, height, width = features.shape
    wide = features.to(torch.float64 if features.dtype == torch.float64 else torch.float32)
    return wide.reshape(batch * groups, channels // groups, height, width)


def _moved_taps(
    features: Tensor,
    offset: Tensor,
    kernel: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
) -> tuple[Tensor, list[Tensor], Tensor, Tensor]:
    """Return the four cells around each moved tap.

    The results are: whether the tap samples inside the map; the indices y * W + x of the cells upper left, upper right,
    lower left and lower right of it (0 if not inside); and how far right of and below the first cell it is. All are (B
    * G, 1, kh * kw, H', W').
    """
    height, width = features.shape[2:]
    rows, columns = offset.shape[2:]
    offset = offset.to(torch.float64 if features.dtype == torch.float64 else torch.float32)
    offset = offset.reshape(-1, 1, kernel[0], kernel[1], 2, rows, columns)
    home = [
        torch.arange(kernel[k], device=offset.device)[:, None] * dilation[k]
        + torch.arange((rows, columns)[k], device=offset.device) * stride[k]
        - padding[k]
        for k in range(2)
    ]  # of every tap: (kh, H') and (kw, W')
    y = offset[..., 0, :, :] + home[0][:, None, :, None]
    x = offset[..., 1, :, :] + home[1][:, None, :]
    y, x = y.flatten(2, 3), x.flatten(2, 3)
    # False for NaN and infinities.
    inside = (y >= 0) & (y < height) & (x >= 0) & (x < width)
    # Beyond the centre of the last row or column, its value.
    y, x = torch.where(inside, y, 0).clamp(max=height - 1), torch.where(inside, x, 0).clamp(max=width - 1)
    upper, left = y.detach().floor(), x.detach().floor()
    cell = []
    for below, beside in ((0, 0), (0, 1), (1, 0), (1, 1)):
        row, column = (upper + below).clamp(max=height - 1), (left + beside).clamp(max=width - 1)
        cell.append(torch.where(inside, row.long() * width + column.long(), 0))
    return inside, cell, x - left, y - upper
