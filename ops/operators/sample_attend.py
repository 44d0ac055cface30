"""accel_ops.sample_attend: attention over samples at learned offsets."""

from __future__ import annotations

import functools
import math

import torch
from accel_ops import reference
from accel_ops.operators.registration import define, keep_inputs, library, refuse_double_backward
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula


def sample_attend(query: Tensor, key: Tensor, value: Tensor, offsets: Tensor) -> Tensor:
    """Compute the attention of every cell over bilinear samples of a map at a few offsets, the same for all cells.

        logit[b, k, p] = <query[b, :, p], key[b, :] at p + offsets[k]>
        out[b, :, p] = sum over k of softmax(logit[b, :, p])[k] * value[b, :] at p + offsets[k]

    Cells outside the map count as zero, in the logits too. So do all samples of an offset that is NaN or infinite. A
    NaN affects the cells that have it at one of the four cells around an offset, even with weight zero. Memory beyond
    the result grows with K, not with K times the channels.

    Args:
        query, key: (B, E, H, W), float16, bfloat16, float32 or float64. Fastest in channels-last.
        value: (B, C, H, W). If the three have different types, the narrower ones are widened.
        offsets: (K, 2), each (dx, dy) in cells, to the right and down. K is 1 or more. float32 is the best type for
            them, whatever the others are. The others' own type is accepted too; other half types are widened to
            float32.

    Returns:
        (B, C, H, W) with the value's layout. Logits, weights and sums are float32 (float64 for float64). It can be
        differentiated once by all four arguments; each gradient has its argument's type. At a whole offset, where
        samples have a kink, the gradient is that of a step to the right or down. For second derivatives use
        `accel_ops.reference.sample_attend`. Results are exactly reproducible, on CUDA too.

    Raises:
        ValueError: for other shapes and types, or tensors on different devices; with ACCEL_OPS=native, if the
            kernels can be neither found nor compiled.

    Source: Jiang et al., Learning Where to Focus for Efficient Video Object Detection (Learnable Spatio-Temporal
        Sampling), ECCV 2020, sec. 3.2; without a scale of the logits, as in the authors' code.
    """
    types = {t.dtype for t in (query, key, value)}
    if len(types) > 1 and types.issubset(reference.FLOATING):  # other types are named by the check below
        widest = functools.reduce(torch.promote_types, types)
        query, key, value = query.to(widest), key.to(widest), value.to(widest)
    if offsets.dtype in (torch.float16, torch.bfloat16) and offsets.dtype != query.dtype:
        offsets = offsets.float()
    return torch.ops.accel_ops.sample_attend(query, key, value, offsets)


def _like(given: Tensor) -> Tensor:
    return torch.empty_like(given, memory_format=reference.layout_of(given))


def _sample_attend_fake(query: Tensor, key: Tensor, value: Tensor, offsets: Tensor) -> Tensor:
    reference.check_sample_attend(query, key, value, offsets)
    return _like(value)


def _sample_attend_backward_fake(
    gradient: Tensor, query: Tensor, key: Tensor, value: Tensor, offsets: Tensor, needs: list[bool]
) -> tuple[Tensor, ...]:
    reference.check_sample_attend_backward(gradient, query, key, value, offsets)
    maps = [_like(t) if needed else t.new_empty(0) for t, needed in zip((query, key, value), needs[:3], strict=True)]
    return *maps, offsets.new_empty(offsets.shape if needs[3] else 0)


def _sample_attend_autograd(ctx, gradient: Tensor) -> tuple[Tensor | None, ...]:
    needs = list(ctx.needs_input_grad)
    made = torch.ops.accel_ops.sample_attend_backward(gradient, *ctx.saved_tensors, needs)
    return tuple(to if wanted else None for to, wanted in zip(made, needs, strict=True))


define("sample_attend", reference.sample_attend, _sample_attend_fake)
define("sample_attend_backward", reference.sample_attend_backward, _sample_attend_backward_fake)
torch.library.register_autograd(
    "accel_ops::sample_attend", _sample_attend_autograd, setup_context=keep_inputs, lib=library
)
refuse_double_backward("sample_attend")


@register_flop_formula(torch.ops.accel_ops.sample_attend)
def _sample_attend_flops(query, key, value, offsets, **_) -> int:
    """Count the operations as if every offset had its own displacement; neighbours share theirs. Arguments are
    shapes."""
    return 2 * math.prod(value[2:]) * value[0] * (query[1] + value[1]) * offsets[0]
