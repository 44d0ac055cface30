"""Models of the user's own, known by name so that weights files can name them."""

from __future__ import annotations

import inspect
import os
import runpy
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from accel.models.backbones.encoders import PixelScaling, pixel_scaling
from accel.models.segmentation.libraries.smp_models import is_smp, smp_source
from accel.models.segmentation.libraries.torchvision_models import is_torchvision, torchvision_source
from accel.models.segmentation.libraries.transformers_models import is_transformers, transformers_source
from accel.models.segmentation.score_network import Source

FILES = "ACCEL_MODELS"  # environment variable: Python files that register models, as paths are listed in PATH

_known: dict[str, tuple[Callable[..., nn.Module], Callable[[Tensor], Tensor] | None]] = {}
_read: set[str] = set()


def register_model(
    name: str, build: Callable[..., nn.Module], preprocess: Callable[[Tensor], Tensor] | None = None
) -> None:
    """Make a model of your own known by a name, for `reference: {name: own, model: NAME}` and for weights files.

    A weights file holds the name and the arguments of the function, but no code. So whoever loads it has to register
    the model too: in Python, or by naming a file that does so in the environment variable ACCEL_MODELS.

    build: a function `build(num_classes, ...)` that returns the model. If it has an argument `pretrained`, it is told
        whether weights are wanted.
    preprocess: as in `accel.accelerate`.
    """
    _known[name] = build, preprocess


def registered(name: str, num_classes: int, arguments: dict[str, Any], pretrained: bool) -> Source:
    """Build a registered model. Raises ValueError for a name that is not registered."""
    if name not in _known:
        _read_files()
    if name not in _known:
        known = f"there are {', '.join(sorted(_known))}" if _known else "none is"
        raise ValueError(
            f"no model is registered as {name!r}, {known}; call accel.register_model({name!r}, ...), or set {FILES} to "
            "the Python file that does so"
        )
    build, preprocess = _known[name]
    told = {"pretrained": pretrained} if "pretrained" in inspect.signature(build).parameters else {}
    return source_of(build(num_classes, **told, **arguments), preprocess)


def source_of(
    model: nn.Module,
    preprocess: Callable[[Tensor], Tensor] | None = None,
    stride: int | None = None,
    size: tuple[int, int] | None = None,
) -> Source:
    """Take apart a model of a library that is known here. Any other one is taken as it is. preprocess, stride, size: as
    in `Source`."""

    if is_smp(model):
        source = smp_source(model, _scaling_of(model))
    elif is_torchvision(model):
        source = torchvision_source(model)
    elif is_transformers(model):
        source = transformers_source(model)
    else:
        source = Source(model)
    return replace(source, preprocess=preprocess, stride=stride, size=size)


def _scaling_of(model: Any) -> PixelScaling:
    """Return the pixel scaling of an SMP model, which calls itself ARCHITECTURE-ENCODER."""
    return pixel_scaling(str(getattr(model, "name", "")).partition("-")[2])


def _read_files() -> None:
    for file in filter(None, os.environ.get(FILES, "").split(os.pathsep)):
        if file in _read:
            continue
        if not Path(file).is_file():
            raise FileNotFoundError(f"{FILES}: no file {file}")
        _read.add(file)
        runpy.run_path(file)
