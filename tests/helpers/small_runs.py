"""A small model and small videos for tests of what labels videos."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from accel.config import parse_model
from accel.models import build_model
from accel.video.writer import VideoWriter
from accel.weights.checkpoints import Description, save_weights

SIZE = 48, 64
NAMES, PALETTE = ("road", "car", "sky"), ((128, 64, 128), (0, 0, 142), (70, 130, 180))

# Put before the program itself: opening a video of this name kills the process, as a faulty decoder does.
KILLER = """
import os, signal, av
opened = av.open
def open_or_die(file, *rest, **settings):
    if "killer" in str(file):
        os.kill(os.getpid(), signal.SIGSEGV)
    return opened(file, *rest, **settings)
av.open = open_or_die
"""


def save_small_model(path: Path) -> Path:
    """Write a small segmentation model of three classes, as it starts, but with no class above the others."""
    torch.manual_seed(0)
    branch = {"encoder": "tu-test_resnet", "head_channels": 8}
    values = {"name": "deep_feature_flow", "num_classes": 3, "reference": branch, "flow": {"width": 1 / 16}}
    config = parse_model(values, "test")
    model: Any = build_model(config)
    torch.nn.init.zeros_(model.reference.score_layer.bias)
    torch.nn.init.zeros_(model.reference.fc6.bias)
    save_weights(path, model, Description(config, NAMES, PALETTE, 0))
    return path


def write_moving(path: Path, count: int, rate: int = 25, seed: int = 0, size: tuple[int, int] = SIZE) -> Path:
    """Write a video of a smooth pattern that moves."""
    rng = np.random.default_rng(seed)
    height, width = size
    coarse = torch.from_numpy(rng.random((1, 3, height // 8 + 2, width // 8 + 2))).float()
    pattern = torch.nn.functional.interpolate(coarse, (height * 2, width * 2), mode="bilinear")[0]
    frames = (255 * pattern).byte().permute(1, 2, 0).numpy()
    with VideoWriter(path, rate) as video:
        for number in range(count):
            y, x = number % height, 2 * number % width
            video.write(np.ascontiguousarray(frames[y : y + height, x : x + width]))
    return path


def contents(folder: Path) -> dict[str, bytes]:
    """All files in a folder, by their names in it."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}
