"""Compare the native operators with those of PyTorch and torchvision for the same work."""

from __future__ import annotations

import accel_ops
import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.ops import deform_conv2d

from accel.clock import interleaved
from accel.devices import has_bfloat16

CLASSES = 19
CELL = 16


def benchmark_operators(size: tuple[int, int], device: torch.device, rounds: int) -> dict[str, dict[str, float]]:
    """Return the milliseconds of each operator and of its counterpart at the shapes of frames of `size`, and their
    ratio."""
    half = torch.bfloat16 if has_bfloat16(device) else torch.float32
    cells = -(-size[0] // CELL), -(-size[1] // CELL)
    results = {}
    for name, (own, other) in {
        "warp, 2048 channels": _warp(2048, cells, half, device),
        "warp, 1024 channels": _warp(1024, cells, half, device),
        "deform_conv, 512 channels, 1 group": _deform_conv(512, 1, cells, half, device),
        "deform_conv, 512 channels, 4 groups": _deform_conv(512, 4, cells, half, device),
        "sample_attend, 1024 channels, 81 offsets": _sample_attend(1024, cells, half, device),
        "upsample_argmax, smooth scores": _upsample_argmax(_smooth(cells, device), size),
        "upsample_argmax, noise": _upsample_argmax(torch.randn(1, CLASSES, *cells, device=device), size),
    }.items():
        seconds = interleaved({"own": own, "other": other}, rounds, device)
        results[name] = {
            "milliseconds": 1e3 * seconds["own"],
            "counterpart_milliseconds": 1e3 * seconds["other"],
            "ratio": seconds["other"] / seconds["own"],
        }
    return results


COUNTERPARTS = {
    "warp": "torch.nn.functional.grid_sample, bfloat16 where the machine has it, channels-last, both",
    "deform_conv": "torchvision.ops.deform_conv2d in float32 (it has no bfloat16 on CPUs)",
    "sample_attend": "one torch.nn.functional.grid_sample an offset, for keys and for values, in the same type",
    "upsample_argmax": "torch.nn.functional.interpolate and argmax, float32, both",
}


def _channels_last(x: Tensor) -> Tensor:
    return x.contiguous(memory_format=torch.channels_last)


def _warp(channels: int, cells: tuple[int, int], dtype: torch.dtype, device: torch.device):
    features = _channels_last(torch.randn(1, channels, *cells, device=device).to(dtype))
    flow = 2 * torch.randn(1, 2, *cells, device=device)
    grid = _grid(flow[0], cells).to(dtype)
    return (
        lambda: accel_ops.warp(features, flow),
        lambda: F.grid_sample(features, grid, align_corners=True),
    )


def _grid(flow: Tensor, cells: tuple[int, int]) -> Tensor:
    """Convert a flow (2, h, w) in cells into the format of `grid_sample`, (1, h, w, 2)."""
    height, width = cells
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    at = torch.stack([columns, rows]).to(flow.device) + flow
    return torch.stack([2 * at[0] / (width - 1) - 1, 2 * at[1] / (height - 1) - 1], -1)[None]


def _sample_attend(channels: int, cells: tuple[int, int], dtype: torch.dtype, device: torch.device):
    """Use the published 256 channels of embedding and 9x9 offsets, not at whole cells, as after training."""
    value, query, key = (
        _channels_last(torch.randn(1, c, *cells, device=device).to(dtype)) for c in (channels, 256, 256)
    )
    query = query / 16  # logits as of unit vectors
    steps = torch.arange(-4, 5.0)
    offsets = (torch.cartesian_prod(steps, steps) + 0.2 * torch.randn(81, 2)).to(device)
    grids = [_grid(offset[:, None, None].expand(2, *cells), cells).to(dtype) for offset in offsets]

    def counterpart():
        keys = (F.grid_sample(key, grid, align_corners=True) for grid in grids)
        weights = torch.stack([(query * sample).sum(1) for sample in keys], 1).float().softmax(1).to(dtype)
        out = torch.zeros_like(value)
        for k, grid in enumerate(grids):
            out += weights[:, k, None] * F.grid_sample(value, grid, align_corners=True)
        return out

    return lambda: accel_ops.sample_attend(query, key, value, offsets), counterpart


def _deform_conv(channels: int, groups: int, cells: tuple[int, int], dtype: torch.dtype, device: torch.device):
    x = _channels_last(torch.randn(1, channels, *cells, device=device))
    offset = torch.randn(1, groups * 18, *cells, device=device)
    weight = _channels_last(0.02 * torch.randn(channels, channels, 3, 3, device=device))
    half_x, half_offset, half_weight = (_channels_last(t.to(dtype)) for t in (x, offset, weight))
    plain = [t.contiguous() for t in (x, offset, weight)]
    return (
        lambda: accel_ops.deform_conv(half_x, half_offset, half_weight, padding=2, dilation=2),
        lambda: deform_conv2d(*plain, padding=2, dilation=2),
    )


def _upsample_argmax(scores: Tensor, size: tuple[int, int]):
    def counterpart():
        full = F.interpolate(scores, scale_factor=CELL, mode="bilinear", align_corners=False)
        return full[..., : size[0], : size[1]].argmax(1)

    return lambda: accel_ops.upsample_argmax(scores, size), counterpart


def _smooth(cells: tuple[int, int], device: torch.device) -> Tensor:
    """Return scores like those of networks: regions of some cells in which one class has the highest score."""
    coarse = 4 * torch.randn(1, CLASSES, max(cells[0] // 6, 1), max(cells[1] // 6, 1), device=device)
    return F.interpolate(coarse, cells, mode="bicubic")
