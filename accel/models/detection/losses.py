"""The four losses of R-FCN, of one image (Ren et al., 2015; Dai et al., 2016; as in Deep Feature Flow's release)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch.nn.functional as F
from torch import Tensor

from accel.models.detection.detections import Detections
from accel.models.detection.maps import BOX_DEVIATIONS, PROPOSAL_DEVIATIONS
from accel.models.detection.rfcn import RFCN
from accel.models.detection.targets import (
    IGNORED,
    AnchorTargets,
    RegionTargets,
    anchor_targets,
    region_targets,
    some_of,
)


class Losses(NamedTuple):
    """The four losses, as scalars.

    proposal_class, proposal_box: those of the anchors.
    region_class, region_box: those of the regions.
    """

    proposal_class: Tensor
    proposal_box: Tensor
    region_class: Tensor
    region_box: Tensor

    def total(self) -> Tensor:
        return self.proposal_class + self.proposal_box + self.region_class + self.region_box


def proposal_losses(objects: Tensor, moves: Tensor, targets: AnchorTargets, count: int = 256) -> tuple[Tensor, Tensor]:
    """Return two losses of anchors: the mean cross-entropy of those that are labelled, and the sum of the smooth L1
    distances of those with an object, divided by `count`.

    objects: (N, 2), the logits of background and object.
    moves: (N, 4), in the units of the targets.
    """
    entropy = F.cross_entropy(objects, targets.labels, ignore_index=IGNORED, reduction="sum")
    distance = F.smooth_l1_loss(moves, targets.moves, reduction="none").sum(1)
    labelled = (targets.labels != IGNORED).sum().clamp_min(1)
    return entropy / labelled, (distance * (targets.labels == 1)).sum() / count


def region_losses(logits: Tensor, moves: Tensor, targets: RegionTargets, hardest: int = 128) -> tuple[Tensor, Tensor]:
    """Return two losses of the hardest regions: their mean cross-entropy, and the sum of the smooth L1 distances of
    those with an object, divided by `hardest` (Shrivastava et al., CVPR 2016, without suppression).

    logits: (R, 1 + K), of background and classes.
    moves: (R, 4), in the units of the targets.
    hardest: the number of regions that count.
    """
    entropy = F.cross_entropy(logits, targets.labels, reduction="none")
    distance = F.smooth_l1_loss(moves, targets.moves, reduction="none").sum(1) * (targets.labels > 0)
    kept = hardest_of(entropy.detach() + distance.detach(), hardest)
    return entropy[kept].mean(), distance[kept].sum() / hardest


def losses_of(
    reference: RFCN,
    said: Detections,
    image: int,
    anchors: AnchorTargets,
    regions: RegionTargets,
    count: int = 256,
    hardest: int = 128,
) -> Losses:
    """Return the losses of one image of a batch.

    reference: the detector that made the prediction `said`.
    image: the number of the image in the batch.
    anchors, regions: the targets. Their moves are in the deviations of `maps`.
    count, hardest: see `proposal_losses` and `region_losses`.
    """
    assert said.maps is not None  # an `RFCN` gives them
    maps = said.maps.of_image(image)
    objects = maps.objects[0].unflatten(0, (2, -1)).permute(2, 3, 1, 0).flatten(0, 2)  # (h * w * A, 2)
    moves = maps.moves[0].unflatten(0, (-1, 4)).permute(2, 3, 0, 1).flatten(0, 2)
    logits, boxes = reference.judge(maps, regions.regions[None])
    of_anchors = proposal_losses(objects, moves, anchors, count)
    return Losses(*of_anchors, *region_losses(logits[0], boxes[0, :, 4:], regions, hardest))


@dataclass(frozen=True)
class RfcnLosses:
    """anchors: drawn of each image, half of them objects at most.  hardest: regions of each image that count."""

    parts: ClassVar = ("rpn_class", "rpn_box", "rfcn_class", "rfcn_box")  # as logs call them, in the order of `Losses`

    anchors: int = 256
    hardest: int = 128

    def of_image(self, reference: RFCN, said: Detections, image: int, boxes: Tensor, classes: Tensor) -> Losses:
        """Of one image of a batch that `reference` said this of.

        boxes: (M, 4) in pixels of what it saw.  classes: (M,), 0 to K - 1.
        """
        assert said.maps is not None  # an `RFCN` gives them
        height, width = said.maps.moves.shape[2:]
        every = reference.proposing.anchors((height, width), boxes.device)
        of_anchors = anchor_targets(every, boxes, said.size, PROPOSAL_DEVIATIONS)
        of_anchors = of_anchors._replace(labels=some_of(of_anchors.labels, self.anchors))
        of_regions = region_targets(said.regions[image], boxes, classes, BOX_DEVIATIONS)
        return losses_of(reference, said, image, of_anchors, of_regions, self.anchors, self.hardest)


def hardest_of(losses: Tensor, count: int) -> Tensor:
    """Return the indices of the `count` highest losses of (R,). Of equal losses, the last ones are taken. NaN counts as
    the highest."""
    return losses.flip(0).sort(descending=True, stable=True).indices[:count].neg() + len(losses) - 1
