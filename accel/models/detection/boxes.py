"""Boxes (x1, y1, x2, y2) in pixels. What their corners are is said by `Corners`."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Corners:
    """What the two corners of a box are.

    added: a side is x2 - x1 plus this: 1 if both corners lie within the box, 0 if they are its edges.
    most_growth: the highest absolute value of dw and dh that `decoded` uses.
    """

    added: int = 1
    most_growth: float = math.inf


WITHIN = Corners()  # as in R-FCN's release
EDGES = Corners(0, math.log(1000 / 16))  # as in mmdetection


def sides(boxes: Tensor, corners: Corners = WITHIN) -> Tensor:
    """Return width and height, (..., 2), of boxes (..., 4)."""
    return boxes[..., 2:] - boxes[..., :2] + corners.added


def overlaps(boxes: Tensor, others: Tensor, corners: Corners = WITHIN) -> Tensor:
    """Return the intersection over union, (..., N, M), of boxes (..., N, 4) with others (..., M, 4)."""
    sides_shared = [  # an axis at a time: maps of numbers side by side are faster than maps of pairs
        (
            torch.minimum(boxes[..., :, None, 2 + axis], others[..., None, :, 2 + axis])
            - torch.maximum(boxes[..., :, None, axis], others[..., None, :, axis])
            + corners.added
        ).clamp_min(0)
        for axis in (0, 1)
    ]
    shared = sides_shared[0] * sides_shared[1]
    return shared / (
        sides(boxes, corners).prod(-1)[..., :, None] + sides(others, corners).prod(-1)[..., None, :] - shared
    )


def decoded(boxes: Tensor, deltas: Tensor, corners: Corners = WITHIN) -> Tensor:
    """Return boxes (..., 4) after they are moved.

    deltas: dx, dy, dw, dh of each box, (..., 4). The centre moves by dx of the width and dy of the height. The width is
        multiplied by exp(dw), the height by exp(dh).
    """
    size = sides(boxes, corners)
    centre = boxes[..., :2] + 0.5 * (size - corners.added) + deltas[..., :2] * size
    growth = deltas[..., 2:]
    if math.isfinite(corners.most_growth):
        growth = growth.clamp(-corners.most_growth, corners.most_growth)
    reach = 0.5 * (growth.exp() * size - corners.added)
    return torch.cat([centre - reach, centre + reach], -1)


def encoded(boxes: Tensor, targets: Tensor, corners: Corners = WITHIN) -> Tensor:
    """Return the deltas (..., 4) with which `decoded` moves boxes (..., 4) to `targets` (..., 4)."""
    size, aim = sides(boxes, corners), sides(targets, corners)
    centre = boxes[..., :2] + 0.5 * (size - corners.added)
    aimed = targets[..., :2] + 0.5 * (aim - corners.added)
    return torch.cat([(aimed - centre) / size, (aim / size).log()], -1)


def clipped(boxes: Tensor, size: tuple[int, int], corners: Corners = WITHIN) -> Tensor:
    """Return boxes (..., 4) within an image of `size` (H, W). Corners outside it move to its nearest pixel, or edge."""
    height, width = size
    x, y = boxes[..., 0::2].clamp(0, width - corners.added), boxes[..., 1::2].clamp(0, height - corners.added)
    return torch.stack([x[..., 0], y[..., 0], x[..., 1], y[..., 1]], -1)
