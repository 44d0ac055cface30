"""Faster R-CNN: a network proposes regions, and another one judges the pooled features of each (Ren et al., NeurIPS
2015). The details are those of mmtracking's detectors."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from accel.fast.preparation import Preparation
from accel.models.constants import per_channel
from accel.models.detection.detections import ClassDetections, Selection, Unjudged
from accel.models.detection.detector import Detector, rois
from accel.models.detection.maps import BINS
from accel.models.detection.proposals import EdgeProposing, propose_edges
from accel.models.detection.resizing import Resizing
from accel.models.detection.rfcn import FeatureNetwork
from accel.models.small_weights import small_weights
from accel.models.strides import STRIDE

BOX_DEVIATIONS = (0.2, 0.2, 0.2, 0.2)  # the network learns dx, dy, dw, dh of regions in these units
SAMPLES = 2  # along each side of a bin


class CellMaps(NamedTuple):
    """The predictions for each cell.

    objects: (B, A, h, w), the logits of an object in each anchor.
    moves: (B, 4A, h, w), dx, dy, dw, dh of each anchor.
    features: (B, C, h, w). Regions are judged by these.
    """

    objects: Tensor
    moves: Tensor
    features: Tensor

    def of_image(self, image: int) -> CellMaps:
        """Return the maps of one image of the batch, with B = 1."""
        return CellMaps(*(each[image : image + 1] for each in self))


class ProposalHead(nn.Module):
    """A 3x3 convolution, and two 1x1 convolutions on its result.

    anchors: the number of anchors in a cell.
    """

    def __init__(self, channels: int, anchors: int):
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)
        self.objects = nn.Conv2d(channels, anchors, 1)
        self.moves = nn.Conv2d(channels, 4 * anchors, 1)
        small_weights(self)

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Return the first two tensors of `CellMaps` for features (B, C, h, w)."""
        features = self.conv(features.to(self.conv.weight.dtype)).relu()
        return self.objects(features), self.moves(features)


class RegionHead(nn.Module):
    """Two fully connected layers, and two more on their result: one for the class of the object in a region, one for
    its box.

    channels: the number of channels of the features.
    width: the width of the first two layers.
    """

    def __init__(self, channels: int, num_classes: int, width: int = 1024):
        super().__init__()
        self.shared = nn.ModuleList([nn.Linear(channels * BINS**2, width), nn.Linear(width, width)])
        self.classes = nn.Linear(width, 1 + num_classes)
        self.boxes = nn.Linear(width, 4 * num_classes)
        for layer in self.shared:
            assert isinstance(layer, nn.Linear)
            nn.init.xavier_uniform_(layer.weight)
        nn.init.normal_(self.classes.weight, std=0.01)
        nn.init.normal_(self.boxes.weight, std=0.001)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.zeros_(module.bias)

    def forward(self, pooled: Tensor) -> tuple[Tensor, Tensor]:
        """Return logits (N, 1 + K), of which the first is the background's, and boxes (N, 4K) in `BOX_DEVIATIONS`, for
        pooled features (N, C, 7, 7)."""
        features = pooled.flatten(1).to(self.classes.weight.dtype)
        for layer in self.shared:
            features = layer(features).relu()
        return self.classes(features), self.boxes(features)


class FasterRCNN(Detector):
    """A branch that detects objects in single images.

    proposing: the rule that selects proposals. The default is mmtracking's.
    selection: the rule that selects detections. The default is mmtracking's.
    training_regions: the number of proposals in training. The loss selects some of them, and only these are judged. So
        the prediction is `Unjudged` there.
    width: see `RegionHead`.

    For the others, see `Detector`.
    """

    proposing: EdgeProposing
    proposal_head: Any  # or made fast
    region_head: Any

    def __init__(
        self,
        backbone: Any,
        num_classes: int,
        proposing: EdgeProposing | None = None,
        selection: Selection | None = None,
        resizing: Resizing | None = None,
        training_regions: int = 1000,
        width: int = 1024,
    ):
        selection = selection or Selection(1e-4, 0.5, 100)
        super().__init__(backbone, num_classes, proposing or EdgeProposing(), selection, resizing)
        self.training_regions = training_regions
        self.proposal_head = ProposalHead(backbone.out_channels, self.proposing.anchors_of_cell)
        self.region_head = RegionHead(backbone.out_channels, num_classes, width)

    def maps(self, features: Tensor) -> CellMaps:
        objects, moves = self.proposal_head(features)
        return CellMaps(objects, moves, features)

    def propose(self, maps: CellMaps, size: tuple[int, int]) -> tuple[Tensor, Tensor, Tensor]:
        """Return the proposed regions (B, R, 4) of images of `size` (H, W), in pixels, without a gradient; their scores
        (B, R); and the number of regions in each image (B,). The rest of the R repeat them."""
        proposing = replace(self.proposing, count=self.training_regions) if self.training else self.proposing
        return propose_edges(maps.objects.float().sigmoid(), maps.moves, size, proposing)

    def pooled(self, features: Tensor, regions: Tensor) -> Tensor:
        """Return the pooled features (B * R, C, 7, 7) of regions (B, R, 4)."""
        from torchvision.ops import roi_align

        features = features.to(torch.promote_types(features.dtype, torch.float32))
        places = rois(regions).to(features.dtype)
        return roi_align(features, places, BINS, 1 / STRIDE, SAMPLES, aligned=True)

    def judge(self, maps: CellMaps, regions: Tensor) -> tuple[Tensor, Tensor]:
        """See `Detector.judge`. Boxes are (B, R, K, 4), in `BOX_DEVIATIONS`."""
        logits, boxes = self.region_head(self.pooled(maps.features, regions))
        logits, boxes = (each.to(torch.promote_types(each.dtype, torch.float32)) for each in (logits, boxes))
        return logits.unflatten(0, regions.shape[:2]), boxes.unflatten(1, (-1, 4)).unflatten(0, regions.shape[:2])

    def predict_within(self, features: Tensor, size: tuple[int, int]) -> ClassDetections | Unjudged:
        maps = self.maps(features)
        regions, _, count = self.propose(maps, size)
        if self.training:
            return Unjudged(regions, size, maps, count)
        logits, boxes = self.judge(maps, regions)
        moves = boxes * per_channel(BOX_DEVIATIONS, boxes).flatten()
        return ClassDetections(regions, logits.softmax(-1), moves, size, self.selection, maps=maps, count=count)

    def make_fast(self, preparation: Preparation, parts: int = 1) -> None:
        self.backbone = preparation.network(self.backbone, parts=parts)
        # As in an R-FCN, the proposals need float32. The judgement of regions does not.
        preparation.layer(self.region_head)
        self.proposal_head = preparation.by_shape(self.proposal_head)
        self.region_head = preparation.by_shape(self.region_head)


def region_features(network: Any, channels: int = 512) -> FeatureNetwork:
    """Return the backbone of a Faster R-CNN: a network as in `FeatureNetwork`, followed by a 3x3 convolution without
    dilation."""
    made = FeatureNetwork(network, channels, dilation=1)
    nn.init.xavier_uniform_(made.last.weight)
    return made
