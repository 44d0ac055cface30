"""From a segmentation model and some videos to a video model, with a report of what was gained."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from accel.config import Config, parse_model
from accel.datasets.unlabelled_videos import UnlabelledVideos
from accel.devices import choose_device
from accel.evaluation.agreement import agreement_table, measure_agreement, write_agreement
from accel.evaluation.origin import Origin
from accel.files.yaml_files import read_yaml
from accel.inference.accelerating import light_update
from accel.inference.loading import load_model
from accel.machine import machine_name
from accel.models import VideoModel, build_model
from accel.playing.adaptive import Adaptive
from accel.playing.schedules import FixedInterval, Schedule
from accel.progress import console
from accel.video.folder import VideoFolder
from accel.weights.checkpoints import describe_weights
from accel.weights.names import find_weights

INTERVALS = (2, 5, 10)  # of the report
ADAPTIVE = 8  # frames from key frame to key frame, on average
CROP = (384, 512)  # pixels of training clips, at most
GRID = 32  # pixels; crops are multiples of it
FORMS = "transformers:NAME, torchvision:NAME, smp:ARCHITECTURE:ENCODER[:WEIGHTS], own:NAME, a .yaml file, or a run"


@dataclass(frozen=True)
class Options:
    """The arguments of `accel accelerate`."""

    model: str
    videos: Sequence[Path]
    output: Path
    classes: int | None
    steps: int
    batch_size: int
    fresh: bool  # the update branch starts from random weights
    frames: int  # of each video that the report looks at, at most
    device: str
    resume: bool
    overwrite: bool


@dataclass(frozen=True)
class Teacher:
    """The model to accelerate.

    reference: the section of a configuration that describes it.
    num_classes, class_names: its classes; the names may be unknown.
    run: the weights of this program that it is the reference branch of, if it is.
    """

    reference: dict[str, Any]
    num_classes: int
    class_names: tuple[str, ...] | None = None
    run: str | None = None


def accelerate_model(options: Options) -> Path:
    """Make a video model whose reference branch is the given model: choose an update branch, learn from the videos,
    and measure what was gained. Return the run's folder.

    Raises ValueError or FileNotFoundError for a model or videos that cannot be used, and as `train` does.
    """
    from accel.training.trainer import train  # loads Lightning Fabric

    teacher = find_teacher(options.model, options.classes)
    videos = UnlabelledVideos(options.videos, ())
    config = _config(options, teacher, videos)
    frames = len(videos)
    console.print(
        f"{options.output}: learning from {frames} frames of {len(videos.videos)} videos, in {config.train.steps} "
        "steps; Ctrl-C saves, --resume goes on"
    )
    weights = train(config, options.device, options.resume, options.overwrite)
    model = load_model(weights, device=options.device)
    report(model, options, teacher)
    console.print(f"written: {options.output}/ (weights.safetensors, report.md, report.json)")
    console.print(f"next: accel label VIDEO --model {options.output}")
    return options.output


def find_teacher(model: str, classes: int | None = None) -> Teacher:
    """Return the model of that name, in one of the `FORMS`.

    classes: the number of its classes, for a model that does not say.

    Raises ValueError for another form, and for a model whose number of classes is not known.
    """
    kind, _, rest = model.partition(":")
    if kind in _KINDS and rest:
        return _KINDS[kind](rest, classes)
    if model.endswith((".yaml", ".yml")):
        values = read_yaml(Path(model))
        if not isinstance(values, dict) or not isinstance(values.get("reference"), dict):
            raise ValueError(f"{model}: expected num_classes and a section `reference`, as in a model's configuration")
        names = values.get("classes")
        count = classes or values.get("num_classes") or (len(names) if names else None)
        return Teacher(values["reference"], _known(count, model), tuple(names) if names else None)
    try:
        path = find_weights(model)
    except FileNotFoundError as error:
        raise ValueError(f"no model {model!r}; expected {FORMS}") from error
    description = describe_weights(path)
    values = description.model.model_dump(mode="json")
    if "reference" not in values or values["reference"]["name"] == "rfcn":
        raise ValueError(f"{model}: a {description.model.name} model has no reference branch for segmentation")
    return Teacher(values["reference"], description.model.num_classes, description.class_names, str(path))


def _transformers(name: str, classes: int | None) -> Teacher:
    try:
        from transformers import AutoConfig
    except ImportError:
        raise ValueError("models of transformers need it: pip install 'accel-vss[transformers]'") from None
    try:
        found = AutoConfig.from_pretrained(name)
    except Exception as error:  # of whatever kind the libraries have
        raise ValueError(f"transformers:{name}: no configuration found ({str(error).splitlines()[0]})") from error
    count = classes or found.num_labels
    names = tuple(str(found.id2label[k]) for k in range(count)) if count == found.num_labels else None
    config = {key: value for key, value in found.to_dict().items() if key not in ("id2label", "label2id")}
    reference = {"name": "transformers", "config": config, "weights": name, "pretrained": True}
    return Teacher(reference, count, names)


def _torchvision(name: str, classes: int | None) -> Teacher:
    from torchvision.models import get_model_weights, list_models, segmentation

    if name not in list_models(module=segmentation):
        raise ValueError(f"torchvision:{name}: there are {', '.join(list_models(module=segmentation))}")
    names = tuple(get_model_weights(name).DEFAULT.meta["categories"])
    reference = {"name": "torchvision", "architecture": name, "weights": "DEFAULT", "pretrained": True}
    if classes not in (None, len(names)):
        raise ValueError(f"torchvision:{name}: its weights have {len(names)} classes, not {classes}")
    return Teacher(reference, len(names), names)


def _smp(name: str, classes: int | None) -> Teacher:
    architecture, _, rest = name.partition(":")
    encoder, _, weights = rest.partition(":")
    if not encoder or not weights:
        raise ValueError(f"smp:{name}: expected smp:ARCHITECTURE:ENCODER:WEIGHTS, with a file of the model's weights")
    reference = {"name": "smp", "architecture": architecture, "encoder": encoder}
    return Teacher(reference | {"weights": weights, "pretrained": True}, _known(classes, f"smp:{name}"))


def _own(name: str, classes: int | None) -> Teacher:
    return Teacher({"name": "own", "model": name, "pretrained": True}, _known(classes, f"own:{name}"))


_KINDS = {"transformers": _transformers, "torchvision": _torchvision, "smp": _smp, "own": _own}


def _known(count: int | None, model: str) -> int:
    if count is None:
        raise ValueError(f"{model}: how many classes it has is not known; give --classes N")
    return count


def _config(options: Options, teacher: Teacher, videos: UnlabelledVideos) -> Config:
    """Return the configuration of the run."""
    size = videos.videos[0].size
    settings = options.output / "config.yaml"
    # A run that goes on keeps the update branch that was chosen when it began: times differ from day to day.
    earlier = read_yaml(settings) if options.resume and settings.is_file() else None
    update = earlier["model"]["update"] if isinstance(earlier, dict) else _update(options, teacher, size)
    sides = [max(GRID, min(most, side // GRID * GRID)) for most, side in zip(CROP, size, strict=True)]
    names = {} if teacher.class_names is None else {"classes": list(teacher.class_names)}
    values: dict[str, Any] = {
        "model": {
            "name": "accel",
            "num_classes": teacher.num_classes,
            "reference": teacher.reference,
            "update": update,
            "flow": {"name": "dis"},
            "adaptive": True,
        },
        "data": {
            "name": "videos",
            "videos": [str(path) for path in options.videos],
            "clip_length": 6,
            "augmentation": {"crop": sides, "scale": [0.7, 1.3], "flip": 0.5, "colour": 0.3},
            **names,
        },
        "train": {
            "loss": {"name": "distillation"},
            "steps": options.steps,
            "batch_size": options.batch_size,
            "save_every": 50,
            "optimizer": {"name": "adamw", "lr": 2.0e-4, "weight_decay": 1.0e-2},
            "schedule": {"warmup_steps": min(50, options.steps // 10), "power": 0.9},
            "lr_multipliers": {
                "update.*.decoder.*": 4,
                "update.score_layer.*": 4,
                "fusion.*": 10,
                "freshness.*": 10,
            },
            "freeze": ["reference"],
        },
        "output": str(options.output),
    }
    if teacher.run is not None:
        values["init"] = {"reference": f"{teacher.run}#reference"}
    return Config.model_validate(values)


def _update(options: Options, teacher: Teacher, size: tuple[int, int]) -> dict[str, Any]:
    """Return the update branch that is light enough beside the reference branch, on frames of `size`."""
    reference = teacher.reference | ({"pretrained": False} if "pretrained" in teacher.reference else {})
    alone = {"name": "frame_by_frame", "num_classes": teacher.num_classes, "reference": reference}
    model: Any = build_model(parse_model(alone, options.model)).to(choose_device(options.device)).eval()
    chosen, share = light_update(model.reference, teacher.num_classes, size, pretrained=not options.fresh)
    console.print(
        f"update branch: {chosen.encoder} at stride {chosen.stride}, {share:.0%} of the reference branch's time on "
        f"frames of {size[1]}x{size[0]} pixels"
    )
    return chosen.model_dump(mode="json")


def report(model: VideoModel, options: Options, teacher: Teacher) -> None:
    """Measure what was gained on the videos, print it, and write it to the run's folder."""
    schedules: dict[str, Schedule] = {f"every {n} frames": FixedInterval(n) for n in INTERVALS}
    schedules[f"adaptive, 1 in {ADAPTIVE}"] = Adaptive(ADAPTIVE)
    results = measure_agreement(model, _films(options.videos), schedules, teacher.num_classes, options.frames)
    about = [
        "*Agreement* is the mIoU of the labels against those of the reference branch on the same frame, not against "
        "ground truth.",
        f"Measured on the first {options.frames} frames of each video it learned from (without labels), on "
        f"{machine_name(model.device)}, with no preparation for speed (`--optimize`).",
    ]
    write_agreement(options.output, results, about, Origin.of({"model": str(options.output)}, model.device).as_dict())
    console.print(agreement_table(results), markup=False)
    console.print(about[0], markup=False)


def _films(sources: Sequence[Path]) -> Iterator[Iterator[np.ndarray]]:
    for source in sources:
        folder = VideoFolder(source)
        for name in folder.videos():
            with folder.open(name, on_damage=lambda message: console.print(f"left out: {message}")) as reader:
                yield iter(reader)
