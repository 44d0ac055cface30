"""mmtracking's FlowNetSimple: FlowNet-S with other numbers around it."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from accel.models.constants import per_channel
from accel.models.images import PIXEL_MEANS
from accel.models.padding import padded
from accel.models.propagation.flownet_s import FlowNetS

MEANS = (0.411, 0.432, 0.450)  # RGB, of frames in 0..1, as its weights were trained


class FlowNetSimple(FlowNetS):
    """Flow from the current frame to the key frame, in feature cells. Three things differ from `FlowNetS`: its decoder
    has no biases, frames are padded to whole cells and have another mean, and the last flow is predicted at 1/8 of the
    frame.

    mmtracking enlarges that flow to the size of the frame, times 8 (the flow network's cells) and 5 (a scale of its
    own), and reduces it to feature cells. That is the mean of 2 x 2, times 40 / 16.
    """

    decoder_bias = False

    def _halved(self, current: Tensor, previous: Tensor) -> Tensor:
        pair = [
            (image + per_channel(PIXEL_MEANS, image)) / 255 - per_channel(MEANS, image) for image in (current, previous)
        ]
        return F.avg_pool2d(padded(torch.cat(pair, 1)), 2)

    def _last(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return x, F.avg_pool2d(self.predict["2"](x), 2)
