"""Detections: the class probabilities and boxes of regions, and the boxes of a frame that are made from them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor

from accel.models.detection.boxes import EDGES, WITHIN, Corners, clipped, decoded
from accel.models.detection.resizing import Resizing
from accel.models.detection.suppression import best_of_class_boxes, best_of_each_class
from accel.models.prediction import Prediction


class Boxes(NamedTuple):
    """The detected boxes of frames, best first.

    boxes: (B, N, 4) float32, x1, y1, x2, y2 in pixels of the frame. Both corners lie within the box.
    scores: (B, N) float32 probabilities.
    classes: (B, N) int64 class indices.
    count: (B,) int64, the number of boxes in each frame. The rest of the N are zeros.
    """

    boxes: Tensor
    scores: Tensor
    classes: Tensor
    count: Tensor  # type: ignore[assignment] # a tuple's own `count` is asked for by nobody


@dataclass(frozen=True)
class Selection:
    """The rule that selects detections.

    threshold: a detection needs a higher probability than this.
    most_overlap: the highest intersection over union with a better detection of the same class.
    most: the highest number of detections in a frame, of all classes together: N of `Boxes`. In the release, all
        detections with a score equal to the last one's stay, too.
    """

    threshold: float = 1e-3
    most_overlap: float = 0.3
    most: int = 300


@dataclass(frozen=True)
class Detections(Prediction):
    """The prediction for a batch of images, region by region, before it is brought to the size of the frames.

    regions: (B, R, 4), in pixels of the image that the network saw.
    probabilities: (B, R, 1 + K), of the background and of the classes.
    deltas: (B, R, 4). They move a region to the box of the object in it (`boxes.decoded`), whatever its class is.
    size: (H, W) of the image that the network saw.
    selection: the rule that selects detections.
    resizing: how frames were resized to that image. None: the image shows the whole frame in any case.
    maps: the detector's maps from which all of this was computed. The losses need them.
    """

    corners: ClassVar[Corners] = WITHIN

    regions: Tensor
    probabilities: Tensor
    deltas: Tensor
    size: tuple[int, int]
    selection: Selection = Selection()
    resizing: Resizing | None = None
    maps: Any = None

    def at(self, size: tuple[int, int]) -> Boxes:
        """Return the boxes after non-maximum suppression in each class, in pixels of frames of `size` (H, W)."""
        found = [self._best(boxes, *rest) for boxes, *rest in zip(*self.kept(size), strict=True)]
        return Boxes(*map(torch.stack, zip(*found, strict=True)))

    def kept(self, size: tuple[int, int]) -> tuple[Tensor, Tensor, Tensor]:
        """Return three tensors: the boxes (B, R, 4) in pixels of frames of `size`, float64; the probabilities of the
        classes (B, K, R); and whether a box of a class stays after suppression (B, K, R), bool. There may be any number
        of these."""
        boxes = self._boxes(self.regions, size)
        scores = self.probabilities[..., 1:].transpose(1, 2)
        candidates = self._candidates(scores)
        stay = [
            self._suppressed(*of_frame, self.selection.most_overlap)
            for of_frame in zip(boxes, scores, candidates, strict=True)
        ]
        return boxes, scores, torch.stack(stay)

    _suppressed = staticmethod(best_of_each_class)

    def _candidates(self, scores: Tensor) -> Tensor:
        """Return which of the scores (B, K, R) are high enough, bool."""
        return scores > self.selection.threshold

    def _boxes(self, regions: Tensor, size: tuple[int, int]) -> Tensor:
        """Return the moved regions in pixels of frames of `size`, float64, in the shape of the deltas."""
        boxes = clipped(decoded(regions.double(), self.deltas.double(), self.corners), self.size, self.corners)
        scales = self.scales(size)
        return torch.stack([boxes[..., i] / scales[i % 2] for i in range(4)], -1)

    def scales(self, size: tuple[int, int]) -> tuple[float, float]:
        """Return how many pixels of the network's image make a pixel of frames of `size` (H, W), in x and in y."""
        if self.resizing is not None:
            return (self.resizing.scale(size),) * 2
        return self.size[1] / size[1], self.size[0] / size[0]

    def _best(self, boxes: Tensor, scores: Tensor, stay: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return boxes (N, 4), scores (N,), classes (N,) and count () of one frame."""
        most, regions = self.selection.most, scores.shape[1]
        left = torch.where(stay, scores, -1).flatten()
        if len(left) < most:
            left = torch.nn.functional.pad(left, (0, most - len(left)), value=-1)
        values, order = left.sort(descending=True, stable=True)
        values, order = values[:most], order[:most]
        there = values >= 0
        order = torch.where(there, order, 0)
        boxes = boxes.view(-1, regions, 4).expand(len(scores), -1, -1)  # of each class, (K, R, 4)
        chosen = boxes[order // regions, order % regions] if regions else boxes.new_zeros(most, 4)
        return (
            torch.where(there[:, None], chosen, 0).float(),
            torch.where(there, values, 0).float(),
            order // max(regions, 1),
            there.sum(),
        )


@dataclass(frozen=True)
class ClassDetections(Detections):
    """`Detections` in which each class has boxes of its own, whose corners are edges. Faster R-CNN predicts these.

    deltas: (B, R, K, 4).
    count: (B,), the number of regions in each image. The rest of the R repeat them. None: all are different.

    The boxes of `kept` are (B, K, R, 4).
    """

    count: Tensor | None = None

    corners = EDGES
    _suppressed = staticmethod(best_of_class_boxes)

    def _candidates(self, scores: Tensor) -> Tensor:
        candidates = super()._candidates(scores)
        if self.count is None:
            return candidates
        return candidates & (torch.arange(scores.shape[2], device=scores.device) < self.count[:, None, None])

    def _boxes(self, regions: Tensor, size: tuple[int, int]) -> Tensor:
        return super()._boxes(regions[:, :, None], size).transpose(1, 2)


@dataclass(frozen=True)
class Unjudged(Prediction):
    """The prediction of a detector in training, if its loss selects the regions that are judged.

    regions, size, maps: as in `Detections`.
    count: as in `ClassDetections`.

    There are no boxes of a frame: `at` raises ValueError.
    """

    regions: Tensor
    size: tuple[int, int]
    maps: Any
    count: Tensor

    def at(self, size: tuple[int, int]) -> Boxes:
        raise ValueError("a detector in training judges no regions; call eval() first")

    def scales(self, size: tuple[int, int]) -> tuple[float, float]:
        """See `Detections.scales`."""
        return self.size[1] / size[1], self.size[0] / size[0]
