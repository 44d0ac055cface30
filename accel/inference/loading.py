"""Load a model that is ready to run, from a weights file and optionally a configuration."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from accel import runtime
from accel.config import ModelConfig, parse_model, without_pretrained
from accel.datasets import ClipDataset
from accel.devices import choose_device
from accel.inference.exported import ExportedModel
from accel.models import VideoModel, build_model
from accel.runtime.folder import is_exported, read
from accel.runtime.onnx_graphs import CPU, CUDA
from accel.tasks import Task, build_task
from accel.weights.checkpoints import describe_weights, load_weights
from accel.weights.hub import About
from accel.weights.names import find_weights

STARTS = (
    "pretrained",
    "zero_init_residual",
    "weights",
)  # keys of a branch that say how its weights start, not which fit


def load_model(
    checkpoint: str | Path, expected: ModelConfig | None = None, device: str | torch.device = "auto"
) -> VideoModel:
    """Return the model that the weights describe, in evaluation mode.

    checkpoint: the name of known weights (`accel models` lists them), a weights file, the folder of a run, or
        hf://OWNER/NAME. See `accel.weights.names.find_weights`. Or the folder of an exported model, which its own
        runtime runs.
    expected: the model that the caller's configuration describes, if there is one.
    device: the device for the model. "auto" takes the GPU if there is one.

    Raises FileNotFoundError if there is no such file. Raises ValueError if the file is damaged, or its architecture is
    not the expected one.
    """
    if is_exported(checkpoint):
        return _load_exported(Path(checkpoint), expected, device)
    checkpoint = find_weights(checkpoint)
    description = describe_weights(checkpoint)
    config = description.model
    _check_architecture(checkpoint, config, expected)
    model = build_model(without_pretrained(config))
    load_weights(model, checkpoint)
    model.about = About(description)
    device = choose_device(device) if isinstance(device, str) else device
    return model.to(device=device, memory_format=torch.channels_last).eval()  # type: ignore[call-overload] # undeclared


def load_prepared(
    checkpoint: str | Path, device: str, interval: int, flat_latency: bool = False, optimize: bool = False
) -> tuple[VideoModel, Task]:
    """Return a model that is prepared for labelling video, and its task with the classes of its weights.

    interval: frames from key frame to key frame.
    flat_latency: whether the work of a key frame will be spread over the interval.
    optimize: whether to make the model fast first.

    Raises as `load_model`.
    """
    model = load_model(checkpoint, device=device)
    classes = classes_of(checkpoint if is_exported(checkpoint) else find_weights(checkpoint))
    task = build_task(model.task, classes.names, np.array(classes.palette, np.uint8))
    if optimize or flat_latency:  # which needs a model cut into parts
        dtype = None if optimize else torch.float32
        model = model.optimized(dtype=dtype, compile=optimize, parts=interval if flat_latency else 1)
    return model, task


@dataclass(frozen=True)
class Classes:
    """The classes that a model knows. palette: RGB of each."""

    names: tuple[str, ...]
    palette: tuple[tuple[int, int, int], ...]


def classes_of(checkpoint: str | Path) -> Classes:
    """Return the classes of a weights file, of a run's folder, or of an exported model's. Raises the errors of
    `load_model`."""
    if is_exported(checkpoint):
        exported = read(checkpoint)
        return Classes(exported.class_names, exported.palette)
    description = describe_weights(checkpoint)
    return Classes(description.class_names, description.palette)


def check_classes(checkpoint: str | Path, dataset: ClipDataset) -> None:
    """Raise ValueError if the classes of a weights file (or of a run's folder) are not those of the data set."""
    known, found = classes_of(checkpoint).names, tuple(dataset.class_names)
    if known != found:
        raise ValueError(
            f"{checkpoint}: knows {len(known)} classes ({', '.join(known)}), "
            f"but the data have {len(found)} ({', '.join(found)})"
        )


def _load_exported(folder: Path, expected: ModelConfig | None, device: str | torch.device) -> VideoModel:
    config = parse_model(read(folder).about["model"], f"{folder}: model")
    _check_architecture(folder, config, expected)
    kind = torch.device(device).type if str(device) != "auto" else "auto"
    providers = {"auto": None, "cpu": [CPU], "cuda": [CUDA, CPU]}
    if kind not in providers:
        raise ValueError(f"device {device}: an exported model runs on auto, cpu or cuda")
    return ExportedModel(runtime.load(folder, providers[kind])).eval()


def _check_architecture(checkpoint: str | Path, config: ModelConfig, expected: ModelConfig | None) -> None:
    """Raise ValueError if a checkpoint's model is not the expected one."""
    if expected is not None and not expected.num_classes:  # as many as the data have
        expected = expected.model_copy(update={"num_classes": config.num_classes})
    if expected is None or _architecture(expected) == _architecture(config):
        return
    here, there = _architecture(expected), _architecture(config)
    key = next(k for k in {**here, **there} if here.get(k) != there.get(k))
    raise ValueError(
        f"{checkpoint}: weights of another architecture (model.{key} is {there.get(key)} in the checkpoint, "
        f"{here.get(key)} in the configuration)"
    )


def _architecture(config: ModelConfig) -> dict:
    """Return the keys that decide which weights fit, flattened."""
    flat: dict = {}
    for key, value in without_pretrained(config).model_dump().items():
        if isinstance(value, dict):
            flat |= {f"{key}.{inner}": v for inner, v in value.items() if inner not in STARTS}
        else:
            flat[key] = value
    return flat
