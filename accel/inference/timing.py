"""A model on the frames from a key frame on, and how long it takes for each: from the frame on the model's device to
what the model says of it there."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from accel.clock import now
from accel.models.prediction import of_first
from accel.models.video import VideoModel
from accel.playing.player import Player
from accel.playing.schedules import KeyFramesAt


def timed_predictions(
    model: VideoModel, frames: Sequence[Tensor], distances: Collection[int]
) -> Iterator[tuple[int, NamedTuple, float]]:
    """(distance, tensors, seconds) of the key frame, always, and of the frames at these distances from it.

    frames: (3, H, W) each, the first being the key frame. Frames that are not asked for are gone past, and those after
    the last one are left alone. The tensors are those of `Prediction.at`, without the dimension of the batch.
    """
    size, device = tuple(frames[0].shape[1:]), frames[0].device
    player = Player(model, KeyFramesAt())
    for distance in range(max(distances, default=0) + 1):
        image = frames[distance][None]
        if distance and distance not in distances:
            player.skip(image)
            continue
        start = now(device)
        said = of_first(player.step(image).prediction.at(size))
        yield distance, said, now(device) - start


@torch.inference_mode()
def time_interleaved(models: dict[str, VideoModel], frames: Tensor, rounds: int) -> dict[str, tuple[float, float]]:
    """Median seconds of a key frame and of the last current frame of `frames` (T >= 2, 3, H, W), for each model.

    The models take turns, frame after frame of the same video, so that a machine that is busy now and then is so for
    all of them alike.
    """
    seconds: dict[str, tuple[list[float], list[float]]] = {name: ([], []) for name in models}
    for turn in range(rounds + 1):
        for name, model in models.items():
            there = frames.to(model.device).unbind()
            for distance, _, elapsed in timed_predictions(model, there, {len(frames) - 1}):
                if turn:  # the first calls set up memory and kernels
                    seconds[name][distance > 0].append(elapsed)
    return {name: (float(np.median(key)), float(np.median(current))) for name, (key, current) in seconds.items()}


def frames_per_second(seconds_key: float, seconds_current: float | None, interval: int) -> float:
    """Frames a second when every `interval`-th frame is a key frame.

    seconds_current: None where no current frame was timed. Then the rate is that of key frames alone: what was seen.
    """
    if seconds_current is None:
        return 1 / seconds_key
    return interval / (seconds_key + (interval - 1) * seconds_current)
