"""Data sets for the tests: tiny generated ones, and the real ones where they are found."""

from __future__ import annotations

import csv
import functools
import gc
import logging
import os
import runpy
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import numpy as np
import processes  # noqa: F401 (what others are forked from is said before the first of them)
import pytest
import yaml
from stream_server import StreamServer

from accel.config import Config, load_config


def pytest_collection_finish() -> None:
    """Spares the tests work that none of them needs."""
    # What is loaded by now stays. Python's search for garbage, a fourth of the time of all tests, can leave it out.
    gc.collect()
    gc.freeze()
    # PyTorch's record of what it traces is for its own tools. Pytest would write it down for each test.
    logging.getLogger("torch.__trace").propagate = False


# Compiled networks are not kept, unless a test says where: keeping them takes longer than compiling alone.
os.environ["ACCEL_CACHE"] = "off"

_REPOSITORY = Path(__file__).resolve().parents[1]


def _real_data(folder: str) -> Path:
    places = [_REPOSITORY / "data", _REPOSITORY.parent / "shared"]
    if "ACCEL_DATA" in os.environ:
        places.insert(0, Path(os.environ["ACCEL_DATA"]))
    for place in places:
        if (place / folder).exists():
            return place / folder
    pytest.skip(f"needs real data: no {folder} in {', '.join(map(str, places))} (set ACCEL_DATA)")


@pytest.fixture(scope="session")
def camvid_root() -> Path:
    """The real CamVid; skips where it is absent."""
    return _real_data("camvid")


@pytest.fixture(scope="session")
def parity() -> Callable[[str], Path]:
    """Finds a file of the folder `parity` (graphs, weights and outputs of the published networks), or skips."""
    return lambda name: _real_data(f"parity/{name}")


@pytest.fixture(scope="session")
def published_params(parity) -> Callable[[str], dict[str, np.ndarray]]:
    """`published_params("accel-18")`: made-up parameters of a published network, by MXNet's names.

    They are a function of their names and shapes, the same that the stored outputs were made with.
    """
    arrays: dict[tuple[bool, str, tuple[int, ...]], np.ndarray] = {}

    def make(version: str) -> dict[str, np.ndarray]:
        nonlocal arrays
        detects = version.endswith("rfcn")
        script = parity("detection_weights.py" if detects else "weights.py")
        with pytest.MonkeyPatch.context() as patch:
            patch.syspath_prepend(script.parent)  # one of them imports the other
            made = runpy.run_path(str(script))
        make_array = made["make_array"]
        with parity(f"{version}/params.csv").open() as file:
            rows = [(r["kind"], r["name"], tuple(map(int, r["shape"].split("x")))) for r in csv.DictReader(file)]
        # Versions share most parameters; those of the last one are kept.
        keys = [(detects, name, shape) for _, name, shape in rows]
        arrays = {key: arrays[key] if key in arrays else make_array(*key[1:]) for key in keys}
        params = {f"{kind}:{name}": arrays[detects, name, shape] for kind, name, shape in rows}
        if detects:  # as in published files
            boxes = {n: params[f"arg:{n}"] for n in ("rfcn_bbox_weight", "rfcn_bbox_bias")}
            params |= {f"arg:{name}_test": made["fold_box_stds"](name, array) for name, array in boxes.items()}
        return params

    return make


@pytest.fixture
def tiny_cityscapes(tmp_path: Path) -> Path:
    """Cityscapes with 2 cities of 2 snippets of 5 frames, 64 x 96 (height x width), in train and val.

    The 4th frame of each is labelled; ulm has labelTrainIds as well. Frame number f has red = f everywhere.
    The two snippets of ulm are of one long recording: frames 95-99 and 200-204 of ulm_000000.
    """
    return write_cityscapes(tmp_path / "cityscapes")


def write_cityscapes(root: Path) -> Path:
    rng = np.random.default_rng(0)
    for split in ("train", "val"):
        for city, snippets in (
            ("aachen", (("000000", 0), ("000001", 0))),
            ("ulm", (("000000", 95), ("000000", 200))),
        ):
            images = root / "leftImg8bit_sequence" / split / city
            annotations = root / "gtFine" / split / city
            images.mkdir(parents=True)
            annotations.mkdir(parents=True)
            for sequence, first in snippets:
                for frame in range(first, first + 5):
                    image = rng.integers(0, 256, (64, 96, 3), np.uint8)
                    image[..., 2] = frame  # red, in OpenCV's order
                    cv2.imwrite(str(images / f"{city}_{sequence}_{frame:06d}_leftImg8bit.png"), image)
                stem = f"{annotations}/{city}_{sequence}_{first + 3:06d}_gtFine_"
                ids = rng.integers(0, 34, (64, 96), np.uint8)
                cv2.imwrite(stem + "labelIds.png", ids)
                instances = np.where(ids >= 24, 1000, 1).astype(np.uint16)  # from person on, classes have instances
                cv2.imwrite(stem + "instanceIds.png", ids * instances)
                if city == "ulm":
                    cv2.imwrite(stem + "labelTrainIds.png", train_ids(ids))
    return root


@pytest.fixture
def tiny_camvid(tmp_path: Path) -> Path:
    """CamVid, 36 x 48: `val` a video of 6 frames in steps of 2, `train` and `test` 3 stills each."""
    root = tmp_path / "camvid"
    rng = np.random.default_rng(1)
    splits = {
        "train": [f"0006R0_f{n:05d}" for n in (930, 960, 990)],
        "val": [f"0016E5_{n:05d}" for n in range(7959, 7971, 2)],
        "test": [f"Seq05VD_f{n:05d}" for n in (0, 30, 60)],
    }
    for split, names in splits.items():
        (root / split).mkdir(parents=True)
        (root / f"{split}annot").mkdir()
        (root / f"{split}.txt").write_text("\n".join(names) + "\n")
        for i, name in enumerate(names):
            image = rng.integers(0, 256, (36, 48, 3), np.uint8)
            image[..., 2] = i
            labels = rng.integers(0, 12, (36, 48), np.uint8)
            cv2.imwrite(str(root / split / f"{name}.png"), image)
            cv2.imwrite(str(root / f"{split}annot" / f"{name}.png"), labels)
    return root


@pytest.fixture
def tiny_folder(tiny_cityscapes: Path, tmp_path: Path) -> Path:
    """A folder of one's own in Cityscapes' classes, 64 x 96: `train` has the labelled still a and the video drive of 5
    frames, whose 4th is labelled."""
    root = tmp_path / "mine"
    (root / "train/images/drive").mkdir(parents=True)
    (root / "train/labels/drive").mkdir(parents=True)
    (root / "classes.txt").write_text("".join(f"c{k}\n" for k in range(19)))
    frames = sorted((tiny_cityscapes / "leftImg8bit_sequence/train/ulm").iterdir())[:5]
    label = tiny_cityscapes / "gtFine/train/ulm/ulm_000000_000098_gtFine_labelTrainIds.png"
    for frame in frames:
        shutil.copy(frame, root / "train/images/drive" / frame.name)
    shutil.copy(label, root / "train/labels/drive" / frames[3].name)
    shutil.copy(frames[0], root / "train/images/a.png")
    shutil.copy(label, root / "train/labels/a.png")
    return root


def train_ids(ids: np.ndarray) -> np.ndarray:
    """Cityscapes' labelIds to labelTrainIds, pixel by pixel through the official table."""
    from cityscapesscripts.helpers.labels import id2label

    return np.array([id2label[int(i)].trainId % 256 for i in ids.flat], np.uint8).reshape(ids.shape)


@pytest.fixture
def tiny_run(tiny_cityscapes: Path) -> Callable[..., list[str]]:
    """`tiny_run("accel", "train.steps=9")`: the `--cfg FILE key=value ...` of a small run on `tiny_cityscapes`.

    Its output is the folder `run` beside the data, unless overridden.
    """
    return functools.partial(write_run, tiny_cityscapes)


def write_run(cityscapes: Path, model: str = "accel", *overrides: str) -> list[str]:
    folder = cityscapes.parent
    # timm's own network for tests, a ResNet of four blocks
    branch = {"encoder": "tu-test_resnet", "head_channels": 16}
    parts = {"reference": branch}
    if model != "frame_by_frame":
        parts["flow"] = {"width": 1 / 16}
    if model == "accel":
        parts["update"] = branch
    values = {
        "output": str(folder / "run"),
        "model": {"name": model, "num_classes": 19, **parts},
        "data": {
            "name": "cityscapes",
            "root": str(cityscapes),
            "clip_length": 3,
            "augmentation": {"crop": [32, 64]},
        },
        "train": {
            "steps": 4,
            "batch_size": 2,
            "optimizer": {"name": "sgd", "lr": 0.01},
            "workers": 0,
            "log_every": 1,
        },
    }
    path = folder / f"{model}.yaml"
    path.write_text(yaml.safe_dump(values))
    return ["--cfg", str(path), *overrides]


@pytest.fixture
def tiny_config(tiny_run) -> Callable[..., Config]:
    """The configuration that `tiny_run` describes."""

    def load(model: str = "accel", *overrides: str) -> Config:
        _, path, *rest = tiny_run(model, *overrides)
        return load_config(path, rest)

    return load


@pytest.fixture(scope="session")
def trained_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run that trained the Accel of `tiny_run` by a step. To be looked at, not changed."""
    from accel.training.trainer import train

    _, path, *overrides = write_run(write_cityscapes(tmp_path_factory.mktemp("trained") / "data"), "accel")
    config = load_config(path, [*overrides, "train.steps=1"])
    train(config, "cpu")
    return config.output


@pytest.fixture
def tool(monkeypatch, tmp_path):
    """tool("train", "--cfg", ...): runs it in this process, in the test's folder; its exit code."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("ACCEL_DATA", raising=False)

    def run(name, *arguments):
        monkeypatch.setattr(sys, "argv", [f"tools/{name}.py", *map(str, arguments)])
        with pytest.raises(SystemExit) as stopped:
            runpy.run_path(str(_REPOSITORY / "tools" / f"{name}.py"), run_name="__main__")
        return stopped.value.code

    return run


@pytest.fixture
def scenes_made_here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Street scenes are generated in this process: others take seconds to start, and have their own test."""
    monkeypatch.setattr("accel.datasets.streetscape.files.usable_cores", lambda: 0)


@pytest.fixture
def stream_server() -> Iterator[StreamServer]:
    server = StreamServer()
    yield server
    server.close()
