"""mmtracking's detectors with the weights that the stored outputs were made with: functions of their names."""

from __future__ import annotations

import csv
import runpy
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from accel.models import VideoModel, build_published
from accel.weights.mmtracking_names import to_ours

FOLDER = "dff-faster-rcnn"
MADE_WITH = {"r50": "golden-r50.npz", "x101": "golden-x101.npz"}


def shapes_of(parity: Callable[[str], Path], version: str) -> dict[str, tuple[int, ...]]:
    """Of r50, r101 or x101, by mmtracking's names."""
    with parity(f"{FOLDER}/params-{version}.csv").open() as file:
        rows = [(row["name"], row["shape"]) for row in csv.DictReader(file)]
    return {name: () if shape == "scalar" else tuple(map(int, shape.split("x"))) for name, shape in rows}


def their_weights(parity: Callable[[str], Path], version: str) -> dict[str, Tensor]:
    make_array = runpy.run_path(str(parity(f"{FOLDER}/weights.py")))["make_array"]
    return {name: torch.as_tensor(make_array(name, shape)) for name, shape in shapes_of(parity, version).items()}


def mmtracking_model(parity: Callable[[str], Path], version: str) -> VideoModel:
    """For inference, on frames as they come."""
    with torch.device("meta"):
        model = build_published(f"dff-faster-rcnn-{version}")
    model.load_state_dict(to_ours(their_weights(parity, version), list(model.state_dict())), assign=True)
    model.reference.resizing = None
    return model.eval()
