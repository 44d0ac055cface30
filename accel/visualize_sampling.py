"""Pictures of learned sampling: how the offsets moved in training, and what a position attends to."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from PIL import Image

from accel.models.images import subtract_mean
from accel.models.propagation.learned_sampling import LearnedSampling
from accel.models.strides import STRIDE
from accel.models.video import VideoModel
from accel.visualize import flow_to_colour, panels

_GROUND, _LINES, _START = (24, 24, 24), (58, 58, 58), (150, 150, 150)
_MARK = (255, 255, 255)


def draw_offsets(offsets: np.ndarray, size: int = 640, reach: float | None = None) -> np.ndarray:
    """Draw the paths of the offsets, (T, K, 2), (dx, dy) in cells, from the first to the last: an image (size, size,
    3).

    Grey rings show where they started, and coloured dots where they are. The colour is the direction of their motion,
    by the wheel of `flow_to_colour`; white means no motion. Grid lines are one cell apart.

    reach: the number of cells from the middle to the border. The default is one more than the farthest offset.
    """
    if offsets.ndim != 3 or offsets.shape[2] != 2 or 0 in offsets.shape or not np.isfinite(offsets).all():
        raise ValueError(f"offsets are {offsets.shape}; expected finite (T, K, 2)")
    reach = float(np.abs(offsets).max()) + 1 if reach is None else reach
    image = np.full((size, size, 3), _GROUND, np.uint8)

    def place(cells: np.ndarray) -> np.ndarray:
        return np.rint((cells / reach + 1) / 2 * (size - 1)).astype(np.int32)

    for line in range(-int(reach), int(reach) + 1):
        at = int(place(np.array(line)))
        colour = tuple(2 * c for c in _LINES) if line == 0 else _LINES
        cv2.line(image, (at, 0), (at, size - 1), colour)
        cv2.line(image, (0, at), (size - 1, at), colour)
    colours = flow_to_colour((offsets[-1] - offsets[0])[None])[0]
    radius = max(size // 160, 2)
    for way in place(offsets).transpose(1, 0, 2):
        cv2.polylines(image, [way[:, None]], False, _START, 1, cv2.LINE_AA)
        cv2.circle(image, tuple(map(int, way[0])), radius, _START, 1, cv2.LINE_AA)
    for at, colour in zip(place(offsets[-1]), colours, strict=True):
        cv2.circle(image, tuple(map(int, at)), radius, tuple(map(int, colour)), -1, cv2.LINE_AA)
    return image


def sampling_of(model: VideoModel, name: str = "this model") -> LearnedSampling:
    """Return the model's learned sampling. Raises ValueError if it has another propagation, or none."""
    propagation = getattr(model, "propagation", None)
    if not isinstance(propagation, LearnedSampling):
        raise ValueError(f"{name} has no learned sampling (model.propagation: {{name: learned_sampling}})")
    return propagation


@torch.no_grad()
def attention_at(model: VideoModel, key: np.ndarray, current: np.ndarray, position: tuple[int, int]) -> np.ndarray:
    """Return the attention of the cell at pixel (x, y) of the current frame to the key frame: (K,), a weight for each
    offset.

    key, current: frames (H, W, 3) uint8 RGB of the same size.

    Raises ValueError for frames of different sizes, a position outside them and a model without learned sampling.
    """
    sampling = sampling_of(model)
    if key.shape != current.shape:
        raise ValueError(f"the key frame is {key.shape} and the current frame {current.shape}; expected one size")
    x, y = position
    if not (0 <= x < current.shape[1] and 0 <= y < current.shape[0]):
        raise ValueError(f"position {x},{y} lies outside the frame of {current.shape[1]}x{current.shape[0]} pixels")
    frames = torch.from_numpy(np.stack([key, current])).to(model.device).permute(0, 3, 1, 2)
    older, newer = subtract_mean(frames).split(1)
    reference: Any = model.reference
    features = reference.features(older)
    use = sampling.key_to_current
    weights = use.attention(features, sampling.motion(newer, older), sampling.offsets)
    return weights[0, :, y // STRIDE, x // STRIDE].float().cpu().numpy()


def draw_attention(
    key: np.ndarray, current: np.ndarray, position: tuple[int, int], offsets: np.ndarray, weights: np.ndarray
) -> np.ndarray:
    """Draw the current frame with the cell at `position` marked, beside the key frame with a dot at each place that the
    cell samples.

    A dot is larger and redder if its place has more weight.

    offsets: (K, 2), (dx, dy) in cells.
    weights: (K,), from `attention_at`.
    """
    x, y = (STRIDE * (p // STRIDE) for p in position)
    asked, sampled = current.copy(), key.copy()
    for image in (asked, sampled):
        cv2.rectangle(image, (x, y), (x + STRIDE - 1, y + STRIDE - 1), _MARK, 1)
    share = weights / weights.max()
    for k in np.argsort(share):  # what counts most on top
        at = np.rint(offsets[k] * STRIDE + (x + STRIDE / 2, y + STRIDE / 2)).astype(int)
        colour = tuple(int(c) for c in np.rint(255 * np.array([1, 1 - share[k], 1 - share[k]])))
        cv2.circle(sampled, tuple(map(int, at)), 1 + round(4 * float(share[k])), colour, -1, cv2.LINE_AA)
    most = 100 * float(weights.max())
    return panels([asked, sampled], ["current frame", f"key frame: up to {most:.0f} % from one offset"])


def save_png(path: str | Path, image: np.ndarray) -> None:
    """Write an image (H, W, 3), uint8 RGB. Missing folders are made."""
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image).save(path, format="PNG")
