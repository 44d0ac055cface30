"""Run models on whole videos as a user does: a key frame at the start and at every interval, and labels for every
frame."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial, reduce
from operator import add
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from accel.datasets.clips import Clip, ClipDataset, frames_to_tensor
from accel.evaluation.results import TemporalResult
from accel.evaluation.running.processes import ALONE, Processes
from accel.evaluation.running.reading import Stretch, read_stretches
from accel.labels import IGNORED
from accel.measures.temporal import Flow, TemporalTally, dis_matches, matches_of, model_matches
from accel.models.prediction import of_first
from accel.models.video import VideoModel
from accel.playing.player import Player
from accel.playing.schedules import FixedInterval
from accel.progress import bar, console
from accel.tasks import task_of
from accel.tasks.accuracy import by_name, share


@dataclass(frozen=True)
class Run:
    """A model at an interval."""

    model: VideoModel
    interval: int


@dataclass(frozen=True)
class RunFrame:
    """One frame of a video with the labels of every run.

    index: the number, in the data set, of the labelled frame that follows `before` frames later.
    first: whether all runs start afresh here, because of another video or a gap.
    image: (H, W, 3) uint8 RGB.
    truth: (H, W) uint8 class indices if this frame is labelled, otherwise None.
    labels: by run, (H, W) uint8 on the models' device. Empty for a task without labels.
    distance: by run, the number of frames since the key frame. It is 0 on a key frame.
    said: by run, the prediction, as tensors on the models' device.
    known: the task's ground truth (`Task.truth`), as arrays, if this frame is labelled, otherwise None.
    """

    index: int
    before: int
    first: bool
    image: np.ndarray
    truth: np.ndarray | None
    labels: dict[Hashable, Tensor]
    distance: dict[Hashable, int]
    said: dict[Hashable, NamedTuple]
    known: NamedTuple | None

    @property
    def is_key(self) -> dict[Hashable, bool]:
        """By run, whether this is a key frame."""
        return {name: distance == 0 for name, distance in self.distance.items()}

    def share_wrong(self, labels: np.ndarray) -> float | None:
        """Return the share of the labelled pixels on which a run's labels, in host memory, are wrong. None if no pixel
        is labelled."""
        counted = None if self.truth is None else self.truth != IGNORED
        if counted is None or not counted.any():
            return None
        return float((labels != self.truth)[counted].mean())


@torch.inference_mode()
def run_videos(
    runs: Mapping[Any, Run],
    dataset: ClipDataset,
    flow: Flow | None = "dis",
    indices: Sequence[int] | None = None,
    watch: Callable[[RunFrame], None] | None = None,
    workers: int = 1,
    quiet: bool = False,
    processes: Processes = ALONE,
) -> dict[Any, TemporalResult]:
    """Measure how steady the labels of each run are, over all frames that lead to a labelled one.

    runs: the runs by name, with all models on one device. They go through the videos side by side, so every frame is
        read only once.
    flow: the flow between consecutive frames; see `accel.measures.temporal`. None: frames are not compared. A task
        without labels needs None, and its results say nothing.
    indices: the labelled frames whose videos to run. None means all.
    watch: a function that is called with each frame, to keep what will be shown. Nothing else of the frame stays in
        memory.
    processes: the processes that share the videos. All of them must make this call. The first gets the results, the
        others none. Each watches its own frames.

    An unreadable file is reported. The video continues after it with a key frame, and frames are not compared across
    the gap. All frames up to a labelled one are in memory together.
    """
    playing = {name: _Playing(run, dataset) for name, run in runs.items()}
    if flow is not None:
        for play in playing.values():
            play.task.check_labels()
    device = next(iter(runs.values())).model.device
    indices = processes.share(dataset, range(len(dataset)) if indices is None else indices, None)
    quiet = quiet or not processes.is_first
    prepare = None if flow in (None, "model") else partial(_matches, flow=flow)
    previous = None  # the frame before, for flow that is the models' own
    with bar("videos", len(indices), quiet) as progress:
        stretches = read_stretches(dataset, indices, prepare=prepare, lead=True, workers=workers)
        for done, stretch in enumerate(stretches, 1):
            if stretch.problem:
                console.print(f"left out: {stretch.problem}")
            for place, image in enumerate(() if stretch.clip is None else frames_to_tensor(stretch.clip.frames)):
                image = image.to(device)
                first = place == 0 and not stretch.follows
                matches = _Matches(flow, stretch, place, image, None if first else previous)
                for play in playing.values():
                    play.step(image, first, matches)
                previous = image
                if watch is not None:
                    watch(_frame(stretch, place, first, playing))
            progress.update(done)
    parts = processes.collect({name: play.tally.on_host() for name, play in playing.items()})
    if not processes.is_first:
        return {}
    return {name: _result(reduce(add, (p[name] for p in parts)), dataset.class_names, flow) for name in runs}


class _Playing:
    """A run in progress."""

    def __init__(self, run: Run, dataset: ClipDataset):
        self.model, self.task = run.model.eval(), task_of(run.model, dataset)
        self.player = Player(run.model, FixedInterval(run.interval))
        self.tally = TemporalTally(dataset.num_classes)
        self.labels: Tensor | None = None
        self.said: NamedTuple | None = None
        self.labelled = self.task.has_labels
        self.distance = 0  # frames since the key frame

    def step(self, image: Tensor, first: bool, matches: _Matches) -> None:
        if first:
            self.player.start()
            self.tally.start()
        step = self.player.step(image[None])
        self.distance = step.distance
        self.said = of_first(step.prediction.at(tuple(image.shape[1:])))
        if self.labelled:
            self.labels = self.task.labels(self.said)
            self.tally.update(self.labels, matches.of(self.model))


def _result(tally: TemporalTally, class_names: Sequence[str], flow: Flow | None) -> TemporalResult:
    return TemporalResult(
        consistency=share(tally.consistency),
        consistency_iou=by_name(class_names, tally.matrix.iou().tolist()),
        flow=flow,
        compared=share(tally.compared),
        flicker=share(tally.flicker),
        frames=tally.frames,
        pairs=tally.pairs,
        triples=tally.triples,
    )


class _Matches:
    """For each pixel of a frame, its counterpart in the frame before. They are shared by all models, or one set for
    each."""

    def __init__(self, flow: Flow | None, stretch: Stretch, place: int, image: Tensor, previous: Tensor | None):
        self.flow, self.image, self.previous = flow, image, previous
        self.known: dict[int, Tensor] = {}
        self.shared = None
        if previous is not None and stretch.clip is not None and flow not in (None, "model"):
            missing = len(stretch.clip.frames) - len(stretch.extra)  # the first frame's, where it follows nothing
            self.shared = torch.from_numpy(stretch.extra[place - missing]).to(image.device)

    def of(self, model: VideoModel) -> Tensor | None:
        if self.previous is None or self.flow != "model":
            return self.shared
        if id(model) not in self.known:
            self.known[id(model)] = model_matches(model, self.image, self.previous)
        return self.known[id(model)]


def _matches(clip: Clip, flow: Flow) -> np.ndarray:
    """Return `matches_of` the frames of a clip, (T-1, H, W), int32."""
    if flow == "dis":
        return dis_matches(clip.frames)
    flows = () if clip.flow is None else clip.flow  # a single frame has none
    return np.array([matches_of(each) for each in flows], np.int32).reshape(-1, *clip.frames.shape[1:3])


def _frame(stretch: Stretch, place: int, first: bool, playing: dict[Hashable, _Playing]) -> RunFrame:
    clip = stretch.clip
    assert clip is not None, "there is a frame of it"
    before = len(clip.frames) - 1 - place
    return RunFrame(
        index=stretch.index,
        before=before,
        first=first,
        image=clip.frames[place],
        truth=None if before else clip.labels,
        labels={name: play.labels for name, play in playing.items() if play.labels is not None},
        distance={name: play.distance for name, play in playing.items()},
        said={name: play.said for name, play in playing.items() if play.said is not None},
        known=None if before else next(iter(playing.values())).task.truth(clip),
    )
