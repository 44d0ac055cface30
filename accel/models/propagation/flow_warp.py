"""Features warped along optical flow."""

from __future__ import annotations

import accel_ops
import torch
from torch import Tensor, nn

from accel.fast.preparation import Preparation
from accel.models.propagation.base import Propagation
from accel.models.propagation.routes import FrameToFrame, Route


class FlowWarp(Propagation):
    """Features follow the optical flow (Zhu et al., Deep Feature Flow, CVPR 2017, eq. 3-4, without its scale field).

    flow: module that takes (current, previous) frames (B, 3, H, W), RGB minus the mean, to flow (B, 2, h, w) in
    feature cells.
    route: `FrameToFrame()` as in Accel, or `KeyToCurrent()` as in Deep Feature Flow's own detector, for flow networks
        that have learned to see far.
    """

    linear = True
    remembers = False

    def __init__(self, flow: nn.Module, route: Route | None = None):
        super().__init__()
        self.flow = flow
        self.route = route or FrameToFrame()

    def motion(self, current: Tensor, previous: Tensor) -> Tensor:
        """The flow (B, 2, h, w) that leads from cells of the current frame to the previous one."""
        return self.flow(current, previous)

    @staticmethod
    def join(first: Tensor, second: Tensor) -> Tensor:
        """The flow of both together; float32 for half types, since one flow may be joined from many.

        Beyond the border `first` goes on as it is there, so that what came from outside still points outside.
        """
        first, second = _wide(first), _wide(second)
        home = _cells(second)
        x, y = (home + second).unbind(1)
        inside = torch.stack([x.clamp(0, x.shape[2] - 1), y.clamp(0, y.shape[1] - 1)], 1) - home
        return second + accel_ops.warp(first, inside)

    @staticmethod
    def move(features: Tensor, flow: Tensor) -> Tensor:
        """Features (B, C, h, w) moved along a flow (B, 2, h, w), or one of cells that are 2, 4 or 8 times as large."""
        finer = _times_finer(features.shape[2:], flow.shape[2:])
        if finer > 1:
            return accel_ops.warp(features, _finer(flow, features.shape[2:], finer))
        missing = [f - m for f, m in zip(flow.shape[2:], features.shape[2:], strict=True)]
        if any(n not in (0, 1) for n in missing):
            raise ValueError(f"features {tuple(features.shape)} and flow {tuple(flow.shape)} are not of one frame size")
        if any(missing):
            features, flow = _stretch(features, flow)
        return accel_ops.warp(features, flow)

    def make_fast(self, preparation: Preparation) -> None:
        if next(self.flow.parameters(), None) is None:  # classical flow is no network
            return
        # Two tensors, because the tracer takes one given twice for one input.
        pair = preparation.frame, preparation.frame.clone()
        self.flow = preparation.network(self.flow, pair, gives=torch.float32)


class ScaledFlowWarp(FlowWarp):
    """`FlowWarp` with the scale map of Deep Feature Flow (CVPR 2017, eq. 3): what was warped is multiplied by it, so
    that features may fade where the flow is not to be trusted.

    flow: module that takes (current, previous) frames to flow (B, 2, h, w) and scale (B, C or 1, h, w).
    """

    linear = False  # a map of C channels does not change places with a 1x1 convolution

    def motion(  # type: ignore[override] # its motion is more than a flow
        self, current: Tensor, previous: Tensor
    ) -> tuple[Tensor, Tensor]:
        """The flow (B, 2, h, w) and the scale."""
        return self.flow(current, previous)

    @staticmethod
    def join(  # type: ignore[override]
        first: tuple[Tensor, Tensor], second: tuple[Tensor, Tensor]
    ) -> tuple[Tensor, Tensor]:
        """The first scale is carried along the second flow, as the features that it scales are."""
        (first_flow, first_scale), (second_flow, second_scale) = first, second
        return FlowWarp.join(first_flow, second_flow), accel_ops.warp(first_scale, second_flow) * second_scale

    @staticmethod
    def move(features: Tensor, motion: tuple[Tensor, Tensor]) -> Tensor:  # type: ignore[override]
        """Features (B, C, h, w) moved along a flow and scaled."""
        flow, scale = motion
        moved = FlowWarp.move(features, flow)
        return moved * scale.to(moved.dtype)


def _times_finer(features: torch.Size, flow: torch.Size) -> int:
    """How many cells of features (h, w) lie along the side of a cell of a flow (h', w') of the same frame; 1 where they
    are as large, or belong to frames of two sizes."""
    if features == flow:
        return 1
    for finer in (2, 4, 8):
        if all(finer * (large - 1) < small <= finer * large for small, large in zip(features, flow, strict=True)):
            return finer
    return 1


def _finer(flow: Tensor, size: torch.Size, times: int) -> Tensor:
    """A flow of cells in cells that are so many times finer, (B, 2, *size)."""
    flow = times * nn.functional.interpolate(_wide(flow), scale_factor=times, mode="bilinear")
    return flow[..., : size[0], : size[1]]


def _stretch(features: Tensor, flow: Tensor) -> tuple[Tensor, Tensor]:
    """Features (B, C, h, w) a cell smaller than the flow (B, 2, h', w'), and that flow, made to fit each other.

    The published pooling loses the last row or column of features at some frame sizes (see
    `backbones.published_resnets`).
    MXNet's sampler knows positions only as shares of a map, so the published graphs then stretch the features over
    the flow's map, corner to corner. Here positions are scaled, and what is beyond the features is zero, as always.
    """
    (h, w), (height, width) = features.shape[2:], flow.shape[2:]
    flow = _wide(flow)
    home = _cells(flow)
    x, y = (home + flow).unbind(1)
    # Scaled by numbers: to make a tensor of them, on a GPU, would be to wait for it.
    scaled = torch.stack([x * ((w - 1) / max(width - 1, 1)), y * ((h - 1) / max(height - 1, 1))], 1)
    return nn.functional.pad(features, (0, width - w, 0, height - h)), scaled - home


def _wide(flow: Tensor) -> Tensor:
    """A flow in float32 or wider: half types are too coarse to hold positions."""
    return flow.to(torch.promote_types(flow.dtype, torch.float32))


def _cells(flow: Tensor) -> Tensor:
    """(2, h, w) of x and y of every cell of a flow."""
    height, width = flow.shape[2:]
    y = torch.arange(height, dtype=flow.dtype, device=flow.device)[:, None].expand(height, width)
    x = torch.arange(width, dtype=flow.dtype, device=flow.device).expand(height, width)
    return torch.stack([x, y])
