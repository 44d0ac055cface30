"""Propagation by warping features along optical flow."""

from __future__ import annotations

import accel_ops
import torch
from torch import Tensor, nn

from accel.fast.preparation import Preparation
from accel.models.propagation.base import Propagation
from accel.models.propagation.routes import FrameToFrame, Route


class FlowWarp(Propagation):
    """Warp features along the optical flow (Zhu et al., Deep Feature Flow, CVPR 2017, eq. 3-4, without its scale
    field).

    flow: module that turns (current, previous) frames (B, 3, H, W), RGB minus the mean, into flow (B, 2, h, w) in
        feature cells.
    route: `FrameToFrame()`, as in Accel, or `KeyToCurrent()`, as in Deep Feature Flow's own detector. The latter needs
        a flow network that was trained on large motion.
    """

    linear = True
    remembers = False

    def __init__(self, flow: nn.Module, route: Route | None = None):
        super().__init__()
        self.flow = flow
        self.route = route or FrameToFrame()

    def motion(self, current: Tensor, previous: Tensor) -> Tensor:
        """Return the flow (B, 2, h, w) from cells of the current frame to the previous frame."""
        return self.flow(current, previous)

    @staticmethod
    def join(first: Tensor, second: Tensor) -> Tensor:
        """Return the flow of both motions together. Half types become float32, since one flow may be joined from many.

        Beyond the border, `first` continues with its border values. Content that came from outside then still points
        outside.
        """
        first, second = _wide(first), _wide(second)
        home = _cells(second)
        x, y = (home + second).unbind(1)
        inside = torch.stack([x.clamp(0, x.shape[2] - 1), y.clamp(0, y.shape[1] - 1)], 1) - home
        return second + accel_ops.warp(first, inside)

    @staticmethod
    def move(features: Tensor, flow: Tensor) -> Tensor:
        """Move features (B, C, h, w) along a flow (B, 2, h, w), or along a flow whose cells are 2, 4, 8 or 16 times as
        large."""
        finer = _times_finer(features.shape[2:], flow.shape[2:])
        if finer > 1:
            return accel_ops.warp(features, _finer(flow, features.shape[2:], finer))
        missing = [f - m for f, m in zip(flow.shape[2:], features.shape[2:], strict=True)]
        if any(n not in (0, 1) for n in missing):
            raise ValueError(f"features {tuple(features.shape)} and flow {tuple(flow.shape)} do not fit each other")
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
    """`FlowWarp` with the scale map of Deep Feature Flow (CVPR 2017, eq. 3). Warped features are multiplied by it, so
    they can fade where the flow is unreliable.

    flow: module that turns (current, previous) frames into flow (B, 2, h, w) and scale (B, C or 1, h, w).
    """

    linear = False  # a map of C channels does not change places with a 1x1 convolution

    def motion(  # type: ignore[override] # its motion is more than a flow
        self, current: Tensor, previous: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return the flow (B, 2, h, w) and the scale."""
        return self.flow(current, previous)

    @staticmethod
    def join(  # type: ignore[override]
        first: tuple[Tensor, Tensor], second: tuple[Tensor, Tensor]
    ) -> tuple[Tensor, Tensor]:
        """Join both flows and both scales. The first scale is moved along the second flow, like the features that it
        scales."""
        (first_flow, first_scale), (second_flow, second_scale) = first, second
        return FlowWarp.join(first_flow, second_flow), accel_ops.warp(first_scale, second_flow) * second_scale

    @staticmethod
    def move(features: Tensor, motion: tuple[Tensor, Tensor]) -> Tensor:  # type: ignore[override]
        """Move features (B, C, h, w) along a flow, and scale them."""
        flow, scale = motion
        moved = FlowWarp.move(features, flow)
        return moved * scale.to(moved.dtype)


class ShrinkingFlowWarp(FlowWarp):
    """`FlowWarp` as mmtracking has it: what lies outside is the border's, and positions x are read at x (w - 1) / w.

    It scales positions by the width of the map, but samples with aligned corners. So flow of zero moves a map by up to
    a cell towards its first one. Its weights were trained with that.
    """

    @staticmethod
    def move(features: Tensor, flow: Tensor) -> Tensor:
        flow = _wide(flow)
        home = _cells(flow)
        x, y = (home + flow).unbind(1)
        height, width = flow.shape[2:]
        x, y = x * ((width - 1) / width), y * ((height - 1) / height)
        read = torch.stack([x.clamp(0, width - 1), y.clamp(0, height - 1)], 1)
        return FlowWarp.move(features, read - home)


def _times_finer(features: torch.Size, flow: torch.Size) -> int:
    """Return how many feature cells (h, w) lie along the side of one flow cell (h', w') of the same frame.

    The result is 1 if the cells have the same size, or if the maps belong to frames of different sizes.
    """
    if features == flow:
        return 1
    for finer in (2, 4, 8, 16):
        if all(finer * (large - 1) < small <= finer * large for small, large in zip(features, flow, strict=True)):
            return finer
    return 1


def _finer(flow: Tensor, size: torch.Size, times: int) -> Tensor:
    """Convert a flow to cells that are finer by the factor `times`: (B, 2, *size)."""
    flow = times * nn.functional.interpolate(_wide(flow), scale_factor=times, mode="bilinear")
    return flow[..., : size[0], : size[1]]


def _stretch(features: Tensor, flow: Tensor) -> tuple[Tensor, Tensor]:
    """Make features (B, C, h, w) that are one cell smaller than the flow (B, 2, h', w') and that flow fit each other.

    At some frame sizes the published pooling loses the last row or column of features (see
    `backbones.published_resnets`). MXNet's sampler expresses positions as shares of a map. The published graphs
    therefore stretch the features over the flow's map, corner to corner. Here, the positions are scaled instead; beyond
    the features there are zeros, as always.
    """
    (h, w), (height, width) = features.shape[2:], flow.shape[2:]
    flow = _wide(flow)
    home = _cells(flow)
    x, y = (home + flow).unbind(1)
    # Scaled by numbers: to make a tensor of them, on a GPU, would be to wait for it.
    scaled = torch.stack([x * ((w - 1) / max(width - 1, 1)), y * ((h - 1) / max(height - 1, 1))], 1)
    return nn.functional.pad(features, (0, width - w, 0, height - h)), scaled - home


def _wide(flow: Tensor) -> Tensor:
    """Convert a flow to float32 or wider. Half types are too coarse for positions."""
    return flow.to(torch.promote_types(flow.dtype, torch.float32))


def _cells(flow: Tensor) -> Tensor:
    """Return x and y of every cell of a flow, (2, h, w)."""
    height, width = flow.shape[2:]
    y = torch.arange(height, dtype=flow.dtype, device=flow.device)[:, None].expand(height, width)
    x = torch.arange(width, dtype=flow.dtype, device=flow.device).expand(height, width)
    return torch.stack([x, y])
