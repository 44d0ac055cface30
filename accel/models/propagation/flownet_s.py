"""FlowNet-S (Dosovitskiy et al., ICCV 2015) as Deep Feature Flow trimmed it. Its flow is in feature cells."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

FLOW_SCALE = 2.5  # the published graphs multiply the last prediction by this to get cells
ENCODER = (  # name, output channels, kernel, stride
    ("conv1", 64, 7, 2),
    ("conv2", 128, 5, 2),
    ("conv3", 256, 5, 2),
    ("conv3_1", 256, 3, 1),
    ("conv4", 512, 3, 2),
    ("conv4_1", 512, 3, 1),
    ("conv5", 512, 3, 2),
    ("conv5_1", 512, 3, 1),
    ("conv6", 1024, 3, 2),
    ("conv6_1", 1024, 3, 1),
)
# level, channels brought up from below, the encoder stage it meets
DECODER = ((5, 512, "conv5_1"), (4, 256, "conv4_1"), (3, 128, "conv3_1"), (2, 64, "conv2"))


class FlowNetS(nn.Module):
    """Flow from the current frame to the one before, at 1/16 of the frame.

    Both frames are halved and stacked. Strided convolutions contract them to 1/64 of that, and a decoder expands them
    again. Each level predicts a flow, which is upsampled for the next level. The last prediction is at 1/16 of the
    frame.

    width: factor for all channel counts. 1 is published.
    """

    decoder_bias = True

    def __init__(self, width: float = 1.0):
        super().__init__()
        bias = self.decoder_bias

        def scaled(channels: int) -> int:
            return max(1, round(channels * width))

        channels = {}
        previous = 6
        self.encoder = nn.ModuleDict()
        for name, out, kernel, stride in ENCODER:
            channels[name] = scaled(out)
            self.encoder[name] = nn.Conv2d(previous, channels[name], kernel, stride, kernel // 2)
            previous = channels[name]

        self.predict = nn.ModuleDict()  # flow at each level, coarse to fine
        self.bring_up = nn.ModuleDict()  # features of one level to the next finer one
        self.bring_up_flow = nn.ModuleDict()
        for level, out, skip in DECODER:
            self.predict[str(level + 1)] = nn.Conv2d(previous, 2, 3, padding=1, bias=bias)
            self.bring_up[str(level)] = nn.ConvTranspose2d(previous, scaled(out), 4, 2, bias=bias)
            self.bring_up_flow[str(level)] = nn.ConvTranspose2d(2, 2, 4, 2, bias=bias)
            previous = channels[skip] + scaled(out) + 2
        self.predict["2"] = nn.Conv2d(previous, 2, 3, padding=1, bias=bias)
        self.last_channels = previous  # of the map that the last flow is predicted from
        self._initialise()

    def _initialise(self) -> None:
        """Use He initialisation for the leaky ReLUs. Predictions start near zero flow, the safe guess."""
        for conv in (*self.encoder.values(), *self.bring_up.values()):
            assert isinstance(conv, nn.Conv2d | nn.ConvTranspose2d)
            nn.init.kaiming_normal_(conv.weight, a=0.1)
            if conv.bias is not None:
                nn.init.zeros_(conv.bias)
        for conv in self.predict.values():
            assert isinstance(conv, nn.Conv2d)
            nn.init.normal_(conv.weight, std=1e-3)
            if conv.bias is not None:
                nn.init.zeros_(conv.bias)

    def forward(self, current: Tensor, previous: Tensor) -> Tensor:
        """Turn two frames (B, 3, H, W), RGB minus the mean, into flow (B, 2, ceil(H/16), ceil(W/16)) in cells."""
        return self.pyramid(current, previous)[-1]

    def pyramid(self, current: Tensor, previous: Tensor) -> list[Tensor]:
        """The flow predicted at every level, coarse to fine, all in cells of 1/16 frame; for multi-scale losses."""
        return self._levels(current, previous)[0]

    def _levels(self, current: Tensor, previous: Tensor) -> tuple[list[Tensor], Tensor]:
        """`pyramid`, and the map (B, C, h, w) that its last flow is predicted from."""
        x = self._halved(current, previous)
        skips = {}
        for name, conv in self.encoder.items():
            x = skips[name] = F.leaky_relu(conv(x), 0.1)

        flows = []
        for level, _, skip in DECODER:
            flow = self.predict[str(level + 1)](x)
            flows.append(flow)
            meets = skips[skip]
            up = F.leaky_relu(_crop(self.bring_up[str(level)](x), meets), 0.1)
            up_flow = _crop(self.bring_up_flow[str(level)](flow), meets)
            x = torch.cat([meets, up, up_flow], 1)
        x, flow = self._last(x)
        return [FLOW_SCALE * flow for flow in [*flows, flow]], x

    def _halved(self, current: Tensor, previous: Tensor) -> Tensor:
        """What the first convolution sees of two frames."""
        return F.avg_pool2d(torch.cat([current, previous], 1) / 255, 2, ceil_mode=True)

    def _last(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """From the last level (B, C, h', w'), at 1/8 of the frame, to that at 1/16, where features are, and its
        flow."""
        x = F.avg_pool2d(x, 2, ceil_mode=True)
        return x, self.predict["2"](x)


class ScaledFlowNetS(FlowNetS):
    """FlowNet-S of Deep Feature Flow's detector (Zhu et al., CVPR 2017), which also predicts a scale map: how much of
    each channel to take along.

    channels: of the features that are scaled.  width: see `FlowNetS`.
    """

    def __init__(self, channels: int, width: float = 1.0):
        super().__init__(width)
        self.scale = nn.Conv2d(self.last_channels, channels, 1)
        assert self.scale.bias is not None
        # As published: at first everything is taken along as it is.
        nn.init.zeros_(self.scale.weight)
        nn.init.ones_(self.scale.bias)

    def forward(  # type: ignore[override] # it says more than a flow
        self, current: Tensor, previous: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Two frames (B, 3, H, W), RGB minus the mean, to flow (B, 2, h, w) in cells and scale (B, channels, h, w)."""
        flows, features = self._levels(current, previous)
        return flows[-1], self.scale(features)


def _crop(x: Tensor, like: Tensor) -> Tensor:
    """Crop a transposed convolution's map to the size of the map it is stacked with, starting one cell in, as
    published."""
    return x[..., 1 : 1 + like.shape[-2], 1 : 1 + like.shape[-1]]
