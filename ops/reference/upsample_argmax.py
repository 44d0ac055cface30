"""Upsampling and argmax in one: the definition."""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from accel_ops.reference.tensors import FLOATING
from torch import Tensor

STRIDES = (2, 4, 8, 16, 32)
MOST_CLASSES = 255  # the label 255 is "ignored"


def check_frame_size(cells: tuple[int, int], size: tuple[int, int], stride: int = 16) -> None:
    """Raise a `ValueError` unless a score map of `cells` (h, w) belongs to frames of `size` (H, W) pixels."""
    expected = [-(-pixels // stride) for pixels in size]
    if min(*cells, *size) < 1 or any(abs(c - e) > 1 for c, e in zip(cells, expected, strict=True)):
        raise ValueError(
            f"a score map of {tuple(cells)} cells does not belong to the frame size {tuple(size)}: each side must be "
            f"ceil(pixels / {stride}) cells, give or take one"
        )


def check_upsample_argmax(
    scores: Tensor, size: tuple[int, int], bias: Tensor | None, border: str, stride: int = 16
) -> None:
    """Raise a `ValueError` unless `upsample_argmax` is defined for these. Its messages are those of
    csrc/upsample_argmax.h."""
    name = "upsample_argmax"
    if scores.dim() != 4:
        raise ValueError(f"{name}: scores must be (B, K, h, w), got {list(scores.shape)}")
    if scores.dtype not in FLOATING:
        raise ValueError(f"{name}: scores must be float16, bfloat16, float32 or float64, got {scores.dtype}")
    classes = scores.shape[1]
    if not 1 <= classes <= MOST_CLASSES:
        raise ValueError(f"{name}: uint8 labels hold 1 to {MOST_CLASSES} classes, got {classes}")
    if border not in ("replicate", "zero"):
        raise ValueError(f"{name}: border must be 'replicate' or 'zero', got {border!r}")
    if stride not in STRIDES:
        raise ValueError(f"{name}: stride must be 2, 4, 8, 16 or 32, got {stride}")
    if bias is not None:
        if bias.shape != (classes,):
            raise ValueError(f"{name}: bias must be (K,) = [{classes}], got {list(bias.shape)}")
        if bias.dtype not in FLOATING:
            raise ValueError(f"{name}: bias must be float16, bfloat16, float32 or float64, got {bias.dtype}")
        if bias.device != scores.device:
            raise ValueError(f"{name}: scores are on {scores.device} but bias is on {bias.device}")
    if len(size) != 2:
        raise ValueError(f"{name}: size must be (H, W), got {list(size)}")
    check_frame_size((scores.shape[2], scores.shape[3]), size, stride)


@torch.no_grad()
def upsample_argmax(
    scores: Tensor, size: tuple[int, int], bias: Tensor | None = None, border: str = "replicate", stride: int = 16
) -> Tensor:
    """Return the class of the highest full-size logit, (B, H, W) uint8, from scores (B, K, h, w).

    See `accel_ops.upsample_argmax`.
    """
    check_upsample_argmax(scores, size, bias, border, stride)
    return torch.cat([logits.argmax(1).to(torch.uint8) for logits in _strips(scores, size, bias, border, stride)], 1)


@torch.no_grad()
def upsample_argmax_margin(
    scores: Tensor, size: tuple[int, int], bias: Tensor | None = None, border: str = "replicate", stride: int = 16
) -> tuple[Tensor, Tensor]:
    """Return the labels of `upsample_argmax`, and how far the highest logit is above the next, (B, H, W) float32.

    See `accel_ops.upsample_argmax_margin`.
    """
    check_upsample_argmax(scores, size, bias, border, stride)
    labels, margins = [], []
    for logits in _strips(scores, size, bias, border, stride):
        first = logits.argmax(1, keepdim=True)
        highest = logits.gather(1, first)
        second = logits.scatter_(1, first, -torch.inf).amax(1, keepdim=True)
        labels.append(first[:, 0].to(torch.uint8))
        margins.append((highest - second)[:, 0].float())
    margin = torch.cat(margins, 1)
    return torch.cat(labels, 1), margin.fill_(torch.inf) if scores.shape[1] == 1 else margin


def _strips(scores: Tensor, size: tuple[int, int], bias: Tensor | None, border: str, stride: int) -> Iterator[Tensor]:
    """Yield the full-size logits from the top down, (B, K, at most 4 strides, W) at a time: the pixels between 5 rows
    of cells."""
    height, width = size
    cells = scores.to(torch.float64 if scores.dtype == torch.float64 else torch.float32)
    # A cell before the map and two after it are as far as pixels reach.
    cells = F.pad(cells, (1, 2, 1, 2), mode="constant" if border == "zero" else "replicate")
    half = stride // 2  # the centre of the cell before the map is half a cell before the frame
    for top in range(-half, height, 4 * stride):
        row = (top + half) // stride
        rows = _between(cells[:, :, row : row + 5].transpose(2, 3), stride).transpose(2, 3)  # (B, K, 4 s, w + 3)
        rows = rows[:, :, max(-top, 0) : height - top]
        logits = _between(rows, stride)[..., half : half + width]
        yield logits if bias is None else logits + bias.to(logits.dtype).view(-1, 1, 1)


def _between(cells: Tensor, stride: int) -> Tensor:
    """Return the pixels between the centres of neighbouring cells: (..., n) to (..., stride * (n - 1))."""
    fraction = (torch.arange(stride, device=cells.device, dtype=cells.dtype) + 0.5) / stride
    return (cells[..., :-1, None] * (1 - fraction) + cells[..., 1:, None] * fraction).flatten(-2)
