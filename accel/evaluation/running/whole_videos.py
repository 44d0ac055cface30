"""Play whole videos once, as they would be labelled, and score every frame: how ImageNet VID is evaluated.

`sweep` asks another question: how good a model is so many frames after a key frame, whichever frame that was.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import reduce
from itertools import chain, islice
from operator import add
from typing import Any, NamedTuple

import torch
from torch import Tensor

from accel.clock import now
from accel.datasets.clips import ClipDataset, frames_to_tensor
from accel.evaluation.results import EvaluationResult
from accel.evaluation.running.processes import ALONE, Processes
from accel.evaluation.running.reading import Stretch, read_stretches
from accel.evaluation.running.sweep import Looks, check_intervals, common_task, so_far
from accel.inference.timing import timed_predictions
from accel.models.prediction import Prediction, of_first
from accel.models.video import VideoModel
from accel.playing.centred import play_centred
from accel.playing.player import Player, Step
from accel.playing.schedules import FixedInterval
from accel.progress import bar, console
from accel.tasks import Score, Task, as_tensors


@dataclass
class Tally:
    """The counts of one model at one interval. Tallies of parts of a data set can be added up.

    task: the task that was scored.
    scores: scores by distance from the key frame.
    scored, damaged: the numbers of frames that were scored, and that could not be read.
    seconds_key, seconds_current: the time of each frame.
    """

    task: Task
    scores: dict[int, Score] = field(default_factory=dict)
    scored: int = 0
    damaged: int = 0
    seconds_key: list[float] = field(default_factory=list)
    seconds_current: list[float] = field(default_factory=list)

    def on_host(self) -> Tally:
        """Move the counts to host memory, so that they can be sent to another process."""
        self.scores = {distance: score.on_host() for distance, score in self.scores.items()}
        return self

    def __add__(self, other: Tally) -> Tally:
        scores = dict(self.scores)
        for distance, score in other.scores.items():
            scores[distance] = scores[distance] + score if distance in scores else score
        return Tally(
            self.task,
            scores,
            self.scored + other.scored,
            self.damaged + other.damaged,
            self.seconds_key + other.seconds_key,
            self.seconds_current + other.seconds_current,
        )


@torch.inference_mode()
def compare_on_videos(
    models: dict[str, VideoModel],
    dataset: ClipDataset,
    intervals: Sequence[int],
    centred: bool = False,
    widths: Sequence[int] = (),
    workers: int = 1,
    quiet: bool = False,
    processes: Processes = ALONE,
    measures: Sequence[str] = (),
) -> dict[str, tuple[EvaluationResult, ...]]:
    """Return each model's result at each interval, ascending, on videos of which every frame is labelled.

    models: the models by name, all on one device. They take turns, frame by frame, so every frame is read only once and
        their times can be compared.
    intervals: frames from key frame to key frame. The first frame of each video is a key frame.
    centred: whether key frames are in the middle of their segments; see `accel.playing.centred`.
    widths, measures: as in `sweep`.
    processes: the processes that share the videos. All of them must make this call. The first gets the results, the
        others none.

    An unreadable file is reported and counted. The video continues after it with a key frame.

    Raises ValueError for an interval under 1, for a video with a frame that is not labelled, and if nothing can be
    scored. With `centred`, raises the errors of `play_centred`.
    """
    intervals = check_intervals(intervals)
    check_whole(dataset)
    task = common_task(models, dataset, widths, measures)
    device = next(iter(models.values())).device
    views = {name: _Timed(model.eval()) for name, model in models.items()}
    runs = {(name, k): _Run(views[name], k, centred, Tally(task)) for name in models for k in intervals}
    tallies = [run.tally for run in runs.values()]
    indices = processes.share(dataset, range(len(dataset)), None)
    quiet = quiet or not processes.is_first
    with bar(f"interval {', '.join(map(str, intervals))}", len(indices), quiet) as progress:
        note, looks = "", Looks()
        stretches = read_stretches(dataset, indices, 1, task.truth, workers=workers)
        first = list(islice(stretches, 2))
        _rehearse(models, first, device)
        for done, stretch in enumerate(chain(first, stretches), 1):
            if stretch.problem:
                console.print(f"left out: {stretch.problem}")
            if not stretch.follows:
                for run in runs.values():
                    run.start()
            if stretch.clip is None:
                for tally in tallies:
                    tally.damaged += 1
                continue
            image = frames_to_tensor(stretch.clip.frames[-1:]).to(device)  # (1, 3, H, W)
            truth = as_tensors(stretch.extra, device)
            for run in runs.values():
                run.add(_Frame(image, truth))
            if looks.is_due():
                with looks.timed():
                    note = so_far(tallies)
            progress.update(done, note)
        for run in runs.values():
            run.start()
    parts = processes.collect([tally.on_host() for tally in tallies])
    if not processes.is_first:
        return {}
    whole = dict(zip(runs, (reduce(add, each) for each in zip(*parts, strict=True)), strict=True))
    return {name: tuple(_result(whole[name, k], k) for k in intervals) for name in models}


def check_whole(dataset: ClipDataset) -> None:
    """Raise ValueError, with the place, if a frame between the first and the last labelled one of a video is not
    labelled."""
    numbers: dict[str, list[int]] = {}
    for index in range(len(dataset)):
        video, number = dataset.place(index)
        numbers.setdefault(video, []).append(number)
    for video, found in numbers.items():
        found.sort()
        if found != list(range(found[0], found[0] + len(found))):
            raise ValueError(f"{video}: labelled frames {found[0]} to {found[-1]} have gaps; expected each of them")


def _result(tally: Tally, interval: int) -> EvaluationResult:
    times = tally.seconds_key, tally.seconds_current
    return EvaluationResult.of(tally.task, interval, tally.scores, tally.scored, tally.damaged, *times)


def _rehearse(models: dict[str, VideoModel], first: Sequence[Stretch], device: torch.device) -> None:
    """Run the models on the first frames, because the first calls set up memory and kernels."""
    frames = [frames_to_tensor(each.clip.frames[-1:])[0].to(device) for each in first if each.clip is not None]
    if len(frames) == 2 and not first[1].follows:
        frames = frames[:1]
    for model in models.values() if frames else ():
        list(timed_predictions(model, frames, {len(frames) - 1}))


class _Frame(NamedTuple):
    image: Tensor  # (1, 3, H, W)
    truth: NamedTuple


class _TimedPrediction(NamedTuple):
    prediction: Prediction
    seconds: float


class _Timed:
    """A model whose calls say how long they took. One without state is not called twice in a row on the same frame."""

    def __init__(self, model: VideoModel):
        self.model = model
        self.last: tuple[Tensor, _TimedPrediction] | None = None

    @property
    def moves_on(self) -> bool:
        return self.model.moves_on

    def key_frame(self, image: Tensor, state: Any = None) -> tuple[_TimedPrediction, Any]:
        if not self.model.carries_state:
            if self.last is None or self.last[0] is not image:
                start = now(image.device)
                prediction, _ = self.model.key_frame(image)
                self.last = image, _TimedPrediction(prediction, now(image.device) - start)
            return self.last[1], None
        start = now(image.device)
        prediction, state = self.model.key_frame(image, state)
        return _TimedPrediction(prediction, now(image.device) - start), state

    def next_frame(self, image: Tensor, state: Any) -> tuple[_TimedPrediction, Any]:
        if not self.model.carries_state:
            return self.key_frame(image)
        start = now(image.device)
        prediction, state = self.model.next_frame(image, state)
        return _TimedPrediction(prediction, now(image.device) - start), state

    def advance(self, image: Tensor, state: Any) -> Any:
        raise AssertionError("every frame is scored")

    def renew(self, state: Any, frames: int) -> Any:
        raise AssertionError("a fixed interval renews nothing")

    def check_spreads_key_frames(self) -> None:
        self.model.check_spreads_key_frames()


class _Run:
    """A model at an interval in progress. Frames wait until a whole segment is there, if key frames are centred."""

    def __init__(self, model: _Timed, interval: int, centred: bool, tally: Tally):
        self.model, self.interval, self.centred, self.tally = model, interval, centred, tally
        self.segment = interval if centred else 1
        self.waiting: deque[_Frame] = deque()
        self.start()

    def start(self) -> None:
        """Score what is waiting, and begin another video."""
        if self.waiting:
            self._score(len(self.waiting))
        self.fed = 0  # of those that wait
        self.steps = self._played()

    def add(self, frame: _Frame) -> None:
        """Take the next frame of the video."""
        self.waiting.append(frame)
        if len(self.waiting) == self.segment:
            self._score(self.segment)

    def _played(self) -> Iterator[Step]:
        if self.centred:
            return play_centred(self.model, self._images(), self.interval)
        player = Player(self.model, FixedInterval(self.interval))
        return (player.step(image) for image in self._images())

    def _images(self) -> Iterator[Tensor]:
        while self.fed < len(self.waiting):
            self.fed += 1
            yield self.waiting[self.fed - 1].image

    def _score(self, count: int) -> None:
        """Play and score so many frames: all that are waiting."""
        tally = self.tally
        for step in islice(self.steps, count):
            frame = self.waiting.popleft()
            size, device = (frame.image.shape[2], frame.image.shape[3]), frame.image.device
            start = now(device)
            said = of_first(step.prediction.prediction.at(size))
            seconds = step.prediction.seconds + now(device) - start
            stateless = not self.model.model.carries_state
            if step.distance == 0 or stateless:
                tally.seconds_key.append(seconds)
            if step.distance or stateless:
                tally.seconds_current.append(seconds)
            if step.distance not in tally.scores:
                tally.scores[step.distance] = tally.task.score()
            tally.scores[step.distance].update(said, frame.truth)
            tally.scored += 1
        self.fed = 0
