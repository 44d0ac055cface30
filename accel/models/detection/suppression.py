"""Greedy non-maximum suppression: the best box stays, those that overlap it too much go; and so on with the rest.

torchvision's counts sides as x2 - x1, and goes on after enough boxes are found: that takes longer. It is right where
every class has boxes of its own.
"""

from __future__ import annotations

import torch
from torch import Tensor

from accel.models.detection.boxes import WITHIN, Corners, overlaps

BLOCK = 256  # boxes that are compared with each other at once


def best_of(boxes: Tensor, most_overlap: float, most: int, corners: Corners = WITHIN) -> Tensor:
    """Which of the boxes (N, 4), best first, stay: their indices (n,), best first, at most so many.

    most_overlap: intersection over union with a better one; at most so much stays.
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
    """Which boxes stay for each class, (K, N) bool. All classes share the boxes, and are suppressed on their own.

    boxes: (N, 4).  scores: (K, N); of equal ones the first box is the better.  candidates: (K, N) bool.
    """
    scores = scores.contiguous()
    index = torch.arange(len(boxes), device=boxes.device)
    better = scores[:, :, None] > scores[:, None, :]  # (K, better, worse)
    better |= (scores[:, :, None] == scores[:, None, :]) & (index[:, None] < index)
    return _survivors(candidates, better & (overlaps(boxes, boxes) > most_overlap))


def best_of_class_boxes(boxes: Tensor, scores: Tensor, candidates: Tensor, most_overlap: float) -> Tensor:
    """Which stay for each class, (K, N) bool, where every class has boxes of its own, whose corners are edges.

    boxes: (K, N, 4).  scores: (K, N).  candidates: (K, N) bool: mostly few, and only those are compared.
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
    """Which of the candidates (K, N) stay, where those that stay drive out others, (K, driver, driven) bool.

    A better box is never driven out by a worse one. So what is said of the best is right from the start, after one
    round also what is said of the second best, and so on; mostly all of it is right after a few rounds.
    """
    beaten = beaten.to(torch.float32).contiguous()
    kept = candidates
    while True:
        # A sum of zeros and ones, exact.
        now = candidates & (torch.bmm(kept[:, None].to(beaten.dtype), beaten)[:, 0] == 0)
        if torch.equal(now, kept):
            return kept
        kept = now
