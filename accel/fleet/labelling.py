"""Label one unit, a video or a part of one, into its own folder."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path

import torch

from accel.fleet.folders import UnitFolder
from accel.fleet.settings import Settings
from accel.fleet.units import DONE, FAILED, VIDEOS, Row, Unit, read_row
from accel.formats import find_formats
from accel.formats.together import Formats
from accel.inference.loading import load_prepared
from accel.inference.segmenter import SegmentedFrame, Segmenter
from accel.playing.scene_cuts import SceneCuts
from accel.playing.schedules import FixedInterval
from accel.video.opening import open_video
from accel.video.segments import FrameTimes, SegmentReader, cut, frame_times
from accel.video.source import VideoReader
from accel.wording import first_line

Watch = Callable[[int], object]  # is told how many frames of the unit are labelled
TIMES = "times"  # the folder in the output folder that has the frame times of long videos
_TOLD = 3  # damage reports of a video that its row repeats


class Labeller:
    """A loaded model that labels one unit after another.

    settings: the run's settings.
    out: the run's output folder.

    Raises ValueError or FileNotFoundError if the model cannot be loaded.
    """

    def __init__(self, settings: Settings, out: Path):
        self.settings, self.out = settings, out
        if settings.threads is not None:
            torch.set_num_threads(settings.threads)
        model, self.task = load_prepared(
            settings.weights, settings.device, settings.interval, settings.flat_latency, settings.optimize
        )
        self.formats = find_formats(model.task, settings.formats)
        schedule = SceneCuts(settings.interval) if settings.scene_cuts else FixedInterval(settings.interval)
        confidence = any(each.needs_confidence for each in self.formats)
        self.segmenter = Segmenter(model, schedule, settings.flat_latency, confidence)

    def label(self, unit: Unit, watch: Watch = lambda frames: None, retry: bool = False) -> Row:
        """Label a unit and return its row. A finished unit is not labelled again: its row is read.

        The unit's folder appears when all its files are complete and on the disk. A video that cannot be read gives a
        row that says why; so does one of which only some frames can be read, and those are labelled and kept.

        watch: a function that is called after each frame.
        retry: whether to label a unit again that failed.

        Raises OSError if the results cannot be written.
        """
        final = self.out / VIDEOS / unit.id
        before = read_row(final)
        if before is not None and (before.status == DONE or not retry):
            return before
        folder = UnitFolder(final)
        try:
            progress = _Progress(watch)
            problems: list[str] = []
            try:
                with self._open(unit, problems.append) as reader:
                    self._run(reader, folder.path, progress, unit.start)
            except _NotWrittenError as error:
                raise error.cause from None
            except (ValueError, OSError) as error:
                problems.append(first_line(error))
            return folder.commit(self._row(unit, folder, progress, problems))
        finally:
            folder.abandon()

    def _open(self, unit: Unit, on_damage: Callable[[str], None]) -> VideoReader:
        if unit.stop is None:
            return open_video(Path(unit.path), folder_fps=Fraction(self.settings.fps), on_damage=on_damage)
        known = self.out / TIMES / f"{Unit(unit.path).id}.npz"
        times = FrameTimes.load(known) if known.is_file() else frame_times(Path(unit.path))
        if times is None:
            raise ValueError(
                f"{unit.path}: its packets do not say when frames are shown; it can be read as a whole only"
            )
        # Where the whole video's run has a key frame of the schedule, too.
        interval = self.settings.interval
        first = max(0, unit.start // interval - self.settings.warm_up) * interval
        return SegmentReader(unit.path, first, unit.stop, times, on_damage=on_damage)

    def _run(self, reader: VideoReader, folder: Path, progress: _Progress, start: int) -> None:
        progress.frame_seconds = float(1 / reader.fps) if reader.fps else 0.0
        formats = Formats(self.formats, folder.joinpath, reader.name, reader.fps, self.task)

        def write(frame: SegmentedFrame) -> None:
            if frame.index < start:  # it warms up
                return
            with _writing():
                formats.write(frame)
            progress.add(frame)

        try:
            try:
                self.segmenter.run(reader, write, live=False)
            finally:
                with _writing():
                    formats.close()
        finally:
            formats.abort()

    def _row(self, unit: Unit, folder: UnitFolder, progress: _Progress, problems: list[str]) -> Row:
        if not problems and not progress.frames:
            problems = ["no frame of it can be read"]
        more = f" (and {len(problems) - _TOLD} more)" if len(problems) > _TOLD else ""
        return Row(
            id=unit.id,
            path=unit.path,
            start=unit.start,
            frames=progress.frames,
            seconds=round(progress.seconds, 6),
            model=self.settings.model,
            checksum=folder.checksum(),
            status=FAILED if problems else DONE,
            error="; ".join(dict.fromkeys(problems[:_TOLD])) + more,
        )


def plan(path: str, settings: Settings, out: Path) -> list[Unit]:
    """Return the units of a video: itself, or its segments if it is a long video file."""
    if not Path(path).is_file():
        return [Unit(path)]
    try:
        segments = cut(Path(path), settings.segment, out / TIMES / f"{Unit(path).id}.npz")
    except (ValueError, OSError):  # its row will say it
        segments = []
    return [Unit(path, part.start, part.stop) for part in segments] or [Unit(path)]


def failed_row(settings: Settings, out: Path, unit: Unit, why: str) -> Row:
    """Commit and return the row of a unit that cannot be labelled at all: `why` says the reason."""
    folder = UnitFolder(out / VIDEOS / unit.id)
    row = Row(unit.id, unit.path, unit.start, 0, 0.0, settings.model, "", FAILED, why)
    return folder.commit(row)


class _Progress:
    """How far a unit is."""

    def __init__(self, watch: Watch):
        self.watch = watch
        self.frames = 0
        self.seconds = 0.0
        self.frame_seconds = 0.0
        self._first: float | None = None

    def add(self, frame: SegmentedFrame) -> None:
        self._first = frame.time if self._first is None else self._first
        self.frames += 1
        self.seconds = max(self.seconds, frame.time - self._first + self.frame_seconds)
        self.watch(self.frames)


class _NotWrittenError(Exception):
    """The results cannot be written, which is not the video's fault."""

    def __init__(self, cause: Exception):
        self.cause = cause


@contextmanager
def _writing() -> Iterator[None]:
    """Turn errors of writing into `_NotWrittenError`."""
    try:
        yield
    except (ValueError, OSError) as error:
        raise _NotWrittenError(error) from error
