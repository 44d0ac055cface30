"""From a weights file, and if wished a configuration, to a model that is ready to run."""

from __future__ import annotations

from pathlib import Path

import torch

from accel.config import ModelConfig
from accel.datasets import ClipDataset
from accel.models import VideoModel, build_model
from accel.training.checkpoints import describe_weights, load_weights

DEVICES = ("cpu", "cuda")


def load_model(
    checkpoint: str | Path, expected: ModelConfig | None = None, device: str | torch.device = "cpu"
) -> VideoModel:
    """The model that a weights file (or the folder of a run) describes, in evaluation mode.

    expected: the model that the caller's configuration describes, if it has one.

    Raises FileNotFoundError, or ValueError if the file is damaged or of another architecture than expected.
    """
    config = describe_weights(checkpoint).model
    if expected is not None and _architecture(expected) != _architecture(config):
        here, there = _architecture(expected), _architecture(config)
        key = next(k for k in {**here, **there} if here.get(k) != there.get(k))
        raise ValueError(
            f"{checkpoint}: weights of another architecture (model.{key} is {there.get(key)} in the checkpoint, "
            f"{here.get(key)} in the configuration)"
        )
    model = build_model(config.model_validate(_without_download(config)))
    load_weights(model, checkpoint)
    return model.to(device, memory_format=torch.channels_last).eval()


def check_classes(checkpoint: str | Path, dataset: ClipDataset) -> None:
    """ValueError if a weights file (or the folder of a run) knows other classes than a data set has."""
    known, found = describe_weights(checkpoint).class_names, tuple(dataset.class_names)
    if known != found:
        raise ValueError(
            f"{checkpoint}: knows {len(known)} classes ({', '.join(known)}), "
            f"but the data have {len(found)} ({', '.join(found)})"
        )


def choose_device(name: str) -> torch.device:
    """The device of that name; for "auto" the GPU if there is one. ValueError for a device this machine lacks."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError:
        device = None
    if device is None or device.type not in DEVICES:
        raise ValueError(f"device {name!r}: expected auto, cpu, cuda or cuda:N")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ValueError(f"device {name!r}: this machine has {torch.cuda.device_count()} CUDA devices")
    return device if device.type == "cuda" else torch.device("cpu")


def _architecture(config: ModelConfig) -> dict:
    """The keys that decide which weights fit, flattened."""
    flat = {}
    for key, value in _without_download(config).items():
        if isinstance(value, dict):
            flat |= {f"{key}.{inner}": v for inner, v in value.items() if inner != "pretrained"}
        else:
            flat[key] = value
    return flat


def _without_download(config: ModelConfig) -> dict:
    """ImageNet weights are not fetched for a model that is about to be filled."""
    values = config.model_dump()
    for branch in values.values():
        if isinstance(branch, dict) and "pretrained" in branch:
            branch["pretrained"] = False
    return values
