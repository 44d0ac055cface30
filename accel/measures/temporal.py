"""Measure how steady the labels of a video are: temporal consistency and flicker. No ground truth is needed.

Where every frame has ground truth, video consistency is measured too (`accel.measures.video_consistency`).

Temporal consistency is that of Liu et al., "Efficient semantic video segmentation with per-frame inference", ECCV 2020,
and Varghese et al., "Unsupervised temporal consistency metric for video segmentation in highly-automated driving", CVPR
Workshops 2020. The labels of the frame before are moved along the optical flow to this frame. The result is the mIoU
between them and this frame's own labels. As in the evaluation code of the first group, one confusion matrix collects
all pairs of frames. Here, pixels without a known counterpart in the frame before are left out.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from accel.datasets.clips import ClipDataset
from accel.labels import IGNORED
from accel.measures.confusion import ConfusionMatrix
from accel.measures.video_consistency import VideoConsistency
from accel.models.images import subtract_mean
from accel.models.propagation.classical_flow import PixelSearch
from accel.models.propagation.flow_warp import FlowWarp
from accel.models.strides import STRIDE

Flow = Literal["exact", "dis", "model"]

NOWHERE = -1  # in `matches`: nothing in the frame before


class TemporalTally:
    """Count consistency and flicker of the labels of videos, frame by frame. Tallies of different videos can be
    added."""

    def __init__(self, num_classes: int):
        self.matrix = ConfusionMatrix(num_classes)
        self.flickering: int | Tensor = 0  # pixels
        self.pixels_in_triples = self.pixels_in_pairs = 0
        self.frames = self.pairs = self.triples = 0
        self.windows = VideoConsistency()
        self._last: list[Tensor] = []  # labels of up to two frames, the latest last

    def start(self) -> None:
        """Begin another video."""
        self._last = []
        self.windows.start()

    def update(self, labels: Tensor, matches: Tensor | None, truth: Tensor | None = None) -> None:
        """Add the next frame of the video.

        labels: (H, W) uint8.
        matches: (H, W) int32, see `matches_of`, on the same device. None: do not compare with the frame before.
        truth: the true labels, (H, W) uint8, on the same device. None: not known; video consistency then skips the
            frame.
        """
        self.frames += 1
        if truth is None:
            self.windows.start()
        else:
            self.windows.update(labels, truth)
        if self._last and matches is not None:
            before = self._last[-1]
            brought = before.flatten().take(matches.clamp_min(0).long()).masked_fill_(matches == NOWHERE, IGNORED)
            self.matrix.update(labels, brought)
            self.pairs += 1
            self.pixels_in_pairs += labels.numel()
        if len(self._last) == 2:
            self.flickering = self.flickering + flickers(self._last[0], self._last[1], labels).sum()
            self.triples += 1
            self.pixels_in_triples += labels.numel()
        self._last = [*self._last[-1:], labels]

    def on_host(self) -> TemporalTally:
        """Move the counts to host memory, so that they can be sent to another process. The next frame begins a
        video."""
        self.start()
        self.matrix.counts, self.matrix.strays = self.matrix.counts.cpu(), self.matrix.strays.cpu()
        self.flickering = int(self.flickering)
        return self

    def __add__(self, other: TemporalTally) -> TemporalTally:
        total = TemporalTally(len(self.matrix.counts))
        total.matrix = self.matrix + other.matrix
        total.windows = self.windows + other.windows
        for name in ("pixels_in_triples", "pixels_in_pairs", "frames", "pairs", "triples"):
            setattr(total, name, getattr(self, name) + getattr(other, name))
        total.flickering = int(self.flickering) + int(other.flickering)
        return total

    @property
    def consistency(self) -> float:
        """The mIoU between the labels of consecutive frames. NaN if none were compared."""
        return self.matrix.miou()

    @property
    def compared(self) -> float:
        """The share of the pixels of all pairs that have a counterpart. NaN without pairs."""
        return int(self.matrix.counts.sum()) / self.pixels_in_pairs if self.pairs else float("nan")

    @property
    def flicker(self) -> float:
        """The share of the pixels of all triples that flicker. NaN without triples."""
        return int(self.flickering) / self.pixels_in_triples if self.triples else float("nan")


def flickers(before: Tensor, now: Tensor, after: Tensor) -> Tensor:
    """Return where the labels of three consecutive frames, (H, W) each, change and change back: before == after != now.

    Pixels are compared at the same place. So a thin object that passes within three frames also counts a little, for
    all models alike.
    """
    return (before == after) & (now != before)


# --- which pixel of the frame before ----------------------------------------------------------------------------


def choose_flow(dataset: ClipDataset, models: Iterable[nn.Module] = (), flow: str = "auto") -> Flow:
    """Return the flow for comparing frames: `flow` itself; for "auto", the exact flow if the data have it, otherwise
    "dis".

    "dis" does not depend on the models. Raises ValueError for a flow that the data or one of the models do not have,
    and for data that are not video.
    """
    if not any(dataset.history(i) for i in range(len(dataset))):
        raise ValueError("temporal consistency needs video: no labelled frame of these data has a frame before it")
    if flow == "auto":
        return "exact" if dataset.knows_flow else "dis"
    named: dict[str, Flow] = {"exact": "exact", "dis": "dis", "model": "model"}
    if flow not in named:
        raise ValueError(f"flow {flow!r}: expected auto, exact, dis or model")
    if flow == "exact" and not dataset.knows_flow:
        raise ValueError("flow exact: these data have no exact flow; choose auto, dis or model")
    if flow == "model":
        for model in models:
            try:
                own_flow(model)
            except ValueError as error:
                raise ValueError(f"flow model: {error}; choose auto, dis or exact") from None
    return named[flow]


def matches_of(flow: np.ndarray) -> np.ndarray:
    """Return for each pixel the place of its counterpart in the flattened frame before, or `NOWHERE`: (H, W) int32.

    flow: (H, W, 2) displacement (dx, dy) in pixels to the frame before, NaN if it is unknown.

    The counterpart is the nearest pixel. If it is outside the frame, the result is `NOWHERE`.
    """
    height, width = flow.shape[:2]
    x = np.rint(flow[..., 0] + np.arange(width, dtype=np.float32))
    y = np.rint(flow[..., 1] + np.arange(height, dtype=np.float32)[:, None])
    inside = (x >= 0) & (x < width) & (y >= 0) & (y < height)  # not so where the flow is NaN
    with np.errstate(invalid="ignore"):
        place = y.astype(np.int32) * np.int32(width) + x.astype(np.int32)
    return np.where(inside, place, np.int32(NOWHERE))


def consistent(backward: np.ndarray, forward: np.ndarray) -> np.ndarray:
    """Return the flow to the frame before, with NaN where the flow from there does not lead back.

    backward, forward: (H, W, 2) in pixels, from this frame to the one before, and from that one to this.

    Pixels that are hidden in the frame before cannot lead back, nor can wrong flow. The bound on |b + f|^2 is 0.01
    (|b|^2 + |f|^2) + 0.5 (Sundaram, Brox and Keutzer, "Dense point trajectories by GPU-accelerated large displacement
    optical flow", ECCV 2010). f is sampled bilinearly where b leads; outside the frame, the value at its edge is used.
    """
    height, width = backward.shape[:2]
    x = backward[..., 0] + np.arange(width, dtype=np.float32)
    y = backward[..., 1] + np.arange(height, dtype=np.float32)[:, None]
    there = cv2.remap(forward, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    gap = _squared(backward + there)
    bound = 0.01 * (_squared(backward) + _squared(there)) + 0.5
    return np.where((gap <= bound)[..., None], backward, np.nan)


def _squared(flow: np.ndarray) -> np.ndarray:
    return flow[..., 0] ** 2 + flow[..., 1] ** 2


def dis_matches(frames: np.ndarray) -> np.ndarray:
    """Return `matches_of` frames (T, H, W, 3), uint8, by OpenCV's DIS flow in both directions: (T-1, H, W) int32.

    Kroeger et al., "Fast optical flow using dense inverse search", ECCV 2016.
    """
    grey, search = [cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in frames], PixelSearch()
    found = np.empty((len(frames) - 1, *frames.shape[1:3]), np.int32)
    for matches, before, now in zip(found, grey[:-1], grey[1:], strict=True):
        matches[...] = matches_of(consistent(search(now, before), search(before, now)))
    return found


def model_matches(model: nn.Module, now: Tensor, before: Tensor) -> Tensor:
    """Return matches (H, W), int32, of two frames (3, H, W), by the model's own flow network in both directions."""
    flow, size = own_flow(model), (now.shape[1], now.shape[2])
    now, before = subtract_mean(now[None]), subtract_mean(before[None])
    backward, forward = (in_pixels(flow(*pair), size) for pair in ((now, before), (before, now)))
    return torch.from_numpy(matches_of(consistent(backward, forward))).to(now.device)


def own_flow(model: nn.Module) -> nn.Module:
    """Return the flow network that a model uses to warp its features. Raises ValueError if it has none."""
    while isinstance(inner := getattr(model, "model", None), nn.Module):  # optimised, or of mapped classes
        model = inner
    propagation = getattr(model, "propagation", None)
    if not isinstance(propagation, FlowWarp):
        raise ValueError(f"{type(model).__name__} has no flow of its own")
    return propagation.flow


def in_pixels(flow: Tensor, size: tuple[int, int]) -> np.ndarray:
    """Turn flow (1, 2, h, w) in cells of 16 pixels into (H, W, 2) in pixels, bilinear between cells."""
    full = F.interpolate(STRIDE * flow.float(), scale_factor=STRIDE, mode="bilinear", align_corners=False)
    return full[0, :, : size[0], : size[1]].permute(1, 2, 0).contiguous().cpu().numpy()
