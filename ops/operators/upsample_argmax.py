"""accel_ops.upsample_argmax: labels from the scores of coarse cells."""

from __future__ import annotations

import torch
from accel_ops import reference
from accel_ops.operators.registration import define, library
from torch import Tensor


def upsample_argmax(
    scores: Tensor, size: tuple[int, int], bias: Tensor | None = None, border: str = "replicate", stride: int = 16
) -> Tensor:
    """Return the class of the highest logit of every pixel, from the scores of coarse cells.

    This is fixed bilinear upsampling, bias and argmax in one. Logits at full size are never stored. Pixel (x, y)
    samples the map at ((x + 0.5) / stride - 0.5, (y + 0.5) / stride - 0.5). A tie goes to the lower class, and the
    first NaN wins over all else, as in `torch.argmax`. An infinite or NaN score affects only the pixels between its
    cell's centre and the neighbouring centres.

    Args:
        scores: (B, K, h, w), float16, bfloat16, float32 or float64, in any layout; K from 1 to 255.
        size: (H, W) of the frame. A map may be one cell smaller or larger than ceil(size / stride). A surplus is
            cropped at the right and bottom; a missing cell is treated like the area beyond any border.
        bias: (K,), of any of these types, added after upsampling; or None.
        border: the values beyond the map. "replicate" repeats the outermost cells, as in
            `torch.nn.functional.interpolate(scale_factor=stride, mode="bilinear", align_corners=False)`. "zero"
            is zero, as in a transposed convolution (for 16: kernel 32, stride 16, cropped by 8).
        stride: pixels along the side of a cell: 2, 4, 8, 16 or 32.

    Returns:
        (B, H, W) uint8. Sums are float32 (float64 for float64 scores), so logits that differ by no more than their
        rounding may change places. There are no gradients, because labels have none.

    Raises:
        ValueError: for other shapes, types and borders, a size that does not belong to the map, or tensors on
            different devices; with ACCEL_OPS=native, if the kernels can be neither found nor compiled.

    Source: the upsampling of fully convolutional networks, Long et al., 2015, sec. 3.3, with fixed weights, as in the
        released networks of Jain et al., Accel, 2019, and in segmentation-models-pytorch's heads.
    """
    return torch.ops.accel_ops.upsample_argmax(scores, size, bias, border, stride)


def upsample_argmax_margin(
    scores: Tensor, size: tuple[int, int], bias: Tensor | None = None, border: str = "replicate", stride: int = 16
) -> tuple[Tensor, Tensor]:
    """Return the labels of `upsample_argmax` and their margins. Arguments and errors are the same.

    Returns:
        The labels, (B, H, W) uint8, and their margins, (B, H, W) float32: the highest logit of a pixel less the
        second highest. A margin is zero at a tie, +inf if there is only one class, and NaN if the highest is NaN or
        both are the same infinity. There are no gradients: to differentiate a margin, upsample the scores themselves.
    """
    return torch.ops.accel_ops.upsample_argmax_margin(scores, size, bias, border, stride)


def _upsample_argmax_fake(
    scores: Tensor, size: tuple[int, int], bias: Tensor | None = None, border: str = "replicate", stride: int = 16
) -> Tensor:
    reference.check_upsample_argmax(scores, size, bias, border, stride)
    return scores.new_empty((scores.shape[0], *size), dtype=torch.uint8)


def _upsample_argmax_margin_fake(
    scores: Tensor, size: tuple[int, int], bias: Tensor | None = None, border: str = "replicate", stride: int = 16
) -> tuple[Tensor, Tensor]:
    labels = _upsample_argmax_fake(scores, size, bias, border, stride)
    return labels, torch.empty_like(labels, dtype=torch.float32)


define("upsample_argmax", reference.upsample_argmax, _upsample_argmax_fake)
define("upsample_argmax_margin", reference.upsample_argmax_margin, _upsample_argmax_margin_fake)


def _without_gradient(ctx, inputs, output) -> None:
    ctx.mark_non_differentiable(*output)


torch.library.register_autograd(
    "accel_ops::upsample_argmax_margin", lambda ctx, *_: None, setup_context=_without_gradient, lib=library
)
