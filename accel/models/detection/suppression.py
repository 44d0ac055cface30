"""Greedy non-maximum suppression: the best box stays, and boxes that overlap it too much are removed. Then the same is
done with the best of the rest, and so on.

torchvision's function does not fit: it counts sides as x2 - x1, and it does not stop when enough boxes are found. Only
where every class has boxes of its own, it is used.
"""

from __future__ import annotations

import torch
from torch import Tensor

from accel.models.detection.boxes import WITHIN, Corners, overlaps

BLOCK = 256  # boxes that are compared with each other at once


def best_of(boxes: Tensor, most_overlap: float, most: int, corners: Corners = WITHIN) -> Tensor:
    """Return the indices (n,) of the boxes that stay, best first.

    boxes: (N, 4), best first.
    most_overlap: the highest intersection over union with a better box that stays.
    most: the highest number of boxes that stay.
    """
    kept, found = boxes[:0], []
    for start in range(0, len(boxes), BLOCK):
        block = boxes[start : start + BLOCK]
        left = (~(overlaps(kept, block, corners) > most_overlap).any(0)).nonzero()[:, 0]
        block = block[left]  # mostly few, once many are kept
        free = torch.ones(1, len(block), dtype=torch.bool, device=boxes.device)
        stay = _survivors(free, (overlaps(block, block, corners) > most_overlap).triu(1)[None])[0].nonzero()[:, 0]
        found.append(start + left[stay])
        kept = torch.cat([kept, block[stay]])
        if len(kept) >= most:
            break
    return torch.cat(found)[:most] if found else torch.empty(0, dtype=torch.long, device=boxes.device)


def best_of_each_class(boxes: Tensor, scores: Tensor, candidates: Tensor, most_overlap: float) -> Tensor:
    """Return which boxes stay in each class, (K, N) bool. All classes have the same boxes. Each is treated on its own.

    boxes: (N, 4).
    scores: (K, N). Of two boxes with equal scores, the first is better.
    candidates: (K, N) bool: the boxes that take part.
    most_overlap: the highest intersection over union with a better box that stays.
    """
    scores = scores.contiguous()
    index = torch.arange(len(boxes), device=boxes.device)
    better = scores[:, :, None] > scores[:, None, :]  # (K, better, worse)
    better |= (scores[:, :, None] == scores[:, None, :]) & (index[:, None] < index)
    return _survivors(candidates, better & (overlaps(boxes, boxes) > most_overlap))


def best_of_class_boxes(boxes: Tensor, scores: Tensor, candidates: Tensor, most_overlap: float) -> Tensor:
    """Return which boxes stay in each class, (K, N) bool. Each class has boxes of its own, whose corners are edges.

    boxes: (K, N, 4).
    scores: (K, N).
    candidates: (K, N) bool: the boxes that take part. Usually there are few.
    most_overlap: the highest intersection over union with a better box that stays.
    """
    from torchvision.ops import nms

    classes, chosen = candidates.nonzero(as_tuple=True)
    boxes, scores = boxes[classes, chosen], scores[classes, chosen]
    apart = boxes.max() + 1 if len(boxes) else 0  # so far from each other, classes do not overlap
    left = nms(boxes + (classes * apart)[:, None], scores.to(boxes.dtype), most_overlap)
    stay = torch.zeros_like(candidates)
    stay[classes[left], chosen[left]] = True
    return stay


def _survivors(candidates: Tensor, beaten: Tensor) -> Tensor:
    """Return which of the candidates (K, N) stay.

    beaten: (K, N, N) bool: whether the first box, if it stays, removes the second.

    A worse box never removes a better one. So the result is right for the best box from the start, for the second best
    after one round, and so on. Usually, all of it is right after a few rounds.
    """
    beaten = beaten.to(torch.float32).contiguous()
    kept = candidates
    while True:
        # A sum of zeros and ones, exact.
        now = candidates & (torch.bmm(kept[:, None].to(beaten.dtype), beaten)[:, 0] == 0)
        if torch.equal(now, kept):
            return kept
        kept = now
