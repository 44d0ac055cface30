"""The demonstration: a trained model on video, shown as pictures, a side-by-side video and figures."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from accel import visualize
from accel.config import Config, DataConfig, load_config, load_stages
from accel.datasets import Clip, ClipDataset, build_dataset, data_root
from accel.devices import choose_device
from accel.evaluation.origin import Origin
from accel.evaluation.results import class_shares, mean_of, share
from accel.evaluation.running.evaluator import evaluate
from accel.evaluation.running.reading import long_enough
from accel.evaluation.tables import model_table, write_json
from accel.inference.loading import check_classes, load_model
from accel.inference.schedules import FixedInterval
from accel.inference.segmenter import Segmenter
from accel.inference.stages import Consumer
from accel.inference.timing import frames_per_second, frames_to_tensor, time_interleaved
from accel.measures.confusion import ConfusionMatrix
from accel.models import VideoModel
from accel.output_folder import OutputFolder
from accel.progress import bar, console
from accel.recording import Legend, Recording, Timer
from accel.training.run_folder import has_settings, is_done, newer_start
from accel.video.folder import VideoFolder
from accel.video.live import in_real_time
from accel.video.reader import VideoReader
from accel.video.writer import VideoWriter
from accel.weights.checkpoints import WEIGHTS, describe_weights
from accel.weights.conversion import find_published

EXPERIMENTS = Path(__file__).parent.parent / "experiments"
SUMMARY, VIDEO = "summary.json", "video.mp4"
FPS = 10  # of the video made from snippets
FILMED = 10  # snippets shown in the video from as early on as they go; of further ones only what is scored
FILMED_FRAMES = 20  # frames of those, at most
TIMED_ROUNDS = 10  # of the models' turns in the table


@dataclass(frozen=True)
class Options:
    """What the command line of the demo says."""

    version: str
    interval: int
    num_ex: int
    average: bool
    cfg: str | None
    checkpoint: str | None
    input: str | None
    output: Path
    device: str
    live: bool | None
    flat_latency: bool
    optimize: bool


@dataclass(frozen=True)
class Loaded:
    """A model on its device with what its labels mean."""

    model: VideoModel
    legend: Legend
    source: str  # the weights file


def run_demo(options: Options) -> None:
    """Label videos, or snippets of a labelled data set, and write what came out to `options.output`.

    Raises ValueError or FileNotFoundError for input that is not as it should be.
    """
    schedule = FixedInterval(options.interval)
    if options.num_ex < 1:
        raise ValueError(f"num_ex {options.num_ex}: expected 1 snippet or more")
    videos = VideoFolder(options.input) if options.input else None
    for name in videos.videos() if videos else ():
        videos.open(name).close()  # a file that is no video is told before anything is trained or loaded
    # Nothing is cleared here: earlier results stay until inputs, model and all output folders have been looked at.
    if videos is None or len(videos) == 1:
        folders = [_output_folder(options.output)]
    else:
        folders = [_output_folder(options.output / name) for name in videos.videos()]
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
    origin = Origin.of({"model": loaded.source}, model.device).as_dict()
    if videos is None:
        check_classes(loaded.source, dataset)
        figures_of = [_label_snippets(segmenter, dataset, loaded, folders[0], options)]
    else:
        figures_of = []
        for name, folder in zip(videos.videos(), folders, strict=True):
            with videos.open(name, on_damage=_report) as reader:
                figures_of.append(_label_video(segmenter, reader, loaded, folder, options))
    for folder, figures in zip(folders, figures_of, strict=True):
        about = {"interval": options.interval, "flat_latency": options.flat_latency}
        write_json(folder.file(SUMMARY), about | figures | {"origin": origin})
        console.print(f"written: {folder.path}/ (labels/*.png, video.mp4, summary.json)")


def _output_folder(path: Path) -> OutputFolder:
    return OutputFolder(path, [VIDEO, SUMMARY], ["labels"])


def compare_demo_models(version: str, interval: int, output: Path, device: str) -> None:
    """Train what the demo needs and print one table: both branches frame by frame, Deep Feature Flow and Accel."""
    FixedInterval(interval)
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
    write_json(output / "table.json", {"models": figures, "origin": origin.as_dict()})


def _title(stage: Config) -> str:
    name = stage.output.name
    alone = stage.model.name == "frame_by_frame"
    return f"{name} ({stage.model.reference.encoder}) frame by frame" if alone else name


# --- which model, which data ----------------------------------------------------------------------------------


def _load(options: Options, data: DataConfig | None) -> Loaded:
    device = choose_device(options.device)
    expected = load_config(options.cfg).model if options.cfg else None
    checkpoint = options.checkpoint or _find_weights(options, data)
    model = load_model(checkpoint, expected, device)
    description = describe_weights(checkpoint)
    legend = Legend(description.class_names, np.array(description.palette, np.uint8))
    return Loaded(model, legend, str(checkpoint))


def _find_weights(options: Options, data: DataConfig | None) -> Path:
    """Weights for this version: from a configuration's own run, put in model/ (converted or as published), trained
    here on Cityscapes, or the demo model's, which is trained first if need be. Generated scenes are the demo model's
    in any case."""
    if options.cfg:
        return load_config(options.cfg).output
    if data is not None and data.name == "streetscape":
        if Path("model").is_dir():
            console.print("weights in model/ are for real video: they are used with --input, and with Cityscapes")
        return _train_demo_model(options.version, options.device)[-1].output
    version = f"accel-{options.version}"
    if published := find_published(version, "model"):
        return published
    trained = Path(f"runs/accel{options.version}_cityscapes/weights.safetensors")
    if trained.is_file():
        return trained
    console.print(
        f"no model/{version}.safetensors, model/{version}-0000.params or {trained}: using the demo model, "
        "which has seen generated scenes only; expect it to be poor on real video"
    )
    return _train_demo_model(options.version, options.device)[-1].output


def _train_demo_model(version: str, device: str):
    from accel.training.trainer import train  # loads Lightning Fabric, which labelling does without

    stages = load_stages(EXPERIMENTS / "demo" / f"demo{version}.yaml")
    for number, stage in enumerate(stages, 1):
        if not is_done(stage):
            console.print(f"training the demo model, once: stage {number} of {len(stages)}")
            # The run is this program's own cache: one of other settings, or on older weights, is replaced.
            stale = not has_settings(stage) or (stage.output / WEIGHTS).is_file() or bool(newer_start(stage))
            train(stage, device, resume=True, overwrite=stale)
    return stages


def _data(options: Options) -> DataConfig:
    """The labelled snippets to show: those of the configuration, Cityscapes, or generated scenes."""
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


def _label_snippets(
    segmenter: Segmenter, dataset: ClipDataset, loaded: Loaded, folder: OutputFolder, options: Options
) -> dict:
    matrix = ConfusionMatrix(dataset.num_classes)
    timer = Timer()
    damaged = 0
    chosen = long_enough(dataset, options.interval)[: options.num_ex]
    folder.clear()
    if len(chosen) < options.num_ex:
        console.print(f"the data have {len(chosen)} such snippets")
    with (
        VideoWriter(folder.file(VIDEO), FPS) as video,
        Consumer(lambda segmented: video.write(loaded.legend.panel(segmented))) as writing,
    ):
        for number, index in enumerate(chosen, 1):
            filmed = min(dataset.history(index) + 1, FILMED_FRAMES) if number <= FILMED else options.interval
            # Whole intervals, so that the labelled frame comes last before a key frame.
            length = max(filmed // options.interval, 1) * options.interval
            try:
                clip = dataset.clip(index, length)
            except (ValueError, FileNotFoundError) as error:
                _report(str(error))
                damaged += 1
                continue
            for segmented in timer.watch(segmenter.stream(clip.frames)):
                writing.put(segmented)
            picture = folder.file(f"labels/{clip.name}.png")
            visualize.save_palette_png(picture, segmented.labels, loaded.legend.palette)
            predictions = [segmented.labels]
            if options.average:
                predictions += _nearer_key_frames(segmenter, clip, options.interval, timer)
            for labels in predictions:
                matrix.update(torch.from_numpy(labels), torch.from_numpy(clip.labels))
            console.print(f"{number}/{len(chosen)} {clip.name}: {timer.mean():.4f} s a frame, {_so_far(matrix)}")
        if damaged == len(chosen):
            raise ValueError("none of the snippets could be read")
    iou = class_shares(matrix, dataset.class_names)
    return {
        "num_ex": len(chosen) - damaged,
        "damaged": damaged,
        "average_over_distances": options.average,
        "miou": share(matrix.miou()),
        "iou": iou,
        "classes_scored": sum(value is not None for value in iou.values()),
        **timer.figures(options.interval),
    }


def _so_far(matrix: ConfusionMatrix) -> str:
    """The mIoU of what was counted."""
    scored, classes = int(matrix.iou().isfinite().sum()), len(matrix.counts)
    if not scored:
        return "nothing scored so far: all pixels are ignored"
    of = f" ({mean_of(scored, classes)})" if scored < classes else ""
    return f"mIoU so far {100 * matrix.miou():.1f}%{of}"


def _nearer_key_frames(segmenter: Segmenter, clip: Clip, interval: int, timer: Timer) -> Iterator[np.ndarray]:
    """Labels of the last frame with the key frame 0..interval-2 frames before it."""
    for distance in range(interval - 1):
        *_, last = timer.watch(segmenter.stream(clip.frames[-1 - distance :]))
        yield last.labels


def _label_video(
    segmenter: Segmenter, reader: VideoReader, loaded: Loaded, folder: OutputFolder, options: Options
) -> dict:
    live = reader.live if options.live is None else options.live
    frames = in_real_time(reader) if live and not reader.live else reader
    folder.clear()
    with (
        VideoWriter(folder.file(VIDEO), None if live or reader.live else reader.fps) as video,
        bar(reader.name, reader.len_hint) as progress,
    ):
        recording = Recording(folder, video, loaded.legend, progress)
        try:
            segmenter.run(frames, recording.write, live)
        except KeyboardInterrupt:  # the way to end a camera's video
            if not (reader.live and recording.frames):
                raise
    timer = recording.timer
    dropped = f" ({recording.dropped} more dropped, latency {timer.latency():.4f} s)" if live else ""
    console.print(f"{reader.name}: {recording.frames} frames{dropped}, {timer.mean():.4f} s a frame")
    return {
        "input": reader.name,
        "frames": recording.frames,
        "damaged": reader.damaged,
        "live": live,
        "dropped": recording.dropped,
        "latency": timer.latency(),
        **timer.figures(options.interval),
    }


def _report(message: str) -> None:
    console.print(f"left out: {message}")
