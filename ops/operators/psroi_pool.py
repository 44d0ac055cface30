"""accel_ops.psroi_pool: what position-sensitive maps say of regions."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from accel_ops import reference
from accel_ops.operators.registration import define, library, refuse_double_backward
from torch import Tensor


def psroi_pool(
    features: Tensor, rois: Tensor, outputs: int, pooled: int = 7, group: int = 7, scale: float = 0.0625
) -> Tensor:
    """Position-sensitive pooling: the mean of the features in each of pooled x pooled bins of a region, where every bin
    has maps of its own.

        out[r, k, i, j] = mean of features[image of r, (k * group + i') * group + j'] over the cells of bin (i, j)

    with i' = floor(i * group / pooled), j' likewise. A region's corners are rounded to whole pixels, halves away from
    zero, and both lie within it: its cells go from round(x1) * scale to (round(x2) + 1) * scale. A bin covers all cells
    that it touches, so neighbouring bins may share some. A side is at least 0.1 cells. A bin without cells of the map
    is 0, and so is a region of no image of the batch, or with a corner that is NaN or infinite.

    Args:
        features: (B, outputs * group * group, H, W), float16, bfloat16, float32 or float64.
        rois: (R, 5) float32: which image of the batch, then x1, y1, x2, y2 in pixels.
        outputs: K, maps for each bin.
        pooled: bins along a side.
        group: maps along a side, mostly as many as bins.
        scale: cells in a pixel.

    Returns:
        (R, outputs, pooled, pooled) of the features' type. Positions are float32, sums too (float64 for float64
        features). Differentiable once by the features; for second derivatives use `accel_ops.reference.psroi_pool`.
        Regions have no gradient. On CUDA the gradient is summed with atomics, hence in no fixed order, and refused
        under `torch.use_deterministic_algorithms(True)`.

    Raises:
        ValueError: for other shapes and types, or tensors on two devices; with ACCEL_OPS=native, if the kernels
            can be neither found nor compiled.

    Source: Dai et al., R-FCN, 2016, eq. 1; with the rounding of the authors' code and MXNet's, which
    `torchvision.ops.ps_roi_pool` does not share: that one rounds to whole cells.
    """
    return torch.ops.accel_ops.psroi_pool(features, rois, outputs, pooled, group, scale)


def _psroi_pool_fake(
    features: Tensor, rois: Tensor, outputs: int, pooled: int = 7, group: int = 7, scale: float = 0.0625
) -> Tensor:
    reference.check_psroi_pool(features, rois, outputs, pooled, group, scale)
    return features.new_empty(rois.shape[0], outputs, pooled, pooled)


def _psroi_pool_backward_fake(gradient: Tensor, rois: Tensor, shape: Sequence[int], group: int, scale: float) -> Tensor:
    reference.check_psroi_pool_backward(gradient, rois, shape, group, scale)
    return gradient.new_empty(tuple(shape))


def _keep(ctx, inputs, output) -> None:
    features, rois, _, _, ctx.group, ctx.scale = inputs
    ctx.shape = features.shape
    ctx.save_for_backward(rois)


def _psroi_pool_autograd(ctx, gradient: Tensor) -> tuple[Tensor | None, ...]:
    (rois,) = ctx.saved_tensors
    to_features = torch.ops.accel_ops.psroi_pool_backward(gradient, rois, ctx.shape, ctx.group, ctx.scale)
    return to_features, None, None, None, None, None


define("psroi_pool", reference.psroi_pool, _psroi_pool_fake)
define("psroi_pool_backward", reference.psroi_pool_backward, _psroi_pool_backward_fake)
torch.library.register_autograd("accel_ops::psroi_pool", _psroi_pool_autograd, setup_context=_keep, lib=library)
refuse_double_backward("psroi_pool")
