"""R-FCN: a network proposes regions, and position-sensitive maps say what is in them (Dai et al., NeurIPS 2016). The
details are those of Deep Feature Flow's release (Zhu et al., CVPR 2017)."""

from __future__ import annotations

from typing import Any

import accel_ops
import torch
from torch import Tensor, nn

from accel.fast.dilated import undilated
from accel.fast.preparation import Preparation
from accel.models.branch import Branch
from accel.models.constants import per_channel
from accel.models.detection.detections import Detections, Selection
from accel.models.detection.detector import Detector, rois
from accel.models.detection.maps import BINS, BOX_DEVIATIONS, PROPOSAL_DEVIATIONS, Maps
from accel.models.detection.proposals import Proposing, propose
from accel.models.detection.resizing import Resizing
from accel.models.small_weights import small_weights
from accel.models.strides import STRIDE


class FeatureNetwork(nn.Module):
    """The network that computes the features which are carried from frame to frame, (B, out_channels, h, w).

    Its input is RGB minus the mean, (B, 3, H, W).

    network: a module with `out_channels`, such as `DetectionResNet`. A 3x3 convolution and a ReLU follow it.
        `LearnedSampling` also needs its low-level features: a method `early`, and `early_channels`.
    out_channels: the number of channels of the features.
    dilation: the dilation of that convolution, in cells. 6 is published; smaller maps need less.
    """

    network: Any

    def __init__(self, network: Any, out_channels: int = 1024, dilation: int = 6):
        super().__init__()
        self.network = network
        last = nn.Conv2d(network.out_channels, out_channels, 3, padding=dilation, dilation=dilation)
        small_weights(last)
        self.last: Any = last  # a convolution, or made fast
        self.out_channels = out_channels

    def forward(self, image: Tensor) -> Tensor:
        return self.last(self.network(image)).relu()

    def simplified(self) -> FeatureNetwork:
        """Return this network, for inference, with less work."""
        self.last = undilated(self.last) if isinstance(self.last, nn.Conv2d) else self.last
        return self


class Heads(nn.Module):
    """Four 1x1 convolutions on the features. Two use the first half of the channels, and propose regions. Two use the
    second half, and say what is in them.

    anchors: of each cell.
    """

    def __init__(self, channels: int, num_classes: int, anchors: int):
        super().__init__()
        half = channels // 2
        self.objects = nn.Conv2d(half, 2 * anchors, 1)
        self.moves = nn.Conv2d(half, 4 * anchors, 1)
        self.classes = nn.Conv2d(channels - half, (1 + num_classes) * BINS**2, 1)
        self.boxes = nn.Conv2d(channels - half, 2 * 4 * BINS**2, 1)
        small_weights(self)

    def forward(self, features: Tensor) -> tuple[Tensor, ...]:
        """Return the tensors of `Maps` for features (B, C, h, w). Each half is computed in the type of its layers."""
        proposing, judging = features.tensor_split([self.objects.in_channels], 1)
        proposing, judging = proposing.to(self.objects.weight.dtype), judging.to(self.classes.weight.dtype)
        return self.objects(proposing), self.moves(proposing), self.classes(judging), self.boxes(judging)


class RFCN(Detector):
    """A branch that detects objects in single images.

    proposing: the rule that selects proposals. The default is the published one.
    selection: the rule that selects detections. The default is the published one.

    For the others, see `Detector`.
    """

    heads: Any  # `Heads`, or made fast

    def __init__(
        self,
        backbone: Any,
        num_classes: int,
        proposing: Proposing | None = None,
        selection: Selection | None = None,
        resizing: Resizing | None = None,
    ):
        super().__init__(backbone, num_classes, proposing or Proposing(), selection or Selection(), resizing)
        self.heads = Heads(backbone.out_channels, num_classes, self.proposing.anchors_of_cell)

    def maps(self, features: Tensor) -> Maps:
        """Return the predictions for each cell of features (B, C, h, w)."""
        return Maps(*self.heads(features))

    def propose(self, maps: Maps, size: tuple[int, int]) -> Tensor:
        """Return the regions (B, R, 4) of images of `size` (H, W), in pixels. They have no gradient."""
        return propose(maps.objectness(), self._anchor_moves(maps), size, self.proposing)[0]

    def judge(self, maps: Maps, regions: Tensor) -> tuple[Tensor, Tensor]:
        """Return what is in regions (B, R, 4): logits (B, R, 1 + K) and boxes (B, R, 8) as in `Maps`, averaged over the
        bins."""
        said = []
        for each in (maps.classes, maps.boxes):
            pooled = accel_ops.psroi_pool(each, rois(regions), each.shape[1] // BINS**2, BINS, BINS, 1 / STRIDE)
            wide = torch.promote_types(pooled.dtype, torch.float32)
            said.append(pooled.mean((2, 3), dtype=wide).unflatten(0, regions.shape[:2]))
        return said[0], said[1]

    def predict_within(self, features: Tensor, size: tuple[int, int]) -> Detections:
        maps = self.maps(features)
        regions = self.propose(maps, size)
        logits, boxes = self.judge(maps, regions)
        moves = self._moves(boxes)
        return Detections(regions, logits.softmax(-1), moves, size, self.selection, self.resizing, maps)

    def simplified(self, linear: bool = True) -> Branch:
        return SimplifiedRFCN(self)

    def make_fast(self, preparation: Preparation, parts: int = 1) -> None:
        self.backbone = preparation.network(self.backbone, parts=parts)
        # Predictions for regions are means over many cells, so half types are precise enough. Not so for proposals.
        preparation.layer(self.heads.classes)
        preparation.layer(self.heads.boxes)
        self.heads = preparation.by_shape(self.heads)

    def _anchor_moves(self, maps: Maps) -> Tensor:
        """Return dx, dy, dw, dh of each anchor, (B, 4A, h, w)."""
        return maps.moves * per_channel(PROPOSAL_DEVIATIONS * self.proposing.anchors_of_cell, maps.moves)

    def _moves(self, boxes: Tensor) -> Tensor:
        """Return dx, dy, dw, dh of each region, (B, R, 4), from the boxes of `judge`."""
        return boxes[..., 4:] * per_channel(BOX_DEVIATIONS, boxes).flatten()


class SimplifiedRFCN(RFCN):
    """An `RFCN` for inference. It computes no boxes of the background, and its weights contain the deviations.

    original: the `RFCN` whose layers it takes over.
    """

    def __init__(self, original: RFCN):
        Branch.__init__(self)
        backbone = original.backbone
        self.backbone = backbone.simplified() if isinstance(backbone, FeatureNetwork) else backbone
        self.heads = original.heads
        self.num_classes, self.resizing = original.num_classes, original.resizing
        self.proposing, self.selection = original.proposing, original.selection
        of_anchors = PROPOSAL_DEVIATIONS * self.proposing.anchors_of_cell
        _scale(self.heads.moves, per_channel(of_anchors, self.heads.moves.weight).flatten())
        self.heads.boxes = _second_half(self.heads.boxes)
        deviations = per_channel(BOX_DEVIATIONS, self.heads.boxes.weight).flatten()
        _scale(self.heads.boxes, deviations.repeat_interleave(BINS**2))

    def simplified(self, linear: bool = True) -> Branch:
        return self

    def _anchor_moves(self, maps: Maps) -> Tensor:
        return maps.moves

    def _moves(self, boxes: Tensor) -> Tensor:
        return boxes


@torch.no_grad()
def _scale(layer: nn.Conv2d, factors: Tensor) -> None:
    assert layer.bias is not None
    layer.weight.mul_(factors[:, None, None, None])
    layer.bias.mul_(factors)


@torch.no_grad()
def _second_half(layer: nn.Conv2d) -> nn.Conv2d:
    """Return a 1x1 convolution without the first half of its output channels."""
    kept = layer.out_channels // 2
    half = nn.Conv2d(layer.in_channels, kept, 1, device=layer.weight.device, dtype=layer.weight.dtype)
    assert half.bias is not None and layer.bias is not None
    half.weight.copy_(layer.weight[kept:])
    half.bias.copy_(layer.bias[kept:])
    return half.requires_grad_(layer.weight.requires_grad)
