"""A comparison video: the input, the ground truth and several models' predictions for every frame."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from accel import visualize
from accel.datasets.clips import ClipDataset
from accel.evaluation.running.sweep import common_task
from accel.evaluation.running.videos import Run, RunFrame, run_videos
from accel.models.video import VideoModel
from accel.video.writer import VideoWriter

WIDTH = 480  # pixels of a picture, at most: three of them fit a screen and any decoder


def write_side_by_side(
    path: str | Path,
    models: dict[str, VideoModel],
    dataset: ClipDataset,
    interval: int,
    fps: float = 15,
    videos: Sequence[str] | None = None,
    workers: int = 1,
) -> int:
    """Run the models over videos and write an MP4 with all pictures side by side. Return its number of frames.

    models: the models by title, all on one device.
    interval: the number of frames from key frame to key frame. A model without state labels every frame by itself.
    videos: names of videos, as in `dataset.place`. None means the first one.

    Raises ValueError for a video that the data set does not have, and for a task without labels. A damaged frame is
    reported and left out.
    """
    known: dict[str, list[int]] = {}
    for index in range(len(dataset)):
        known.setdefault(dataset.place(index)[0], []).append(index)
    videos = list(known)[:1] if videos is None else list(dict.fromkeys(videos))
    for video in videos:
        if video not in known:
            some = ", ".join(list(known)[:3])
            raise ValueError(f"no video {video} in this data set; it has {len(known)}, such as {some}")
    runs = {name: Run(model, interval if model.carries_state else 1) for name, model in models.items()}
    common_task(models, dataset).check_labels()
    with VideoWriter(path, fps) as writer:
        sheets = _Sheets(dataset, runs)
        indices = [index for video in videos for index in known[video]]
        run_videos(runs, dataset, None, indices, lambda frame: writer.write(sheets.draw(frame)), workers)
        return writer.frames


class _Sheets:
    """Draws all frames in the same layout, with or without ground truth."""

    def __init__(self, dataset: ClipDataset, runs: dict[str, Run]):
        self.dataset, self.runs = dataset, runs

    def draw(self, frame: RunFrame) -> np.ndarray:
        """Return (H, W, 3), uint8 RGB: input and ground truth, then the models, then the legend."""
        image = visualize.shrink(frame.image, WIDTH)
        pictures, titles = [image], ["input"]
        if frame.truth is None:
            pictures.append(np.zeros_like(image))
            titles.append("ground truth: none for this frame")
        else:
            pictures.append(visualize.colourise(visualize.shrink(frame.truth, WIDTH), self.dataset.palette))
            titles.append("ground truth")
        for name, run in self.runs.items():
            labels = frame.labels[name].cpu().numpy()
            shown = visualize.shrink(labels, WIDTH)
            pictures.append(visualize.overlay(image, shown, self.dataset.palette, opacity=0.7))
            titles.append(f"{name}: {self._said(name, run, frame, labels)}")
        sheet = visualize.panels(pictures, titles, columns=2 if len(pictures) <= 4 else 3)
        legend = visualize.legend(self.dataset.class_names, self.dataset.palette, sheet.shape[1])
        return np.concatenate([sheet, legend])

    def _said(self, name: str, run: Run, frame: RunFrame, labels: np.ndarray) -> str:
        distance = frame.distance[name]
        where = "every frame" if run.interval == 1 else f"key frame + {distance}" if distance else "key frame"
        wrong = frame.share_wrong(labels)
        return where if wrong is None else f"{where}, {100 * (1 - wrong):.0f}% of pixels right"
