"""The four losses of Faster R-CNN for one image, and the targets behind them, as in mmdetection."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from accel.models.detection.boxes import EDGES, encoded, overlaps
from accel.models.detection.detections import Unjudged
from accel.models.detection.faster_rcnn import BOX_DEVIATIONS, FasterRCNN
from accel.models.detection.losses import Losses
from accel.models.detection.targets import IGNORED, RegionTargets, some_of

ANCHOR_BETA = 1 / 9  # where the smooth L1 loss of anchors turns straight; that of regions does at 1


def matched(
    boxes: Tensor, truth: Tensor, object_above: float, background_below: float, least: float
) -> tuple[Tensor, Tensor]:
    """Match boxes (N, 4) with true boxes (M, 4). Return the labels (N,), int64: 1 object, 0 background, -1 neither;
    and the true box of each (N,).

    object_above: a box that overlaps a true box by at least this is an object.
    background_below: a box that overlaps all true boxes by less than this is background.
    least: the box that overlaps a true box most is an object, too, if it overlaps it by at least this. If several
        overlap it equally, all are. If a box is the best for several true boxes, it belongs to the last of them.
    """
    labels = torch.full((len(boxes),), IGNORED, device=boxes.device)
    if len(truth) == 0 or len(boxes) == 0:
        return labels.zero_(), labels.clone()
    shared = overlaps(boxes, truth, EDGES)  # (N, M)
    nearest, index = shared.max(1)
    labels[nearest < background_below] = 0
    labels[nearest >= object_above] = 1
    most = shared.max(0).values
    is_best = (shared == most) & (most >= least)
    numbers = 1 + torch.arange(len(truth), device=boxes.device)
    last = (is_best * numbers).max(1).values  # 0: none's
    return torch.where(last > 0, 1, labels), torch.where(last > 0, last - 1, index)


def region_targets(regions: Tensor, boxes: Tensor, classes: Tensor) -> RegionTargets:
    """Return the targets of the true boxes (M, 4), which count as regions, and of the regions (R, 4).

    classes: (M,), the classes of the true boxes, 0 to K - 1.
    """
    labels, index = matched(regions, boxes, 0.5, 0.5, 0.5)
    regions = torch.cat([boxes.to(regions.dtype), regions])
    labels = torch.cat([labels.new_ones(len(boxes)), labels])
    index = torch.cat([torch.arange(len(boxes), device=index.device), index])
    if len(boxes) == 0:
        return RegionTargets(regions, labels, torch.zeros_like(regions))
    is_object = labels == 1
    moves = encoded(regions, boxes[index], EDGES) / regions.new_tensor(BOX_DEVIATIONS)
    return RegionTargets(
        regions, torch.where(is_object, 1 + classes[index], 0), torch.where(is_object[:, None], moves, 0)
    )


@dataclass(frozen=True)
class FasterRcnnLosses:
    """The losses of Faster R-CNN.

    anchors: the number of anchors drawn in each image. At most half of them are objects.
    regions: the number of regions drawn in each image. At most a quarter of them are objects.
    """

    parts: ClassVar = ("rpn_class", "rpn_box", "rcnn_class", "rcnn_box")  # as logs call them, in the order of `Losses`

    names: ClassVar = ("rpn_class", "rpn_box", "rcnn_class", "rcnn_box")  # in logs, in the order of `Losses`

    anchors: int = 256
    regions: int = 512

    def of_image(self, reference: FasterRCNN, said: Unjudged, image: int, boxes: Tensor, classes: Tensor) -> Losses:
        """Return the losses for one image of a batch.

        said: the prediction of `reference` for the batch, in training.
        boxes: (M, 4), the true boxes in pixels of the image that the network saw.
        classes: (M,), their classes, 0 to K - 1.
        """
        maps = said.maps.of_image(image)
        objects = maps.objects[0].permute(1, 2, 0).flatten()
        moves = maps.moves[0].unflatten(0, (-1, 4)).permute(2, 3, 0, 1).flatten(0, 2)
        every = reference.proposing.anchors((maps.objects.shape[2], maps.objects.shape[3]), objects.device)
        of_anchors = self._of_anchors(objects, moves, every, boxes, said.size)

        targets = region_targets(said.regions[image, : int(said.count[image])], boxes, classes)
        drawn = some_of((targets.labels > 0).long(), self.regions, 0.25) != IGNORED
        targets = RegionTargets(*(each[drawn] for each in targets))
        logits, moves = reference.judge(maps, targets.regions[None])
        return Losses(*of_anchors, *_of_regions(logits[0], moves[0], targets))

    def _of_anchors(
        self, objects: Tensor, moves: Tensor, every: Tensor, boxes: Tensor, size: tuple[int, int]
    ) -> tuple[Tensor, Tensor]:
        """Return both losses of anchors (N, 4) with logits (N,) and moves (N, 4). Anchors that reach over the border of
        the image of `size` (H, W) are not used."""
        height, width = size
        inside = (every[:, :2] >= 0).all(1) & (every[:, 2] < width) & (every[:, 3] < height)
        every, objects, moves = every[inside], objects[inside], moves[inside]
        labels, index = matched(every, boxes, 0.7, 0.3, 0.3)
        labels = some_of(labels, self.anchors)
        used, is_object = labels != IGNORED, labels == 1
        count = used.sum().clamp_min(1)
        entropy = F.binary_cross_entropy_with_logits(objects[used], labels[used].to(objects.dtype), reduction="sum")
        wanted = encoded(every[is_object], boxes[index[is_object]], EDGES) if len(boxes) else every[is_object]
        distance = F.smooth_l1_loss(moves[is_object], wanted.to(moves.dtype), reduction="sum", beta=ANCHOR_BETA)
        return entropy / count, distance / count


def _of_regions(logits: Tensor, moves: Tensor, targets: RegionTargets) -> tuple[Tensor, Tensor]:
    """Return both losses of regions with logits (R, 1 + K) and moves (R, K, 4) in `BOX_DEVIATIONS`."""
    rows = (targets.labels > 0).nonzero()[:, 0]
    count = max(len(logits), 1)
    entropy = F.cross_entropy(logits, targets.labels, reduction="sum")
    said = moves[rows, targets.labels[rows] - 1]
    distance = F.smooth_l1_loss(said, targets.moves[rows].to(said.dtype), reduction="sum")
    return entropy / count, distance / count
