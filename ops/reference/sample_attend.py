"""Attention over samples at learned offsets: the definition."""

from __future__ import annotations

import functools

import torch
from accel_ops.reference.tensors import FLOATING, layout_of
from accel_ops.reference.warp import warp, warp_backward
from torch import Tensor


def check_sample_attend(query: Tensor, key: Tensor, value: Tensor, offsets: Tensor) -> None:
    """Raise a `ValueError` unless `sample_attend` is defined for these. Its messages are those of
    csrc/sample_attend.h."""
    name = "sample_attend"
    if query.dim() != 4:
        raise ValueError(f"{name}: query must be (B, E, H, W), got {list(query.shape)}")
    if key.shape != query.shape:
        raise ValueError(f"{name}: key must have the shape of query {list(query.shape)}, got {list(key.shape)}")
    batch, _, height, width = query.shape
    if value.dim() != 4 or value.shape != (batch, value.shape[1], height, width):
        raise ValueError(f"{name}: value must be (B, C, H, W) for query {list(query.shape)}, got {list(value.shape)}")
    if offsets.dim() != 2 or offsets.shape[1] != 2 or offsets.shape[0] < 1:
        raise ValueError(f"{name}: offsets must be (K, 2) with K of 1 or more, got {list(offsets.shape)}")
    if query.dtype not in FLOATING:
        raise ValueError(f"{name}: query must be float16, bfloat16, float32 or float64, got {query.dtype}")
    for other, tensor in (("key", key), ("value", value)):
        if tensor.dtype != query.dtype:
            raise ValueError(f"{name}: {other} must be of the query's type {query.dtype}, got {tensor.dtype}")
    if offsets.dtype not in (query.dtype, torch.float32):
        raise ValueError(f"{name}: offsets must be float32 or of the query's type {query.dtype}, got {offsets.dtype}")
    for other, tensor in (("key", key), ("value", value), ("offsets", offsets)):
        if tensor.device != query.device:
            raise ValueError(f"{name}: query is on {query.device} but {other} is on {tensor.device}")


def check_sample_attend_backward(gradient: Tensor, query: Tensor, key: Tensor, value: Tensor, offsets: Tensor) -> None:
    """Raise a `ValueError` unless `sample_attend_backward` is defined for these."""
    check_sample_attend(query, key, value, offsets)
    if (gradient.shape, gradient.dtype, gradient.device) != (value.shape, value.dtype, value.device):
        raise ValueError("sample_attend: the gradient must have the value's shape, type and device")


def sample_attend(query: Tensor, key: Tensor, value: Tensor, offsets: Tensor) -> Tensor:
    """Compute the attention of every cell over samples of `key` and `value` at a few offsets. See
    `accel_ops.sample_attend`.

    Autograd can differentiate it any number of times.
    """
    check_sample_attend(query, key, value, offsets)
    query, key, wide, offsets = _widened(query, key, value, offsets)
    weights = sample_attention(query, key, offsets)
    out = functools.reduce(
        torch.add, (weights[:, k, None] * _shifted(wide, offset) for k, offset in enumerate(offsets))
    )
    return out.to(value.dtype).contiguous(memory_format=layout_of(value))


def sample_attend_backward(
    gradient: Tensor, query: Tensor, key: Tensor, value: Tensor, offsets: Tensor, needs: list[bool]
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return the gradients of `sample_attend` by its four arguments, from that of its result, `gradient` (B, C, H, W).

    needs: which of them to compute. An empty tensor replaces each other.
    """
    check_sample_attend_backward(gradient, query, key, value, offsets)
    inputs = (query, key, value, offsets)
    slope, query, key, value, offsets = _widened(gradient, *inputs)
    weights = sample_attention(query, key, offsets)  # (B, K, H, W)
    to_weights = torch.stack([(slope * _shifted(value, offset)).sum(1) for offset in offsets], 1)
    to_logits = weights * (to_weights - (weights * to_weights).sum(1, keepdim=True))

    sums = [torch.zeros_like(t) for t in (query, key, value, offsets)]
    for k, offset in enumerate(offsets):
        flow = _flow(value, offset)
        to_logit = to_logits[:, k, None]
        sums[0] += to_logit * _shifted(key, offset)
        of_key, along_key = warp_backward(to_logit * query, key, flow, [True, True])
        of_value, along_value = warp_backward(weights[:, k, None] * slope, value, flow, [True, True])
        sums[1] += of_key
        sums[2] += of_value
        sums[3][k] = (along_key + along_value).sum((0, 2, 3))
    made = [t.to(given.dtype) for t, given in zip(sums, inputs, strict=True)]
    made[:3] = [t.contiguous(memory_format=layout_of(given)) for t, given in zip(made[:3], inputs[:3], strict=True)]
    to_query, to_key, to_value, to_offsets = (
        t if wanted else t.new_empty(0) for t, wanted in zip(made, needs, strict=True)
    )
    return to_query, to_key, to_value, to_offsets


def _widened(*tensors: Tensor) -> list[Tensor]:
    """Return all of them in the type of sums."""
    return [t.to(torch.float64 if tensors[0].dtype == torch.float64 else torch.float32) for t in tensors]


def sample_attention(query: Tensor, key: Tensor, offsets: Tensor) -> Tensor:
    """Return the weight of every offset at every cell, (B, K, H, W), which `sample_attend` computes and does not keep.

    The weights add up to 1.
    """
    return torch.stack([(query * _shifted(key, offset)).sum(1) for offset in offsets], 1).softmax(1)


def _shifted(features: Tensor, offset: Tensor) -> Tensor:
    """Sample features (B, C, H, W) one `offset` (2,) away from every cell."""
    return warp(features, _flow(features, offset))


def _flow(features: Tensor, offset: Tensor) -> Tensor:
    """Return the same offset (2,) everywhere, as a flow (B, 2, H, W)."""
    return offset.view(1, 2, 1, 1).expand(features.shape[0], 2, *features.shape[2:])
