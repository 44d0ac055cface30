"""Convert weights files of the published networks from MXNet's and mmtracking's formats to ours and back."""

from __future__ import annotations

import colorsys
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from accel.config import PublishedConfig
from accel.datasets import camvid, cityscapes, imagenet_vid
from accel.models import build_published
from accel.models.published_models import DETECTORS, MMTRACKING
from accel.models.video import VideoModel
from accel.weights.checkpoints import Description, describe_weights, load_weights, save_weights
from accel.weights.mmtracking import map_mmtracking, published_checkpoint, write_mmtracking
from accel.weights.mxnet_params import write_mxnet_params
from accel.weights.published_params import BASE_FILE, Params, map_published, mxnet_params

DETECTOR_FILES = {"rfcn": "rfcn_vid-0000.params", "dff-rfcn": BASE_FILE}  # their names in the release's folder `model`


def from_mxnet(version: str, params: Sequence[Params], out: str | os.PathLike, overwrite: bool = False) -> int:
    """Write the published network `version` with the weights of `params` to the safetensors file `out`.

    Classes are named as Cityscapes' where there are 19, as CamVid's where there are 11, and a detector's as ImageNet
    VID's where there are 30. Returns the number of
    parameters. Raises as `load_published` does, and FileExistsError if `out` exists, unless `overwrite`.
    """
    _check_target(out, [source for source in params if isinstance(source, str | os.PathLike)], overwrite)
    model = map_published(version, *params)
    return _save(version, model, Path(out))


def from_mmtracking(
    version: str, checkpoint: str | os.PathLike, out: str | os.PathLike, overwrite: bool = False
) -> int:
    """Write mmtracking's model `version` with the weights of its checkpoint to the safetensors file `out`.

    Returns the number of parameters. Raises as `load_mmtracking` does, ValueError for the checkpoint of another
    version, and FileExistsError if `out` exists, unless `overwrite`.
    """
    _check_target(out, [checkpoint], overwrite)
    found, model = map_mmtracking(checkpoint)
    if found != version:
        raise ValueError(f"{checkpoint}: expected {version}, found {found}")
    return _save(version, model, Path(out))


def _save(version: str, model: VideoModel, out: Path) -> int:
    """Write a published model, with the names of its classes where they are known; the number of its parameters."""
    reference: Any = model.reference
    detects = version in (*DETECTORS, *MMTRACKING)
    classes: int = reference.num_classes if detects else reference.score_layer.out_channels
    names = tuple(f"class {i}" for i in range(classes))
    colours = [colorsys.hsv_to_rgb(i / classes, 0.8, 0.9) for i in range(classes)]
    palette = [[round(255 * channel) for channel in colour] for colour in colours]
    for data in (imagenet_vid,) if detects else (cityscapes, camvid):
        if classes == len(data.CLASS_NAMES):
            names, palette = data.CLASS_NAMES, data.PALETTE.tolist()
    config = PublishedConfig(name="published", version=version, num_classes=classes)
    save_weights(out, model, Description(config, names, tuple((r, g, b) for r, g, b in palette), step=0))
    return sum(p.numel() for p in model.parameters())


def to_mxnet(version: str, weights: str | Path, out: str | os.PathLike, overwrite: bool = False) -> int:
    """Write the weights file (or run) of a published network as a `.params` file for the original programs.

    Return the number of arrays. Raises ValueError if the weights belong to another network, and FileExistsError if
    `out` exists, unless `overwrite`.
    """
    _check_target(out, [weights], overwrite)
    model = _published(version, weights)
    arrays = mxnet_params(version, model)
    write_mxnet_params(out, arrays)
    return len(arrays)


def to_mmtracking(version: str, weights: str | Path, out: str | os.PathLike, overwrite: bool = False) -> int:
    """Write the weights file (or run) of one of mmtracking's models as a checkpoint of its own.

    Return the number of entries. Raises as `to_mxnet` does.
    """
    _check_target(out, [weights], overwrite)
    return write_mmtracking(_published(version, weights), out, describe_weights(weights).class_names)


def _published(version: str, weights: str | Path) -> VideoModel:
    """The published network in a weights file. ValueError if it holds another."""
    config = describe_weights(weights).model
    if config.name != "published" or config.version != version:
        found = config.version if config.name == "published" else f"a {config.name} model of this program's own"
        raise ValueError(f"{weights}: expected the published {version}, found {found}")
    with torch.device("meta"):
        model = build_published(version, config.num_classes)
    load_weights(model, weights)
    return model


def _check_target(out: str | os.PathLike, sources: Sequence[str | os.PathLike], overwrite: bool) -> None:
    out = Path(out)
    if any(out.resolve() == Path(source).resolve() for source in sources):
        raise ValueError(f"{out}: is the file to convert; write to another file")
    if out.exists() and not overwrite:
        raise FileExistsError(f"{out} exists: choose another name, or --overwrite")


def find_published(version: str, folder: str | os.PathLike = "model") -> Path | None:
    """The weights file of a published network in `folder`, made there from the published files if need be.

    That is `accel-18.safetensors`, or else `accel-18-0000.params`, together with the base file
    `rfcn_dff_flownet_vid-0000.params` if that is there. That file alone is `dff-rfcn`; `rfcn` is
    `rfcn_vid-0000.params`. mmtracking's are as in `published_checkpoint`. None if there is neither.
    """
    folder = Path(folder)
    converted = folder / f"{version}.safetensors"
    if version in MMTRACKING:
        checkpoint = None if converted.is_file() else published_checkpoint(version, folder)
        if checkpoint is not None:
            from_mmtracking(version, checkpoint, converted)
        return converted if converted.is_file() or checkpoint else None
    published = folder / DETECTOR_FILES.get(version, f"{version}-0000.params")
    if not converted.is_file():
        if not published.is_file():
            return None
        if version in DETECTORS:
            from_mxnet(version, [published], converted)
            return converted
        base = folder / BASE_FILE
        try:
            from_mxnet(version, [base, published] if base.is_file() else [published], converted)
        except ValueError as error:
            if base.is_file():
                raise
            raise ValueError(f"no {base}, which {published} is usually used with; {error}") from None
    return converted
