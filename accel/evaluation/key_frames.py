"""Ways to choose key frames, compared at an equal number of them: fixed, adaptive, random, and an oracle."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from accel.datasets.clips import frames_to_tensor
from accel.measures.confusion import ConfusionMatrix
from accel.models.video import VideoModel
from accel.playing.adaptive import Adaptive
from accel.playing.player import Player
from accel.playing.schedules import Clue, Decider, Decision, FixedInterval, Schedule

WORST = 0.1  # the share of the frames that counts as the worst ones


@dataclass(frozen=True)
class RandomKeyFrames(Schedule):
    """A key frame in `every` frames on average, drawn for each frame anew."""

    every: float
    seed: int

    def start(self, first: Tensor) -> Decider:
        return _Drawing(self)


class _Drawing(Decider):
    def __init__(self, schedule: RandomKeyFrames):
        self.random, self.every = np.random.default_rng(schedule.seed), schedule.every

    def decide(self, clue: Clue) -> Decision:
        return Decision.KEY if self.random.random() < 1 / self.every else Decision.CURRENT


@torch.inference_mode()
def compare_key_frames(
    model: VideoModel, videos: Sequence[Sequence[np.ndarray]], every: float, seeds: int = 3
) -> dict[str, dict[str, float]]:
    """Return for each way: `agreement`, the mIoU of the labels against the reference branch's own; `worst`, the mean
    share of pixels that agree in the worst tenth of the frames; and `key_share`.

    videos: for each its frames (H, W, 3), uint8 RGB.
    every: frames from key frame to key frame, on average.

    The oracle takes a key frame where fewer of the carried labels agree than a threshold, which is chosen so that there
    are as many key frames as with the fixed interval.
    """
    schedules: dict[str, Schedule] = {"fixed": FixedInterval(round(every)), "adaptive": Adaptive(every)}
    schedules |= {f"random, seed {seed}": RandomKeyFrames(every, seed) for seed in range(seeds)}
    images = [[frames_to_tensor(frame[None]).to(model.device) for frame in video] for video in videos]
    truths = [[_labels(model.key_frame(image)[0], image) for image in video] for video in images]
    found: dict[str, dict[str, float]] = {}
    for name, schedule in schedules.items():
        player, tally = Player(model, schedule), _Tally(_classes(model, images[0][0]))
        for video, truth in zip(images, truths, strict=True):
            player.start()
            for image, expected in zip(video, truth, strict=True):
                step = player.step(image)
                tally.add(_labels(step.prediction, image), expected, step.is_key)
        found[name] = tally.figures()
    found["oracle"] = _oracle(model, images, truths, found["fixed"]["key_share"])
    return found


def comparison_table(results: Mapping[str, Mapping[str, float]]) -> str:
    """Return the results as a table in Markdown, random ones as their mean."""
    drawn = [figures for name, figures in results.items() if name.startswith("random")]
    rows = {name: figures for name, figures in results.items() if not name.startswith("random")}
    if drawn:
        rows["random (mean)"] = {key: float(np.mean([each[key] for each in drawn])) for key in drawn[0]}
    lines = ["| key frames | share % | agreement % | worst tenth % |", "|---|---|---|---|"]
    lines += [
        f"| {name} | {100 * f['key_share']:.1f} | {100 * f['agreement']:.1f} | {100 * f['worst']:.1f} |"
        for name, f in rows.items()
    ]
    return "\n".join(lines)


class _Tally:
    """What one way has said so far."""

    def __init__(self, classes: int):
        self.matrix = ConfusionMatrix(classes)
        self.shares: list[float] = []
        self.keys = 0

    def add(self, labels: Tensor, expected: Tensor, is_key: bool) -> None:
        self.matrix.update(labels, expected)
        self.shares.append(float((labels == expected).float().mean()))
        self.keys += is_key

    def figures(self) -> dict[str, float]:
        worst = sorted(self.shares)[: max(1, round(WORST * len(self.shares)))]
        return {
            "agreement": self.matrix.miou(),
            "worst": float(np.mean(worst)),
            "key_share": self.keys / len(self.shares),
        }


def _oracle(
    model: VideoModel, images: list[list[Tensor]], truths: list[list[Tensor]], key_share: float
) -> dict[str, float]:
    """Return the figures of the oracle, with a threshold that gives at most that share of key frames."""
    low, high, best = 0.0, 1.0, None
    for _ in range(8):  # halves the span of the threshold each time
        threshold = (low + high) / 2
        figures = _with_threshold(model, images, truths, threshold)
        if figures["key_share"] > key_share:
            high = threshold
        else:
            low, best = threshold, figures
    return best or _with_threshold(model, images, truths, 0.0)


def _with_threshold(
    model: VideoModel, images: list[list[Tensor]], truths: list[list[Tensor]], threshold: float
) -> dict[str, float]:
    tally = _Tally(_classes(model, images[0][0]))
    for video, truth in zip(images, truths, strict=True):
        state: Any = None
        for image, expected in zip(video, truth, strict=True):
            if state is not None:
                prediction, after = model.next_frame(image, state)
                labels = _labels(prediction, image)
                if float((labels == expected).float().mean()) >= threshold:
                    tally.add(labels, expected, False)
                    state = after
                    continue
            prediction, state = model.key_frame(image)
            tally.add(_labels(prediction, image), expected, True)
    return tally.figures()


def _labels(prediction: Any, image: Tensor) -> Tensor:
    return prediction.at((image.shape[2], image.shape[3])).labels[0]


def _classes(model: VideoModel, image: Tensor) -> int:
    return model.key_frame(image)[0].scores.shape[1]  # type: ignore[attr-defined] # of segmentation
