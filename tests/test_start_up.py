"""What the tools load before they get to work, each in a process of its own: what is loaded, not how long it takes."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from accel.threads import WAITING

TOOLS = Path(__file__).parents[1] / "tools"

# Seconds to load, each of them, and none is needed to label a video with a published network.
HEAVY = {
    "albumentations",
    "lightning",
    "lightning_fabric",
    "matplotlib",
    "pytorch_lightning",
    "scipy",
    "segmentation_models_pytorch",
    "tensorboard",
    "timm",
    "torch._dynamo",
    "torchvision",
}
AT_EXIT = f"""
import atexit, json, os, runpy, sys
report = sys.argv.pop(1)
def write():
    waiting = {{name: os.environ[name] for name in {WAITING} if name in os.environ}}
    found = {{"modules": sorted(sys.modules), "waiting": waiting}}
    open(report, "w").write(json.dumps(found))
atexit.register(write)
"""
TOOL = AT_EXIT + "sys.argv.pop(0)\nrunpy.run_path(sys.argv[0], run_name='__main__')"


def found_after(code, tmp_path, *arguments):
    """(exit code, what a fresh process had loaded at its end, what it had set of OpenMP's waiting)."""
    report = tmp_path / "report.json"
    kept = {k: v for k, v in os.environ.items() if k not in WAITING}
    command = [sys.executable, "-c", code, str(report), *map(str, arguments)]
    done = subprocess.run(command, cwd=tmp_path, env=kept, capture_output=True, text=True, timeout=120)
    found = json.loads(report.read_text())
    return done.returncode, set(found["modules"]), found["waiting"]


def test_labelling_loads_nothing_heavy_before_it_looks_at_its_input(tmp_path):
    (tmp_path / "no_video.mp4").write_bytes(b"no video")
    arguments = ["--input", "no_video.mp4", "--output", "out"]
    code, modules, _ = found_after(TOOL, tmp_path, TOOLS / "demo.py", *arguments)
    assert code == 2 and {"torch", "accel.demo", "av"} <= modules  # it did look
    assert not HEAVY & modules


def test_a_published_network_is_built_without_the_libraries_of_others(tmp_path):
    building = AT_EXIT + "from accel.models import build_published\nbuild_published('deeplab-18')"
    code, modules, _ = found_after(building, tmp_path)
    assert code == 0 and "accel.models.published_models" in modules
    assert not HEAVY & modules


def test_the_public_names_load_pytorch_only_when_they_are_used(tmp_path):
    code, modules, _ = found_after(AT_EXIT + "import accel", tmp_path)
    assert code == 0 and not (HEAVY | {"torch", "numpy", "cv2", "av"}) & modules


@pytest.mark.parametrize("path", sorted(TOOLS.glob("*.py")), ids=lambda path: path.stem)
def test_help_comes_without_pytorch_and_threads_are_told_first(path, tmp_path):
    """What threads are told must be there before PyTorch is, and every tool says it."""
    code, modules, waiting = found_after(TOOL, tmp_path, path, "--help")
    assert code == 0 and not (HEAVY | {"torch"}) & modules
    assert [*waiting] == ["GOMP_SPINCOUNT"]
