"""Any segmentation model as a network that turns frames of any size into scores of cells."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from accel.models.backbones.encoders import PixelScaling
from accel.models.backbones.smp import scaled
from accel.models.constants import per_channel
from accel.models.images import PIXEL_MEANS
from accel.wording import first_line

STRIDES = (1, 2, 4, 8, 16)  # pixels along the side of a cell; flow has cells of 16
TRIAL = (64, 96)  # (H, W) of the frame that is tried, in whole multiples of what the model needs
IMAGENET = PixelScaling()
RESIZED = 8  # stride of the scores of resized frames
MULTIPLE = 32  # pixels; the coarsest maps of nearly all models have cells of this size


@dataclass(frozen=True)
class Source:
    """What is known of a model before it has run.

    scores: module that turns frames in its own scaling, (B, 3, H, W) with sides that are multiples of `multiple`, into
        class scores (B, K, H/s, W/s), or into what holds them: a mapping with "out" or "logits", an object with
        `logits`, or a sequence that begins with them.
    scaling: the scaling of pixels that it expects.
    preprocess: instead of `scaling`, a function of frames (B, 3, H, W), RGB, float in 0..255.
    multiple: frames are padded to whole multiples of so many pixels.
    aligned: whether the model itself upsamples its scores so that the centres of the corner cells come to lie on the
        corner pixels, as PyTorch's `align_corners=True` does. It does not matter at stride 1.
    stride: the stride to which scores of a smaller stride are averaged; None: they stay as they are.
    size: (H, W) of the frames of a model that takes no others. All frames are resized to it, and the scores are brought
        to cells of `stride` pixels of the frame, 8 if that is None.
    """

    scores: nn.Module
    scaling: PixelScaling = IMAGENET
    preprocess: Callable[[Tensor], Tensor] | None = None
    multiple: int = MULTIPLE
    aligned: bool = False
    stride: int | None = None
    size: tuple[int, int] | None = None


class ScoreNetwork(nn.Module):
    """A model's scores, for frames of any size. It is the backbone of an `AnyModel`.

    source: the model.
    num_classes: K. None: as many as the model gives scores for.
    name: what messages call it.

    stride: pixels of a frame along the side of a cell of the scores. It is found by running the model once on a small
        frame.
    out_channels: K.

    Raises ValueError, in one line, for a model that cannot be used.
    """

    def __init__(self, source: Source, num_classes: int | None, name: str):
        super().__init__()
        self.scores = source.scores
        self.scaling, self.preprocess = source.scaling, source.preprocess
        self.multiple, self.aligned = source.multiple, source.aligned
        self.pool, self.stride, self.size = 1, 1, source.size
        self.out_channels, made = self._try(num_classes, name)
        if self.size is not None:
            made, self.aligned = source.stride or RESIZED, False
        self.stride = made if source.stride is None else source.stride
        self.pool = self.stride // made
        if self.stride not in STRIDES or self.stride % made:
            raise ValueError(
                f"{name}: scores for cells of {made} pixels cannot be averaged to a stride of {self.stride}; expected "
                f"{', '.join(str(s) for s in STRIDES if s % made == 0)}"
            )
        if self.pool > 1 or self.stride == 1:
            self.aligned = False

    def forward(self, image: Tensor) -> Tensor:
        """Turn frames (B, 3, H, W), RGB minus the published mean, into scores (B, K, ceil(H/stride),
        ceil(W/stride))."""
        height, width = image.shape[2:]
        bottom, right = -height % self.multiple, -width % self.multiple
        if bottom or right:
            image = F.pad(image, (0, right, 0, bottom))  # zero is the mean colour here
        if self.size is not None:
            cells = image.shape[2] // self.stride, image.shape[3] // self.stride
            image = F.interpolate(image, self.size, mode="bilinear", antialias=True)
            scores = scores_in(self.scores(self._as_expected(image)))
            scores = F.interpolate(scores, cells, mode="bilinear")
        else:
            scores = scores_in(self.scores(self._as_expected(image)))
        if self.pool > 1:
            scores = F.avg_pool2d(scores, self.pool)
        return scores[..., : -(-height // self.stride), : -(-width // self.stride)]

    def _as_expected(self, image: Tensor) -> Tensor:
        if self.preprocess is None:
            return scaled(image, self.scaling)
        return self.preprocess(image + per_channel(PIXEL_MEANS, image))

    @torch.no_grad()
    def _try(self, classes: int | None, name: str) -> tuple[int, int]:
        """Run the model on a small frame. Return the number of classes and the stride of its scores."""
        height, width = self.size or [-(-side // self.multiple) * self.multiple for side in TRIAL]
        training = self.scores.training
        self.scores.eval()
        place: Tensor = next(self.scores.parameters(), torch.empty(0))
        try:
            made = self.scores(self._as_expected(torch.zeros(1, 3, height, width, device=place.device)))
            scores = scores_in(made)
        except Exception as error:  # other people's code: anything
            hint = "" if self.size else "; if it takes only frames of one size, `size` says which"
            told = f"{name} does not take frames of {height}x{width} pixels: {first_line(error)}{hint}"
            raise ValueError(told) from error
        finally:
            self.scores.train(training)
        if scores.dim() != 4 or classes not in (None, scores.shape[1]):
            expected = "K" if classes is None else classes
            raise ValueError(
                f"{name}: gives {tuple(scores.shape)} for a frame; expected class scores (1, {expected}, h, w)"
            )
        if self.size is not None:
            return scores.shape[1], 1
        down, across = height / scores.shape[2], width / scores.shape[3]
        if down != across or down not in STRIDES:
            raise ValueError(
                f"{name}: gives {scores.shape[2]}x{scores.shape[3]} cells for a frame of {height}x{width} pixels; "
                f"expected cells of {', '.join(map(str, STRIDES))} pixels"
            )
        return scores.shape[1], int(down)


def scores_in(made: Any) -> Tensor:
    """Return the class scores in what a segmentation model gives. Raises ValueError if there are none."""
    if isinstance(made, Tensor):
        return made
    if isinstance(made, list | tuple) and made:
        return scores_in(made[0])
    for key in ("out", "logits"):
        found = made.get(key) if isinstance(made, dict) else getattr(made, key, None)
        if isinstance(found, Tensor):
            return found
    raise ValueError(f"it gives {type(made).__name__}; expected a tensor of class scores, or one called out or logits")
