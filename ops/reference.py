"""Every operator in plain PyTorch: the definitions that the native kernels are tested against.

They run on every device and data type, under autograd, and are what is used where no native kernel is.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

FLOATING = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def check_warp(features: Tensor, flow: Tensor) -> None:
    """Raise a `ValueError` unless `warp` is defined for these two; says the same as csrc/warp.h."""
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


def layout_of(features: Tensor) -> torch.memory_format:
    """The layout of results made from `features`: channels-last where the channels lie side by side."""
    channels_last = features.shape[1] > 1 and features.stride(1) == 1 and not features.is_contiguous()
    return torch.channels_last if channels_last else torch.contiguous_format


def warp(features: Tensor, flow: Tensor) -> Tensor:
    """Bilinear samples of `features` (B, C, H, W) where `flow` (B, 2, H, W) points. See `accel_ops.warp`.

    Differentiable by autograd, any number of times.
    """
    check_warp(features, flow)
    inside, cell, right, lower = _taps(features, flow)
    weight = _weights(right, lower)
    wide = features.to(right.dtype)  # once, so that autograd sums their gradient in float32 too
    out = sum(weight[k] * _values(wide, inside[k], cell[k]) for k in range(4))
    return out.to(features.dtype).contiguous(memory_format=layout_of(features))


def warp_backward(gradient: Tensor, features: Tensor, flow: Tensor, needs: list[bool]) -> tuple[Tensor, Tensor]:
    """Gradients of `warp` to features (B, C, H, W) and flow (B, 2, H, W), from that of its result, `gradient`
    (B, C, H, W). Only those asked for in `needs`; an empty tensor stands for the other.
    """
    check_warp_backward(gradient, features, flow)
    inside, cell, right, lower = _taps(features, flow)
    to_features, to_flow = features.new_empty(0), flow.new_empty(0)
    slope = gradient.to(right.dtype)  # (B, C, H, W)
    if needs[0]:
        sums = torch.zeros_like(slope).flatten(2)  # (B, C, H*W)
        for k, weight in enumerate(_weights(right, lower)):
            share = torch.where(inside[k], weight * slope, 0).flatten(2)
            sums = sums.scatter_add(2, cell[k].flatten(2).expand_as(share), share)
        to_features = sums.view(features.shape).to(features.dtype)
        to_features = to_features.contiguous(memory_format=layout_of(features))
    if needs[1]:
        wide = features.to(right.dtype)
        v0, v1, v2, v3 = (_values(wide, inside[k], cell[k]) for k in range(4))
        dx = slope * ((1 - lower) * (v1 - v0) + lower * (v3 - v2))
        dy = slope * ((1 - right) * (v2 - v0) + right * (v3 - v1))
        somewhere = inside[0] | inside[1] | inside[2] | inside[3]
        both = [torch.where(somewhere, d, 0).sum(1) for d in (dx, dy)]
        to_flow = torch.stack(both, 1).to(flow.dtype)
    return to_features, to_flow


def _taps(features: Tensor, flow: Tensor) -> tuple[list[Tensor], list[Tensor], Tensor, Tensor]:
    """Of the cells upper left, upper right, lower left, lower right of each position: is it inside the map,
    and its index y * W + x (0 if not); and how far right and below of the first the position is. All
    (B, 1, H, W).
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


def _weights(right: Tensor, lower: Tensor) -> list[Tensor]:
    return [(1 - lower) * (1 - right), (1 - lower) * right, lower * (1 - right), lower * right]


def _values(features: Tensor, inside: Tensor, cell: Tensor) -> Tensor:
    """The features (B, C, H, W) at `cell` (B, 1, ...), zero where not `inside`. (B, C, ...)."""
    shape = (*features.shape[:2], *cell.shape[2:])
    if features.numel() == 0:
        return features.sum().expand(shape)  # zeros, whose gradient is an empty map
    index = cell.flatten(2).expand(*shape[:2], -1)
    return torch.where(inside, features.flatten(2).gather(2, index).view(shape), 0)


def check_deform_conv(
    features: Tensor,
    offset: Tensor,
    weight: Tensor,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
) -> tuple[int, int]:
    """Raise a `ValueError` unless `deform_conv` is defined for these; says the same as csrc/deform_conv.h.

    Returns the height and width of its result.
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
    """Convolution of `features` (B, C, H, W) by `weight` (C', C, kh, kw) whose taps `offset` (B, G*kh*kw*2, H', W')
    moves. (B, C', H', W'). See `accel_ops.deform_conv`; stride, padding and dilation are pairs here.

    Differentiable by autograd, any number of times.
    """
    check_deform_conv(features, offset, weight, stride, padding, dilation)
    inside, cell, right, lower = _moved_taps(features, offset, weight.shape[2:], stride, padding, dilation)
    share = _weights(right, lower)
    maps = _maps(features, offset, weight)
    batch, rows, cells = offset.shape[0], weight.shape[1:].numel(), offset.shape[2:].numel()
    samples = sum(share[k] * _values(maps, inside, cell[k]) for k in range(4))  # (B*G, C/G, kh*kw, H', W')
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
    """Gradients of `deform_conv` to features, offset and weight from that of its result, `gradient`
    (B, C', H', W'). Only those asked for in `needs`; an empty tensor stands for another.
    """
    check_deform_conv_backward(gradient, features, offset, weight, stride, padding, dilation)
    inside, cell, right, lower = _moved_taps(features, offset, weight.shape[2:], stride, padding, dilation)
    share = _weights(right, lower)
    maps = _maps(features, offset, weight)
    batch, rows, cells = offset.shape[0], weight.shape[1:].numel(), offset.shape[2:].numel()
    to_features, to_offset, to_weight = features.new_empty(0), offset.new_empty(0), weight.new_empty(0)
    slope = gradient.to(maps.dtype).flatten(2)  # (B, C', H'*W')
    with torch.autocast(features.device.type, enabled=False):
        to_samples = weight.flatten(1).to(maps.dtype).T @ slope
    to_samples = to_samples.view(*maps.shape[:2], *cell[0].shape[2:])
    v0, v1, v2, v3 = (_values(maps, inside, cell[k]) for k in range(4))
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
    """The features, (B * G, C / G, H, W): a map for every group of offsets, in the type sums are held in."""
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
    """For each tap: does it sample inside the map; the indices y * W + x of the cells upper left, upper right,
    lower left and lower right of it (0 if not inside); and how far right and below of the first it is. All
    (B * G, 1, kh * kw, H', W').
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


# upsample_argmax

STRIDE = 16
MOST_CLASSES = 255  # the label 255 is "ignored"


def check_frame_size(cells: tuple[int, int], size: tuple[int, int]) -> None:
    """Raise a `ValueError` unless a score map of `cells` (h, w) belongs to frames of `size` (H, W) pixels."""
    expected = [-(-pixels // STRIDE) for pixels in size]
    if min(*cells, *size) < 1 or any(abs(c - e) > 1 for c, e in zip(cells, expected, strict=True)):
        raise ValueError(
            f"a score map of {tuple(cells)} cells does not belong to the frame size {tuple(size)}: each side must be "
            f"ceil(pixels / {STRIDE}) cells, give or take one"
        )


def check_upsample_argmax(scores: Tensor, size: tuple[int, int], bias: Tensor | None, border: str) -> None:
    """Raise a `ValueError` unless `upsample_argmax` is defined for these; says the same as csrc/upsample_argmax.h."""
    name = "upsample_argmax"
    if scores.dim() != 4:
        raise ValueError(f"{name}: scores must be (B, K, h, w), got {list(scores.shape)}")
    if scores.dtype not in FLOATING:
        raise ValueError(f"{name}: scores must be float16, bfloat16, float32 or float64, got {scores.dtype}")
    classes = scores.shape[1]
    if not 1 <= classes <= MOST_CLASSES:
        raise ValueError(f"{name}: uint8 labels hold 1 to {MOST_CLASSES} classes, got {classes}")
    if border not in ("replicate", "zero"):
        raise ValueError(f"{name}: border must be 'replicate' or 'zero', got {border!r}")
    if bias is not None:
        if bias.shape != (classes,):
            raise ValueError(f"{name}: bias must be (K,) = [{classes}], got {list(bias.shape)}")
        if bias.dtype not in FLOATING:
            raise ValueError(f"{name}: bias must be float16, bfloat16, float32 or float64, got {bias.dtype}")
        if bias.device != scores.device:
            raise ValueError(f"{name}: scores are on {scores.device} but bias is on {bias.device}")
    if len(size) != 2:
        raise ValueError(f"{name}: size must be (H, W), got {list(size)}")
    check_frame_size(scores.shape[2:], size)


@torch.no_grad()
def upsample_argmax(
    scores: Tensor, size: tuple[int, int], bias: Tensor | None = None, border: str = "replicate"
) -> Tensor:
    """The class of the highest full-size logit, (B, H, W) uint8, from scores (B, K, h, w). See
    `accel_ops.upsample_argmax`.
    """
    check_upsample_argmax(scores, size, bias, border)
    return torch.cat([logits.argmax(1).to(torch.uint8) for logits in _strips(scores, size, bias, border)], 1)


@torch.no_grad()
def upsample_argmax_margin(
    scores: Tensor, size: tuple[int, int], bias: Tensor | None = None, border: str = "replicate"
) -> tuple[Tensor, Tensor]:
    """`upsample_argmax`, and how far the highest logit is above the next, (B, H, W) float32. See
    `accel_ops.upsample_argmax_margin`.
    """
    check_upsample_argmax(scores, size, bias, border)
    labels, margins = [], []
    for logits in _strips(scores, size, bias, border):
        first = logits.argmax(1, keepdim=True)
        highest = logits.gather(1, first)
        second = logits.scatter_(1, first, -torch.inf).amax(1, keepdim=True)
        labels.append(first[:, 0].to(torch.uint8))
        margins.append((highest - second)[:, 0].float())
    margin = torch.cat(margins, 1)
    return torch.cat(labels, 1), margin.fill_(torch.inf) if scores.shape[1] == 1 else margin


def _strips(scores: Tensor, size: tuple[int, int], bias: Tensor | None, border: str) -> Iterator[Tensor]:
    """The full-size logits from the top down, (B, K, at most 64, W) at a time: what lies between 5 rows of cells."""
    height, width = size
    cells = scores.to(torch.float64 if scores.dtype == torch.float64 else torch.float32)
    # A cell before the map and two after it are as far as pixels reach.
    cells = F.pad(cells, (1, 2, 1, 2), mode="constant" if border == "zero" else "replicate")
    half = STRIDE // 2  # the centre of the cell before the map is half a cell before the frame
    for top in range(-half, height, 4 * STRIDE):
        row = (top + half) // STRIDE
        rows = _between(cells[:, :, row : row + 5].transpose(2, 3)).transpose(2, 3)  # (B, K, 64, w + 3)
        rows = rows[:, :, max(-top, 0) : height - top]
        logits = _between(rows)[..., half : half + width]
        yield logits if bias is None else logits + bias.to(logits.dtype).view(-1, 1, 1)


def _between(cells: Tensor) -> Tensor:
    """The pixels between the centres of neighbouring cells: (..., n) to (..., 16 * (n - 1))."""
    fraction = (torch.arange(STRIDE, device=cells.device, dtype=cells.dtype) + 0.5) / STRIDE
    return (cells[..., :-1, None] * (1 - fraction) + cells[..., 1:, None] * fraction).flatten(-2)
