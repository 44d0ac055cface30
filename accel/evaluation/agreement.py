"""What a video model gains on videos without labels: how far it agrees with its reference branch on every frame, how
steady it is, and how long it takes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from accel.clock import now
from accel.datasets.clips import frames_to_tensor
from accel.evaluation.tables import write_json
from accel.measures.confusion import ConfusionMatrix
from accel.measures.temporal import TemporalTally, dis_matches
from accel.models.video import FrameByFrame, VideoModel
from accel.playing.player import Player
from accel.playing.schedules import FixedInterval, Schedule
from accel.tasks.accuracy import share

REFERENCE = "reference on every frame"


@dataclass(frozen=True)
class Agreement:
    """How a model did with one schedule of key frames.

    agreement: mIoU of its labels against those of its reference branch on the same frame.
    key_share: the share of key frames.
    consistency, flicker: as in `accel.measures.temporal`.
    milliseconds: the mean time of a frame, from pixels on the device to labels.

    Shares are 0..1, or None if there was nothing to measure.
    """

    agreement: float | None
    key_share: float
    consistency: float | None
    flicker: float | None
    milliseconds: float


class _Played:
    """One model with one schedule, and what it has said so far."""

    def __init__(self, model: VideoModel, schedule: Schedule, num_classes: int):
        self.player = Player(model, schedule)
        self.matrix, self.temporal = ConfusionMatrix(num_classes), TemporalTally(num_classes)
        self.frames = self.keys = 0
        self.seconds, self.last = 0.0, 0.0

    def start(self) -> None:
        self.player.start()
        self.temporal.start()

    def labels(self, image: Tensor, device: torch.device) -> Tensor:
        began = now(device)
        step = self.player.step(image, seconds=self.last)
        labels = step.prediction.at((image.shape[2], image.shape[3])).labels[0]
        self.last = now(device) - began
        self.seconds += self.last
        self.frames += 1
        self.keys += step.is_key
        return labels

    def result(self) -> Agreement:
        return Agreement(
            agreement=share(self.matrix.miou()),
            key_share=self.keys / self.frames,
            consistency=share(self.temporal.consistency),
            flicker=share(self.temporal.flicker),
            milliseconds=1000 * self.seconds / self.frames,
        )


@torch.inference_mode()
def measure_agreement(
    model: VideoModel,
    videos: Iterable[Iterable[np.ndarray]],
    schedules: Mapping[str, Schedule],
    num_classes: int,
    most: int = 200,
) -> dict[str, Agreement]:
    """Play a model with several schedules over videos, and compare it with its reference branch on every frame.

    videos: for each video its frames (H, W, 3), uint8 RGB.
    schedules: schedules by name.
    most: the number of frames of each video that are played at most.

    The result has an entry for each schedule, and first one for the reference branch alone (`REFERENCE`). All are
    played frame by frame in turns, so that whatever slows the machine slows all of them alike.

    Raises ValueError if there are no frames.
    """
    reference = _Played(FrameByFrame(model.reference).eval(), FixedInterval(1), num_classes)  # type: ignore[arg-type]
    played = {REFERENCE: reference} | {
        name: _Played(model, schedule, num_classes) for name, schedule in schedules.items()
    }
    for frames in videos:
        for each in played.values():
            each.start()
        before: np.ndarray | None = None
        for frame in islice(frames, most):
            matches: Tensor | None = None
            if before is not None:
                matches = torch.from_numpy(dis_matches(np.stack([before, frame]))[0])
            image = frames_to_tensor(frame[None]).to(model.device)
            target: Tensor | None = None
            for each in played.values():
                labels = each.labels(image, model.device).cpu()
                target = labels if target is None else target  # the reference branch comes first
                each.matrix.update(labels, target)
                each.temporal.update(labels, matches)
            before = frame
    if not reference.frames:
        raise ValueError("these videos have no frames to compare on")
    return {name: each.result() for name, each in played.items()}


def agreement_table(results: Mapping[str, Agreement]) -> str:
    """Return the results as a table in Markdown."""
    lines = [
        "| key frames | agreement % | temporal consistency % | flicker % | ms a frame | times as fast |",
        "|---|---|---|---|---|---|",
    ]
    slowest = results[REFERENCE].milliseconds
    for name, result in results.items():
        kind = name if result.key_share == 1 else f"{name} ({100 * result.key_share:.0f}% of frames)"
        figures = [_percent(f) for f in (result.agreement, result.consistency)] + [_percent(result.flicker, 2)]
        lines.append(
            f"| {kind} | {' | '.join(figures)} | {result.milliseconds:.1f} | {slowest / result.milliseconds:.1f} |"
        )
    return "\n".join(lines)


def write_agreement(folder: Path, results: Mapping[str, Agreement], about: Sequence[str], origin: dict) -> None:
    """Write the results to report.md and report.json in a folder. about: lines that say what was measured."""
    write_json(folder / "report.json", {"results": {n: asdict(r) for n, r in results.items()}, "origin": origin})
    text = "\n\n".join(["# What was gained", agreement_table(results), *about]) + "\n"
    (folder / "report.md").write_text(text, encoding="utf-8")


def _percent(value: float | None, digits: int = 1) -> str:
    return "-" if value is None else f"{100 * value:.{digits}f}"
