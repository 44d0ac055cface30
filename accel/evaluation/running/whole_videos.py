"""Whole videos played once, as they would be labelled, with every frame scored: how ImageNet VID is evaluated.

`sweep` asks another question: how good a model is so many frames after a key frame, whichever frame that was.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from functools import reduce
from operator import add
from typing import NamedTuple

import torch
from torch import Tensor

from accel.datasets.clips import ClipDataset, frames_to_tensor
from accel.models.prediction import of_first
from accel.models.video import VideoModel
from accel.playing.centred import play_centred
from accel.playing.player import Player, Step
from accel.playing.schedules import FixedInterval
from accel.progress import bar
from accel.tasks import Score, Task, as_tensors, task_of


class _Truth(NamedTuple):
    truth: NamedTuple
    size: tuple[int, int]


@torch.inference_mode()
def score_whole_videos(
    model: VideoModel, dataset: ClipDataset, interval: int, centred: bool = False, quiet: bool = False
) -> dict[int, Score]:
    """What a model reaches on videos of which every frame is labelled, by distance from the key frame; `total` adds it
    up. Key frames are the first frame of each video and every `interval`-th after it, or with `centred` those in the
    middle of their segments (`accel.playing.centred`).

    Raises ValueError for a video with a frame that has no label, naming the place, and what the data set raises for a
    file that cannot be read: a video with a gap would be scored with other key frames.
    """
    videos: dict[str, list[tuple[int, int]]] = {}
    for index in range(len(dataset)):
        video, number = dataset.place(index)
        videos.setdefault(video, []).append((number, index))
    for video, frames in videos.items():
        frames.sort()
        numbers = [number for number, _ in frames]
        if numbers != list(range(numbers[0], numbers[0] + len(numbers))):
            raise ValueError(f"{video}: labelled frames {numbers[0]} to {numbers[-1]} have gaps; expected each of them")
    task = task_of(model, dataset)
    scores: dict[int, Score] = {}
    with bar("scoring", len(dataset), quiet) as progress:
        done = 0
        for frames in videos.values():
            truths: deque[_Truth] = deque()  # of the frames that were read ahead
            read = _read(dataset, [index for _, index in frames], task, truths, model.device)
            for step in _played(model, read, interval, centred):
                truth, size = truths.popleft()
                said = of_first(step.prediction.at(size))
                score = scores.setdefault(step.distance, task.score())
                score.update(said, as_tensors(truth, model.device))
                done += 1
                progress.update(done)
    return dict(sorted(scores.items()))


def total(scores: dict[int, Score]) -> Score:
    """All distances together."""
    return reduce(add, scores.values())


def _played(model: VideoModel, frames: Iterator[Tensor], interval: int, centred: bool) -> Iterator[Step]:
    if centred:
        yield from play_centred(model, frames, interval)
        return
    player = Player(model, FixedInterval(interval))
    for frame in frames:
        yield player.step(frame)


def _read(
    dataset: ClipDataset, indices: list[int], task: Task, truths: deque[_Truth], device: torch.device
) -> Iterator[Tensor]:
    """The frames (1, 3, H, W) of a video; what is true of each joins `truths`."""
    for index in indices:
        clip = dataset.clip(index, 1)
        truths.append(_Truth(task.truth(clip), clip.frames.shape[1:3]))
        yield frames_to_tensor(clip.frames).to(device)
