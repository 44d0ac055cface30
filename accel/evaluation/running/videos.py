"""Models on whole videos, as a user runs them: a key frame first and at every interval, each frame labelled."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial, reduce
from operator import add
from typing import Any

import numpy as np
import torch
from torch import Tensor

from accel.datasets.clips import Clip, ClipDataset, frames_to_tensor
from accel.evaluation.results import TemporalResult, class_shares, share
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


@dataclass(frozen=True)
class Run:
    """A model at an interval."""

    model: VideoModel
    interval: int


@dataclass(frozen=True)
class RunFrame:
    """One frame of a video with what every run says of it.

    index: the labelled frame of the data set that it leads up to, `before` frames later.
    first: whether all runs start afresh here: another video, or the other side of a gap.
    image: (H, W, 3) uint8 RGB; truth: (H, W) uint8 class indices if it is a labelled frame, else None.
    labels: (H, W) uint8 on the models' device, by run; distance: how many frames ago its key frame was, 0 on one.
    """

    index: int
    before: int
    first: bool
    image: np.ndarray
    truth: np.ndarray | None
    labels: dict[Hashable, Tensor]
    distance: dict[Hashable, int]

    @property
    def is_key(self) -> dict[Hashable, bool]:
        """Whether the labels are a key frame's, by run."""
        return {name: distance == 0 for name, distance in self.distance.items()}

    def share_wrong(self, labels: np.ndarray) -> float | None:
        """On which share of the labelled pixels a run's labels, on the host, are wrong; None where none is labelled."""
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
    """How steady the labels of each run are, over all frames from which a labelled one can be reached.

    runs: by any names, all models on one device; they go through the videos side by side, every frame read once.
    flow: between consecutive frames; see `accel.measures.temporal`. None: they are not compared.
    indices: of the labelled frames whose videos to run; None: all.
    watch: called with each frame, to keep what should be shown: nothing else of it stays in memory.
    processes: that share the videos; all of them make this call, and the first has the results, the others none. Each
        watches its own frames.

    A file that cannot be read is reported; the video goes on behind it with a key frame, and no comparison is made
    across the gap. The frames up to a labelled one are in memory together.
    """
    playing = {name: _Playing(run, dataset) for name, run in runs.items()}
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
    """A run on its way through the videos."""

    def __init__(self, run: Run, dataset: ClipDataset):
        self.model, self.task = run.model.eval(), task_of(run.model, dataset)
        self.player = Player(run.model, FixedInterval(run.interval))
        self.tally = TemporalTally(dataset.num_classes)
        self.labels: Tensor | None = None
        self.distance = 0  # frames since the key frame

    def step(self, image: Tensor, first: bool, matches: _Matches) -> None:
        if first:
            self.player.start()
            self.tally.start()
        step = self.player.step(image[None])
        self.distance = step.distance
        self.labels = self.task.labels(of_first(step.prediction.at(tuple(image.shape[1:]))))
        self.tally.update(self.labels, matches.of(self.model))


def _result(tally: TemporalTally, class_names: Sequence[str], flow: Flow | None) -> TemporalResult:
    return TemporalResult(
        consistency=share(tally.consistency),
        consistency_iou=class_shares(tally.matrix, class_names),
        flow=flow,
        compared=share(tally.compared),
        flicker=share(tally.flicker),
        frames=tally.frames,
        pairs=tally.pairs,
        triples=tally.triples,
    )


class _Matches:
    """The counterparts of one frame's pixels in the frame before, for all models or for each of them."""

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
    """(T-1, H, W) int32 `matches_of` the frames of a clip."""
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
    )
