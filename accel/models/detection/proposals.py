"""Proposals: the regions where a region proposal network expects objects (Ren et al., Faster R-CNN, 2015)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from accel.models.detection.anchors import RATIOS, SCALES, anchors, exact_anchors
from accel.models.detection.boxes import EDGES, clipped, decoded, sides
from accel.models.detection.suppression import best_of
from accel.models.strides import STRIDE


@dataclass(frozen=True)
class Proposing:
    """The rule that selects proposals, as in MXNet's operators `Proposal` and `MultiProposal`.

    before: the number of boxes that take part in suppression: the best ones.
    count: the number of proposals. There are always so many.
    most_overlap: the highest intersection over union with a better proposal.
    smallest_side: in pixels. A smaller box grows by half of this on all sides, and comes last.
    scales, ratios: those of the anchors, see `anchors.anchors`.
    """

    before: int = 6000
    count: int = 300
    most_overlap: float = 0.7
    smallest_side: float = 0.0
    scales: tuple[float, ...] = SCALES
    ratios: tuple[float, ...] = RATIOS

    @property
    def anchors_of_cell(self) -> int:
        """A, the number of anchors of a cell."""
        return len(self.scales) * len(self.ratios)

    def anchors(self, cells: tuple[int, int], device: torch.device | str = "cpu") -> Tensor:
        """Return the anchors of a map of `cells` (h, w): (h * w * A, 4), see `anchors.anchors`."""
        return anchors(cells, device, self.scales, self.ratios)


@dataclass(frozen=True)
class EdgeProposing(Proposing):
    """The rule that selects proposals in mmdetection, see `propose_edges`. The corners of boxes are their edges.

    `smallest_side` has no effect. Boxes without width or height are left out.
    """

    scales: tuple[float, ...] = (4.0, 8.0, 16.0, 32.0)

    def anchors(self, cells: tuple[int, int], device: torch.device | str = "cpu") -> Tensor:
        return exact_anchors(cells, device, self.scales, self.ratios)


@torch.no_grad()
def propose(
    scores: Tensor, deltas: Tensor, size: tuple[int, int], proposing: Proposing = Proposing()
) -> tuple[Tensor, Tensor]:
    """Return the proposed regions (B, N, 4) in pixels, best first, and their scores (B, N). They have no gradient, as
    published.

    scores: (B, A, h, w), the probability that an anchor has an object.
    deltas: (B, 4A, h, w), dx, dy, dw, dh of each anchor; see `boxes.decoded`.
    size: (H, W) of the images.

    If suppression leaves fewer than N, the regions repeat from the first one on. Cells that are not wholly within the
    image get the score -1. Their regions come last.
    """
    batch, _, height, width = scores.shape
    scores = scores.float().permute(0, 2, 3, 1)  # (B, h, w, A)
    whole = torch.zeros_like(scores, dtype=torch.bool)
    whole[:, : size[0] // STRIDE, : size[1] // STRIDE] = True
    scores = torch.where(whole, scores, -1).reshape(batch, -1)
    deltas = _by_anchor(deltas)
    every = proposing.anchors((height, width), scores.device).expand(batch, -1, -1)
    if proposing.smallest_side > 0:
        boxes, scores = _grown(clipped(decoded(every, deltas), size), scores, proposing.smallest_side)
    scores, order = scores.sort(dim=1, descending=True, stable=True)
    scores, order = scores[:, : proposing.before], order[:, : proposing.before]
    rows = order[..., None].expand(-1, -1, 4)
    if proposing.smallest_side > 0:
        boxes = boxes.gather(1, rows)
    else:  # only the best are decoded
        boxes = clipped(decoded(every.gather(1, rows), deltas.gather(1, rows)), size)
    chosen = torch.stack([_filled(best_of(each, proposing.most_overlap, proposing.count), proposing) for each in boxes])
    return boxes.gather(1, chosen[..., None].expand(-1, -1, 4)), scores.gather(1, chosen)


@torch.no_grad()
def propose_edges(
    scores: Tensor, deltas: Tensor, size: tuple[int, int], proposing: EdgeProposing = EdgeProposing()
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the regions (B, N, 4) that mmdetection would propose, in pixels, best first; their scores (B, N); and the
    number of regions in each image (B,). The rest of the N repeat them. They have no gradient.

    scores: (B, A, h, w), the probability that an anchor has an object.
    deltas: (B, 4A, h, w), dx, dy, dw, dh of each anchor; see `boxes.decoded`.
    size: (H, W) of the images.

    Cells that are not wholly within the image count like others.
    """
    every = proposing.anchors((scores.shape[2], scores.shape[3]), scores.device)
    scores, order = scores.float().permute(0, 2, 3, 1).flatten(1).sort(dim=1, descending=True, stable=True)
    scores, order = scores[:, : proposing.before], order[:, : proposing.before]
    deltas = _by_anchor(deltas).gather(1, order[..., None].expand(-1, -1, 4))
    boxes = clipped(decoded(every[order], deltas, EDGES), size, EDGES)
    chosen, counts = [], []
    for each in boxes:
        there = (sides(each, EDGES) > 0).all(-1).nonzero()[:, 0]
        kept = there[best_of(each[there], proposing.most_overlap, proposing.count, EDGES)]
        counts.append(len(kept))
        chosen.append(_filled(kept if len(kept) else order.new_zeros(1), proposing))
    rows = torch.stack(chosen)
    count = torch.tensor(counts, device=scores.device)
    return boxes.gather(1, rows[..., None].expand(-1, -1, 4)), scores.gather(1, rows), count


def _by_anchor(deltas: Tensor) -> Tensor:
    """Return deltas (B, 4A, h, w) in the order of the anchors, (B, h * w * A, 4), float32."""
    return deltas.float().unflatten(1, (-1, 4)).permute(0, 3, 4, 1, 2).flatten(1, 3)


def _grown(boxes: Tensor, scores: Tensor, smallest: float) -> tuple[Tensor, Tensor]:
    """Return the boxes (B, N, 4), of which small ones have grown, and their scores (B, N). Small ones have score -1."""
    small = (sides(boxes) < smallest).any(-1)
    half = smallest / 2
    grown = torch.cat([boxes[..., :2] - half, boxes[..., 2:] + half], -1)
    return torch.where(small[..., None], grown, boxes), torch.where(small, -1, scores)


def _filled(indices: Tensor, proposing: Proposing) -> Tensor:
    """Return the indices, repeated from the first one on until there are enough."""
    return indices[torch.arange(proposing.count, device=indices.device) % len(indices)]
