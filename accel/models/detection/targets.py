"""The targets of a detector, with which its losses compare: for anchors, and for regions.

The ground truth of an image is its boxes (M, 4) and their classes (M,). Boxes are x1, y1, x2, y2 in pixels. Both
corners lie within the box.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from accel.models.detection.boxes import encoded, overlaps

IGNORED = -1  # a label that no loss counts


class AnchorTargets(NamedTuple):
    """The targets of N anchors.

    labels: (N,) int64: 1 for an object, 0 for background, -1 for anchors that no loss counts.
    moves: (N, 4), dx, dy, dw, dh to the object. They are zero where there is none.
    """

    labels: Tensor
    moves: Tensor


class RegionTargets(NamedTuple):
    """The targets of R regions.

    regions: (R, 4), in pixels.
    labels: (R,) int64: 0 for background, 1 + k for class k, -1 for regions that no loss counts.
    moves: (R, 4), dx, dy, dw, dh to the object. They are zero where there is none.
    """

    regions: Tensor
    labels: Tensor
    moves: Tensor


def anchor_targets(
    anchors: Tensor,
    boxes: Tensor,
    size: tuple[int, int],
    deviations: tuple[float, ...],
    object_above: float = 0.7,
    background_below: float = 0.3,
) -> AnchorTargets:
    """Return the targets of all anchors of an image. `some_of` then leaves some of them out.

    anchors: (N, 4), in pixels. Those that reach over the image's border are ignored.
    boxes: the true boxes (M, 4).
    size: (H, W) of the image.
    deviations: the numbers by which dx, dy, dw and dh are divided.
    object_above: an anchor with this overlap with a box, or more, has an object. So does the best anchor of each box,
        or several if they are equally good. As published, if no anchor touches a box, all anchors count as its best.
    background_below: an anchor whose overlaps are all lower is background.
    """
    height, width = size
    inside = (anchors[:, :2] >= 0).all(1) & (anchors[:, 2] < width) & (anchors[:, 3] < height)
    labels = torch.full((len(anchors),), IGNORED, dtype=torch.long, device=anchors.device)
    moves = torch.zeros_like(anchors)
    if len(boxes) == 0:
        labels[inside] = 0
        return AnchorTargets(labels, moves)
    shared = overlaps(anchors.double(), boxes.double())  # (N, M)
    shared = torch.where(inside[:, None], shared, -1)
    best, matched = shared.max(1)
    labels[inside & (best < background_below)] = 0
    is_object = inside & ((best >= object_above) | (shared == shared.max(0).values).any(1))
    labels[is_object] = 1
    return AnchorTargets(labels, _moves(anchors, boxes[matched], is_object, deviations))


def some_of(labels: Tensor, count: int = 256, objects: float = 0.5) -> Tensor:
    """Return labels (N,) of anchors, of which `count` are left, and the others are ignored.

    objects: the highest share of objects among those that are left.

    They are drawn by PyTorch's generator on the CPU, so they are the same on all devices.
    """
    labels = labels.clone()
    left = _leave(labels, 1, int(objects * count))
    _leave(labels, 0, count - left)
    return labels


def region_targets(
    regions: Tensor, boxes: Tensor, classes: Tensor, deviations: tuple[float, ...], object_above: float = 0.5
) -> RegionTargets:
    """Return the targets of regions, those with an object first.

    regions: (R, 4), in pixels. The true boxes are added to them.
    boxes, classes: the true boxes (M, 4) and their classes (M,), 0 to K - 1.
    deviations: the numbers by which dx, dy, dw and dh are divided.
    object_above: a region with this overlap with a box, or more, has its object. All others are background.
    """
    regions = torch.cat([regions, boxes.to(regions.dtype)])
    if len(boxes) == 0:
        return RegionTargets(regions, torch.zeros_like(regions[:, 0], dtype=torch.long), torch.zeros_like(regions))
    best, matched = overlaps(regions.double(), boxes.double()).max(1)
    is_object = best >= object_above
    order = torch.cat([is_object.nonzero()[:, 0], (~is_object).nonzero()[:, 0]])
    regions, matched, is_object = regions[order], matched[order], is_object[order]
    labels = torch.where(is_object, 1 + classes[matched], 0)
    return RegionTargets(regions, labels, _moves(regions, boxes[matched], is_object, deviations))


def _moves(boxes: Tensor, targets: Tensor, is_object: Tensor, deviations: tuple[float, ...]) -> Tensor:
    """Return dx, dy, dw, dh (N, 4) from boxes (N, 4) to targets, divided by the deviations. They are zero where there
    is no object."""
    moves = encoded(boxes.double(), targets.double())
    moves = torch.stack([move / deviation for move, deviation in zip(moves.unbind(1), deviations, strict=True)], 1)
    return torch.where(is_object[:, None], moves, 0).to(boxes.dtype)


def _leave(labels: Tensor, label: int, most: int) -> int:
    """Ignore all but `most` of those with this label. Return how many are left."""
    found = (labels == label).nonzero()[:, 0]
    if len(found) > most:
        dropped = torch.randperm(len(found))[most:].to(labels.device)
        labels[found[dropped]] = IGNORED
    return min(len(found), most)
