"""Store weights with the description of their model, and the state of an optimizer."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from accel import wording
from accel.config import ModelConfig, parse_model
from accel.files.digests import sha256_of
from accel.files.whole_files import whole_path, write_whole
from accel.weights.archives import check_archive
from accel.weights.cards import Card, parse_card

WEIGHTS, PRETRAINED = "weights.safetensors", "model.safetensors"  # of a run's folder, and of one to give away
MAX_NAMED = 3  # parameters named in an error
MAX_REASON = 300  # characters


@dataclass(frozen=True)
class Description:
    """The description in a weights file.

    card: what a user should know about the weights.
    precision: the type in which the numbers are stored.
    """

    model: ModelConfig
    class_names: tuple[str, ...]
    palette: tuple[tuple[int, int, int], ...]  # RGB of each class
    step: int
    card: Card = field(default_factory=Card)
    precision: str = "float32"


def weights_path(path: str | Path) -> Path:
    """Return the weights file in a run's folder or in one that `save_pretrained` wrote, or the file itself.

    Raises FileNotFoundError if there is none.
    """
    path = Path(path)
    files = (path / WEIGHTS, path / PRETRAINED) if path.is_dir() else (path,)
    for file in files:
        if file.is_file():
            return file
    raise FileNotFoundError(f"no weights at {files[0]}; expected a run's folder or a .safetensors file")


def save_weights(path: Path, model: nn.Module, description: Description, dtype: torch.dtype | None = None) -> str:
    """Write a safetensors file, completely or not at all, and return its SHA-256.

    dtype: the type of the floating-point numbers in the file. None: the model's type.

    Raises OSError if the disk does not accept it. An earlier file is then unchanged.
    """
    metadata = {
        "format": "accel",
        "model": json.dumps(description.model.model_dump(mode="json")),
        "class_names": json.dumps(description.class_names),
        "palette": json.dumps(description.palette),
        "step": str(description.step),
    }
    if description.card != Card():
        metadata["card"] = description.card.model_dump_json()
    if description.precision != "float32":
        metadata["precision"] = description.precision
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    if dtype is not None:
        tensors = {name: t.to(dtype) if t.is_floating_point() else t for name, t in tensors.items()}
    with whole_path(path) as temporary:
        try:
            save_file(tensors, temporary, metadata)
        except SafetensorError as error:  # what the system said, in the library's words
            raise OSError(f"{path}: cannot be written ({reason(error)})") from None
        return sha256_of(temporary)


def describe_weights(path: str | Path) -> Description:
    """Read the description in a weights file. Raises ValueError for any other file."""
    path = weights_path(path)
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{path}: not a safetensors file ({reason(error)})") from None
    if metadata.get("format") != "accel":
        raise ValueError(f"{path}: not weights of this program (no `format: accel` in its metadata)")
    try:
        return _described(metadata)
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        raise ValueError(f"{path}: damaged metadata ({reason(error)})") from None


def _described(metadata: dict[str, str]) -> Description:
    model = parse_model(json.loads(metadata["model"]), "model")
    names, palette = (json.loads(metadata[key]) for key in ("class_names", "palette"))
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise ValueError("class_names: expected a list of names")
    if not len(names) == len(palette) == model.num_classes:
        raise ValueError(f"{len(names)} class names and {len(palette)} colours for {model.num_classes} classes")
    for colour in palette:
        if len(colour) != 3 or not all(isinstance(c, int) and 0 <= c <= 255 for c in colour):
            raise ValueError(f"palette: {colour!r:.100} is not a colour of three numbers 0 to 255")
    card, precision = parse_card(json.loads(metadata.get("card", "{}"))), metadata.get("precision", "float32")
    return Description(model, tuple(names), tuple(map(tuple, palette)), int(metadata["step"]), card, precision)


def load_weights(
    model: nn.Module, path: str | Path, part: str = "", keep_missing: bool = False, classes: int | None = None
) -> list[str]:
    """Load the weights at `path` into `model`, or those of one `part` of the model stored there. Return the names of
    parameters that keep their values for their shape.

    keep_missing: whether parameters that are not stored there keep their values. Otherwise they are an error.
    classes: the number of classes of the model that `model` is, or is a part of. Parameters whose shapes differ because
        the stored model has another number keep their values. None: they are an error.

    Raises ValueError, with file and parameters, if a parameter is missing, left over or of another shape.
    """
    path = weights_path(path)
    prefix = f"{part}." if part else ""
    expected = model.state_dict()
    try:
        with safe_open(path, "pt") as file:
            names = {name.removeprefix(prefix): name for name in file.keys() if name.startswith(prefix)}  # noqa: SIM118
            shapes = {name: file.get_slice(stored).get_shape() for name, stored in names.items()}
            if not names:
                raise ValueError(f"{path}: holds no part called {part!r}")
            fresh = [] if classes is None else _made_for_other_classes(path, expected, shapes, classes)
            fitting = {name: shape for name, shape in shapes.items() if name not in fresh}
            others = {name: tensor for name, tensor in expected.items() if name not in fresh}
            _refuse_other_architecture(path, others, fitting, keep_missing)  # before anything is read
            stored = {name: file.get_tensor(stored) for name, stored in names.items() if name not in fresh}
    except (SafetensorError, OSError, RuntimeError, OverflowError, KeyError) as error:
        raise ValueError(f"{path}: not a safetensors file ({reason(error)})") from None
    for name, tensor in stored.items():
        if tensor.is_floating_point() != expected[name].is_floating_point():
            raise ValueError(f"{path}: damaged: {name} is {tensor.dtype}, expected {expected[name].dtype}")
    stored = {name: tensor.to(expected[name].dtype) for name, tensor in stored.items()}
    on_meta = any(p.is_meta for p in model.parameters())  # built without memory: use what was read
    model.load_state_dict({**expected, **stored}, assign=on_meta)
    return fresh


def _made_for_other_classes(
    path: Path, expected: dict[str, Tensor], shapes: dict[str, list[int]], classes: int
) -> list[str]:
    """Return the parameters whose shapes differ only where one counts the classes there and the other those here."""
    there = describe_weights(path).model.num_classes

    def fits(stored: int, own: int) -> bool:
        return stored == own or (stored % there == 0 and stored * classes == own * there)

    return [
        name
        for name, tensor in expected.items()
        if name in shapes
        and shapes[name] != list(tensor.shape)
        and len(shapes[name]) == tensor.dim()
        and all(map(fits, shapes[name], tensor.shape))
    ]


def _refuse_other_architecture(
    path: Path, expected: dict[str, Tensor], shapes: dict[str, list[int]], keep_missing: bool
) -> None:
    faults = {
        "missing": [] if keep_missing else [name for name in expected if name not in shapes],
        "left over": [name for name in shapes if name not in expected],
        "of another shape": [
            f"{name} {shapes[name]} instead of {list(expected[name].shape)}"
            for name in expected
            if name in shapes and shapes[name] != list(expected[name].shape)
        ],
    }
    if any(faults.values()):
        told = "; ".join(f"{len(names)} {kind}: {few(names)}" for kind, names in faults.items() if names)
        raise ValueError(f"{path}: weights of another architecture ({told})")


def load_parts(
    model: nn.Module, init: dict[str, str], keep_missing: bool = False, classes: int | None = None
) -> list[str]:
    """Carry out a configuration's `init`: for each part of the model, `RUN` or `RUN#part`. Arguments and result are as
    in `load_weights`."""
    fresh: list[str] = []
    for part, source in init.items():
        path, _, source_part = source.partition("#")
        if part == "all":
            fresh += load_weights(model, path, source_part, keep_missing, classes)
            continue
        try:
            module = model.get_submodule(part)
        except AttributeError:
            known = ", ".join(name for name, _ in model.named_children())
            raise ValueError(f"init: the model has no part {part!r}; it has {known}") from None
        if not Path(path).exists():
            raise FileNotFoundError(f"init.{part}: no run at {path}; train that first, or take its line out of `init`")
        kept = load_weights(module, path, source_part or part, keep_missing, classes)
        fresh += (f"{part}.{name}" for name in kept)
    return fresh


def save_state(path: Path, state: dict[str, Any]) -> str:
    """Write the state of an optimizer, completely or not at all, and return its SHA-256. Raises the errors of
    `save_weights`."""
    data = io.BytesIO()
    torch.save(state, data)
    return write_whole(path, data.getbuffer())


def load_state(path: Path) -> dict[str, Any]:
    """Read the state of an optimizer. No code from the file is run."""
    try:
        check_archive(path)
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise ValueError(f"{path}: not the state of a run ({reason(error)})") from None


def few(names: Sequence[str]) -> str:
    """Return the first of many names, and how many more there are."""
    return wording.few([f"{name:.100}" for name in names], MAX_NAMED)


def reason(error: Exception) -> str:
    """Return the first line of the error, shortened if necessary."""
    return wording.first_line(error)[:MAX_REASON]
