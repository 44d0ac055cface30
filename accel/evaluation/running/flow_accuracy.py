"""Measure how well optical flow carries features: against exact flow, and by what it carries on real video."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor, nn

from accel.datasets.clips import ClipDataset
from accel.inference.loading import load_model
from accel.labels import IGNORED
from accel.measures.confusion import ConfusionMatrix
from accel.measures.temporal import in_pixels, own_flow
from accel.models.images import subtract_mean
from accel.models.propagation.classical_flow import PixelSearch
from accel.tasks.accuracy import share

FlowOfPair = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""A function of the current frame and the one before, (H, W, 3) uint8 RGB each. It returns flow (H, W, 2), float32: for
each pixel of the current frame, where its content was in the frame before, in pixels (dx, dy)."""


@dataclass(frozen=True)
class FlowScore:
    """The scores of one flow. A score is None if there was no data for it.

    end_point_error: the mean length of the difference from the exact flow, in pixels.
    photometric_error: the mean absolute difference between a frame and the frame before, moved along the flow, in grey
        levels.
    carried: by number of steps, the mIoU of labels carried that many frames along the flow. None if no video is that
        long.
    caveats: the notes on that mIoU from `accel.measures.confusion.caveats`. Empty if there are none.
    """

    name: str
    end_point_error: float | None
    photometric_error: float | None
    carried: dict[int, float | None]
    caveats: str = ""

    def as_dict(self) -> dict:
        return asdict(self)


def score_flow(
    name: str,
    flow: FlowOfPair,
    simulated: ClipDataset | None = None,
    video: ClipDataset | None = None,
    steps: Sequence[int] = (1, 4, 9),
    progress: Callable[[int, int], None] | None = None,
) -> FlowScore:
    """Score one flow.

    simulated: clips with exact flow.
    video: labelled frames of videos, each with the frame before it.
    steps: the numbers of frames over which labels are carried.
    """
    total = (0 if simulated is None else len(simulated)) + (0 if video is None else len(video))
    done = iter(range(1, total + 1))

    def advance() -> None:
        if progress:
            progress(next(done), total)

    error = photometric = None
    carried: dict[int, float | None] = {}
    caveats = ""
    if simulated is not None:
        error = share(end_point_error(flow, simulated, advance))
    if video is not None:
        photometric, matrices = carry_along(flow, video, steps, advance)
        carried = {step: share(matrix.miou()) for step, matrix in matrices.items()}
        shortest = matrices[min(steps)]  # what it lacks, the others lack, too
        caveats = shortest.caveats(video.class_names) if shortest.labelled() else ""
    return FlowScore(name, error, photometric, carried, caveats)


def end_point_error(flow: FlowOfPair, clips: ClipDataset, advance: Callable[[], None] = lambda: None) -> float:
    """Return the mean end-point error in pixels, over all pairs of neighbouring frames and all pixels with known
    flow."""
    total, count = 0.0, 0
    for index in range(len(clips)):
        clip = clips.clip(index, clips.history(index) + 1)
        if clip.flow is None:
            raise ValueError(f"{clip.name}: its exact flow is not known")
        for before, now, exact in zip(clip.frames[:-1], clip.frames[1:], clip.flow, strict=True):
            lengths = np.linalg.norm(flow(now, before) - exact, axis=-1)
            known = ~np.isnan(lengths)
            total += float(lengths[known].sum(dtype=np.float64))
            count += int(known.sum())
        advance()
    return total / count if count else float("nan")


def carry_along(
    flow: FlowOfPair, video: ClipDataset, steps: Sequence[int], advance: Callable[[], None] = lambda: None
) -> tuple[float, dict[int, ConfusionMatrix]]:
    """Return the photometric error between neighbours, and a confusion matrix of carried labels for each number of
    `steps`.

    Labels are carried frame by frame along the flow, at full size. Each pixel takes the label nearest to the place it
    points to; outside the frame, that of the border. The carried labels are compared with the ground truth of the frame
    they reach. One confusion matrix covers all frames of the set, for each number of steps.

    Every frame of a video must be labelled: only frames of the set that directly follow one another are used. The
    matrix is empty for a number of steps for which there are too few of them.

    Raises ValueError if no two frames follow one another. `can_carry` checks this beforehand.
    """
    matrices = {step: ConfusionMatrix(video.num_classes) for step in steps}
    difference, pixels = 0.0, 0
    on_the_way: dict[int, np.ndarray] = {}  # how many steps ago to what was true then, carried to the last frame
    last_place: tuple[str, int] | None = None
    last_frame: np.ndarray | None = None
    for index in range(len(video)):
        clip, (name, number) = video.clip(index, 1), video.place(index)
        frame, labels = clip.frames[-1], clip.labels
        if last_frame is not None and last_place == (name, number - 1):
            motion = flow(frame, last_frame)
            difference += float(np.abs(frame.astype(np.float32) - follow(last_frame, motion, cv2.INTER_LINEAR)).sum())
            pixels += frame.size
            on_the_way = {
                age + 1: follow(carried, motion, cv2.INTER_NEAREST)
                for age, carried in on_the_way.items()
                if age < max(steps)
            }
        else:
            on_the_way = {}
        for step, matrix in matrices.items():
            if step in on_the_way:
                carried = on_the_way[step]
                both = np.where((labels == IGNORED) | (carried == IGNORED), np.uint8(IGNORED), labels)
                matrix.update(torch.from_numpy(carried), torch.from_numpy(both))
        assert labels is not None, "every frame of the video is labelled"
        on_the_way[0] = labels
        last_place, last_frame = (name, number), frame
        advance()
    if not pixels:
        raise ValueError("no two labelled frames of these data directly follow one another, so nothing can be carried")
    return difference / pixels, matrices


def can_carry(video: ClipDataset) -> bool:
    """Return whether any two labelled frames directly follow one another, in the order of the set."""
    places = [video.place(index) for index in range(len(video))]
    return any(place == (name, number + 1) for (name, number), place in pairwise(places))


def follow(image: np.ndarray, flow: np.ndarray, interpolation: int) -> np.ndarray:
    """Move an image (H, W) or (H, W, 3) of the frame before to the current one along flow (H, W, 2)."""
    height, width = flow.shape[:2]
    x = flow[..., 0] + np.arange(width, dtype=np.float32)
    y = flow[..., 1] + np.arange(height, dtype=np.float32)[:, None]
    return cv2.remap(image, x, y, interpolation, borderMode=cv2.BORDER_REPLICATE)


def unmoved(now: np.ndarray, before: np.ndarray) -> np.ndarray:
    """Return the flow of a scene without motion: the baseline for every flow."""
    return np.zeros((*now.shape[:2], 2), np.float32)


def at_every_pixel(preset: str = "medium") -> FlowOfPair:
    """Return OpenCV's DIS flow. The difference to `of_network(DenseInverseSearch())` shows the cost of cells."""
    search = PixelSearch(preset)

    def flow(now: np.ndarray, before: np.ndarray) -> np.ndarray:
        return search(cv2.cvtColor(now, cv2.COLOR_RGB2GRAY), cv2.cvtColor(before, cv2.COLOR_RGB2GRAY))

    return flow


def of_checkpoint(checkpoint: str | Path, device: torch.device) -> FlowOfPair:
    """Return the flow of the network in a run's folder or weights file. Raises the errors of `load_model`, and
    ValueError if there is no flow network."""
    model = load_model(checkpoint, device=device)
    try:
        network = own_flow(model)
    except ValueError as error:
        raise ValueError(f"{checkpoint}: {error}") from None
    return of_network(network, device)


def of_network(network: nn.Module, device: torch.device | str = "cpu") -> FlowOfPair:
    """Return the flow of a module such as `FlowNetS`, whose flow is in feature cells. Between their centres it is
    interpolated bilinearly."""

    @torch.inference_mode()
    def flow(now: np.ndarray, before: np.ndarray) -> np.ndarray:
        def image(frame: np.ndarray) -> Tensor:
            return subtract_mean(torch.from_numpy(frame).permute(2, 0, 1)[None].to(device))

        return in_pixels(network(image(now), image(before)), now.shape[:2])

    return flow
