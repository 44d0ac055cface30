"""Measure streams: latency of every frame, throughput, and memory over thousands of frames."""

from __future__ import annotations

import functools
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from accel.benchmark.resident import resident
from accel.inference.segmenter import Segmenter
from accel.models import VideoModel
from accel.models.prediction import of_first
from accel.output_folder import OutputFolder
from accel.playing.player import Player
from accel.playing.schedules import FixedInterval
from accel.progress import Bar
from accel.recording import Recording
from accel.tasks import build_task
from accel.video.opening import open_video
from accel.video.writer import VideoWriter

WARM_UP = 10  # frames


def frames_of(size: tuple[int, int], count: int, seed: int = 0) -> Iterator[np.ndarray]:
    """Yield `count` frames of `size`: soft colours that move by two pixels a frame."""
    coarse = np.random.default_rng(seed).integers(0, 256, (size[0] // 16 + 1, size[1] // 16 + 1, 3), np.uint8)
    picture = coarse.repeat(16, 0).repeat(16, 1)[: size[0], : size[1]]
    for number in range(count):
        yield np.roll(picture, 2 * number, axis=1)


def latencies(model: VideoModel, size: tuple[int, int], interval: int, flat: bool, frames: int) -> dict[str, float]:
    """Return the seconds from frame to labels over `frames` frames, without the first ten."""
    segmenter = Segmenter(model, FixedInterval(interval), flat_latency=flat)
    results = segmenter.stream(frames_of(size, frames + WARM_UP))
    seconds = [result.seconds for result in results][WARM_UP:]
    p50, p95, p99 = np.percentile(seconds, (50, 95, 99)).tolist()
    slowest = max(seconds)
    return {"p50": p50, "p95": p95, "p99": p99, "slowest": slowest, "slowest_by_p50": slowest / p50, "frames": frames}


def throughput(model: VideoModel, size: tuple[int, int], interval: int, frames: int, rounds: int) -> dict[str, float]:
    """Return the frames per second to labels, by the model alone on frames in memory, from a video file by a plain loop
    and by `Segmenter.stream`, and, for segmentation, as `accel label` does it, with pictures and a video written. They
    take turns; the results are medians."""
    ways = {"model_alone": _model_alone, "plain_loop": _plain_loop, "stream": _stream}
    if model.task == "segmentation":
        ways["labelled_video"] = _labelled_video
    taken: dict[str, list[float]] = {name: [] for name in ways}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "video.mp4"
        with VideoWriter(path, 25) as video:
            for frame in frames_of(size, frames):
                video.write(frame)
        for turn in range(rounds + 1):
            for name, way in ways.items():
                start = time.perf_counter()
                way(model, path, interval)
                if turn:
                    taken[name].append(frames / (time.perf_counter() - start))
    return {name: float(np.median(rates)) for name, rates in taken.items()}


@torch.inference_mode()
def _model_alone(model: VideoModel, path: Path, interval: int) -> None:
    player = Player(model, FixedInterval(interval))
    for image in _images(path):
        said = of_first(player.step(image.to(model.device)).prediction.at((image.shape[2], image.shape[3])))
        for tensor in said:
            tensor.cpu().numpy()


@functools.lru_cache(maxsize=1)  # decoded by the turn that warms up
def _images(path: Path) -> list[Tensor]:
    with open_video(path) as frames:
        return [torch.from_numpy(frame.copy()).permute(2, 0, 1)[None] for frame in frames]


@torch.inference_mode()
def _plain_loop(model: VideoModel, path: Path, interval: int) -> None:
    player = Player(model, FixedInterval(interval))
    with open_video(path) as frames:
        for frame in frames:
            image = torch.from_numpy(frame).to(model.device).permute(2, 0, 1)[None]
            said = of_first(player.step(image).prediction.at(frame.shape[:2]))
            for tensor in said:
                tensor.cpu().numpy()


def _stream(model: VideoModel, path: Path, interval: int) -> None:
    with open_video(path) as frames:
        for _ in Segmenter(model, FixedInterval(interval)).stream(frames):
            pass


def _labelled_video(model: VideoModel, path: Path, interval: int) -> None:
    task = build_task(
        model.task, [str(number) for number in range(256)], np.arange(768, dtype=np.uint8).reshape(256, 3)
    )
    folder = OutputFolder(path.parent / "labelled", ["video.mp4"], ["labels"])
    folder.clear()
    with open_video(path) as frames, VideoWriter(folder.file("video.mp4"), 25) as video:
        recording = Recording(folder, video, task, Bar("", None, None), "overlay")
        Segmenter(model, FixedInterval(interval)).run(frames, recording.write)
    folder.close()


def memory(model: VideoModel, size: tuple[int, int], interval: int, frames: int) -> dict[str, float]:
    """Return the resident megabytes after a tenth of a stream of `frames` frames and at its end."""
    first = 0.0
    for number, _ in enumerate(Segmenter(model, FixedInterval(interval)).stream(frames_of(size, frames))):
        if number == frames // 10:
            first = resident()
    last = resident()
    return {
        "frames": frames,
        "first_megabytes": first,
        "last_megabytes": last,
        "growth_percent": 100 * (last / first - 1),
    }
