"""Random augmentation of a clip for training: scale, crop, flip and colour, the same for all its frames.

The geometry is our own code for two reasons. The clip's flow must follow it (vectors grow with the scale and turn with
the flip), which albumentations does not do. And cutting the window first and resizing only that costs a fraction of
resizing five whole frames. Colour, blur and noise come from albumentations.
"""

from __future__ import annotations

import os
import random
from dataclasses import dataclass
from functools import cached_property

import cv2
import numpy as np

from accel.datasets.clips import Clip
from accel.labels import IGNORED

LEAST_SEEN = 0.25  # of a box within a crop, or nobody could tell what it is
MEAN_COLOUR = (123, 116, 103)  # the published mean, rounded: what a model subtracts, so padding is zero to it


@dataclass(frozen=True)
class _Span:
    """One axis of a view: `window` pixels from `start` become `size` pixels, placed at `pad` in `out` pixels."""

    start: int
    window: int
    size: int
    pad: int
    out: int

    @property
    def source(self) -> slice:
        return slice(self.start, self.start + self.window)

    @property
    def target(self) -> slice:
        return slice(self.pad, self.pad + self.size)

    @classmethod
    def draw(cls, length: int, out: int | None, scale: float, rng: np.random.Generator) -> _Span:
        """Draw a random window of an axis of `length` pixels that, scaled, fills `out` pixels (None: all of it).

        The window has whole pixels, so the scale is exact to within half a pixel over the window.
        """
        if out is None:
            out = max(1, round(length * scale))
        window = max(1, round(out / scale))
        size = out
        if window > length:
            window, size = length, min(out, max(1, round(length * scale)))
        start = int(rng.integers(length - window + 1))
        pad = int(rng.integers(out - size + 1))
        return cls(start, window, size, pad, out)


class ClipTransform:
    """A random view of a clip. It depends only on the clip and the random generator.

    crop: (height, width) of the result. None keeps the size of the frame (times the scale). If the scaled frame is
        smaller, the rest is filled: frames with the mean colour, labels with 255, flow with NaN.
    scale: (smallest, largest) factor of size, drawn log-uniformly. None: 1.
    flip: the probability of mirroring left to right.
    colour: the strength of the jitter of brightness, contrast and saturation (factors in 1 +- colour) and of hue (+-
        colour / 10 turns, because hue tells much about the objects of a street). 0: none.
    blur: the probability of a Gaussian blur, with sigma up to 1.5 pixels.
    noise: the probability of pixel noise, up to 3 % of the range. It is drawn again for each frame, as in a camera.

    Frames are resized bilinearly. Labels and flow take the nearest pixel, because a mean of two classes or of two
    motions is neither of them, and NaN must not spread. Displacements that lead out of the crop stay as they are. The
    motion is true, although its end is not visible.
    """

    def __init__(
        self,
        crop: tuple[int, int] | None = None,
        scale: tuple[float, float] | None = None,
        flip: float = 0.0,
        colour: float = 0.0,
        blur: float = 0.0,
        noise: float = 0.0,
    ):
        if crop is not None and not (len(crop) == 2 and min(crop) >= 1):
            raise ValueError(f"crop must be (height, width) in pixels, both at least 1; got {crop}")
        if scale is not None and not (len(scale) == 2 and 0 < scale[0] <= scale[1]):
            raise ValueError(f"scale must be (smallest, largest), both above 0; got {scale}")
        for key, value in (("flip", flip), ("colour", colour), ("blur", blur), ("noise", noise)):
            if not 0 <= value <= 1:
                raise ValueError(f"{key} must be between 0 and 1; got {value}")
        self.crop = None if crop is None else (int(crop[0]), int(crop[1]))
        self.scale = None if scale is None else (float(scale[0]), float(scale[1]))
        self.flip, self.colour, self.blur, self.noise = flip, colour, blur, noise

    def __call__(self, clip: Clip, rng: np.random.Generator) -> Clip:
        """Return the view of `clip` that `rng` draws. Its arrays are new and contiguous.

        frames (T, H, W, 3) become (T, *crop, 3). The same holds for labels (H, W) and flow (T-1, H, W, 2).
        """
        scale = 1.0 if self.scale is None else float(np.exp(rng.uniform(*np.log(self.scale))))
        height, width = self.crop or (None, None)
        rows = _Span.draw(clip.frames.shape[1], height, scale, rng)
        columns = _Span.draw(clip.frames.shape[2], width, scale, rng)
        mirrored = bool(rng.random() < self.flip)

        frames = _cut(clip.frames, rows, columns, mirrored, cv2.INTER_LINEAR)
        frames = _place(self._recolour(frames, rng), rows, columns, MEAN_COLOUR)
        labels, flow = clip.labels, clip.flow
        if labels is not None:
            labels = _cut(labels[None], rows, columns, mirrored, cv2.INTER_NEAREST_EXACT)
            labels = _place(labels, rows, columns, IGNORED)[0]
        if flow is not None:
            flow = _cut(flow, rows, columns, mirrored, cv2.INTER_NEAREST_EXACT)
            sign = -1 if mirrored else 1
            flow = flow * np.array([sign * columns.size / columns.window, rows.size / rows.window], np.float32)
            flow = _place(flow, rows, columns, np.nan)
        boxes = None if clip.boxes is None else _viewed_boxes(clip.boxes, rows, columns, mirrored)
        return Clip(frames, labels, flow, clip.name, boxes)

    def _recolour(self, frames: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Change colours, blur and noise of frames (T, h, w, 3), uint8."""
        for pipeline, key in self._pipelines:
            # One generator for all steps: `set_random_seed` would give each of them the same stream.
            pipeline.set_random_state(rng, random.Random(int(rng.integers(2**63))))
            # For all but blur, the clip is one tall image: contrast then turns about the clip's mean, not
            # each frame's own, and noise differs from frame to frame.
            image = frames if key == "images" else frames.reshape(-1, *frames.shape[2:])
            frames = pipeline(**{key: image})[key].reshape(frames.shape)
        return frames

    @cached_property
    def _pipelines(self) -> list[tuple]:
        """(albumentations.Compose, key of its input), built once in each process."""
        os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # its import asks the network for a newer version
        import albumentations

        pixelwise = []
        if self.colour:
            factor = (max(0.0, 1 - self.colour), 1 + self.colour)
            hue = (-self.colour / 10, self.colour / 10)
            pixelwise.append(albumentations.ColorJitter(factor, factor, factor, hue, p=1.0))
        if self.noise:
            pixelwise.append(albumentations.GaussNoise(std_range=(0.0, 0.03), p=self.noise))
        pipelines = []
        if self.blur:
            blur = albumentations.GaussianBlur(blur_limit=0, sigma_limit=(0.1, 1.5), p=self.blur)
            pipelines.append((albumentations.Compose([blur]), "images"))
        if pixelwise:
            pipelines.append((albumentations.Compose(pixelwise), "image"))
        return pipelines

    def __getstate__(self) -> dict:
        return {k: v for k, v in self.__dict__.items() if k != "_pipelines"}


def _cut(images: np.ndarray, rows: _Span, columns: _Span, mirrored: bool, interpolation: int) -> np.ndarray:
    """Resize windows of (T, H, W, ...) to (T, rows.size, columns.size, ...), and mirror them if requested."""
    cut = np.empty((len(images), rows.size, columns.size, *images.shape[3:]), images.dtype)
    for image, target in zip(images, cut, strict=True):
        window = image[rows.source, columns.source]
        if window.shape != target.shape:
            window = cv2.resize(window, (columns.size, rows.size), interpolation=interpolation)
        target[...] = window[:, ::-1] if mirrored else window
    return cut


def _viewed_boxes(boxes: np.ndarray, rows: _Span, columns: _Span, mirrored: bool) -> np.ndarray:
    """What is seen of boxes (M, 5); those of which less than a pixel or `LEAST_SEEN` is seen are left out."""
    boxes = boxes.astype(np.float32, copy=True)
    seen = np.ones(len(boxes), np.float32)
    for first, last, span in ((0, 2, columns), (1, 3, rows)):
        edges = boxes[:, [first, last]] + np.array([0, 1], np.float32)  # both corners lie within a box
        inside = edges.clip(span.start, span.start + span.window)
        seen *= (inside[:, 1] - inside[:, 0]) / np.maximum(edges[:, 1] - edges[:, 0], 1e-6)
        inside = (inside - span.start) * (span.size / span.window)
        if mirrored and span is columns:
            inside = span.size - inside[:, ::-1]
        boxes[:, [first, last]] = inside + span.pad - np.array([0, 1], np.float32)
    large = (boxes[:, 2:4] - boxes[:, :2] >= 0).all(1)
    return boxes[large & (seen >= LEAST_SEEN)]


def _place(images: np.ndarray, rows: _Span, columns: _Span, fill: float | tuple[int, ...]) -> np.ndarray:
    """Put (T, rows.size, columns.size, ...) in its place in (T, rows.out, columns.out, ...), which is filled with
    `fill`."""
    if (rows.size, columns.size) == (rows.out, columns.out):
        return images
    canvas = np.empty((len(images), rows.out, columns.out, *images.shape[3:]), images.dtype)
    canvas[...] = fill
    canvas[:, rows.target, columns.target] = images
    return canvas
