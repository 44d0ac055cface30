"""Weights on disk, with the model they belong to; and the state of an unfinished run."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import nn

from accel.config import ModelConfig, parse_model

WEIGHTS = "weights.safetensors"
MAX_NAMED = 3  # parameters named in an error


@dataclass(frozen=True)
class Description:
    """What a weights file says of itself."""

    model: ModelConfig
    class_names: tuple[str, ...]
    palette: tuple[tuple[int, int, int], ...]  # RGB of each class
    step: int


def weights_path(path: str | Path) -> Path:
    """The weights file of a run's folder, or the file itself. FileNotFoundError if there is none."""
    path = Path(path)
    file = path / WEIGHTS if path.is_dir() else path
    if not file.is_file():
        raise FileNotFoundError(f"no weights at {file}; expected a run's folder or a .safetensors file")
    return file


def save_weights(path: Path, model: nn.Module, description: Description) -> None:
    """Write a safetensors file, whole or not at all."""
    metadata = {
        "format": "accel",
        "model": json.dumps(description.model.model_dump(mode="json")),
        "class_names": json.dumps(description.class_names),
        "palette": json.dumps(description.palette),
        "step": str(description.step),
    }
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    _write_whole(path, lambda temporary: save_file(tensors, temporary, metadata))


def describe_weights(path: str | Path) -> Description:
    """Read what a weights file says of itself. ValueError where it is no such file."""
    path = weights_path(path)
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{path}: not a safetensors file ({error})") from None
    if metadata.get("format") != "accel":
        raise ValueError(f"{path}: not weights of this program (no `format: accel` in its metadata)")
    try:
        return Description(
            model=parse_model(json.loads(metadata["model"]), "model"),
            class_names=tuple(json.loads(metadata["class_names"])),
            palette=tuple(tuple(colour) for colour in json.loads(metadata["palette"])),
            step=int(metadata["step"]),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path}: damaged metadata ({error})") from None


def load_weights(model: nn.Module, path: str | Path, part: str = "") -> None:
    """Fill `model` with the weights at `path`, or with those of one `part` of the model stored there.

    Raises ValueError that names file and parameters if one is missing, left over or of another shape.
    """
    path = weights_path(path)
    prefix = f"{part}." if part else ""
    try:
        with safe_open(path, "pt") as file:
            stored = {k.removeprefix(prefix): file.get_tensor(k) for k in file.keys() if k.startswith(prefix)}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{path}: not a safetensors file ({error})") from None
    if not stored:
        raise ValueError(f"{path}: holds no part called {part!r}")
    expected = model.state_dict()
    faults = {
        "missing": [name for name in expected if name not in stored],
        "left over": [name for name in stored if name not in expected],
        "of another shape": [
            f"{name} {list(stored[name].shape)} instead of {list(expected[name].shape)}"
            for name in expected
            if name in stored and stored[name].shape != expected[name].shape
        ],
    }
    if any(faults.values()):
        told = "; ".join(f"{len(names)} {kind}: {_few(names)}" for kind, names in faults.items() if names)
        raise ValueError(f"{path}: weights of another architecture ({told})")
    model.load_state_dict(stored, assign=any(p.is_meta for p in model.parameters()))  # built without memory: use this


def load_parts(model: nn.Module, init: dict[str, str]) -> None:
    """Carry out a configuration's `init`: part of the model to `RUN` or `RUN#part`."""
    for part, source in init.items():
        path, _, source_part = source.partition("#")
        if part == "all":
            load_weights(model, path, source_part)
            continue
        try:
            module = model.get_submodule(part)
        except AttributeError:
            known = ", ".join(name for name, _ in model.named_children())
            raise ValueError(f"init: the model has no part {part!r}; it has {known}") from None
        if not Path(path).exists():
            raise FileNotFoundError(f"init.{part}: no run at {path}; train that first, or take its line out of `init`")
        load_weights(module, path, source_part or part)


def save_state(path: Path, state: dict[str, Any]) -> None:
    """Write the state of an unfinished run, whole or not at all."""
    _write_whole(path, lambda temporary: torch.save(state, temporary))


def load_state(path: Path) -> dict[str, Any]:
    """Read it back; runs no code from the file."""
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise ValueError(f"{path}: not the state of a run ({reason})") from None


def _write_whole(path: Path, write) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        write(temporary)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _few(names: list[str]) -> str:
    more = f" and {len(names) - MAX_NAMED} more" if len(names) > MAX_NAMED else ""
    return ", ".join(names[:MAX_NAMED]) + more
