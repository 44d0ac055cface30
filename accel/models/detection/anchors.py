"""Anchors: the boxes that a region proposal network starts from (Ren et al., Faster R-CNN, 2015, sec. 3.1.1)."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from accel.models.constants import constant
from accel.models.strides import STRIDE

SCALES = (8.0, 16.0, 32.0)  # sides, in cells, as published
RATIOS = (0.5, 1.0, 2.0)  # height / width, as published


def anchors(
    cells: tuple[int, int],
    device: torch.device | str = "cpu",
    scales: tuple[float, ...] = SCALES,
    ratios: tuple[float, ...] = RATIOS,
) -> Tensor:
    """Return the anchors of a feature map, (h * w * A, 4) float32, in pixels. They are ordered by row, then by column,
    then by anchor.

    cells: the size (h, w) of the map.
    scales: the sides of square anchors, in cells.
    ratios: height / width.

    Within a cell, anchors are ordered by ratio, then by scale. As published, the sides of a ratio are rounded to whole
    pixels before they are scaled.
    """
    return _on_all(constant(_of_cell, scales, ratios, dtype=torch.float32, device=torch.device(device)), cells)


def exact_anchors(
    cells: tuple[int, int], device: torch.device | str, scales: tuple[float, ...], ratios: tuple[float, ...] = RATIOS
) -> Tensor:
    """As `anchors`, but their sides are not rounded, their corners are edges, and they are centred on the upper left
    corners of cells, as mmdetection has them."""
    return _on_all(constant(_exact_of_cell, scales, ratios, dtype=torch.float32, device=torch.device(device)), cells)


def _on_all(of_cell: Tensor, cells: tuple[int, int]) -> Tensor:
    """The anchors of all cells (h, w), (h * w * A, 4), from those of the first, (A, 4)."""
    height, width = cells
    device = of_cell.device
    y = STRIDE * torch.arange(height, device=device, dtype=torch.float32)[:, None].expand(cells)
    x = STRIDE * torch.arange(width, device=device, dtype=torch.float32).expand(cells)
    return (torch.stack([x, y, x, y], -1)[:, :, None] + of_cell).view(-1, 4)


def _of_cell(
    scales: tuple[float, ...], ratios: tuple[float, ...], dtype: torch.dtype, device: torch.device | str
) -> Tensor:
    """Return the anchors of the first cell, (A, 4)."""
    centre = (STRIDE - 1) / 2
    made = []
    for ratio in ratios:
        width = _rounded(math.sqrt(math.floor(STRIDE**2 / ratio)))
        height = _rounded(width * ratio)
        for scale in scales:
            x, y = 0.5 * (scale * width - 1), 0.5 * (scale * height - 1)
            made.append([centre - x, centre - y, centre + x, centre + y])
    return torch.tensor(made, dtype=dtype, device=device)


def _exact_of_cell(
    scales: tuple[float, ...], ratios: tuple[float, ...], dtype: torch.dtype, device: torch.device | str
) -> Tensor:
    """Those of the first cell, (A, 4), around (0, 0)."""
    halves = [
        (STRIDE * scale / math.sqrt(ratio) / 2, STRIDE * scale * math.sqrt(ratio) / 2)
        for ratio in ratios
        for scale in scales
    ]
    return torch.tensor([[-x, -y, x, y] for x, y in halves], dtype=dtype, device=device)


def _rounded(side: float) -> int:
    """Round as the published graphs do: halves up."""
    return math.floor(side + 0.5)
