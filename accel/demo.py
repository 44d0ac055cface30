"""The demonstration: a trained model on video, shown as pictures, a side-by-side video and figures."""

from __future__ import annotations

import signal
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from accel.config import Config, DataConfig, load_config, load_stages
from accel.datasets import Clip, ClipDataset, build_dataset, data_root
from accel.datasets.clips import frames_to_tensor, long_enough
from accel.devices import choose_device
from accel.evaluation.origin import Origin
from accel.evaluation.running.evaluator import evaluate
from accel.evaluation.tables import model_table, write_json
from accel.inference.loading import check_classes, load_model
from accel.inference.segmenter import SegmentedFrame, Segmenter
from accel.inference.stages import Consumer
from accel.inference.timing import frames_per_second, time_interleaved
from accel.interrupts import Interrupts
from accel.models import VideoModel
from accel.output_folder import OutputFolder
from accel.playing.scene_cuts import SceneCuts
from accel.playing.schedules import FixedInterval
from accel.progress import bar, console
from accel.recording import Recording, Timer, close_video, picture_of
from accel.tasks import Score, Task, as_tensors, build_task
from accel.tasks.task import View
from accel.training.run_folder import has_settings, is_done
from accel.training.sources import other_start
from accel.video.folder import VideoFolder
from accel.video.live import in_real_time
from accel.video.source import VideoReader
from accel.video.writer import VideoWriter
from accel.weights.checkpoints import WEIGHTS, describe_weights
from accel.weights.conversion import find_published
from accel.weights.names import find_weights

EXPERIMENTS = Path(__file__).parent.parent / "experiments"
SUMMARY, VIDEO, TABLE = "summary.json", "video.mp4", "table.json"
FPS = 10  # of the video made from snippets
FILMED = 10  # snippets shown in the video from as early on as they go; of further ones only what is scored
FILMED_FRAMES = 20  # frames of those, at most
MAX_NAMED = 10  # gaps of a video that are named
TIMED_ROUNDS = 10  # of the models' turns in the table


@dataclass(frozen=True)
class Options:
    """The command-line options of the demo."""

    version: str
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
    flat_latency: bool
    optimize: bool
    compare: bool
    scene_cuts: bool
    view: View


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

    def finish(self, folder: OutputFolder, figures: dict, error: BaseException | None) -> None:
        """Write the summary of an input. error: the error that ended it early, or None."""
        options = self.options
        about = {
            "interval": options.interval,
            "scene_cuts": options.scene_cuts,
            "flat_latency": options.flat_latency,
        }
        interrupted = isinstance(error, KeyboardInterrupt)
        end = {"interrupted": interrupted, "error": None if error is None or interrupted else str(error)}
        write_json(folder.file(SUMMARY), about | figures | end | {"origin": self.origin})
        folder.close()
        console.print(f"written: {folder.path}/ (labels/*{self.task.suffix}, video.mp4, summary.json)")


def run_demo(options: Options) -> None:
    """Label videos, or snippets of a labelled data set, and write the results to `options.output`.

    Frames labelled before an error or Ctrl-C are always written, and the error is raised after that. For a camera or a
    live stream, which have no other end, Ctrl-C is not an error.

    Raises ValueError or FileNotFoundError for invalid input.
    """
    schedule = SceneCuts(options.interval) if options.scene_cuts else FixedInterval(options.interval)
    if options.average and options.flat_latency:
        raise ValueError("--avg scores every distance from a key frame; --flat-latency has only long ones: choose one")
    if options.num_ex < 1:
        raise ValueError(f"num_ex {options.num_ex}: expected 1 snippet or more")
    videos = _videos(options)
    for name in videos.videos() if videos else ():
        videos.open(name).close()  # a file that is no video is told before anything is trained or loaded
    # Nothing is cleared here: earlier results stay until inputs, model and all output folders have been looked at.
    if videos is None or len(videos) == 1:
        folders = [_output_folder(options.output)]
    else:
        folders = [_output_folder(options.output / name) for name in videos.videos()]
    if options.compare:
        _table_folder(options.output)
    options.output.mkdir(parents=True, exist_ok=True)
    data = None if videos else _data(options)
    dataset = data and _dataset(data)
    loaded = _load(options, data)
    model = loaded.model
    if options.optimize or options.flat_latency:  # which needs a model cut into parts
        parts = options.interval if options.flat_latency else 1
        model = model.optimized(
            dtype=None if options.optimize else torch.float32, compile=options.optimize, parts=parts
        )
    segmenter = Segmenter(model, schedule, options.flat_latency)
    console.print(f"model: {loaded.source}")
    if options.interval > 1:
        console.print(f"one frame in {options.interval} is a key frame (--interval 1: every frame)")
    origin = Origin.of({"model": loaded.source}, model.device).as_dict()
    if videos is None:
        check_classes(loaded.source, dataset)
    with Interrupts() as interrupts:
        job = Job(options, segmenter, loaded.task, origin, interrupts)
        if videos is None:
            _label_snippets(job, dataset, folders[0])
        else:
            for name, folder in zip(videos.videos(), folders, strict=True):
                with videos.open(name, on_damage=_report) as reader:
                    _label_video(job, reader, folder)


def _videos(options: Options) -> VideoFolder | None:
    """Return the videos to label. None for snippets of a data set. Files in a folder that are not read are reported."""
    if options.input is None:
        if options.fps is not None:
            raise ValueError("--fps: expected with --input FOLDER, a folder of frames")
        return None
    videos = VideoFolder(options.input) if options.fps is None else VideoFolder(options.input, fps=options.fps)
    if options.fps is not None and not videos.has_frames():
        raise ValueError(f"--fps: {options.input} has a frame rate of its own; expected a folder of frames")
    if videos.left_out:
        _report(videos.describe_left_out())
    return videos


def _output_folder(path: Path) -> OutputFolder:
    return OutputFolder(path, [VIDEO, SUMMARY], ["labels"])


def _table_folder(path: Path) -> OutputFolder:
    return OutputFolder(path, [TABLE])


def compare_demo_models(version: str, interval: int, output: Path, device: str) -> None:
    """Train the models that the demo needs and print one table: both branches frame by frame, Deep Feature Flow and
    Accel."""
    FixedInterval(interval)
    folder = _table_folder(output)
    stages = {_title(stage): stage for stage in _train_demo_model(version, device)}
    data = next(iter(stages.values())).data
    dataset = build_dataset(data, data.test_split)
    chosen = choose_device(device)
    origin = Origin.of({name: str(stage.output) for name, stage in stages.items()}, chosen)
    models, results = {}, {}
    for name, stage in stages.items():
        model = models[name] = load_model(stage.output, stage.model, chosen)
        at = interval if model.carries_state else 1
        results[name] = evaluate(model, dataset, at, average=model.carries_state)
    # Side by side: what a model took while it was scored depends on what else the machine did just then.
    frames = frames_to_tensor(dataset.clip(0, 2).frames)
    for name, (key, current) in time_interleaved(models, frames, TIMED_ROUNDS).items():
        at = results[name].interval
        fps = frames_per_second(key, current, at)
        results[name] = replace(results[name], seconds_key=key, seconds_current=current if at > 1 else None, fps=fps)
    console.print(model_table(results, f"{len(dataset)} generated scenes, all distances from the key frame"))
    figures = {name: result.as_dict() for name, result in results.items()}
    write_json(folder.file(TABLE), {"models": figures, "origin": origin.as_dict()})
    console.print(f"written: {output / TABLE}")


def _title(stage: Config) -> str:
    name = stage.output.name
    alone = stage.model.name == "frame_by_frame"
    return f"{name} ({stage.model.reference.encoder}) frame by frame" if alone else name


# --- which model, which data ----------------------------------------------------------------------------------


def _load(options: Options, data: DataConfig | None) -> Loaded:
    device = choose_device(options.device)
    expected = load_config(options.cfg).model if options.cfg else None
    checkpoint = find_weights(options.checkpoint) if options.checkpoint else _find_weights(options, data)
    model = load_model(checkpoint, expected, device)
    description = describe_weights(checkpoint)
    task = build_task(model.task, description.class_names, np.array(description.palette, np.uint8))
    as_given = options.checkpoint if options.checkpoint and Path(options.checkpoint).exists() else checkpoint
    return Loaded(model, task, str(as_given))


def _find_weights(options: Options, data: DataConfig | None) -> Path:
    """Return the weights for this version.

    They come from a configuration's own run, from model/ (converted or as published), or from a run here on Cityscapes.
    Otherwise they are those of the demo model, which is trained first if necessary. Generated scenes always use the
    demo model.
    """
    if options.cfg:
        return load_config(options.cfg).output
    if data is not None and data.name == "streetscape":
        if Path("model").is_dir():
            console.print("weights in model/ are for real video: they are used only with --input, and with Cityscapes")
        return _train_demo_model(options.version, options.device)[-1].output
    version = f"accel-{options.version}"
    if published := find_published(version, "model"):
        return published
    trained = Path(f"runs/accel{options.version}_cityscapes/weights.safetensors")
    if trained.is_file():
        return trained
    console.print(
        f"no model/{version}.safetensors, model/{version}-0000.params or {trained}: using the demo model, "
        "which was trained on generated scenes only; expect poor results on real video"
    )
    return _train_demo_model(options.version, options.device)[-1].output


def _train_demo_model(version: str, device: str):
    from accel.training.signals import Stopped
    from accel.training.trainer import train  # loads Lightning Fabric, which labelling does without

    stages = load_stages(EXPERIMENTS / "demo" / f"demo{version}.yaml")
    for number, stage in enumerate(stages, 1):
        if not is_done(stage):
            console.print(f"training the demo model, once: stage {number} of {len(stages)}")
            # The run is this program's own cache: one of other settings, or on older weights, is replaced.
            stale = not has_settings(stage) or (stage.output / WEIGHTS).is_file() or bool(other_start(stage))
            try:
                train(stage, device, resume=True, overwrite=stale, again="the same command goes on")
            except Stopped as stopped:
                if stopped.signal is signal.SIGINT:  # to a run that is the end; the demo has not come to its own
                    raise KeyboardInterrupt from None
                raise
    return stages


def _data(options: Options) -> DataConfig:
    """Return the labelled snippets to show: those of the configuration, Cityscapes, or generated scenes."""
    if options.cfg:
        return load_config(options.cfg).data
    cityscapes = DataConfig(name="cityscapes")
    if data_root(cityscapes).is_dir():
        return cityscapes
    console.print(f"no Cityscapes at {data_root(cityscapes)}: using generated street scenes")
    demo = load_stages(EXPERIMENTS / "demo" / "demo18.yaml")[-1].data
    snippets = demo.snippets | {demo.test_split: max(options.num_ex, demo.snippets[demo.test_split])}
    return demo.model_copy(update={"snippets": snippets})


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
    chosen = long_enough(dataset, _span(job.options))[: job.options.num_ex]
    folder.clear()
    if len(chosen) < job.options.num_ex:
        console.print(f"the data have only {len(chosen)} such snippets")
    scores = _Scores(job.task.score(), Timer())
    video, error = VideoWriter(folder.file(VIDEO), FPS), None
    try:
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
            **scores.score.figures(job.task.class_names),
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
        recording = Recording(folder, video, job.task, progress, job.options.view)
        try:
            job.segmenter.run(frames, recording.write, live)
        except BaseException as stopped:
            error = stopped
    with job.interrupts.held():
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
        }
        job.finish(folder, figures, error)
    if error is not None and not (reader.live and isinstance(error, KeyboardInterrupt)):
        raise error


def _listed(frames: Sequence[range]) -> str:
    """Return frame numbers in a readable form: 3, 7-9. Only the first of many are listed."""
    words = [str(each.start) if len(each) == 1 else f"{each.start}-{each.stop - 1}" for each in frames[:MAX_NAMED]]
    return ", ".join(words) + (", ..." if len(frames) > MAX_NAMED else "")


def _report(message: str) -> None:
    console.print(f"left out: {message}")
