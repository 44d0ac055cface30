"""What a detector should say, for its losses: of anchors, and of regions.

The truth of an image is its boxes (M, 4), x1, y1, x2, y2 in pixels, both corners within, and their classes (M,).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from accel.models.detection.boxes import encoded, overlaps

IGNORED = -1  # a label that no loss counts


class AnchorTargets(NamedTuple):
    """Of N anchors. labels: (N,) int64: 1 object, 0 background, -1 ignored.

    moves: (N, 4), dx, dy, dw, dh to the object, zeros where there is none.
    """

    labels: Tensor
    moves: Tensor


class RegionTargets(NamedTuple):
    """Of R regions. regions: (R, 4).  labels: (R,) int64: 0 background, 1 + k class k, -1 ignored.

    moves: (R, 4), dx, dy, dw, dh to the object, zeros where there is none.
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
    """What anchors (N, 4) should say of an image of `size` (H, W) with `boxes` (M, 4), before any are left out.

    Those that reach over the image's border are ignored. An object: an overlap of `object_above`, or a box's best
    anchor, or one of several that are equally good. As published, a box that no anchor touches makes an object of all
    anchors that do not touch it. Background: all overlaps under `background_below`.

    deviations: of dx, dy, dw, dh, which moves are divided by.
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
    """Labels (N,) of anchors with all but `count` ignored, at most this share of them objects, drawn by PyTorch's
    generator on the CPU: the same on all devices."""
    labels = labels.clone()
    left = _leave(labels, 1, int(objects * count))
    _leave(labels, 0, count - left)
    return labels


def region_targets(
    regions: Tensor, boxes: Tensor, classes: Tensor, deviations: tuple[float, ...], object_above: float = 0.5
) -> RegionTargets:
    """What should be said of regions (R, 4), and of the boxes (M, 4) themselves, which are regions, too: objects first,
    then the background, all of them.

    classes: (M,), 0 to K - 1.  deviations: of dx, dy, dw, dh, which moves are divided by.
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
    """dx, dy, dw, dh (N, 4) from boxes (N, 4) to targets, divided by the deviations; zeros where there is no object."""
    moves = encoded(boxes.double(), targets.double())
    moves = torch.stack([move / deviation for move, deviation in zip(moves.unbind(1), deviations, strict=True)], 1)
    return torch.where(is_object[:, None], moves, 0).to(boxes.dtype)


def _leave(labels: Tensor, label: int, most: int) -> int:
    """Ignore all but so many of those with a label; how many are left."""
    found = (labels == label).nonzero()[:, 0]
    if len(found) > most:
        dropped = torch.randperm(len(found))[most:].to(labels.device)
        labels[found[dropped]] = IGNORED
    return min(len(found), most)
