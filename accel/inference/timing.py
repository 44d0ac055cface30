"""Run a model on the frames after a key frame and time each of them.

The time runs from the frame on the model's device to the prediction there.
"""

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
    """Yield (distance, tensors, seconds) for the key frame and for the frames at these distances from it.

    frames: the frames, (3, H, W) each. The first is the key frame. Frames that are not requested are skipped, and
        frames after the last requested one are not used.

    The tensors are those of `Prediction.at`, without the batch dimension.
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
    """Return the median seconds of a key frame and of the last current frame for each model.

    frames: the video, (T, 3, H, W), with T >= 2.

    The models take turns on each frame of the same video. If the machine is busy for a while, this affects all models
    alike.
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
    """Return the frames per second when every `interval`-th frame is a key frame.

    seconds_current: the time of a current frame. None if none was timed; the result is then the rate of key frames
        alone.
    """
    if seconds_current is None:
        return 1 / seconds_key
    return interval / (seconds_key + (interval - 1) * seconds_current)
