"""accel_ops.warp: features carried along a flow."""

from __future__ import annotations

import torch
from accel_ops import reference
from accel_ops.operators.registration import define, keep_inputs, library, refuse_double_backward
from torch import Tensor


def warp(features: Tensor, flow: Tensor) -> Tensor:
    """Carry features along a flow: sample them, bilinearly, at the places given by the flow.

        out[b, c, y, x] = features[b, c] at (x + flow[b, 0, y, x], y + flow[b, 1, y, x])

    Cells outside the map count as zero. So does a position that is NaN, infinite or more than a cell away from the map:
    its result and its gradients are zero. A NaN or infinity in the features affects only the positions next to it.

    Args:
        features: (B, C, H, W), float16, bfloat16, float32 or float64. Fastest in channels-last.
        flow: (B, 2, H, W), in cells of `features`. Channel 0 is horizontal, 1 vertical. float32 is the best type for
            positions, whatever the features are. The features' own type is accepted too; other half types are
            widened to float32 (so autocast needs no rule here).

    Returns:
        (B, C, H, W) with the features' type and layout. Positions, weights and sums are float32 (float64 for
        float64 features). It can be differentiated once by both arguments; each gradient has its argument's type.
        For second derivatives use `accel_ops.reference.warp`. On CUDA the gradient by features is summed with
        atomics, so in no fixed order. It is refused under `torch.use_deterministic_algorithms(True)`.

    Raises:
        ValueError: for other shapes and types, or tensors on different devices; with ACCEL_OPS=native, if the
            kernels can be neither found nor compiled.

    Source: bilinear sampler, Jaderberg et al., Spatial Transformer Networks, 2015, eq. 5 to 7; as feature propagation,
        Zhu et al., Deep Feature Flow for Video Recognition, 2017, eq. 3 and 4.
    """
    if flow.dtype in (torch.float16, torch.bfloat16) and flow.dtype != features.dtype:
        flow = flow.float()
    return torch.ops.accel_ops.warp(features, flow)


def _warp_fake(features: Tensor, flow: Tensor) -> Tensor:
    reference.check_warp(features, flow)
    return torch.empty_like(features, memory_format=reference.layout_of(features))


def _warp_backward_fake(gradient: Tensor, features: Tensor, flow: Tensor, needs: list[bool]) -> tuple[Tensor, Tensor]:
    reference.check_warp_backward(gradient, features, flow)
    layout = reference.layout_of(features)
    to_features = torch.empty_like(features, memory_format=layout) if needs[0] else features.new_empty(0)
    return to_features, flow.new_empty(flow.shape if needs[1] else 0)


def _warp_autograd(ctx, gradient: Tensor) -> tuple[Tensor | None, Tensor | None]:
    needs = list(ctx.needs_input_grad)
    to_features, to_flow = torch.ops.accel_ops.warp_backward(gradient, *ctx.saved_tensors, needs)
    return to_features if needs[0] else None, to_flow if needs[1] else None


define("warp", reference.warp, _warp_fake)
define("warp_backward", reference.warp_backward, _warp_backward_fake)
torch.library.register_autograd("accel_ops::warp", _warp_autograd, setup_context=keep_inputs, lib=library)
refuse_double_backward("warp")
