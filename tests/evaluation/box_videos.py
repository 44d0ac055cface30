"""A small ImageNet VID on the disk: videos in which cars and dogs move, each at its own speed."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import torch
import yaml

from accel.config import parse_model
from accel.datasets.imagenet_vid import CLASS_NAMES, PALETTE
from accel.models import build_model
from accel.weights.checkpoints import Description, save_weights

SIZE = (48, 72)
SYNSETS = {"car": "n02958343", "dog": "n02084071"}
# By video: kind, left, top, pixels to the right a frame, and the frames that it is in.
OBJECTS = {
    "val/a": [("car", 4, 4, 0.2, range(14)), ("dog", -4, 6, 3.0, range(2, 12))],
    "val/b": [("car", 4, 2, 1.0, range(9)), ("car", -20, 7, 6.0, range(8))],
}
LENGTHS = {"val/a": 14, "val/b": 9}
REFERENCE = {"name": "rfcn", "encoder": "tu-test_resnet", "channels": 8, "sides": [64, 96], "regions": 20}
FLOW = {"width": 1 / 16}


def box(left, top, speed, number):
    """x1, y1, x2, y2 of an object in a frame."""
    x = left + speed * number
    return [x, top, x + 55, top + 39]


def write_videos(root: Path) -> Path:
    """Write the videos, as `val` of the release. The pictures are noise. Objects nearly fill the frame, so that
    untrained detectors find some of them."""
    rng = np.random.default_rng(0)
    (root / "ImageSets").mkdir(parents=True)
    lines = [f"{video} 1 0 {length}\n" for video, length in LENGTHS.items()]
    (root / "ImageSets/VID_val_videos.txt").write_text("".join(lines))
    (root / "ImageSets/VID_val_some.txt").write_text("val/a 1 3 14\nval/a 1 9 14\nval/b 1 5 9\n")
    for video, length in LENGTHS.items():
        for number in range(length):
            image = root / f"Data/VID/{video}/{number:06d}.JPEG"
            image.parent.mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(image), rng.integers(0, 256, (*SIZE, 3), np.uint8))
            objects = [
                (track, SYNSETS[kind], box(left, top, speed, number))
                for track, (kind, left, top, speed, there) in enumerate(OBJECTS[video])
                if number in there
            ]
            path = root / f"Annotations/VID/{video}/{number:06d}.xml"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(f"<annotation>{''.join(map(_object, objects))}</annotation>")
    return root


def _object(found) -> str:
    track, name, corners = found
    sides = "".join(f"<{s}>{c}</{s}>" for s, c in zip(("xmin", "ymin", "xmax", "ymax"), corners, strict=True))
    return f"<object><trackid>{track}</trackid><name>{name}</name><bndbox>{sides}</bndbox></object>"


def write_detector(folder: Path, root: Path, name: str = "deep_feature_flow") -> list[str]:
    """Write an untrained detector and its configuration. Return the arguments `--cfg FILE --checkpoint FILE`."""
    torch.manual_seed(0)
    parts = {"flow": FLOW} if name == "deep_feature_flow" else {}
    values = {"name": name, "num_classes": 30, "reference": REFERENCE, **parts}
    model = build_model(config := parse_model(values, "model"))
    for layer in (model.reference.heads.classes, model.reference.heads.objects):
        torch.nn.init.normal_(layer.weight, std=0.3)  # so that detections have different scores
    weights = folder / f"{name}.safetensors"
    save_weights(weights, model, Description(config, CLASS_NAMES, tuple(map(tuple, PALETTE.tolist())), 0))
    data = {"name": "imagenet_vid", "root": str(root), "test_split": "VID_val_videos"}
    train = {"steps": 1, "batch_size": 1, "optimizer": {"name": "sgd", "lr": 0.1}, "loss": {"name": "rfcn"}}
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump({"output": str(folder / "run"), "model": values, "data": data, "train": train}))
    return ["--cfg", str(path), "--checkpoint", str(weights)]
