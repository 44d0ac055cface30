"""What the demo leaves of a labelled video: label images, a video to look at, and figures."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from accel import visualize
from accel.inference.segmenter import SegmentedFrame
from accel.inference.timing import frames_per_second
from accel.output_folder import OutputFolder
from accel.progress import Bar
from accel.video.writer import VideoWriter

PANEL_WIDTH = 640  # pixels of a picture in the video, at most: three of them fit a screen and any decoder
REMEMBERED = 10_000  # frames whose times are kept: a camera may run for days


@dataclass(frozen=True)
class Legend:
    """What labels mean: the classes' names, and their colours (K, 3) uint8 RGB."""

    class_names: tuple[str, ...]
    palette: np.ndarray

    def panel(self, segmented: SegmentedFrame) -> np.ndarray:
        """Input, labels and overlay side by side, (H, W, 3) uint8 RGB."""
        kind = "key frame" if segmented.is_key else "current frame"
        frame, labels = (visualize.shrink(each, PANEL_WIDTH) for each in (segmented.frame, segmented.labels))
        images = [
            frame,
            visualize.colourise(labels, self.palette),
            visualize.overlay(frame, labels, self.palette),
        ]
        sheet = visualize.panels(images, [f"input, {kind}", "labels", "overlay"], columns=3)
        return np.concatenate([sheet, visualize.legend(self.class_names, self.palette, sheet.shape[1])])


class Timer:
    """Seconds that key and current frames took, and the latency of all."""

    def __init__(self) -> None:
        self._seconds = {True: deque(maxlen=REMEMBERED), False: deque(maxlen=REMEMBERED)}
        self._latencies: deque[float] = deque(maxlen=REMEMBERED)
        self._sum, self._count = 0.0, 0

    def add(self, segmented: SegmentedFrame) -> None:
        self._seconds[segmented.is_key].append(segmented.seconds)
        self._latencies.append(segmented.latency)
        self._sum += segmented.seconds
        self._count += 1

    def watch(self, frames: Iterator[SegmentedFrame]) -> Iterator[SegmentedFrame]:
        for frame in frames:
            self.add(frame)
            yield frame

    def mean(self) -> float:
        return self._sum / self._count if self._count else float("nan")

    def latency(self) -> float:
        """The median."""
        return float(np.median(self._latencies))

    def figures(self, interval: int) -> dict:
        """Medians, and frames a second at this interval."""
        key = float(np.median(self._seconds[True]))
        current = float(np.median(self._seconds[False])) if self._seconds[False] else None
        return {
            "seconds_key": key,
            "seconds_current": current,
            "fps": frames_per_second(key, current, interval),
        }


def close_video(video: VideoWriter, error: BaseException | None) -> None:
    """Finish a video, also after an `error`: that is raised if there is no frame to keep, or they cannot be kept."""
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
    """Writes results as they come: `labels/NUMBER.png` in `folder`, and a panel to `video`.

    The number is that of the frame in its source. What was written is in `frames`, `dropped` and `timer`.
    """

    def __init__(self, folder: OutputFolder, video: VideoWriter, legend: Legend, progress: Bar):
        self.folder, self.video, self.legend, self.progress = folder, video, legend, progress
        self.timer = Timer()
        self.frames = self.dropped = 0

    def write(self, segmented: SegmentedFrame) -> None:
        self.timer.add(segmented)
        # A video without a frame rate is one whose frames are shown when they were seen.
        self.video.write(self.legend.panel(segmented), segmented.time if self.video.fps is None else None)
        picture = self.folder.file(f"labels/{segmented.index:06d}.png")
        visualize.save_palette_png(picture, segmented.labels, self.legend.palette)
        self.frames += 1
        self.dropped = segmented.dropped
        note = f", {self.dropped} dropped" if self.dropped else ""
        self.progress.update(self.frames, f"{self.timer.mean():.4f} s a frame{note}")
