"""Boxes (x1, y1, x2, y2) in pixels. Both corners lie within the box, so a side is x2 - x1 + 1, as in R-FCN's
release."""

from __future__ import annotations

import torch
from torch import Tensor


def sides(boxes: Tensor) -> Tensor:
    """Return width and height, (..., 2), of boxes (..., 4)."""
    return boxes[..., 2:] - boxes[..., :2] + 1


def overlaps(boxes: Tensor, others: Tensor) -> Tensor:
    """Return the intersection over union, (..., N, M), of boxes (..., N, 4) with others (..., M, 4)."""
    sides_shared = [  # an axis at a time: maps of numbers side by side are faster than maps of pairs
        (
            torch.minimum(boxes[..., :, None, 2 + axis], others[..., None, :, 2 + axis])
            - torch.maximum(boxes[..., :, None, axis], others[..., None, :, axis])
            + 1
        ).clamp_min(0)
        for axis in (0, 1)
    ]
    shared = sides_shared[0] * sides_shared[1]
    return shared / (sides(boxes).prod(-1)[..., :, None] + sides(others).prod(-1)[..., None, :] - shared)


def decoded(boxes: Tensor, deltas: Tensor) -> Tensor:
    """Return boxes (..., 4) after they are moved.

    deltas: dx, dy, dw, dh of each box, (..., 4). The centre moves by dx of the width and dy of the height. The width is
        multiplied by exp(dw), the height by exp(dh).
    """
    size = sides(boxes)
    centre = boxes[..., :2] + 0.5 * (size - 1) + deltas[..., :2] * size
    reach = 0.5 * (deltas[..., 2:].exp() * size - 1)
    return torch.cat([centre - reach, centre + reach], -1)


def encoded(boxes: Tensor, targets: Tensor) -> Tensor:
    """Return the deltas (..., 4) with which `decoded` moves boxes (..., 4) to `targets` (..., 4)."""
    size, aim = sides(boxes), sides(targets)
    centre, aimed = boxes[..., :2] + 0.5 * (size - 1), targets[..., :2] + 0.5 * (aim - 1)
    return torch.cat([(aimed - centre) / size, (aim / size).log()], -1)


def clipped(boxes: Tensor, size: tuple[int, int]) -> Tensor:
    """Return boxes (..., 4) within an image of `size` (H, W). Corners outside it move to its nearest pixel."""
    height, width = size
    x, y = boxes[..., 0::2].clamp(0, width - 1), boxes[..., 1::2].clamp(0, height - 1)
    return torch.stack([x[..., 0], y[..., 0], x[..., 1], y[..., 1]], -1)
