"""The demo's models: those that came with the program, or others that are trained here. And a table of them."""

from __future__ import annotations

import signal
from dataclasses import replace
from pathlib import Path

from accel.config import Config, DataConfig, load_stages
from accel.config.experiments import EXPERIMENTS
from accel.datasets import ClipDataset, build_dataset
from accel.datasets.clips import frames_to_tensor
from accel.devices import choose_device
from accel.evaluation.origin import Origin
from accel.evaluation.running.evaluator import evaluate
from accel.evaluation.tables import model_table, write_json
from accel.inference.loading import load_model
from accel.inference.timing import frames_per_second, time_interleaved
from accel.models import VideoModel
from accel.output_folder import OutputFolder
from accel.playing.schedules import FixedInterval
from accel.progress import console
from accel.training.run_folder import has_settings, is_done
from accel.training.sources import other_start
from accel.weights.checkpoints import WEIGHTS
from accel.weights.conversion import DETECTOR_FILES, find_published
from accel.weights.names import shipped

FOR_VIDEO, FOR_SCENES = "accel-lite-camvid", "accel-lite-scenes"  # names of shipped weights
VERSION = "18"  # of the demo that is trained
TABLE = "table.json"
TIMED_ROUNDS = 10  # the models' turns


def weights_for_video(version: str | None, device: str) -> Path:
    """Weights for real video: in `model/` (converted or as published), trained here on Cityscapes, or those that came
    with the program. Without any, those of the demo that is trained here.

    version: of the published networks: 18, 34, 50 or 101; None for 18, and for what came with the program.
    """
    name = f"accel-{version or VERSION}"
    if published := find_published(name, "model"):
        return published
    trained = Path(f"runs/accel{version or VERSION}_cityscapes/weights.safetensors")
    if trained.is_file():
        return trained
    if version is None and (path := shipped(FOR_VIDEO)):
        return path
    console.print(
        f"no model/{name}.safetensors, model/{name}-0000.params or {trained}: using the demo model, "
        "which was trained on generated scenes only; expect poor results on real video"
    )
    return train_demo(version, device)[-1].output


def weights_for_boxes(version: str | None) -> Path:
    """Weights of a detector, which are the published ones in `model/`: none come with the program, and the demo trains
    none.

    Raises FileNotFoundError if there are none, and ValueError for a version, which detectors do not have.
    """
    if version is not None:
        raise ValueError(f"--version {version}: is of models for segmentation; leave it out with --task detection")
    for name in ("dff-rfcn", "rfcn"):
        if published := find_published(name, "model"):
            return published
    files = " or ".join(f"model/{DETECTOR_FILES[name]}" for name in ("dff-rfcn", "rfcn"))
    raise FileNotFoundError(
        f"no weights of a detector come with the program: expected the published {files}, or --checkpoint with the "
        "folder of a run"
    )


def weights_for_scenes(version: str | None, device: str, train: bool) -> Path:
    """Weights for generated scenes: those that came with the program, or those of the demo that is trained here.

    version: of the demo that is trained: 18, 34, 50 or 101; None for 18, and for what came with the program.
    train: train it in any case.
    """
    if Path("model").is_dir():
        console.print("weights in model/ are for real video: they are used only with --input, and with Cityscapes")
    if not train and version is None and (path := shipped(FOR_SCENES)):
        return path
    return train_demo(version, device)[-1].output


def scenes(at_least: int = 0) -> DataConfig:
    """Return the demo's data: generated scenes. at_least: how many there are to be to show."""
    data = load_stages(EXPERIMENTS / "demo" / f"demo{VERSION}.yaml")[-1].data
    snippets = data.snippets | {data.test_split: max(at_least, data.snippets[data.test_split])}
    return data.model_copy(update={"snippets": snippets})


def train_demo(version: str | None, device: str) -> list[Config]:
    """The stages of a demo's recipe, trained by now. KeyboardInterrupt if Ctrl-C ended that."""
    from accel.training.signals import Stopped
    from accel.training.trainer import train  # loads Lightning Fabric, which labelling does without

    stages = load_stages(EXPERIMENTS / "demo" / f"demo{version or VERSION}.yaml")
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


def table_folder(path: Path) -> OutputFolder:
    return OutputFolder(path, [TABLE])


def compare_demo_models(version: str | None, interval: int, output: Path, device: str, train: bool) -> None:
    """Print and write a table of the demo's models on generated scenes: both branches frame by frame, Deep Feature Flow
    and Accel. All are within the weights that came with the program; or each was trained here.

    version, train: as in `weights_for_scenes`.
    """
    FixedInterval(interval)
    folder = table_folder(output)
    chosen = choose_device(device)
    path = None if train or version is not None else shipped(FOR_SCENES)
    models: dict[str, VideoModel]
    if path is not None:
        model = load_model(path, device=chosen)
        models = model.constituents() | {"Accel": model}
        sources = dict.fromkeys(models, str(path))
    else:
        stages = {_title(stage): stage for stage in train_demo(version, device)}
        models = {name: load_model(stage.output, stage.model, chosen) for name, stage in stages.items()}
        sources = {name: str(stage.output) for name, stage in stages.items()}
    data = scenes()
    dataset = build_dataset(data, data.test_split)
    origin = Origin.of(sources, chosen)
    results = _results(models, dataset, interval)
    console.print(model_table(results, f"{len(dataset)} generated scenes, all distances from the key frame"))
    figures = {name: result.as_dict() for name, result in results.items()}
    write_json(folder.file(TABLE), {"models": figures, "origin": origin.as_dict()})
    console.print(f"written: {output / TABLE}")


def _results(models: dict[str, VideoModel], dataset: ClipDataset, interval: int):
    results = {}
    for name, model in models.items():
        at = interval if model.carries_state else 1
        results[name] = evaluate(model, dataset, at, average=model.carries_state)
    # Side by side: what a model took while it was scored depends on what else the machine did just then.
    frames = frames_to_tensor(dataset.clip(0, 2).frames)
    for name, (key, current) in time_interleaved(models, frames, TIMED_ROUNDS).items():
        at = results[name].interval
        fps = frames_per_second(key, current, at)
        results[name] = replace(results[name], seconds_key=key, seconds_current=current if at > 1 else None, fps=fps)
    return results


def _title(stage: Config) -> str:
    name = stage.output.name
    if stage.model.name != "frame_by_frame":
        return name
    return f"{name} ({stage.model.reference.encoder}) frame by frame"
