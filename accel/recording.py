"""The results of the demo for a labelled video: label images, a video to watch, and figures."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator

import numpy as np

from accel.inference.segmenter import SegmentedFrame
from accel.output_folder import OutputFolder
from accel.progress import Bar
from accel.tasks import Task
from accel.tasks.result_files import NameOf, numbered
from accel.tasks.task import View
from accel.video.writer import VideoWriter

REMEMBERED = 10_000  # frames whose times are kept: a camera may run for days


def picture_of(task: Task, segmented: SegmentedFrame, view: View) -> np.ndarray:
    """Draw a frame with the model's prediction: (H, W, 3) uint8 RGB."""
    kind = "key frame" if segmented.is_key else "current frame"
    return task.picture(segmented.frame, segmented.prediction, kind, view)


class Timer:
    """The seconds of key and current frames, and the latency of all."""

    def __init__(self) -> None:
        self._seconds: dict[bool, deque[float]] = {True: deque(maxlen=REMEMBERED), False: deque(maxlen=REMEMBERED)}
        self._latencies: deque[float] = deque(maxlen=REMEMBERED)
        self._sum, self._count, self._keys = 0.0, 0, 0

    def add(self, segmented: SegmentedFrame) -> None:
        self._seconds[segmented.is_key].append(segmented.seconds)
        self._latencies.append(segmented.latency)
        self._sum += segmented.seconds
        self._count += 1
        self._keys += segmented.is_key

    def watch(self, frames: Iterator[SegmentedFrame]) -> Iterator[SegmentedFrame]:
        for frame in frames:
            self.add(frame)
            yield frame

    def mean(self) -> float:
        """Return the mean seconds of a frame, over all frames."""
        return self._sum / self._count if self._count else float("nan")

    def key_share(self) -> float:
        """Return the share of key frames, 0..1, as they occurred: the interval may have asked for another share."""
        return self._keys / self._count if self._count else float("nan")

    def latency(self) -> float:
        """Return the median latency."""
        return float(np.median(self._latencies))

    def figures(self) -> dict:
        """Return the medians of key and current frames, the share of key frames, and the mean time of all frames.

        A figure is None if there was no such frame.
        """
        key, current = (
            float(np.median(seconds)) if seconds else None for seconds in map(self._seconds.get, (True, False))
        )
        return {
            "seconds_key": key,
            "seconds_current": current,
            "key_share": self.key_share() if self._count else None,
            "seconds_frame": self.mean() if self._count else None,
            "fps": 1 / self.mean() if self._sum else None,
        }


def close_video(video: VideoWriter, error: BaseException | None) -> None:
    """Finish a video, also after an `error`. The error is raised if there is no frame to keep, or frames cannot be
    kept."""
    if error is None:
        video.close()
        return
    if not video.frames:
        video.abort()
        raise error
    try:
        video.close()
    except (ValueError, OSError):  # the disk is full, say, which is what the error is about
        raise error from None


class Recording:
    """Writes results as they come: to files in `folder`, and a picture to `video`.

    kind: which files, see `Task.result_files`. By default there is a file `labels/NAME` for each frame.
    name_of: the name of a frame, given its number in the source.

    `files`, `frames`, `dropped` and `timer` tell what was written.
    """

    def __init__(
        self,
        folder: OutputFolder,
        video: VideoWriter,
        task: Task,
        progress: Bar,
        view: View = "panels",
        kind: str = "jsonl",
        name_of: NameOf = numbered,
    ):
        self.files = task.result_files(kind, folder.file, name_of)
        self.video, self.task, self.progress, self.view = video, task, progress, view
        self.timer = Timer()
        self.frames = self.dropped = 0

    def write(self, segmented: SegmentedFrame) -> None:
        self.timer.add(segmented)
        self.video.write(picture_of(self.task, segmented, self.view), segmented.time)
        self.files.add(segmented.index, segmented.prediction)
        self.frames += 1
        self.dropped = segmented.dropped
        note = f", {self.dropped} dropped" if self.dropped else ""
        self.progress.update(segmented.index + 1, f"{self.timer.mean():.4f} s a frame{note}")
