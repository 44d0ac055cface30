"""The demonstration: a trained model on video, shown as pictures, a side-by-side video and figures."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from accel.config import DataConfig, load_config
from accel.datasets import Clip, ClipDataset, build_dataset, data_root
from accel.datasets.clips import long_enough
from accel.demo_models import scenes, table_folder, weights_for_boxes, weights_for_scenes, weights_for_video
from accel.devices import choose_device
from accel.evaluation.origin import Origin
from accel.evaluation.tables import write_json
from accel.formats import FrameWriter, find_formats
from accel.formats.together import Formats, named_by
from accel.inference.batches import BatchSegmenter
from accel.inference.loading import check_classes, classes_of, load_model
from accel.inference.segmenter import SegmentedFrame, Segmenter
from accel.inference.stages import Consumer
from accel.interrupts import Interrupts
from accel.models import VideoModel
from accel.output_folder import OutputFolder
from accel.playing.adaptive import Adaptive
from accel.playing.scene_cuts import SceneCuts
from accel.playing.schedules import FixedInterval, Schedule
from accel.progress import bar, console
from accel.recording import Recording, Timer, close_video, picture_of
from accel.runtime.folder import is_exported
from accel.tasks import Score, Task, as_tensors, build_task
from accel.tasks.box_files import OUTPUTS
from accel.tasks.task import View
from accel.threads import threads
from accel.video.folder import VideoFolder
from accel.video.live import in_real_time
from accel.video.source import VideoReader
from accel.video.writer import VideoWriter
from accel.weights.names import find_weights
from accel.wording import few

SUMMARY, VIDEO = "summary.json", "video.mp4"
FPS = 10  # of the video made from snippets
FILMED = 10  # snippets shown in the video from as early on as they go; of further ones only what is scored
FILMED_FRAMES = 20  # frames of those, at most
DETECTION = "detection"
CALIBRATION, CALIBRATION_CLIP = 40, 5  # frames for --int8, in all and of a snippet
MAX_NAMED = 10  # gaps of a video that are named


@dataclass(frozen=True)
class Options:
    """The command-line options of the demo."""

    version: str | None
    interval: int
    num_ex: int
    average: bool
    cfg: str | None
    checkpoint: str | None
    input: str | None
    fps: Fraction | None
    output: Path
    device: str
    live: bool | None
    strict: bool
    flat_latency: bool
    optimize: bool
    engine: str | None
    int8: bool
    accept_loss: bool
    compare: bool
    train: bool
    scene_cuts: bool
    look_ahead: bool
    adaptive: bool
    view: View
    boxes: str
    task: str | None = None
    batch: bool = False
    write: tuple[str, ...] = ()  # formats, beside the files of each frame


@dataclass(frozen=True)
class Loaded:
    """A model on its device, with its task."""

    model: VideoModel
    task: Task
    source: str  # the weights file


@dataclass(frozen=True)
class Job:
    """What all inputs of a run share."""

    options: Options
    segmenter: Segmenter
    task: Task
    origin: dict
    interrupts: Interrupts
    formats: Sequence[type[FrameWriter]] = ()

    def finish(self, folder: OutputFolder, figures: dict, error: BaseException | None, written: str = "") -> None:
        """Write the summary of an input.

        error: the error that ended it early, or None.
        written: the files of results in words. Empty: one for each frame.
        """
        options = self.options
        about = {
            "interval": options.interval,
            "scene_cuts": options.scene_cuts or options.adaptive,
            "look_ahead": options.look_ahead,
            "adaptive": options.adaptive,
            "flat_latency": options.flat_latency,
        }
        interrupted = isinstance(error, KeyboardInterrupt)
        end = {"interrupted": interrupted, "error": None if error is None or interrupted else str(error)}
        write_json(folder.file(SUMMARY), about | figures | end | {"origin": self.origin})
        folder.close()
        results = written or f"labels/*{self.task.suffix}"
        console.print(f"written: {folder.path}/ ({results}, video.mp4, summary.json)")


def run_demo(options: Options) -> int:
    """Label videos, or snippets of a labelled data set, and write the results to `options.output`.

    Frames labelled before an error or Ctrl-C are always written, and the error is raised after that. For a camera or a
    live stream, which have no other end, Ctrl-C is not an error. Of several videos, one that cannot be labelled does
    not keep the others from it: it is reported. With `strict`, everything that is left out is an error.

    Return the exit code: 0, or 1 if a video could not be labelled to its end.

    Raises ValueError or FileNotFoundError for invalid input.
    """
    schedule = _schedule(options)
    if options.average and options.flat_latency:
        raise ValueError("--avg scores every distance from a key frame; --flat-latency has only long ones: choose one")
    if options.batch:
        _check_batch(options)
    if options.engine and not (options.optimize or options.int8):
        raise ValueError(f"--engine {options.engine} is for --optimize or --int8: give one of these too")
    if options.accept_loss and not options.int8:
        raise ValueError("--accept-loss is for --int8: give that too")
    if options.num_ex < 1:
        raise ValueError(f"num_ex {options.num_ex}: expected 1 snippet or more")
    videos = _videos(options)
    if videos is None and options.boxes != "jsonl":
        raise ValueError(f"--boxes {options.boxes}: expected with --input; snippets have a file each")
    if videos is None and options.write:
        raise ValueError(f"--write {','.join(options.write)}: expected with --input; snippets have a file each")
    failed = {} if videos is None else _unusable(videos, options.strict)  # before anything is trained or loaded
    # Nothing is cleared here: earlier results stay until inputs, model and all output folders have been looked at.
    if videos is None or len(videos) == 1:
        folders = [_output_folder(options.output, options)]
    else:
        folders = [_output_folder(options.output / name, options) for name in videos.videos()]
    if options.compare:
        table_folder(options.output)
    options.output.mkdir(parents=True, exist_ok=True)
    data = None if videos else _data(options)
    dataset = None if data is None else _dataset(data)
    loaded = _load(options, data)
    model = loaded.model
    loaded.task.check_kind(options.boxes)  # before anything is cleared
    formats = find_formats(loaded.task.name, options.write)
    confidence = any(each.needs_confidence for each in formats)
    if confidence and options.batch:
        raise ValueError("--write confidence: batches do not give it; leave out --batch")
    parts = options.interval if options.flat_latency else 1
    if options.int8:
        frames = _first_frames(videos, dataset)
        model = model.optimized(
            dtype=torch.int8,
            parts=parts,
            engine=options.engine or "auto",
            calibration=frames,
            accept_loss=options.accept_loss,
            keep=True,
        )
        model.prepare(frames[0].shape[:2])
        if model.same_labels is not None:
            console.print(f"in eight bits: {model.same_labels:.1%} of the labels are those of the float model")
    elif options.optimize or options.flat_latency:  # which needs a model cut into parts
        model = model.optimized(
            dtype=None if options.optimize else torch.float32,
            compile=options.optimize,
            parts=parts,
            engine=options.engine or "auto",
            keep=True,
        )
    if options.adaptive and not model.tells_freshness:
        raise ValueError(f"--adaptive: {loaded.source} does not say when a key frame is due (model.adaptive)")
    if options.batch:
        segmenter: Segmenter = BatchSegmenter(model, options.interval)
    else:
        segmenter = Segmenter(model, schedule, options.flat_latency, confidence, options.look_ahead)
    console.print(f"model: {loaded.source}")
    if model.device.type == "cpu":
        console.print(f"computes with {threads()}; --threads N sets another number")
    if options.interval > 1:
        console.print(f"one frame in {options.interval} is a key frame (--interval 1: every frame)")
    origin = Origin.of({"model": loaded.source}, model.device).as_dict()
    if dataset is not None:
        check_classes(loaded.source, dataset)
    with Interrupts() as interrupts:
        job = Job(options, segmenter, loaded.task, origin, interrupts, formats)
        if dataset is not None:
            _label_snippets(job, dataset, folders[0])
        elif videos is not None:
            for name, folder in zip(videos.videos(), folders, strict=True):
                if name in failed:
                    continue
                try:
                    with videos.open(name, on_damage=None if options.strict else _report) as reader:
                        _label_video(job, reader, folder)
                except (ValueError, OSError) as error:
                    if options.strict or len(videos) == 1:
                        raise
                    failed[name] = str(error)
                    _report(failed[name])
    if videos is not None and failed:
        console.print(
            f"not labelled, or not to the end: {len(failed)} of {len(videos)} videos: {few([*failed], MAX_NAMED)}"
        )
    return 1 if failed else 0


def _unusable(videos: VideoFolder, strict: bool) -> dict[str, str]:
    """Return the videos that cannot be opened, with the reasons, and report them.

    Raises an error if there is no other video, or if `strict`.
    """
    failed: dict[str, str] = {}
    for number, name in enumerate(videos.videos(), 1):
        try:
            videos.open(name).close()
        except (ValueError, OSError) as error:
            if strict or number == len(videos) == len(failed) + 1:
                raise
            failed[name] = str(error)
    for reason in failed.values():
        _report(reason)
    return failed


def _schedule(options: Options) -> Schedule:
    if options.adaptive:
        return Adaptive(options.interval)
    return SceneCuts(options.interval) if options.scene_cuts else FixedInterval(options.interval)


def _check_batch(options: Options) -> None:
    """Raise ValueError for options that do not go with --batch."""
    for name in ("flat_latency", "scene_cuts", "live", "optimize", "adaptive", "look_ahead"):
        if getattr(options, name):
            raise ValueError(
                f"--batch takes a key frame and those after it at once: leave out --{name.replace('_', '-')}"
            )


def _videos(options: Options) -> VideoFolder | None:
    """Return the videos to label. None for snippets of a data set. Files in a folder that are not read are reported."""
    if options.input is None:
        if options.fps is not None:
            raise ValueError("--fps: expected with --input FOLDER, a folder of frames")
        return None
    videos = VideoFolder(options.input) if options.fps is None else VideoFolder(options.input, fps=options.fps)
    if options.fps is not None and not videos.has_frames():
        raise ValueError(f"--fps: {options.input} has a frame rate of its own; expected a folder of frames")
    if videos.left_out and options.strict:
        raise ValueError(f"--strict: {videos.describe_left_out()}")
    if videos.left_out:
        _report(videos.describe_left_out())
    return videos


def _first_frames(videos: VideoFolder | None, dataset: ClipDataset | None) -> list[np.ndarray]:
    """Return frames to calibrate with: the first ones of the first video, or of the first snippets. They have one
    size."""
    frames: list[np.ndarray] = []
    if videos is not None:
        with videos.open(videos.videos()[0]) as reader:
            frames = [frame.image for frame in islice(reader.frames(), CALIBRATION)]
    elif dataset is not None:
        for index in range(len(dataset)):
            if len(frames) < CALIBRATION:
                frames += dataset.clip(index, min(CALIBRATION_CLIP, dataset.history(index) + 1)).frames
    return [frame for frame in frames if frame.shape == frames[0].shape]


def _output_folder(path: Path, options: Options) -> OutputFolder:
    results = OUTPUTS[options.boxes]
    files, folders = named_by(options.write)
    return OutputFolder(path, [VIDEO, SUMMARY, *results.files, *files], [*results.folders, *folders])


# --- which model, which data ----------------------------------------------------------------------------------


def _load(options: Options, data: DataConfig | None) -> Loaded:
    device = choose_device(options.device)
    expected = load_config(options.cfg).model if options.cfg else None
    checkpoint = _weights(options, data)
    model = load_model(checkpoint, expected, device)
    classes = classes_of(checkpoint)
    if options.task not in (None, model.task):
        raise ValueError(f"--task {options.task}: {checkpoint} is a model for {model.task}")
    task = build_task(model.task, classes.names, np.array(classes.palette, np.uint8))
    as_given = options.checkpoint if options.checkpoint and Path(options.checkpoint).exists() else checkpoint
    return Loaded(model, task, str(as_given))


def _weights(options: Options, data: DataConfig | None) -> Path:
    """Return the weights that are named, those of the configuration's own run, or the demo's."""
    if options.checkpoint and is_exported(options.checkpoint):
        return Path(options.checkpoint)
    if options.checkpoint:
        return find_weights(options.checkpoint)
    if options.cfg:
        return load_config(options.cfg).output
    if options.task == DETECTION:
        return weights_for_boxes(options.version)
    if data is not None and data.name == "streetscape":
        return weights_for_scenes(options.version, options.device, options.train)
    return weights_for_video(options.version, options.device)


def _data(options: Options) -> DataConfig:
    """Return the labelled snippets to show: those of the configuration, Cityscapes, or generated scenes."""
    if options.cfg:
        return load_config(options.cfg).data
    if options.task == DETECTION:
        vid = DataConfig(name="imagenet_vid", test_split="VID_val_videos")
        if data_root(vid).is_dir():
            return vid
        raise FileNotFoundError(f"no ImageNet VID at {data_root(vid)}: expected it there, or --input VIDEO")
    cityscapes = DataConfig(name="cityscapes")
    if data_root(cityscapes).is_dir():
        return cityscapes
    console.print(f"no Cityscapes at {data_root(cityscapes)}: using generated street scenes")
    return scenes(options.num_ex)


def _dataset(data: DataConfig) -> ClipDataset:
    with bar(f"{data.name} {data.test_split}", 1) as progress:
        return build_dataset(data, data.test_split, progress.of)


# --- running --------------------------------------------------------------------------------------------------


@dataclass
class _Scores:
    """The scores of the snippets so far."""

    score: Score
    timer: Timer
    done: int = 0
    damaged: int = 0


def _label_snippets(job: Job, dataset: ClipDataset, folder: OutputFolder) -> None:
    chosen = _snippets(dataset, _span(job.options))[: job.options.num_ex]
    folder.clear()
    if len(chosen) < job.options.num_ex:
        console.print(f"the data have only {len(chosen)} such snippets")
    scores = _Scores(job.task.score(), Timer())
    video, error = VideoWriter(folder.file(VIDEO), FPS), None
    try:
        writing: Consumer[SegmentedFrame]
        with Consumer(lambda segmented: video.write(picture_of(job.task, segmented, job.options.view))) as writing:
            _score_snippets(job, dataset, chosen, folder, scores, writing)
    except BaseException as stopped:
        error = stopped
    with job.interrupts.held():
        close_video(video, error)
        if error is not None:
            console.print(f"ended early, after {scores.done} of {len(chosen)} snippets")
        figures = {
            "num_ex": scores.done,
            "damaged": scores.damaged,
            "average_over_distances": job.options.average,
            **scores.score.accuracy(job.task.class_names).figures(),
            **scores.timer.figures(),
        }
        job.finish(folder, figures, error)
    if error is not None:
        raise error


def _score_snippets(
    job: Job,
    dataset: ClipDataset,
    chosen: Sequence[int],
    folder: OutputFolder,
    scores: _Scores,
    writing: Consumer[SegmentedFrame],
) -> None:
    interval, span = job.options.interval, _span(job.options)
    for number, index in enumerate(chosen, 1):
        filmed = min(dataset.history(index) + 1, FILMED_FRAMES) if number <= FILMED else span
        # Whole intervals, so that the labelled frame comes last before a key frame.
        length = max(filmed // interval * interval, span)
        try:
            clip = dataset.clip(index, length)
        except (ValueError, FileNotFoundError) as error:
            _report(str(error))
            scores.damaged += 1
            continue
        for segmented in scores.timer.watch(job.segmenter.stream(clip.frames)):
            writing.put(segmented)
        predictions = [segmented.prediction]
        if job.options.average:
            predictions += _nearer_key_frames(job.segmenter, clip, interval, scores.timer)
        with job.interrupts.held():
            job.task.save(folder.file(f"labels/{clip.name}{job.task.suffix}"), segmented.prediction)
            truth = as_tensors(job.task.truth(clip))
            for said in predictions:
                scores.score.update(as_tensors(said), truth)
            scores.done += 1
            console.print(
                f"{number}/{len(chosen)} {clip.name}: {scores.timer.mean():.4f} s a frame, "
                f"{_so_far(scores.score, job.task.class_names)}"
            )
    if scores.damaged == len(chosen):
        raise ValueError("none of the snippets could be read")


def _snippets(dataset: ClipDataset, span: int) -> list[int]:
    """Return the labelled frames in which snippets of at least `span` frames end. Where all frames of videos are
    labelled, it is one of each video."""
    chosen = long_enough(dataset, span)
    if not dataset.plays_videos:
        return chosen
    ends: dict[str, int] = {}
    for index in chosen:
        video, number = dataset.place(index)
        if video not in ends or number < max(FILMED_FRAMES, span):
            ends[video] = index
    return list(ends.values())


def _span(options: Options) -> int:
    """Return the smallest number of frames of a snippet, up to the labelled one, whose features are then as old as
    possible.

    With flat latency, the features of a key frame come into use an interval later.
    """
    return options.interval * (2 if options.flat_latency else 1)


def _so_far(score: Score, class_names: Sequence[str]) -> str:
    """Return the figure so far, with its caveats."""
    value, caveats = score.value(), score.caveats(class_names)
    known = "not known" if np.isnan(value) else f"{100 * value:.1f}%"
    return f"{score.name} so far {known}{f' ({caveats})' if caveats else ''}"


def _nearer_key_frames(segmenter: Segmenter, clip: Clip, interval: int, timer: Timer) -> Iterator[NamedTuple]:
    """Yield the predictions for the last frame, with the key frame 0..interval-2 frames before it."""
    for distance in range(interval - 1):
        *_, last = timer.watch(segmenter.stream(clip.frames[-1 - distance :]))
        yield last.prediction


def _label_video(job: Job, reader: VideoReader, folder: OutputFolder) -> None:
    live = reader.live if job.options.live is None else job.options.live
    frames = in_real_time(reader) if live and not reader.live else reader
    folder.clear()
    video = VideoWriter(folder.file(VIDEO), None if reader.live else reader.fps)
    error = None
    with bar(reader.name, reader.len_hint) as progress:
        recording = Recording(folder, video, job.task, progress, job.options.view, job.options.boxes, reader.frame_name)
        formats = Formats(job.formats, folder.file, reader.name, None if live else reader.fps, job.task)

        def write(segmented: SegmentedFrame) -> None:
            recording.write(segmented)
            formats.write(segmented)

        try:
            job.segmenter.run(frames, write, live)
        except BaseException as stopped:
            error = stopped
    with job.interrupts.held():
        recording.files.close()
        formats.end()
        close_video(video, error)
        timer = recording.timer
        dropped = f" ({recording.dropped} more dropped, latency {timer.latency():.4f} s)" if live else ""
        early = "" if error is None else "ended early, after "
        console.print(
            f"{reader.name}: {early}{recording.frames} frames{dropped}, {timer.mean():.4f} s a frame, "
            f"{timer.key_share():.1%} key frames"
        )
        if reader.missing:
            console.print(f"{reader.name}: frames that could not be read: {_listed(reader.missing)}")
        if video.shortened:
            console.print(f"{video.path}: {video.shortened} frames are shown for a shorter time than in the source")
        figures = {
            "input": reader.name,
            "frame_rate": None if reader.fps is None else float(reader.fps),
            "frames": recording.frames,
            "damaged": reader.damaged,
            "missing": [[each.start, each.stop - 1] for each in reader.missing],
            "live": live,
            "dropped": recording.dropped,
            "latency": timer.latency(),
            **timer.figures(),
            **recording.files.figures(),
        }
        job.finish(folder, figures, error, recording.files.written)
    if error is not None and not (reader.live and isinstance(error, KeyboardInterrupt)):
        raise error


def _listed(frames: Sequence[range]) -> str:
    """Return frame numbers in a readable form: 3, 7-9. Only the first of many are listed."""
    words = [str(each.start) if len(each) == 1 else f"{each.start}-{each.stop - 1}" for each in frames[:MAX_NAMED]]
    return ", ".join(words) + (", ..." if len(frames) > MAX_NAMED else "")


def _report(message: str) -> None:
    console.print(f"left out: {message}")
