"""Score a video model on labelled frames, at an interval, and time it."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from accel.datasets.clips import Clip, ClipDataset
from accel.evaluation.metrics import ConfusionMatrix
from accel.inference.schedule import FixedInterval
from accel.models.video import VideoModel
from accel.progress import bar, console


@dataclass(frozen=True)
class EvaluationResult:
    """What evaluation found. IoU in 0..1 (None for classes that do not occur), medians of seconds a frame,
    `fps` at this interval, and how many labelled frames were scored and could not be read."""

    miou: float
    iou: dict[str, float | None]
    interval: int
    frames_scored: int
    frames_damaged: int
    seconds_key: float
    seconds_current: float | None
    fps: float

    def as_dict(self) -> dict:
        return asdict(self)


@torch.inference_mode()
def evaluate(
    model: VideoModel,
    dataset: ClipDataset,
    interval: int = 1,
    average: bool = False,
    workers: int = 1,
    quiet: bool = False,
) -> EvaluationResult:
    """mIoU over the labelled frames that have at least `interval - 1` frames before them.

    interval: the key frame lies interval-1 frames before the labelled one, the worst case of running at that
        interval; with `average`, each of 0..interval-1 frames before is tried, and all count alike.
    A clip that cannot be read is reported, counted and left out. The model runs on the device it is on.

    Raises ValueError for an interval under 1 or for which no labelled frame has enough frames before it, and
    where nothing could be read or nothing is labelled.
    """
    FixedInterval(interval)  # refuses what is none
    clips = LongEnoughClips(dataset, interval)
    model = model.eval()
    device = next(model.parameters()).device
    matrix = ConfusionMatrix(dataset.num_classes)
    seconds: dict[bool, list[float]] = {True: [], False: []}
    damaged, warm = 0, False
    loader = DataLoader(clips, batch_size=None, num_workers=workers, collate_fn=_as_is)
    with bar(f"interval {interval}", len(clips), quiet) as progress:
        for done, clip in enumerate(loader, 1):
            if isinstance(clip, str):
                console.print(f"left out: {clip}")
                damaged += 1
                continue
            frames = frames_to_tensor(clip.frames).to(device)  # (T, 3, H, W)
            truth = torch.from_numpy(clip.labels).to(device)
            if not warm:  # the first calls set up memory and kernels
                run_clip(model, frames)
                warm = True
            for start in range(interval if average else 1):
                predicted, taken = run_clip(model, frames[start:])
                matrix.update(predicted, truth)
                for is_key, elapsed in taken:
                    seconds[is_key].append(elapsed)
            progress.update(done, f"mIoU {100 * matrix.miou():.1f}%")
    if damaged == len(clips):
        raise ValueError("none of the labelled frames could be read")
    if not matrix.counts.any():
        raise ValueError("nothing to score: all pixels of these frames are labelled 255 (ignored)")
    return _result(matrix, dataset, interval, len(clips) - damaged, damaged, seconds)


def run_clip(model: VideoModel, frames: Tensor) -> tuple[Tensor, list[tuple[bool, float]]]:
    """Labels (H, W) of the last of some frames (T, 3, H, W), the first being the key frame; with the seconds that
    each frame whose labels were made took, and whether it was a key frame."""
    size = tuple(frames.shape[2:])
    first, *between = frames.unsqueeze(1)
    start = now(frames.device)
    scores, state = model.key_frame(first)
    predicted = scores.labels(size)
    taken = [(True, now(frames.device) - start)]
    for image in between[:-1]:
        state = model.advance(image, state)
    if between:
        start = now(frames.device)
        scores, state = model.next_frame(between[-1], state)
        predicted = scores.labels(size)
        taken.append((False, now(frames.device) - start))
    return predicted[0], taken


@torch.inference_mode()
def time_interleaved(models: dict[str, VideoModel], frames: Tensor, rounds: int) -> dict[str, tuple[float, float]]:
    """Median seconds of a key frame and of the last current frame of `frames` (T >= 2, 3, H, W), for each model.

    The models take turns, frame after frame of the same video, so that a machine that is busy now and then is so for
    all of them alike.
    """
    seconds = {name: ([], []) for name in models}
    for turn in range(rounds + 1):
        for name, model in models.items():
            _, taken = run_clip(model, frames.to(next(model.parameters()).device))
            if turn:  # the first calls set up memory and kernels
                for is_key, elapsed in taken:
                    seconds[name][not is_key].append(elapsed)
    return {name: (float(np.median(key)), float(np.median(current))) for name, (key, current) in seconds.items()}


def now(device: torch.device) -> float:
    """A clock reading after all work given to the device is done."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def frames_to_tensor(frames: np.ndarray) -> Tensor:
    """(T, H, W, 3) uint8 to (T, 3, H, W), channels-last in memory, without a copy."""
    return torch.from_numpy(frames).permute(0, 3, 1, 2)


def frames_per_second(seconds_key: float, seconds_current: float | None, interval: int) -> float:
    """Frames a second when every `interval`-th frame is a key frame."""
    return interval / (seconds_key + (interval - 1) * (seconds_current or 0.0))


class LongEnoughClips(Dataset):
    """The clips of `length` frames of a data set; a clip that cannot be read comes as the message why."""

    def __init__(self, dataset: ClipDataset, length: int):
        self.dataset, self.length = dataset, length
        self.indices = [i for i in range(len(dataset)) if dataset.history(i) >= length - 1]
        if not self.indices:
            longest = max((dataset.history(i) + 1 for i in range(len(dataset))), default=0)
            raise ValueError(
                f"interval {length} needs {length - 1} frames before a labelled one; "
                f"the longest clip in this data set has {longest}"
            )

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, item: int) -> Clip | str:
        try:
            return self.dataset.clip(self.indices[item], self.length)
        except (ValueError, FileNotFoundError) as error:
            return str(error)


def _as_is(clip: Clip | str) -> Clip | str:
    return clip


def _result(matrix, dataset, interval, scored, damaged, seconds) -> EvaluationResult:
    iou = [None if np.isnan(v) else v for v in matrix.iou().tolist()]
    key = float(np.median(seconds[True]))
    current = float(np.median(seconds[False])) if seconds[False] else None
    return EvaluationResult(
        miou=matrix.miou(),
        iou=dict(zip(dataset.class_names, iou, strict=True)),
        interval=interval,
        frames_scored=scored,
        frames_damaged=damaged,
        seconds_key=key,
        seconds_current=current,
        fps=frames_per_second(key, current, interval),
    )
