"""Score maps: the class logits of the cells of a frame, and how they become full-size labels."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import accel_ops
import torch
import torch.nn.functional as F
from accel_ops.reference import check_frame_size
from torch import Tensor

from accel.models.prediction import Labels, LabelsAndConfidence, Prediction
from accel.models.strides import STRIDE

Border = Literal["replicate", "zero"]
PIXELS = 1 << 18  # that are interpolated at a time, where the native operator does not do it
STRIP = 64  # rows of full-size logits that are held at a time, where the native operator does not do it


@dataclass(frozen=True)
class ScoreMap(Prediction):
    """Class logits before upsampling, with the settings that bring them to full size.

    scores: (B, K, h, w).
    border: the values outside the map for the fixed bilinear upsampling. "replicate" repeats the outermost cells
        (`F.interpolate(align_corners=False)`). "zero" is the published transposed convolution (kernel 32, stride 16,
        cropped by 8), which fades to zero over the outermost 8 pixels.
    bias: (K,), added after upsampling, or None.
    stride: pixels of the frame along the side of a cell: 1, 2, 4, 8, 16 or 32.
    corners: None: the cells lie side by side. (h', w'): the centres of the corner cells of a map of so many cells lie
        on the corner pixels, as with `F.interpolate(align_corners=True)`, and this map is its upper left part.
    fresh: (B,), the share of the frame, 0..1, for which the reference branch is expected to say now what was carried
        from the key frame. None: it is a key frame, or the model does not say (`segmentation.freshness`).

    The upsampled pixel (x, y) samples the map at ((x + 0.5) / stride - 0.5, (y + 0.5) / stride - 0.5); with `corners`,
    at (x (w' - 1) / (stride w' - 1), y (h' - 1) / (stride h' - 1)). If the frame's sides are not multiples of the
    stride, the map covers the frame and a little more. The surplus is cropped at the right and bottom. At some sizes,
    the maps of published networks end one cell earlier or later (see
    `backbones.published_resnets`). A map may therefore be one cell smaller or larger than ceil(size / stride).
    """

    scores: Tensor
    border: Border = "replicate"
    bias: Tensor | None = None
    stride: int = STRIDE
    corners: tuple[int, int] | None = None
    fresh: Tensor | None = None

    def upsample(self, size: tuple[int, int]) -> Tensor:
        """Return full-size logits (B, K, H, W), differentiable, for the loss. Inference uses `labels`."""
        check_frame_size((self.scores.shape[2], self.scores.shape[3]), size, self.stride)
        full = self._sampled(*map(self._first, size))
        return full if self.bias is None else full + self.bias.to(full.dtype).view(-1, 1, 1)

    def on_cells(self, cells: tuple[int, int], stride: int) -> Tensor:
        """Return the scores, without the bias, at the cells (h', w') of another map of the frame: (B, K, h', w').

        stride: the stride of the other map, whose cells lie side by side. It may be the same, with a map that is one
            cell larger at the right and bottom, or a finer one.
        """
        if stride != self.stride or self.corners is not None:
            return self._sampled(*(stride * (self._first(side) + 0.5) - 0.5 for side in cells))
        missing = (0, cells[1] - self.scores.shape[3], 0, cells[0] - self.scores.shape[2])
        if not any(missing):
            return self.scores
        mode = "constant" if self.border == "zero" else "replicate"
        return F.pad(self.scores, missing, mode)

    def at(self, size: tuple[int, int]) -> Labels:
        """Return `labels` as a named tuple."""
        return Labels(self.labels(size))

    def with_confidence_at(self, size: tuple[int, int]) -> LabelsAndConfidence:
        """Return `labels_and_margin` as a named tuple."""
        return LabelsAndConfidence(*self.labels_and_margin(size))

    @torch.no_grad()
    def labels(self, size: tuple[int, int]) -> Tensor:
        """Return class indices (B, H, W), uint8. A tie goes to the lower class. Full-size logits are never stored."""
        if self.corners is not None:
            return self._labels_between(size)
        if not self._is_for_operator:
            return torch.cat([logits.argmax(1).to(torch.uint8) for logits in self._strips(size)], 1)
        return accel_ops.upsample_argmax(self.scores, size, self.bias, self.border, self.stride)

    @torch.no_grad()
    def labels_and_margin(self, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """Return `labels` and their confidence.

        The confidence is the highest logit less the second highest, (B, H, W), float32, without a gradient. It is zero
        at a tie, and +inf with one class. Full-size logits are never stored.
        """
        if not self._is_for_operator:
            labels, margins = zip(*map(_labels_and_margin, self._strips(size)), strict=True)
            return torch.cat(labels, 1), torch.cat(margins, 1)
        return accel_ops.upsample_argmax_margin(self.scores, size, self.bias, self.border, self.stride)

    @property
    def _is_for_operator(self) -> bool:
        """True if the native operator knows where the cells lie."""
        return self.corners is None and self.stride > 1

    def _sampled(self, down: Tensor, across: Tensor) -> Tensor:
        """Return the scores, without the bias, at rows and columns of pixels, which may lie between pixels: (B, K,
        rows, columns), at least float32."""
        scores = self.scores
        if scores.dtype in (torch.float16, torch.bfloat16):
            scores = scores.float()
        rows, columns = (
            _weights(self._places(n, axis), cells, self.border, scores)
            for axis, (n, cells) in enumerate(zip((down, across), scores.shape[2:], strict=True))
        )
        # Under autocast the products would fall back to half precision, which shifts class borders.
        with torch.autocast(scores.device.type, enabled=False):
            return rows @ (scores @ columns.T)

    def _first(self, count: int) -> Tensor:
        """Return the numbers of the first pixels of an axis, on the device of the scores."""
        dtype = torch.float64 if self.scores.dtype == torch.float64 else torch.float32
        return torch.arange(count, device=self.scores.device, dtype=dtype)

    def _places(self, pixels: Tensor, axis: int) -> Tensor:
        """Return where pixels of an axis, 0 = down, lie on the map, in cells."""
        if self.corners is None:
            return (pixels + 0.5) / self.stride - 0.5
        cells = self.corners[axis]
        return pixels * ((cells - 1) / max(self.stride * cells - 1, 1))

    def _labels_between(self, size: tuple[int, int]) -> Tensor:
        """Return `labels` where the native operator does not know the cells.

        The scores of a pixel lie between those of four cells. Where one class is the highest in all four, it is so in
        all pixels between them. Only the other pixels are interpolated.
        """
        check_frame_size((self.scores.shape[2], self.scores.shape[3]), size, self.stride)
        scores = self.scores if self.scores.dtype == torch.float64 else self.scores.float()
        if self.bias is not None:
            scores = scores + self.bias.to(scores.dtype).view(-1, 1, 1)
        (up, down, low), (left, right, far) = (
            _neighbours(self._places(self._first(side), axis), scores.shape[2 + axis]) for axis, side in enumerate(size)
        )
        best = scores.argmax(1).to(torch.uint8)  # (B, h, w)
        above, below = best[:, up], best[:, down]  # (B, H, w)
        corners = above[..., left], above[..., right], below[..., left], below[..., right]
        labels = corners[0].contiguous()
        mixed = (labels != corners[1]) | (labels != corners[2]) | (labels != corners[3])
        image, y, x = mixed.nonzero(as_tuple=True)
        by_cell = scores.permute(0, 2, 3, 1).contiguous()  # (B, h, w, K)
        for part in torch.arange(len(y), device=y.device).split(PIXELS):
            b, v, u = image[part], y[part], x[part]
            top, bottom = (
                torch.lerp(by_cell[b, row, left[u]], by_cell[b, row, right[u]], far[u, None])
                for row in (up[v], down[v])
            )
            labels[b, v, u] = torch.lerp(top, bottom, low[v, None]).argmax(1).to(torch.uint8)
        return labels

    def _strips(self, size: tuple[int, int]) -> Iterator[Tensor]:
        """Yield the full-size logits, bias added, from the top down: (B, K, at most `STRIP`, W)."""
        check_frame_size((self.scores.shape[2], self.scores.shape[3]), size, self.stride)
        height, width = size
        bias = 0 if self.bias is None else self.bias.float().view(-1, 1, 1)
        if self.stride == 1:
            cropped = self.scores[..., :height, :width]
            yield (cropped if cropped.dtype == torch.float64 else cropped.float()) + bias
            return
        scores = self.scores if self.scores.dtype == torch.float64 else self.scores.float()
        wide = _between(scores, self._places(self._first(width), 1), 3)  # (B, K, h, W)
        for top in range(0, height, STRIP):
            rows = self._first(height)[top : top + STRIP]
            yield _between(wide, self._places(rows, 0), 2) + bias


def _weights(places: Tensor, cells: int, border: Border, like: Tensor) -> Tensor:
    """Return the matrix (places, cells) of bilinear weights from the cells to the places of one axis."""
    if border == "replicate":
        places = places.clamp(0, cells - 1)
    centre = torch.arange(cells, device=like.device, dtype=like.dtype)
    return (1 - (places[:, None] - centre).abs()).clamp_min(0)


def _between(scores: Tensor, places: Tensor, axis: int) -> Tensor:
    """Return the scores at places between the cells of an axis, by linear interpolation. Those beyond the map are those
    of its outermost cells."""
    before, after, share = _neighbours(places, scores.shape[axis])
    shape = [-1 if d == axis else 1 for d in range(4)]
    return torch.lerp(scores.index_select(axis, before), scores.index_select(axis, after), share.view(shape))


def _neighbours(places: Tensor, cells: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return the cells before and after each place on an axis of so many cells, and the share of the second one."""
    places = places.clamp(0, cells - 1)
    before = places.floor().long().clamp(max=max(cells - 2, 0))
    return before, (before + 1).clamp(max=cells - 1), places - before


def _labels_and_margin(logits: Tensor) -> tuple[Tensor, Tensor]:
    first = logits.argmax(1, keepdim=True)
    if logits.shape[1] == 1:
        return first[:, 0].to(torch.uint8), torch.full_like(logits[:, 0], torch.inf, dtype=torch.float32)
    highest = logits.gather(1, first)
    second = logits.scatter(1, first, -torch.inf).amax(1, keepdim=True)
    return first[:, 0].to(torch.uint8), (highest - second)[:, 0].float()
