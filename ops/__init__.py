"""accel_ops: the operators that Accel needs and PyTorch lacks, native on CPUs and CUDA GPUs.

Every operator is one `torch.library` operator, so that `torch.compile` and `torch.export` see it whole. Its
kernels are loaded, and compiled if need be, by the first call (`accel_ops.build`); where there are none,
`accel_ops.reference`, plain PyTorch, does the same more slowly.

To add an operator: its definition to reference.py, its kernels to csrc/, and below a public function, a
schema, and the fake and autograd functions.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from accel_ops import reference
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

__all__ = ["deform_conv", "load", "reference", "upsample_argmax", "upsample_argmax_margin", "warp"]


def load(device: str = "cpu") -> str:
    """Make the kernels for tensors on `device` ("cpu" or "cuda") ready now, compiling them if need be.

    Without it the first call of an operator does so. Returns which are used from now on: "native" or
    "reference". `accel_ops.build` says where they are looked for, and what in the environment matters.

    Raises:
        ValueError: with ACCEL_OPS=native, if they can be neither found nor compiled; names what is missing.
            Also if ACCEL_OPS is neither native nor reference.
    """
    from accel_ops import build  # here, so that `python -m accel_ops.build` does not find itself loaded

    return build.load(device)


def warp(features: Tensor, flow: Tensor) -> Tensor:
    """Carry features along a flow: sample them, bilinearly, where the flow says their content was.

        out[b, c, y, x] = features[b, c] at (x + flow[b, 0, y, x], y + flow[b, 1, y, x])

    Cells outside the map count as zero. So does a position that is NaN, infinite or more than a cell away
    from the map: its result and its gradients are zero. The features' own NaN and infinities are seen only by
    the positions next to them.

    Args:
        features: (B, C, H, W), float16, bfloat16, float32 or float64. Fastest in channels-last.
        flow: (B, 2, H, W), in cells of `features`; channel 0 horizontal, 1 vertical. float32, whatever the
            features are, holds positions best; the features' own type is taken too, and other half types are
            widened to float32 (so autocast needs no rule here).

    Returns:
        (B, C, H, W) of the features' type and layout. Positions, weights and sums are float32 (float64 for
        float64 features). Differentiable once by both arguments, each gradient of its argument's type; for
        second derivatives use `accel_ops.reference.warp`. On CUDA the gradient by features is summed with
        atomics, hence in no fixed order, and refused under `torch.use_deterministic_algorithms(True)`.

    Raises:
        ValueError: for other shapes and types, or tensors on two devices; with ACCEL_OPS=native, if the kernels
            can be neither found nor compiled.

    Source: bilinear sampler, Jaderberg et al., Spatial Transformer Networks, 2015, eq. 5 to 7; as feature
    propagation, Zhu et al., Deep Feature Flow for Video Recognition, 2017, eq. 3 and 4.
    """
    if flow.dtype in (torch.float16, torch.bfloat16) and flow.dtype != features.dtype:
        flow = flow.float()
    return torch.ops.accel_ops.warp(features, flow)


def deform_conv(
    features: Tensor,
    offset: Tensor,
    weight: Tensor,
    stride: int | tuple[int, int] = 1,
    padding: int | tuple[int, int] = 0,
    dilation: int | tuple[int, int] = 1,
) -> Tensor:
    """Deformable convolution (v1): a convolution whose every tap samples, bilinearly, where its offset moves it.

        out[b, o, y, x] = sum over c, i, j of weight[o, c, i, j] * features[b, c] at
            (y * stride - padding + i * dilation + dy, x * stride - padding + j * dilation + dx)

    where dy and dx are channels 2 * (kw * i + j) and 2 * (kw * i + j) + 1 of `offset[b, :, y, x]`; of its g-th part
    for the g-th part of the channels, if there are G groups of offsets.

    At the borders it is the authors' own operator, MXNet's DeformableConvolution: a sample at y < 0 or y >= H counts
    as zero, one at H - 1 < y < H as the last row's value; the same along x. (torchvision's deform_conv2d lets samples
    fade to zero over the cell around the map; within the map the two agree.) A sample at NaN or infinity counts as
    zero too, and its gradients are zero.

    Args:
        features: (B, C, H, W), float16, bfloat16, float32 or float64. Fastest in channels-last.
        offset: (B, G * kh * kw * 2, H', W'), in cells of `features`, vertical before horizontal. G follows from its
            channels and divides C. float32 or of the features' type; other half types are widened to float32.
        weight: (C', C, kh, kw) of the features' type. Fastest in channels-last; groups of weights are not supported.
        stride, padding, dilation: as for a convolution; one integer, or one for each of y and x.

    Returns:
        (B, C', H', W') of the features' type and layout. Positions and the weights of samples are float32 (float64
        for float64 features). Samples of half types are rounded to that type once, unless the CPU is faster without;
        the matrix product sums in float32 and is otherwise that of `torch.mm`. Under autocast features and weight
        are cast as for any convolution; offset is not. Differentiable once by all three, each gradient of its
        argument's type; for second derivatives use `accel_ops.reference.deform_conv`. On CUDA the gradient by
        features is summed with atomics, hence in no fixed order, and refused under
        `torch.use_deterministic_algorithms(True)`.

    Raises:
        ValueError: for other shapes and types, or tensors on two devices; with ACCEL_OPS=native, if the kernels
            can be neither found nor compiled.

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


def upsample_argmax(
    scores: Tensor, size: tuple[int, int], bias: Tensor | None = None, border: str = "replicate"
) -> Tensor:
    """The class of the highest logit of every pixel, from scores at 1/16 of the frame: fixed bilinear x16
    upsampling, bias and argmax in one, which never holds logits at full size.

    Pixel (x, y) samples the map at ((x + 0.5) / 16 - 0.5, (y + 0.5) / 16 - 0.5). A tie goes to the lower class,
    and the first NaN wins over all else, as in `torch.argmax`. An infinite or NaN score is seen only by the pixels
    between its cell's centre and those next to it.

    Args:
        scores: (B, K, h, w), float16, bfloat16, float32 or float64, in any layout; K from 1 to 255.
        size: (H, W) of the frame. A map may be one cell smaller or larger than ceil(size / 16): what is over is
            cut off at the right and bottom, what is missing is as beyond any border.
        bias: (K,), of any of these types, added after upsampling; or None.
        border: what is beyond the map. "replicate" repeats the outermost cells, as
            `torch.nn.functional.interpolate(scale_factor=16, mode="bilinear", align_corners=False)` does; "zero"
            is zero, as in a transposed convolution (kernel 32, stride 16, cropped by 8).

    Returns:
        (B, H, W) uint8. Sums are float32 (float64 for float64 scores), so logits that differ by no more than their
        rounding may change places. No gradients, for labels have none.

    Raises:
        ValueError: for other shapes, types and borders, a size that does not belong to the map, or tensors on two
            devices; with ACCEL_OPS=native, if the kernels can be neither found nor compiled.

    Source: the upsampling of fully convolutional networks, Long et al., 2015, sec. 3.3, with fixed weights, as in
    the released networks of Jain et al., Accel, 2019, and in segmentation-models-pytorch's heads.
    """
    return torch.ops.accel_ops.upsample_argmax(scores, size, bias, border)


def upsample_argmax_margin(
    scores: Tensor, size: tuple[int, int], bias: Tensor | None = None, border: str = "replicate"
) -> tuple[Tensor, Tensor]:
    """`upsample_argmax`, and how sure it is: takes and raises the same.

    Returns:
        The labels, (B, H, W) uint8, and their margins, (B, H, W) float32: the highest logit of a pixel less the
        second highest. Zero at a tie, +inf where there is only one class, NaN where the highest is NaN or both are
        the same infinity. No gradients: to differentiate through a margin, upsample the scores themselves.
    """
    return torch.ops.accel_ops.upsample_argmax_margin(scores, size, bias, border)


_library = torch.library.Library("accel_ops", "DEF")


def _define(schema: str, definition: Callable, fake: Callable) -> None:
    """Define an operator by its schema, its meaning in plain PyTorch, and the shapes of its results.

    The definition also serves every device that has no kernel of its own. As no device has one until its
    library is loaded, it is called first, which is when it loads it.
    """
    name = f"accel_ops::{schema.split('(')[0]}"

    def without_kernel(*args):
        device = args[0].device.type
        # Only now may there be a kernel for this device, which the dispatcher prefers to this function.
        if load(device) == "native" and torch._C._dispatch_has_kernel_for_dispatch_key(name, device.upper()):
            return operator(*args)
        return definition(*args)

    _library.define(schema, tags=(torch.Tag.pt2_compliant_tag,))
    _library.impl(name, without_kernel, "CompositeExplicitAutograd")
    torch.library.register_fake(name, fake, lib=_library)
    operator = getattr(torch.ops.accel_ops, name.split("::")[1])


def _refuse_double_backward(name: str) -> None:
    """Make derivatives of the operator `{name}_backward` an error that says what to use instead."""

    def refuse(ctx, *gradients) -> None:
        raise NotImplementedError(
            f"accel_ops.{name} has no second derivative; use accel_ops.reference.{name}, which autograd "
            "differentiates any number of times"
        )

    torch.library.register_autograd(f"accel_ops::{name}_backward", refuse, lib=_library)


# warp


def _warp_fake(features: Tensor, flow: Tensor) -> Tensor:
    reference.check_warp(features, flow)
    return torch.empty_like(features, memory_format=reference.layout_of(features))


def _warp_backward_fake(gradient: Tensor, features: Tensor, flow: Tensor, needs: list[bool]) -> tuple[Tensor, Tensor]:
    reference.check_warp_backward(gradient, features, flow)
    layout = reference.layout_of(features)
    to_features = torch.empty_like(features, memory_format=layout) if needs[0] else features.new_empty(0)
    return to_features, flow.new_empty(flow.shape if needs[1] else 0)


def _keep_inputs(ctx, inputs, output) -> None:
    ctx.save_for_backward(*inputs[:2])


def _warp_autograd(ctx, gradient: Tensor) -> tuple[Tensor | None, Tensor | None]:
    needs = list(ctx.needs_input_grad)
    both = torch.ops.accel_ops.warp_backward(gradient, *ctx.saved_tensors, needs)
    return tuple(made if wanted else None for made, wanted in zip(both, needs, strict=True))


_define("warp(Tensor features, Tensor flow) -> Tensor", reference.warp, _warp_fake)
_define(
    "warp_backward(Tensor gradient, Tensor features, Tensor flow, bool[2] needs) -> (Tensor, Tensor)",
    reference.warp_backward,
    _warp_backward_fake,
)
torch.library.register_autograd("accel_ops::warp", _warp_autograd, setup_context=_keep_inputs, lib=_library)
_refuse_double_backward("warp")


# deform_conv


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


_define(
    "deform_conv(Tensor features, Tensor offset, Tensor weight, int[2] stride, int[2] padding, int[2] dilation)"
    " -> Tensor",
    reference.deform_conv,
    _deform_conv_fake,
)
_define(
    "deform_conv_backward(Tensor gradient, Tensor features, Tensor offset, Tensor weight, int[2] stride, "
    "int[2] padding, int[2] dilation, bool[3] needs) -> (Tensor, Tensor, Tensor)",
    reference.deform_conv_backward,
    _deform_conv_backward_fake,
)
torch.library.register_autograd(
    "accel_ops::deform_conv", _deform_conv_autograd, setup_context=_keep_inputs_and_geometry, lib=_library
)
_refuse_double_backward("deform_conv")


@register_flop_formula(torch.ops.accel_ops.deform_conv)
def _deform_conv_flops(features, offset, weight, *geometry, out_shape: tuple[int, ...], **_) -> int:
    """As many as a convolution has; arguments are shapes."""
    return 2 * math.prod(out_shape) * math.prod(weight[1:])


# upsample_argmax


def _upsample_argmax_fake(
    scores: Tensor, size: tuple[int, int], bias: Tensor | None = None, border: str = "replicate"
) -> Tensor:
    reference.check_upsample_argmax(scores, size, bias, border)
    return scores.new_empty((scores.shape[0], *size), dtype=torch.uint8)


def _upsample_argmax_margin_fake(
    scores: Tensor, size: tuple[int, int], bias: Tensor | None = None, border: str = "replicate"
) -> tuple[Tensor, Tensor]:
    labels = _upsample_argmax_fake(scores, size, bias, border)
    return labels, torch.empty_like(labels, dtype=torch.float32)


_define(
    "upsample_argmax(Tensor scores, SymInt[2] size, Tensor? bias=None, str border='replicate') -> Tensor",
    reference.upsample_argmax,
    _upsample_argmax_fake,
)
_define(
    "upsample_argmax_margin(Tensor scores, SymInt[2] size, Tensor? bias=None, str border='replicate') "
    "-> (Tensor, Tensor)",
    reference.upsample_argmax_margin,
    _upsample_argmax_margin_fake,
)


def _without_gradient(ctx, inputs, output) -> None:
    ctx.mark_non_differentiable(*output)


torch.library.register_autograd(
    "accel_ops::upsample_argmax_margin", lambda ctx, *_: None, setup_context=_without_gradient, lib=_library
)
