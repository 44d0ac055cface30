"""mmtracking's checkpoints of Deep Feature Flow on Faster R-CNN: reading, writing, and finding them."""

from __future__ import annotations

import os
import re
import zipfile
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from accel.files.digests import sha256_of
from accel.files.whole_files import whole_path
from accel.models.published_models import MMTRACKING, build_published
from accel.models.video import VideoModel
from accel.weights.archives import check_archive
from accel.weights.checkpoints import few, reason
from accel.weights.mmtracking_names import CLASSES, their_name, to_ours, to_theirs

# What checkpoints of mmengine hold besides weights: what was logged, and when. In its place stands a `_LeftOut`.
_NOT_WANTED = (
    "mmengine.logging.history_buffer.HistoryBuffer",
    "numpy.core.multiarray._reconstruct",
    "numpy._core.multiarray._reconstruct",
    "numpy.core.multiarray.scalar",
    "numpy._core.multiarray.scalar",
    "numpy.ndarray",
    "numpy.dtype",
    "_codecs.encode",
    "__builtin__.getattr",
    "builtins.getattr",
)
_NAMED_BY_HASH = re.compile(r"-([0-9a-f]{8})\.pth$")  # as OpenMMLab names what it publishes


class _LeftOut:
    """Stands for an object of a checkpoint that nobody needs. It takes whatever made that, and does nothing."""

    def __new__(cls, *_: Any) -> _LeftOut:
        return super().__new__(cls)

    def __init__(self, *_: Any):
        pass

    def __setstate__(self, state: Any) -> None:
        pass


def load_mmtracking(path: str | os.PathLike) -> VideoModel:
    """Return the model of one of mmtracking's checkpoints, ready for inference: with a ResNet-50, a ResNet-101 or a
    ResNeXt-101, whichever it is, and as many classes as it has.

    Files of mmtracking 0.x and 1.x will do, as published or as a training leaves them. Neither mmcv nor mmengine is
    needed, and no code in a file is run.

    Raises FileNotFoundError. Raises ValueError for another file, for one that is not what its name says (published
    names end with the start of their SHA-256), and for parameters that do not fit: some of them are named.
    """
    return map_mmtracking(path)[1]


def map_mmtracking(path: str | os.PathLike) -> tuple[str, VideoModel]:
    """Do the same as `load_mmtracking`, and return also which of the published versions it is."""
    theirs = read_mmtracking(path)
    version = _version(theirs)
    rows = theirs.get(f"{CLASSES}weight")
    num_classes = len(rows) - 1 if rows is not None and rows.dim() == 2 and 2 <= len(rows) <= 256 else 30
    with torch.device("meta"):
        model = build_published(version, num_classes)
    expected = {their_name(name): tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    # Checkpoints of older programs do not count batches, and nobody asks for the number.
    theirs = {name: torch.zeros(()).long() for name in expected if name.endswith("num_batches_tracked")} | theirs
    problems = {
        "missing": sorted(expected.keys() - theirs.keys()),
        "left over": sorted(theirs.keys() - expected.keys()),
        "misshapen": [
            f"{name} {tuple(theirs[name].shape)} instead of {shape}"
            for name, shape in expected.items()
            if name in theirs and tuple(theirs[name].shape) != shape
        ],
    }
    found = [f"{len(names)} {what}: {few(names)}" for what, names in problems.items() if names]
    if found:
        raise ValueError(f"{path}: these parameters are not those of {version}: {'; '.join(found)}")
    ours = to_ours(theirs, model.state_dict())
    model.load_state_dict({n: t.float() if t.is_floating_point() else t for n, t in ours.items()}, assign=True)
    return version, model.eval()


def read_mmtracking(path: str | os.PathLike) -> dict[str, Tensor]:
    """Return the parameters in a checkpoint of mmtracking, by its names. All else in it is left out.

    Raises the errors of `load_mmtracking`, but for parameters that do not fit.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; expected a checkpoint of mmtracking (.pth)")
    named = _NAMED_BY_HASH.search(path.name)
    if named and not sha256_of(path).startswith(named[1]):
        raise ValueError(f"{path}: damaged, or not the published file: its SHA-256 does not begin with {named[1]}")
    try:
        if zipfile.is_zipfile(path):
            check_archive(path)
        with torch.serialization.safe_globals([(_LeftOut, name) for name in _NOT_WANTED]):
            stored = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise ValueError(f"{path}: not a checkpoint of mmtracking ({_why(error)})") from None
    state = stored.get("state_dict") if isinstance(stored, dict) else None
    if not isinstance(state, Mapping) or not state or not all(map(_is_entry, state.items())):
        raise ValueError(f"{path}: not a checkpoint of mmtracking: expected a `state_dict` of named tensors")
    return dict(state)


def write_mmtracking(model: VideoModel, path: str | os.PathLike, class_names: Sequence[str]) -> int:
    """Write a checkpoint that mmtracking 0.x and 1.x can read, completely or not at all. Return the number of its
    entries.

    Raises ValueError for a model that is none of mmtracking's.
    """
    try:
        state = to_theirs({name: tensor.detach().cpu() for name, tensor in model.state_dict().items()})
    except KeyError as error:
        raise ValueError(f"the model is none of mmtracking's: it has a parameter {error.args[0]}") from None
    names = tuple(class_names)
    meta = {"CLASSES": names, "dataset_meta": {"CLASSES": names}}
    with whole_path(Path(path)) as temporary:
        torch.save({"meta": meta, "state_dict": OrderedDict(state)}, temporary)
    return len(state)


def published_checkpoint(version: str, folder: Path) -> Path | None:
    """The file of a version in a folder, under the name that it was published with: such as
    dff_faster_rcnn_r50_dc5_1x_imagenetvid_20201227_213250-548911a4.pth. None if there is none.

    Raises ValueError if there are several.
    """
    kind = version.rpartition("-")[2]
    found = sorted(_named(kind, folder))
    if len(found) > 1:
        raise ValueError(f"{folder}: {len(found)} files of {version}: {few([file.name for file in found])}; keep one")
    return found[0] if found else None


def _named(kind: str, folder: Path) -> Iterator[Path]:
    for pattern in (f"dff_faster_rcnn_{kind}_dc5*.pth", f"dff_faster-rcnn_{kind}-dc5*.pth"):
        yield from folder.glob(pattern)


def _version(theirs: Mapping[str, Tensor]) -> str:
    """The version that a checkpoint's parameters are nearest to."""
    if "detector.backbone.layer3.6.conv1.weight" not in theirs:  # a block that ResNet-50 does not have
        return next(iter(MMTRACKING))
    grouped = theirs.get("detector.backbone.layer1.0.conv2.weight")
    is_wide = grouped is not None and grouped.dim() == 4 and grouped.shape[1] == 4
    return f"dff-faster-rcnn-{'x101' if is_wide else 'r101'}"


def _is_entry(entry: tuple[Any, Any]) -> bool:
    return isinstance(entry[0], str) and isinstance(entry[1], Tensor)


def _why(error: Exception) -> str:
    """The cause in a few words. PyTorch begins with advice that would be dangerous here."""
    told = str(error)
    if found := re.search(r"GLOBAL (\S+)", told):
        return f"it asks for {found[1]!r:.100}, which belongs in none; nothing of it was run"
    return reason(error) if "weights_only" not in told else "it holds something else than weights"
