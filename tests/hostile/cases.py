"""Damaged files of every kind that the program reads, one after the other, each read under a limit of time and memory.

    python cases.py FOLDER FIRST COUNT [KIND ...]

reads COUNT files of each kind, numbers FIRST, FIRST + 1, ..., and prints a JSON object: for each kind how many ended in
a result and how many in a clear error, those that did neither, the longest seconds and the megabytes that it took.
A case that takes too long ends the program with its traceback.
"""

from __future__ import annotations

import faulthandler
import io
import json
import pickle
import resource
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import av
import cv2
import numpy as np
import torch
from mutations import edit_header, mutate, mutate_json, mutate_safetensors, mutate_yaml, with_checksums
from PIL import Image
from torch import nn

from accel.config import Config, load_stages, parse_model
from accel.datasets import camvid, cityscapes
from accel.datasets.camvid import CamVid
from accel.datasets.camvid_original import colour_table
from accel.datasets.streetscape.files import _read_description
from accel.files.images import read_colour_labels, read_image, read_labels
from accel.video.reader import VideoFileReader
from accel.weights.checkpoints import (
    Description,
    describe_weights,
    load_state,
    load_weights,
    save_state,
    save_weights,
)
from accel.weights.mxnet_params import read_mxnet_params, write_mxnet_params

SECONDS = 20  # that one case may take, on a busy machine
MEMORY = 2**31  # bytes of address space that all of them may add
LONGEST_MESSAGE = 2000

YAML = """\
model:
  name: accel
  num_classes: 19
  reference: &r {encoder: tu-test_resnet, head_channels: 16}
  update: *r
  flow: {width: 0.0625}
data:
  name: cityscapes
  clip_length: 3
  augmentation: {crop: [32, 64], scale: [0.5, 2.0], flip: 0.5}
train:
  steps: 4
  batch_size: 2
  optimizer: {name: sgd, lr: 0.01}
  freeze: [reference]
init: {reference: runs/a}
output: runs/b
seed: 3
"""


@dataclass(frozen=True)
class Kind:
    """name: of the file; make: its damaged content, from a generator; read: which must be right or refuse."""

    name: str
    make: Callable[[np.random.Generator], bytes]
    read: Callable[[Path], None]


def picture(height: int = 40, width: int = 60) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)


def encoded(image: Image.Image, form: str, **options) -> bytes:
    file = io.BytesIO()
    image.save(file, format=form, **options)
    return file.getvalue()


def damaged_image(data: bytes) -> Callable[[np.random.Generator], bytes]:
    def make(rng: np.random.Generator) -> bytes:
        damaged = edit_header(data, rng, 64) if rng.random() < 0.4 else mutate(data, rng)
        return with_checksums(damaged) if rng.random() < 0.6 else damaged

    return make


def is_image(path: Path) -> None:
    image = read_image(path)
    assert image.dtype == np.uint8 and image.ndim == 3 and image.shape[2] == 3 and image.size


def is_labels(path: Path) -> None:
    labels = read_labels(path, cityscapes._FROM_ID)
    assert labels.dtype == np.uint8 and labels.ndim == 2 and ((labels < 19) | (labels == 255)).all()


def is_colour_labels(path: Path) -> None:
    labels = read_colour_labels(path, colour_table(Path("none")))
    assert labels.dtype == np.uint8 and labels.ndim == 2 and ((labels < 11) | (labels == 255)).all()


def images() -> list[Kind]:
    rgb, classes = Image.fromarray(picture()), Image.fromarray((picture()[..., 0] % 34).astype(np.uint8))
    palette = classes.copy()
    palette.putpalette(list(range(256)) * 3)
    colours = Image.fromarray(camvid.PALETTE[picture()[..., 0] % 11])
    files = {
        "image.png": encoded(rgb, "png"),
        "image.jpg": encoded(rgb, "jpeg"),
        "progressive.jpg": encoded(rgb, "jpeg", progressive=True),
        "image.bmp": encoded(rgb, "bmp"),
        "lossless.webp": encoded(rgb, "webp", lossless=True),
        "lossy.webp": encoded(rgb, "webp"),
        "image.tif": encoded(rgb, "tiff", compression="tiff_deflate"),
        "plain.tif": encoded(rgb, "tiff"),
    }
    kinds = [Kind(name, damaged_image(data), is_image) for name, data in files.items()]
    kinds += [Kind("grey.png", damaged_image(encoded(classes, "png")), is_labels)]
    kinds += [Kind("palette.png", damaged_image(encoded(palette, "png")), is_labels)]
    return [*kinds, Kind("colours.png", damaged_image(encoded(colours, "png")), is_colour_labels)]


def is_configuration(path: Path) -> None:
    stages = load_stages(path)
    assert all(isinstance(stage, Config) for stage in stages)


class Trap:
    """Unpickling it would make a file."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


def small_model() -> nn.Module:
    model = nn.Module()
    model.reference = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
    return model


def checkpoints(folder: Path) -> list[Kind]:
    branch = {"encoder": "tu-test_resnet", "head_channels": 4}
    config = parse_model({"name": "frame_by_frame", "num_classes": 3, "reference": branch}, "test")
    save_weights(folder / "w", small_model(), Description(config, ("a", "b", "c"), ((1, 2, 3),) * 3, 7))
    weights = (folder / "w").read_bytes()
    save_state(folder / "s", {"step": 3, "model": small_model().state_dict(), "optimizer": {"state": {0: {"m": 1.0}}}})
    state = (folder / "s").read_bytes()
    write_mxnet_params(folder / "p", {"arg:a": np.arange(6, dtype="f4").reshape(2, 3), "aux:b": np.zeros(3, "u1")})
    params = (folder / "p").read_bytes()
    trap = folder / "trapped"

    def is_weights(path: Path) -> None:
        model, description = small_model(), describe_weights(path)
        assert len(description.class_names) == len(description.palette) == description.model.num_classes
        load_weights(model, path)
        assert all(t.shape == small_model().state_dict()[n].shape for n, t in model.state_dict().items())

    def damaged_state(rng: np.random.Generator) -> bytes:
        kind = rng.integers(6)
        if kind == 0:
            return pickle.dumps(Trap(trap), int(rng.integers(0, 5)))
        if kind == 1:
            file = io.BytesIO()
            torch.save({"step": 3, "model": Trap(trap)}, file, _use_new_zipfile_serialization=bool(rng.integers(2)))
            return file.getvalue()
        return mutate(state, rng)

    def is_state(path: Path) -> None:
        try:
            load_state(path)
        finally:
            assert not trap.exists(), "code of the file has run"

    def is_params(path: Path) -> None:
        assert sum(array.nbytes for array in read_mxnet_params(path).values()) < path.stat().st_size

    return [
        Kind("weights.safetensors", lambda rng: mutate_safetensors(weights, rng), is_weights),
        Kind("state.pt", damaged_state, is_state),
        Kind("some.params", lambda rng: mutate(params, rng), is_params),
    ]


def video(form: str, codec: str, folder: Path) -> bytes:
    path = folder / f"whole.{form}"
    with av.open(str(path), "w", format={"mkv": "matroska", "ts": "mpegts"}.get(form, form)) as container:
        stream = container.add_stream(codec, rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for i in range(12):
            frame = av.VideoFrame.from_ndarray(np.roll(picture(48, 64), 3 * i, 1), "rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path.read_bytes()


def is_video(path: Path) -> None:
    """With damage told, frames come or there are none at all; with damage an error, the first ends it."""
    told: list[str] = []
    with VideoFileReader(path, on_damage=told.append) as reader:
        for frame in reader:
            assert frame.dtype == np.uint8 and frame.shape == (*reader.size, 3)
    assert all(str(path) in message and "\n" not in message for message in told)
    with VideoFileReader(path) as reader:
        for _ in reader:
            pass
    assert not told, "no error for damage that was told"


def videos(folder: Path) -> list[Kind]:
    forms = {"mp4": "libx264", "mkv": "libx264", "avi": "mpeg4", "ts": "mpeg2video"}

    def damaged(data: bytes) -> Callable[[np.random.Generator], bytes]:
        return lambda rng: edit_header(data, rng, len(data)) if rng.random() < 0.3 else mutate(data, rng)

    return [Kind(f"video.{form}", damaged(video(form, codec, folder)), is_video) for form, codec in forms.items()]


def texts(folder: Path) -> list[Kind]:
    description = {"generator": "accel streetscape", "version": 1, "seed": 0, "size": [64, 128]}
    colours = b"64 128 64\tAnimal\n192 0 128\tArchway\n128 64 128\tRoad\n128 128 128\tSky\n"
    names = "".join(f"0001TP_{n:05d}\n" for n in range(40)).encode()
    root = folder / "camvid"
    for each in ("train", "trainannot"):
        (root / each).mkdir(parents=True)
        for n in range(40):
            cv2.imwrite(str(root / each / f"0001TP_{n:05d}.png"), np.zeros((2, 2), np.uint8))

    def damaged_json(rng: np.random.Generator) -> bytes:
        if rng.random() < 0.1:
            return b"[" * int(rng.integers(1, 200_000))
        text = json.dumps(mutate_json(description, rng)).encode()
        return mutate(text, rng) if rng.random() < 0.5 else text

    def is_description(path: Path) -> None:
        found = _read_description(path.parent)
        assert len(found["size"]) == 2

    def is_list(path: Path) -> None:
        (root / "train.txt").write_bytes(path.read_bytes())
        try:
            assert 1 <= len(CamVid(root, "train")) <= 40
        except (ValueError, FileNotFoundError) as error:
            raise type(error)(f"{path}: {error}") from error

    def is_colours(path: Path) -> None:
        colour_table.cache_clear()
        assert colour_table(path).shape == (2**24,)

    return [
        Kind("streetscape.json", damaged_json, is_description),
        Kind("train.txt", lambda rng: mutate(names, rng), is_list),
        Kind("label_colors.txt", lambda rng: mutate(colours, rng), is_colours),
        Kind("run.yaml", lambda rng: mutate_yaml(YAML, rng), is_configuration),
    ]


def clear(error: Exception, path: Path) -> bool:
    """Whether this is an error that a person can do something with."""
    text = str(error)
    return path.name in text and len(text) < LONGEST_MESSAGE and len(text.splitlines()) == 1


def run(kind: Kind, number: int, folder: Path) -> str:
    """Read one case; "right", "refused", or what is wrong."""
    path = folder / kind.name
    path.write_bytes(kind.make(np.random.default_rng([number, *kind.name.encode()])))
    faulthandler.dump_traceback_later(SECONDS, exit=True)
    try:
        kind.read(path)
        return "right"
    except (ValueError, FileNotFoundError) as error:
        return "refused" if clear(error, path) else f"{number}: unclear: {type(error).__name__}: {error!s:.300}"
    except BaseException as error:
        return f"{number}: {type(error).__name__}: {error!s:.300}"
    finally:
        faulthandler.cancel_dump_traceback_later()


def megabytes(what: str) -> float:
    """Of this process's memory, by its line in /proc: VmRSS, or VmHWM, the most since `forget_peak`. (What `getrusage`
    says begins with the peak of the process that started this one.)"""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(what))


def forget_peak() -> float:
    """Megabytes now; `VmHWM` counts from here."""
    Path("/proc/self/clear_refs").write_text("5")
    return megabytes("VmRSS")


def main() -> None:
    folder, first, count = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    kinds = [*images(), *texts(folder), *checkpoints(folder), *videos(folder)]
    wanted = sys.argv[4:] or [kind.name for kind in kinds]
    virtual = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (virtual + MEMORY, virtual + MEMORY))
    av.logging.set_level(None)
    found = {}
    for kind in kinds:
        if kind.name not in wanted:
            continue
        before, seconds, outcomes = forget_peak(), [], []
        for number in range(first, first + count):
            start = time.monotonic()
            outcomes.append(run(kind, number, folder))
            seconds.append(time.monotonic() - start)
        found[kind.name] = {
            "right": outcomes.count("right"),
            "refused": outcomes.count("refused"),
            "wrong": [outcome for outcome in outcomes if outcome not in ("right", "refused")],
            "longest": max(seconds),
            "megabytes": megabytes("VmHWM") - before,
        }
    print(json.dumps(found))


if __name__ == "__main__":
    main()
