"""Clips of a report: the models' predictions for the frames of a video, as small pictures to step through."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from accel import visualize
from accel.datasets.clips import ClipDataset
from accel.evaluation.running.processes import Processes
from accel.evaluation.running.videos import RunFrame
from accel.tasks import Task
from accel.tasks.pictures import Shown, jpeg

MODELS = 4  # shown side by side, at most: more are too small to compare
FRAMES = 40  # of a clip, at most
WIDTH = 480  # pixels of a picture, at most
BYTES = 10_000_000  # of all pictures of a page, before they become text, which takes a third more


@dataclass(frozen=True)
class Pictured(Shown):
    """The prediction of one model for one frame, as data URIs.

    distance: the distance from its key frame. 0 is a key frame.
    """

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
    over: whether all pictures but the input are transparent, and belong over the input.
    """

    name: str
    shown: tuple[tuple[str, int], ...]
    size: tuple[int, int]
    over: bool
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
    task: the task of these models. It draws the pictures.

    indices: the labelled frames to run if nothing else needs more.
    """

    def __init__(self, dataset: ClipDataset, ends: Sequence[int], shown: Sequence[tuple[str, int]], task: Task):
        self.dataset, self.task = dataset, task
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
        size = frame.image.shape[0], frame.image.shape[1]
        image = visualize.shrink(frame.image, WIDTH)
        models = []
        for run in self.shown:
            said: Any = frame.said[run]
            arrays = type(said)(*(tensor.cpu().numpy() for tensor in said))
            shown = self.task.shown(frame.image, arrays, frame.known, WIDTH)
            models.append(Pictured(shown.prediction, shown.errors, shown.note, frame.distance[run]))
        truth = None if frame.known is None else self.task.truth_shown(frame.known, size, WIDTH)
        number = self.dataset.history(frame.index) + 1 - frame.before
        return _Kept(
            place=self.dataset.place(frame.index)[1] - frame.before,
            size=(image.shape[1], image.shape[0]),
            frame=PlayerFrame(number, jpeg(image), truth, tuple(models)),
        )

    def _clip(self, end: int, kept: list[_Kept], most: int) -> PlayerClip:
        frames: list[PlayerFrame] = []
        for each in reversed(kept):
            most -= _length(each.frame)
            if frames and most < 0:
                break
            frames.insert(0, each.frame)
        over = self.task.shows_over_input
        return PlayerClip(self.dataset.name(end), self.shown, kept[-1].size, over, tuple(frames))


@dataclass(frozen=True)
class _Kept:
    """A frame as pictures of `size` (width, height). `place` is its number in the data set."""

    place: int
    size: tuple[int, int]
    frame: PlayerFrame


def _members(dataset: ClipDataset, end: int) -> set[int]:
    """Return the labelled frames of the clip that ends in one of them."""
    video, last = dataset.place(end)
    first = last - min(dataset.history(end), FRAMES - 1)
    places = ((i, *dataset.place(i)) for i in range(len(dataset)))
    return {i for i, where, number in places if where == video and first <= number <= last}


def _length(frame: PlayerFrame) -> int:
    """Return the bytes of the pictures, before base64."""
    pictures = [frame.image, frame.truth, *(p for m in frame.models for p in (m.prediction, m.errors))]
    return sum(len(p) for p in pictures if p is not None) * 3 // 4
