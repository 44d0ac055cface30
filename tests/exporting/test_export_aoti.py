"""Models compiled ahead of time: run by PyTorch in Python, and by libtorch in C++."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
from export_models import of_every_layer, tiny

from accel import runtime
from accel.exporting import checking, export_model
from accel.exporting.exporter import Settings
from accel.inference.exported import ExportedModel

SIZE = (57, 83)
EXAMPLES = Path(__file__).parents[2] / "examples/cpp"

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return export_model(tiny(), tmp_path_factory.mktemp("compiled") / "accel", Settings("aoti", SIZE, interval=3))


def build(target: str, folder: Path, *settings: str) -> Path:
    """Build one of the examples. Return the program."""
    for command in (
        ["cmake", "-S", EXAMPLES, "-B", folder, *settings],
        ["cmake", "--build", folder, "--target", target],
    ):
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
    return folder / target


def check_program(program: Path, folder: Path, tmp_path: Path, **environment: str) -> None:
    """Label frames with an example program: the labels are Python's, and a mistake is one line."""
    frames = np.stack(checking.scene(SIZE, 7))
    frames.tofile(tmp_path / "frames.rgb")
    command = [program, folder, tmp_path / "frames.rgb", tmp_path / "labels", *map(str, SIZE), "3"]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | environment)
    assert done.stdout.startswith("7 frames labelled"), done.stderr
    labels = np.fromfile(tmp_path / "labels", np.uint8).reshape(7, *SIZE)
    expected = np.stack([r.labels for r in runtime.label(runtime.load(folder), frames, 3)])
    assert (labels == expected).mean() > 0.999
    command[2] = tmp_path / "none.rgb"
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | environment)
    assert done.returncode == 2 and done.stderr == f"error: {tmp_path}/none.rgb: cannot be read\n"


def test_compiled_models_label_as_pytorch_does(folder):
    exported = ExportedModel(runtime.load(folder))
    found, _ = checking.compare(tiny(), exported, checking.scene(SIZE, 30), 15)
    assert found.equal_labels >= 0.999
    assert {path.name for path in folder.iterdir()} == {"key.pt2", "next.pt2", "accel_ops.so", "model.json", "check"}


def test_a_published_model_can_be_compiled(tmp_path):
    model = of_every_layer("published_accel")
    exported = ExportedModel(runtime.load(export_model(model, tmp_path / "out", Settings("aoti", (64, 96)))))
    assert checking.compare(model, exported, checking.scene((64, 96), 30), 15)[0].equal_labels >= 0.999


def test_a_compiled_file_that_is_damaged_is_told(folder, tmp_path):
    shutil.copytree(folder, tmp_path / "copied")
    (tmp_path / "copied/key.pt2").write_bytes(b"no")
    with pytest.raises(ValueError, match="key.pt2: damaged"):
        runtime.load(tmp_path / "copied")


@pytest.mark.skipif(shutil.which("cmake") is None, reason="needs cmake")
def test_the_example_for_libtorch_labels_as_python_does(folder, tmp_path):
    program = build("label_aoti", tmp_path / "build", f"-DTORCH_ROOT={torch.__path__[0]}")
    check_program(program, folder, tmp_path)


@pytest.mark.skipif(shutil.which("cmake") is None, reason="needs cmake")
@pytest.mark.skipif("ONNXRUNTIME_ROOT" not in os.environ, reason="needs ONNXRUNTIME_ROOT, a release of ONNX Runtime")
def test_the_example_for_onnx_runtime_labels_as_python_does(tmp_path):
    exported = export_model(tiny(), tmp_path / "exported", Settings("onnx", SIZE))
    program = build("label_onnx", tmp_path / "build", f"-DONNXRUNTIME_ROOT={os.environ['ONNXRUNTIME_ROOT']}")
    check_program(program, exported, tmp_path)
