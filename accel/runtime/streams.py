"""Label the frames of a video, one after another."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from accel.runtime.model import Model, State


@dataclass(frozen=True)
class Labelled:
    """A frame with its labels.

    frame: (H, W, 3) uint8 RGB.
    labels: (H, W) uint8 class indices.
    scores: (K, h, w) float32, class logits of coarse cells.
    is_key: whether it was a key frame.
    seconds: how long the model took.
    """

    frame: np.ndarray
    labels: np.ndarray
    scores: np.ndarray
    is_key: bool
    seconds: float


def label(model: Model, frames: Iterable[np.ndarray], interval: int | None = None) -> Iterator[Labelled]:
    """Label frames (H, W, 3), uint8 RGB, oldest first.

    interval: the number of frames from key frame to key frame. The default is the model's own. A frame of another size
        than the one before is always a key frame.

    Raises ValueError for an interval of less than 1, and for frames that the model does not take.
    """
    interval = model.interval if interval is None else interval
    if interval < 1:
        raise ValueError(f"interval {interval}: expected 1 (every frame is a key frame) or more")
    state: State | None = None
    distance = 0
    for frame in frames:
        start = time.perf_counter()
        if state is not None and state.size != frame.shape[:2]:
            state = None
        is_key = state is None or distance + 1 >= interval
        if state is None or is_key:
            prediction, state = model.key_frame(frame, state)
            distance = 0
        else:
            prediction, state = model.next_frame(frame, state)
            distance += 1
        yield Labelled(frame, prediction.labels, prediction.scores, is_key, time.perf_counter() - start)


def read_video(path: str | Path) -> Iterator[np.ndarray]:
    """Yield the frames of a video file, (H, W, 3) uint8 RGB.

    Raises FileNotFoundError if there is no such file, and ValueError if it is no video or PyAV is not installed.
    """
    try:
        import av
    except ImportError:
        raise ValueError("to read video files, install PyAV: pip install av") from None
    if not Path(path).is_file():
        raise FileNotFoundError(f"no video at {path}")
    try:
        with av.open(str(path)) as container:
            if not container.streams.video:
                raise ValueError(f"{path}: there is no video in it")
            for frame in container.decode(video=0):
                yield frame.to_ndarray(format="rgb24")
    except av.FFmpegError as error:
        raise ValueError(f"{path}: not a video that PyAV reads ({error.strerror})") from None
