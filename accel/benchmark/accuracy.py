"""Measure what optimisation costs in accuracy, on a trained model and labelled video."""

from __future__ import annotations

import torch

from accel.datasets.clips import ClipDataset, frames_to_tensor, long_enough
from accel.models import VideoModel
from accel.models.prediction import of_first
from accel.playing.player import Player
from accel.playing.schedules import FixedInterval
from accel.tasks import as_tensors, task_of


@torch.inference_mode()
def optimisation_accuracy(model: VideoModel, dataset: ClipDataset, interval: int, clips: int) -> dict[str, float | str]:
    """Return the mIoU of a model without optimisation (float32) and with it, and the share of pixels with the same
    label.

    They are measured over `clips` labelled frames, evenly spread over those with enough frames before them, and the
    frames in between. Each clip is a key frame and the `interval - 1` current frames after it; the last one is scored.
    Models that remember key frames get one more interval before that, so that the second key frame builds on the first.
    `caveats` are the notes on the mIoU. They are empty if there are none.

    Raises ValueError if no clip is long enough.
    """
    length = 2 * interval if model.remembers else interval
    there = long_enough(dataset, length)
    chosen = [there[i * len(there) // clips] for i in range(min(clips, len(there)))]
    task = task_of(model, dataset)
    plain, fast = task.score(), task.score()
    optimised: dict[tuple[int, int], VideoModel] = {}
    equal = pixels = 0
    for index in chosen:
        clip = dataset.clip(index, length)
        frames = frames_to_tensor(clip.frames).to(model.device)
        size = frames.shape[2], frames.shape[3]
        if size not in optimised:
            optimised[size] = model.optimized(size)
        players = [Player(network, FixedInterval(interval)) for network in (model, optimised[size])]
        for frame in frames.split(1):
            said = [of_first(player.step(frame).prediction.at(size)) for player in players]
            labels = [task.labels(each) for each in said]
            equal += int((labels[0] == labels[1]).sum())
            pixels += labels[0].numel()
        truth = as_tensors(task.truth(clip), model.device)
        plain.update(said[0], truth)
        fast.update(said[1], truth)
    return {
        "miou_float32": plain.value(),
        "miou_optimised": fast.value(),
        "caveats": fast.caveats(dataset.class_names),
        "equal_labels": equal / pixels,
        "frames_scored": len(chosen),
        "frames_compared": len(chosen) * length,
    }
