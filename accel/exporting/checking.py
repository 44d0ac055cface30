"""Compare an exported model with the one it was made from, on ten frames of a street scene."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from accel.models import VideoModel
from accel.playing.player import Player
from accel.playing.schedules import FixedInterval

FRAMES, INTERVAL = 10, 5  # two key frames, and as many frames after each as an export is made for at first
LEAST = {"fp32": 0.999, "fp16": 0.99}  # share of labels that must be equal
SMALLEST = 64  # pixels of a side of a scene
FOLDER = "check"


@dataclass(frozen=True)
class Agreement:
    """How well two models agree on frames of `size` (H, W).

    equal_labels: share of all pixels of all frames that have the same label.
    largest_difference: of all scores, in absolute value.  spread: standard deviation of the scores.
    """

    size: tuple[int, int]
    equal_labels: float
    largest_difference: float
    spread: float

    def as_dict(self) -> dict:
        return {
            "size": list(self.size),
            "frames": FRAMES,
            "interval": INTERVAL,
            "equal_labels": self.equal_labels,
            "largest_difference": self.largest_difference,
            "spread": self.spread,
        }


def scene(size: tuple[int, int], frames: int = FRAMES) -> list[np.ndarray]:
    """Return the first frames of a generated street scene, (H, W, 3) uint8. They are the same on every machine."""
    from accel.datasets.streetscape.scene import StreetScene

    height, width = size
    scene = StreetScene(20, "val", 0, (max(height, SMALLEST), max(width, SMALLEST)))
    return [np.ascontiguousarray(scene.render(number).image[:height, :width]) for number in range(frames)]


@torch.inference_mode()
def compare(
    original: VideoModel, exported: VideoModel, frames: Sequence[np.ndarray], interval: int = INTERVAL
) -> tuple[Agreement, list[np.ndarray]]:
    """Play both models over the frames. Return their agreement, and the labels (H, W) of the exported one."""
    size = frames[0].shape[:2]
    players = [Player(model, FixedInterval(interval)) for model in (original, exported)]
    equal, differences, spreads, labels = [], [], [], []
    for frame in frames:
        image = torch.from_numpy(frame).permute(2, 0, 1)[None]
        expected, got = (player.step(image.to(player.model.device)).prediction for player in players)  # type: ignore[attr-defined] # both are models
        both: list[Tensor] = [each.at(size).labels[0].cpu() for each in (expected, got)]
        equal.append(float((both[0] == both[1]).double().mean()))
        labels.append(both[1].numpy())
        differences.append(float((expected.scores.cpu() - got.scores).abs().max()))
        spreads.append(float(expected.scores.std()))
    agreement = Agreement(size, float(np.mean(equal)), max(differences), float(np.mean(spreads)))
    return agreement, labels


def require(agreement: Agreement, precision: str) -> None:
    """Raise ValueError unless enough labels are equal."""
    if not agreement.equal_labels >= LEAST[precision]:
        height, width = agreement.size
        raise ValueError(
            f"the exported model labels {100 * agreement.equal_labels:.2f}% of the pixels as PyTorch does, at "
            f"{height}x{width} over {FRAMES} frames; expected {100 * LEAST[precision]:.1f}% or more"
        )


def write_frames(folder: Path, frames: Sequence[np.ndarray], labels: Sequence[np.ndarray]) -> None:
    """Write the frames and the labels that belong to them, so that every runtime can check itself."""
    import cv2

    (folder / FOLDER).mkdir(parents=True, exist_ok=True)
    for number, (frame, of_frame) in enumerate(zip(frames, labels, strict=True)):
        for name, image in (("frame", frame[..., ::-1]), ("labels", of_frame)):
            path = folder / FOLDER / f"{name}_{number:02d}.png"
            if not cv2.imwrite(str(path), image):
                raise OSError(f"{path}: cannot be written")
