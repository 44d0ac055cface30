"""Export a model: graphs for another runtime, and beside them a description, `model.json`."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from accel._version import __version__
from accel.exporting import checking
from accel.exporting.aoti_packages import LIBRARY, write_aoti, write_library
from accel.exporting.graphs import Graph, Graphs, graphs_of
from accel.exporting.onnx_files import OPSET, check_installed, write_onnx
from accel.files.digests import sha256_of
from accel.files.whole_files import write_whole
from accel.inference.exported import ExportedModel
from accel.inference.loading import load_model
from accel.machine import commit
from accel.models import VideoModel
from accel.models.backbones.published_resnets import PreActResNet, ResNetV1
from accel.runtime import folder as layout
from accel.runtime import load as load_exported
from accel.weights.names import find_weights

TARGETS = ("onnx", "aoti")
PRECISIONS = {"fp32": torch.float32, "fp16": torch.float16}
# Of frames of any size: one that networks have to pad, because the tracer leaves out padding by nothing; and another to
# check.
EXAMPLE, OTHER = (393, 522), (192, 256)
SMALLEST = 64  # pixels of a side of frames of any size
# At 1 or 2 pixels more than a multiple of 16, maps of published networks are a cell smaller, and the graph another one.
REMAINDERS = (1, 2)


@dataclass(frozen=True)
class Settings:
    """What to export.

    to: "onnx" or "aoti".
    size: (H, W) of the frames; None for frames of any size.
    precision: "fp32" or "fp16": the type of weights and features.
    interval: the number of frames from key frame to key frame that the folder recommends.
    grid_sample: for ONNX, whether the operator GridSample may be used. Some runtimes compute it wrongly.
    """

    to: str = "onnx"
    size: tuple[int, int] | None = None
    precision: str = "fp32"
    interval: int = 5
    grid_sample: bool = True

    def check(self) -> None:
        """Raise ValueError for settings that do not exist."""
        if self.to not in TARGETS:
            raise ValueError(f"export to {self.to!r}: expected {' or '.join(TARGETS)}")
        if self.precision not in PRECISIONS:
            raise ValueError(f"precision {self.precision!r}: expected {' or '.join(PRECISIONS)}")
        if self.interval < 1:
            raise ValueError(f"interval {self.interval}: expected 1 (every frame is a key frame) or more")
        if self.size is not None and min(self.size) < 1:
            raise ValueError(f"size must be (height, width) in pixels, got {tuple(self.size)}")


def export(
    run: str | Path,
    out: str | Path,
    to: str = "onnx",
    size: tuple[int, int] | None = None,
    precision: str = "fp32",
    interval: int = 5,
    grid_sample: bool = True,
    say: Callable[[str], object] = lambda line: None,
) -> Path:
    """Export the model in a run's folder, in a weights file, or of a name that `accel models` lists. Return the folder.

    The folder holds a file for each function (`key` and `next`), `model.json`, and ten frames with the labels that the
    exported model gave them. `accel.load_model` and `accel.runtime.load` accept it.

    out: a new or empty folder, or one with an earlier export, which is replaced.
    to, size, precision, interval, grid_sample: see `Settings`.
    say: is called with a line about each step.

    Raises ValueError for a model that cannot be exported, and if fewer than 99.9% of the labels of ten frames (99% with
    "fp16") are those of the model in PyTorch. Raises FileExistsError for a folder with other files.
    """
    settings = Settings(to, size, precision, interval, grid_sample)
    settings.check()
    if to == "onnx":
        check_installed()
    model = load_model(find_weights(run), device="cpu")
    return export_model(model, Path(out), settings, str(run), say)


def export_model(
    model: VideoModel,
    folder: Path,
    settings: Settings,
    source: str = "",
    say: Callable[[str], object] = lambda line: None,
) -> Path:
    """Export a model as `export` does. It was loaded from weights, or its `about` describes its classes otherwise."""
    dynamic = settings.size is None
    size = settings.size or EXAMPLE
    layout.check_free(folder)
    say("tracing the model")
    graphs = graphs_of(model, size, PRECISIONS[settings.precision], dynamic)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / layout.FILE).unlink(missing_ok=True)  # until all is written, the folder holds no model
    suffix = layout.SUFFIXES[settings.to]
    for graph in graphs.graphs:
        say(f"writing {graph.name}{suffix}")
        path = folder / f"{graph.name}{suffix}"
        if settings.to == "onnx":
            write_onnx(graphs, graph, path, settings.grid_sample)
        else:
            write_aoti(graph, path)
    if settings.to == "aoti":
        write_library(folder)
    description = _description(model, graphs, settings, folder, source)
    write_whole(folder / layout.FILE, _text(description))
    say("checking it on ten frames")
    try:
        description["checks"] = [each.as_dict() for each in _check(model, folder, settings, size)]
    except BaseException:
        (folder / layout.FILE).unlink()
        raise
    write_whole(folder / layout.FILE, _text(description))
    return folder


def _check(model: VideoModel, folder: Path, settings: Settings, size: tuple[int, int]) -> list[checking.Agreement]:
    """Compare at the size, and for frames of any size also at another one. Store the frames of the first."""
    found = []
    for each in (size,) if settings.size else (size, OTHER):
        exported = ExportedModel(load_exported(folder, providers=["CPUExecutionProvider"]))
        frames = checking.scene(each)
        agreement, labels = checking.compare(model, exported, frames)
        checking.require(agreement, settings.precision)
        found.append(agreement)
        if each == size:
            checking.write_frames(folder, frames, labels)
    return found


def _description(model: VideoModel, graphs: Graphs, settings: Settings, folder: Path, source: str) -> dict[str, Any]:
    """Return the content of `model.json`, but for the checks."""
    if model.about is None:
        raise ValueError("this model has no description of its classes; load it with accel.load_model")
    known = model.about.description
    suffix = layout.SUFFIXES[settings.to]
    published = any(isinstance(module, ResNetV1 | PreActResNet) for module in model.modules())
    any_size = {"smallest": SMALLEST, "cells": 16, "excluded_remainders": list(REMAINDERS) if published else []}
    return {
        "format": layout.FORMAT,
        "version": layout.VERSION,
        "runtime": settings.to,
        "precision": settings.precision,
        "opset": OPSET if settings.to == "onnx" else None,
        "library": LIBRARY if settings.to == "aoti" else None,
        "task": model.task,
        "classes": list(known.class_names),
        "palette": [list(colour) for colour in known.palette],
        "interval": settings.interval,
        "size": list(settings.size) if settings.size else None,
        "any_size": None if settings.size else any_size,
        "carries_state": model.carries_state,
        "remembers": model.remembers,
        "moves_on": model.moves_on,
        "flow": None if graphs.preset is None else {"name": "dis", "preset": graphs.preset},
        "graphs": {graph.name: _of_graph(graph, folder / f"{graph.name}{suffix}") for graph in graphs.graphs},
        "model": known.model.model_dump(mode="json"),
        "card": known.card.model_dump(mode="json"),
        "source": source,
        "made_by": {"accel": __version__, "commit": commit(), "torch": str(torch.__version__)},
    }


def _of_graph(graph: Graph, path: Path) -> dict[str, Any]:
    nodes = {node.name: node.meta.get("val") for node in graph.program.graph.nodes}
    signature = graph.program.graph_signature
    given = list(zip(graph.inputs, signature.user_inputs, strict=True))
    made = list(zip(graph.outputs, signature.user_outputs, strict=True))
    return {
        "file": path.name,
        "bytes": path.stat().st_size,
        "sha256": sha256_of(path),
        "inputs": [_of_tensor(name, nodes[node]) for name, node in given],
        "outputs": [_of_tensor(name, nodes[node]) for name, node in made],
        "scores": {"border": graph.border, "stride": graph.stride, "bias": graph.bias and list(graph.bias)},
    }


def _of_tensor(name: str, tensor: torch.Tensor) -> dict[str, Any]:
    """Return the name, type and shape of a tensor. A side that depends on the frame is None."""
    shape = [side if isinstance(side, int) else None for side in tensor.shape]
    return {"name": name, "type": str(tensor.dtype).removeprefix("torch."), "shape": shape}


def _text(description: dict[str, Any]) -> bytes:
    return (json.dumps(description, indent=1) + "\n").encode()
