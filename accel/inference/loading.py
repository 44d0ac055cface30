"""Load a model that is ready to run, from a weights file and optionally a configuration."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from accel.config import ModelConfig, without_pretrained
from accel.datasets import ClipDataset
from accel.devices import choose_device
from accel.models import VideoModel, build_model
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
        hf://OWNER/NAME. See `accel.weights.names.find_weights`.
    expected: the model that the caller's configuration describes, if there is one.
    device: the device for the model. "auto" takes the GPU if there is one.

    Raises FileNotFoundError if there is no such file. Raises ValueError if the file is damaged, or its architecture is
    not the expected one.
    """
    checkpoint = find_weights(checkpoint)
    description = describe_weights(checkpoint)
    config = description.model
    if expected is not None and not expected.num_classes:  # as many as the data have
        expected = expected.model_copy(update={"num_classes": config.num_classes})
    if expected is not None and _architecture(expected) != _architecture(config):
        here, there = _architecture(expected), _architecture(config)
        key = next(k for k in {**here, **there} if here.get(k) != there.get(k))
        raise ValueError(
            f"{checkpoint}: weights of another architecture (model.{key} is {there.get(key)} in the checkpoint, "
            f"{here.get(key)} in the configuration)"
        )
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
    description = describe_weights(find_weights(checkpoint))
    task = build_task(model.task, description.class_names, np.array(description.palette, np.uint8))
    if optimize or flat_latency:  # which needs a model cut into parts
        dtype = None if optimize else torch.float32
        model = model.optimized(dtype=dtype, compile=optimize, parts=interval if flat_latency else 1)
    return model, task


def check_classes(checkpoint: str | Path, dataset: ClipDataset) -> None:
    """Raise ValueError if the classes of a weights file (or of a run's folder) are not those of the data set."""
    known, found = describe_weights(checkpoint).class_names, tuple(dataset.class_names)
    if known != found:
        raise ValueError(
            f"{checkpoint}: knows {len(known)} classes ({', '.join(known)}), "
            f"but the data have {len(found)} ({', '.join(found)})"
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
