"""Label several cameras, streams or videos at the same time with one model, each into its own folder."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from accel.demo import SUMMARY, VIDEO, Options
from accel.demo_models import weights_for_video
from accel.evaluation.origin import Origin
from accel.evaluation.tables import write_json
from accel.files.small_files import read_text
from accel.formats import FrameWriter, find_formats
from accel.formats.together import Formats, named_by
from accel.inference.loading import load_prepared
from accel.inference.segmenter import SegmentedFrame
from accel.inference.several import SeveralSegmenter, Stream
from accel.interrupts import Interrupts
from accel.output_folder import OutputFolder
from accel.playing.scene_cuts import SceneCuts
from accel.playing.schedules import FixedInterval
from accel.progress import Bar, console
from accel.recording import Recording, close_video
from accel.tasks import Task
from accel.video.live import in_real_time
from accel.video.opening import is_file_or_folder, open_video, source_name
from accel.video.source import SourceFrame, VideoReader
from accel.video.writer import VideoWriter
from accel.weights.names import find_weights

LIST = ".txt"  # a file of sources
BETWEEN = 15.0  # seconds between two lines about all streams
MOST_BREAKS = 100  # of a stream that its summary tells: a camera may be away for weeks


def listed_sources(given: Sequence[str]) -> list[str]:
    """Return the sources that are given, with those of a list in its place: a `.txt` file with one in each line.

    Raises FileNotFoundError or ValueError for a list without a source, and if two would write to the same folder.
    """
    sources: list[str] = []
    for each in given:
        if each.lower().endswith(LIST) and is_file_or_folder(each):
            lines = (line.strip() for line in read_text(Path(each)).split("\n"))
            inside = [line for line in lines if line and not line.startswith("#")]
            if not inside:
                raise ValueError(f"{each}: names no source; expected a camera, an address or a file in each line")
            sources += inside
        else:
            sources.append(each)
    names = [source_name(each) for each in sources]
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f"{name}: is there twice among the sources; expected names that differ, for their folders")
    return sources


def label_streams(sources: Sequence[str], options: Options, formats: Sequence[str] = ()) -> None:
    """Label several sources at the same time; each gets a folder of its name in `options.output`.

    formats: the names of formats, beside those of `accel label`.

    Cameras and live streams go on until Ctrl-C. One that fails is tried again, with growing pauses, and does not stop
    the others.

    Raises ValueError or FileNotFoundError for invalid input.
    """
    schedule = SceneCuts(options.interval) if options.scene_cuts else FixedInterval(options.interval)
    streams = [_stream(source, options) for source in sources]
    files, subfolders = named_by(formats)
    names = [VIDEO, SUMMARY, *files], sorted({"labels", *subfolders})
    folders = [OutputFolder(options.output / stream.name, *names) for stream in streams]
    weights = find_weights(options.checkpoint) if options.checkpoint else weights_for_video(None, options.device)
    model, task = load_prepared(weights, options.device, options.interval, options.flat_latency, options.optimize)
    kinds = find_formats(task.name, formats)
    confidence = any(kind.needs_confidence for kind in kinds)
    segmenter = SeveralSegmenter(model, schedule, options.flat_latency, confidence)
    console.print(f"model: {weights}")
    origin = Origin.of({"model": str(weights)}, model.device).as_dict()
    outputs = [_Output(stream, folder, task, options, kinds) for stream, folder in zip(streams, folders, strict=True)]
    error, last = None, time.monotonic()

    def write(number: int, frame: SegmentedFrame) -> None:
        nonlocal last
        outputs[number].write(frame)
        if time.monotonic() - last > BETWEEN:
            last = time.monotonic()
            console.print("; ".join(output.line() for output in outputs))

    def told(number: int, what: str) -> None:
        outputs[number].breaks = [*outputs[number].breaks, what][-MOST_BREAKS:]
        console.print(f"{streams[number].name}: {what}")

    with Interrupts() as interrupts:
        try:
            segmenter.run(streams, write, told)
        except BaseException as stopped:
            error = stopped
        with interrupts.held():
            for output in outputs:
                output.finish(origin, error)
    if error is not None and not (isinstance(error, KeyboardInterrupt) and any(each.again for each in streams)):
        raise error


def _stream(source: str, options: Options) -> Stream:
    """Return a source as a stream. What is wrong with a file is told at once; a camera may come later."""
    name = source_name(source)
    if not is_file_or_folder(source):
        if options.live is False:
            raise ValueError(f"{name}: a camera or a stream; --no-live is for recordings")
        return Stream(name, _Camera(source).open)
    rate = options.fps or 25
    with open_video(source, folder_fps=rate, on_damage=_report):
        pass

    def play() -> VideoReader | Iterator[SourceFrame]:
        reader = open_video(source, folder_fps=rate, on_damage=_report)
        return in_real_time(reader) if options.live else reader

    return Stream(name, play, live=bool(options.live), again=False)


class _Camera:
    """A live source, whose frames have one size however often it is opened: a video has one."""

    def __init__(self, source: str):
        self.source = source
        self._size: tuple[int, int] | None = None

    def open(self) -> VideoReader:
        reader = open_video(self.source, on_damage=_report)
        if self._size is not None and reader.size != self._size:
            reader.close()
            height, width = reader.size
            raise ValueError(f"now gives {width}x{height} pixels; expected {self._size[1]}x{self._size[0]} as before")
        self._size = reader.size
        return reader


class _Output:
    """The results of a stream, from its first frame on."""

    def __init__(
        self, stream: Stream, folder: OutputFolder, task: Task, options: Options, kinds: Sequence[type[FrameWriter]]
    ):
        self.stream, self.folder, self.options = stream, folder, options
        folder.clear()
        self.video = VideoWriter(folder.file(VIDEO), None)
        self.breaks: list[str] = []
        self.recording = Recording(folder, self.video, task, Bar(stream.name, None, None), options.view)
        self.recording.progress.last = math.inf  # `label_streams` tells how far all are

        self.formats = Formats(kinds, folder.file, stream.name, None, task)

    def write(self, frame: SegmentedFrame) -> None:
        self.recording.write(frame)
        self.formats.write(frame)

    def line(self) -> str:
        """Say how far the stream is."""
        timer = self.recording.timer
        seconds = f", {timer.mean():.4f} s a frame" if self.recording.frames else ""
        return f"{self.stream.name}: {self.recording.frames} frames, {self.recording.dropped} dropped{seconds}"

    def finish(self, origin: dict, error: BaseException | None) -> None:
        """Finish the video and write the summary. error: what ended all streams, if it was not their own end."""
        self.formats.end()
        if self.recording.frames:
            close_video(self.video, error)
        else:
            self.video.abort()
        console.print(self.line())
        timer = self.recording.timer
        interrupted = isinstance(error, KeyboardInterrupt)
        summary = {
            "interval": self.options.interval,
            "scene_cuts": self.options.scene_cuts,
            "flat_latency": self.options.flat_latency,
            "input": self.stream.name,
            "frames": self.recording.frames,
            "live": self.stream.live,
            "dropped": self.recording.dropped,
            "latency": timer.latency() if self.recording.frames else None,
            "breaks": self.breaks,
            **timer.figures(),
            "interrupted": interrupted,
            "error": None if error is None or interrupted else str(error),
            "origin": origin,
        }
        write_json(self.folder.file(SUMMARY), summary)
        self.folder.close()
        console.print(f"written: {self.folder.path}/ (labels/, video.mp4, summary.json)")


def _report(message: str) -> None:
    console.print(f"left out: {message}")
