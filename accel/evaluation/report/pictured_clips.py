"""Clips of a report: the models' predictions for the frames of a video, as small pictures to step through."""

from __future__ import annotations

import base64
import io
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from accel import visualize
from accel.datasets.clips import ClipDataset
from accel.evaluation.running.processes import Processes
from accel.evaluation.running.videos import RunFrame
from accel.labels import IGNORED

MODELS = 4  # shown side by side, at most: more are too small to compare
FRAMES = 40  # of a clip, at most
WIDTH = 480  # pixels of a picture, at most
BYTES = 10_000_000  # of all pictures of a page, before they become text, which takes a third more
QUALITY = 75  # of the JPEGs of the input
RIGHT, WRONG = (225, 225, 225), (214, 30, 40)  # colours of pixels


@dataclass(frozen=True)
class Pictured:
    """The prediction of one model for one frame, as data URIs.

    errors: a picture of the wrong pixels. None for a frame without ground truth.
    wrong: the share of wrong pixels. None for a frame without ground truth.
    distance: the distance from its key frame. 0 is a key frame.
    """

    labels: str
    errors: str | None
    wrong: float | None
    distance: int


@dataclass(frozen=True)
class PlayerFrame:
    """A frame, its number in the clip's video counted from 1, and each model's prediction, in the order of
    `PlayerClip.shown`."""

    number: int
    image: str
    truth: str | None
    models: tuple[Pictured, ...]


@dataclass(frozen=True)
class PlayerClip:
    """A clip of a report.

    name: the name of its last frame.
    shown: the models, (model, interval) each.
    size: width and height of the pictures in pixels.
    """

    name: str
    shown: tuple[tuple[str, int], ...]
    size: tuple[int, int]
    frames: tuple[PlayerFrame, ...]

    @property
    def start(self) -> int:
        """The frame to show first: the last labelled frame that is not a key frame, if there is one."""
        places = range(len(self.frames))
        labelled = [i for i in places if self.frames[i].truth is not None]
        current = [i for i in labelled if any(model.distance for model in self.frames[i].models)]
        return (current or labelled or places)[-1]


def choose_clips(dataset: ClipDataset, names: Sequence[str] | None = None) -> list[int]:
    """Return the labelled frames in which the clips end.

    names: the names of those frames. None means the first two videos; each clip then has the first `FRAMES` frames of
        its video.

    Raises ValueError for a name that no labelled frame has.
    """
    if names:
        known = {dataset.name(i): i for i in range(len(dataset))}
        for name in names:
            if name not in known:
                some = ", ".join(list(known)[:3])
                raise ValueError(
                    f"--clip {name}: no labelled frame of that name; there are {len(known)}, such as {some}"
                )
        return [known[name] for name in dict.fromkeys(names)]
    ends: dict[str, int] = {}  # by video
    starts: dict[str, int] = {}
    for index in sorted(range(len(dataset)), key=lambda i: dataset.place(i)[1]):
        video, number = dataset.place(index)
        start = starts.setdefault(video, number - dataset.history(index))
        if video not in ends or (number < start + FRAMES and number - dataset.history(index) <= start):
            ends[video] = index
    return sorted(ends.values())[:2]


class ClipRecorder:
    """Watches `run_videos` and keeps the frames of the clips that end in these labelled frames.

    shown: the runs (model, interval) to keep. Only the first `MODELS` are kept.

    indices: the labelled frames to run if nothing else needs more.
    """

    def __init__(self, dataset: ClipDataset, ends: Sequence[int], shown: Sequence[tuple[str, int]]):
        self.dataset = dataset
        self.shown = tuple(shown[:MODELS])
        self._kept: dict[int, deque[_Kept]] = {end: deque(maxlen=FRAMES) for end in ends}
        self._members = {end: _members(dataset, end) for end in ends}

    @property
    def indices(self) -> list[int]:
        return sorted(set().union(*self._members.values()))

    def __call__(self, frame: RunFrame) -> None:
        wanted = [end for end, members in self._members.items() if frame.index in members]
        if not wanted:
            return
        kept = self._keep(frame)
        for end in wanted:
            if frame.first:
                self._kept[end].clear()
            self._kept[end].append(kept)

    def gather(self, processes: Processes) -> None:
        """In the first of several processes, collect what the others have kept. The last part of a video is shown."""
        parts = processes.collect(self._kept)
        if len(parts) > 1:
            for end in self._kept:
                self._kept[end] = max((p[end] for p in parts), key=lambda kept: kept[-1].place if kept else -1)

    def clips(self) -> list[PlayerClip]:
        """Return the recorded clips as pictures that together fit a page. Clips of which nothing could be read are left
        out."""
        found = {end: list(kept) for end, kept in self._kept.items() if kept}
        return [self._clip(end, kept, BYTES // len(found)) for end, kept in found.items()]

    def _keep(self, frame: RunFrame) -> _Kept:
        labels = [frame.labels[run].cpu().numpy() for run in self.shown]
        return _Kept(
            place=self.dataset.place(frame.index)[1] - frame.before,
            number=self.dataset.history(frame.index) + 1 - frame.before,
            image=visualize.shrink(frame.image, WIDTH),
            truth=None if frame.truth is None else visualize.shrink(frame.truth, WIDTH),
            labels=[visualize.shrink(each, WIDTH) for each in labels],
            wrong=[frame.share_wrong(each) for each in labels],
            distances=[frame.distance[run] for run in self.shown],
        )

    def _clip(self, end: int, kept: list[_Kept], most: int) -> PlayerClip:
        frames: list[PlayerFrame] = []
        for each in reversed(kept):
            frame = _pictures(each, self.dataset.palette)
            most -= _length(frame)
            if frames and most < 0:
                break
            frames.insert(0, frame)
        height, width = kept[-1].image.shape[:2]
        return PlayerClip(self.dataset.name(end), self.shown, (width, height), tuple(frames))


@dataclass(frozen=True)
class _Kept:
    """A frame at the size of its pictures, with values for each model in the order of `shown`. `place` is its number in
    the data set."""

    place: int
    number: int
    image: np.ndarray
    truth: np.ndarray | None
    labels: list[np.ndarray]
    wrong: list[float | None]
    distances: list[int]


def _members(dataset: ClipDataset, end: int) -> set[int]:
    """Return the labelled frames of the clip that ends in one of them."""
    video, last = dataset.place(end)
    first = last - min(dataset.history(end), FRAMES - 1)
    places = ((i, *dataset.place(i)) for i in range(len(dataset)))
    return {i for i, where, number in places if where == video and first <= number <= last}


def _pictures(kept: _Kept, palette: np.ndarray) -> PlayerFrame:
    def of_model(labels: np.ndarray, wrong: float | None, distance: int) -> Pictured:
        errors = None if kept.truth is None else _indexed(*_error_classes(labels, kept.truth))
        return Pictured(_indexed(labels, palette), errors, wrong, distance)

    models = map(of_model, kept.labels, kept.wrong, kept.distances)
    truth = None if kept.truth is None else _indexed(kept.truth, palette)
    return PlayerFrame(kept.number, _jpeg(kept.image), truth, tuple(models))


def _error_classes(labels: np.ndarray, truth: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return where labels are right (1), wrong (0) or not judged (`IGNORED`), and the colours of wrong and right."""
    classes = (labels == truth).astype(np.uint8)
    classes[truth == IGNORED] = IGNORED
    return classes, np.array([WRONG, RIGHT], np.uint8)


def _indexed(labels: np.ndarray, palette: np.ndarray) -> str:
    """Return the labels as a data URI of a PNG in indexed colour. Ignored pixels are black."""
    values = np.unique(labels)  # as few colours as there are take fewer bits a pixel
    colours = visualize.colourise(values[None], palette)[0]
    picture = Image.fromarray(np.searchsorted(values, labels).astype(np.uint8))
    picture.putpalette(colours.tobytes())
    return _data_uri(picture, "png", optimize=True)


def _jpeg(image: np.ndarray) -> str:
    return _data_uri(Image.fromarray(image), "jpeg", quality=QUALITY)


def _data_uri(picture: Image.Image, kind: str, **options) -> str:
    file = io.BytesIO()
    picture.save(file, format=kind, **options)
    return f"data:image/{kind};base64,{base64.b64encode(file.getvalue()).decode()}"


def _length(frame: PlayerFrame) -> int:
    """Return the bytes of the pictures, before base64."""
    pictures = [frame.image, frame.truth, *(p for m in frame.models for p in (m.labels, m.errors))]
    return sum(len(p) for p in pictures if p is not None) * 3 // 4
