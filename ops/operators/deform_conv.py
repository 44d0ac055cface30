"""accel_ops.deform_conv: a convolution with movable taps."""

from __future__ import annotations

import math

import torch
from accel_ops import reference
from accel_ops.operators.registration import define, library, refuse_double_backward
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula


def deform_conv(
    features: Tensor,
    offset: Tensor,
    weight: Tensor,
    stride: int | tuple[int, int] = 1,
    padding: int | tuple[int, int] = 0,
    dilation: int | tuple[int, int] = 1,
) -> Tensor:
    """Deformable convolution (v1): every tap samples, bilinearly, at the place to which its offset moves it.

        out[b, o, y, x] = sum over c, i, j of weight[o, c, i, j] * features[b, c] at
            (y * stride - padding + i * dilation + dy, x * stride - padding + j * dilation + dx)

    dy and dx are channels 2 * (kw * i + j) and 2 * (kw * i + j) + 1 of `offset[b, :, y, x]`. With G groups of offsets,
    the g-th part of the channels uses the g-th part of `offset`.

    At the borders it equals the authors' own operator, MXNet's DeformableConvolution: a sample at y < 0 or y >= H
    counts as zero, and one at H - 1 < y < H has the last row's value. The same holds along x. (With torchvision's
    deform_conv2d, samples fade to zero over the cell around the map. Within the map the two agree.) A sample at NaN or
    infinity counts as zero too, and its gradients are zero.

    Args:
        features: (B, C, H, W), float16, bfloat16, float32 or float64. Fastest in channels-last.
        offset: (B, G * kh * kw * 2, H', W'), in cells of `features`, vertical before horizontal. G follows from its
            channels and divides C. float32 or the features' type; other half types are widened to float32.
        weight: (C', C, kh, kw) with the features' type. Fastest in channels-last. Groups of weights are not
            supported.
        stride, padding, dilation: as for a convolution: one integer, or one for each of y and x.

    Returns:
        (B, C', H', W') with the features' type and layout. Positions and the weights of samples are float32 (float64
        for float64 features). Samples of half types are rounded to that type once, unless the CPU is faster without
        rounding. The matrix product sums in float32 and is otherwise that of `torch.mm`. Under autocast, features
        and weight are cast as for any convolution; offset is not. It can be differentiated once by all three; each
        gradient has its argument's type. For second derivatives use `accel_ops.reference.deform_conv`. On the CPU,
        results are exactly reproducible with the same number of threads. On CUDA the gradient by features is summed
        with atomics, so in no fixed order. It is refused under `torch.use_deterministic_algorithms(True)`.

    Raises:
        ValueError: for other shapes and types, or tensors on different devices; with ACCEL_OPS=native, if the
            kernels can be neither found nor compiled.

    Source: Dai et al., Deformable Convolutional Networks, ICCV 2017, eq. 1 to 4.
    """
    device = features.device.type
    if torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device):
        castable, narrow = (torch.float16, torch.bfloat16, torch.float32), torch.get_autocast_dtype(device)
        features, weight = (t.to(narrow) if t.dtype in castable else t for t in (features, weight))
    if offset.dtype in (torch.float16, torch.bfloat16) and offset.dtype != features.dtype:
        offset = offset.float()
    stride, padding, dilation = ((n, n) if isinstance(n, int) else n for n in (stride, padding, dilation))
    return torch.ops.accel_ops.deform_conv(features, offset, weight, stride, padding, dilation)


def _deform_conv_fake(features: Tensor, offset: Tensor, weight: Tensor, *geometry) -> Tensor:
    height, width = reference.check_deform_conv(features, offset, weight, *geometry)
    shape = (features.shape[0], weight.shape[0], height, width)
    return torch.empty(shape, dtype=features.dtype, device=features.device, memory_format=reference.layout_of(features))


def _deform_conv_backward_fake(
    gradient: Tensor, features: Tensor, offset: Tensor, weight: Tensor, *geometry_and_needs
) -> tuple[Tensor, ...]:
    *geometry, needs = geometry_and_needs
    reference.check_deform_conv_backward(gradient, features, offset, weight, *geometry)
    return tuple(
        torch.empty_like(t, memory_format=reference.layout_of(t)) if needed else t.new_empty(0)
        for t, needed in zip((features, offset, weight), needs, strict=True)
    )


def _keep_inputs_and_geometry(ctx, inputs, output) -> None:
    ctx.save_for_backward(*inputs[:3])
    ctx.geometry = inputs[3:]


def _deform_conv_autograd(ctx, gradient: Tensor) -> tuple[Tensor | None, ...]:
    needs = list(ctx.needs_input_grad[:3])
    three = torch.ops.accel_ops.deform_conv_backward(gradient, *ctx.saved_tensors, *ctx.geometry, needs)
    return *(made if wanted else None for made, wanted in zip(three, needs, strict=True)), None, None, None


define("deform_conv", reference.deform_conv, _deform_conv_fake)
define("deform_conv_backward", reference.deform_conv_backward, _deform_conv_backward_fake)
torch.library.register_autograd(
    "accel_ops::deform_conv", _deform_conv_autograd, setup_context=_keep_inputs_and_geometry, lib=library
)
refuse_double_backward("deform_conv")


@register_flop_formula(torch.ops.accel_ops.deform_conv)
def _deform_conv_flops(features, offset, weight, *geometry, out_shape: tuple[int, ...], **_) -> int:
    """Count the operations of a convolution. Arguments are shapes."""
    return 2 * math.prod(out_shape) * math.prod(weight[1:])
