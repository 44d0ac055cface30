"""The wheel in an environment that has nothing else: no compiler, no source tree. Downloads gigabytes of PyTorch."""

import json
import re
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

import av
import numpy as np
import pytest

from accel.video.writer import VideoWriter

ROOT = Path(__file__).resolve().parents[1]

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(3600),
    pytest.mark.skipif(not sys.platform.startswith("linux"), reason="its native operators are for Linux"),
]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """Built as `make wheel` does."""
    pytest.importorskip("auditwheel")
    folder = tmp_path_factory.mktemp("dist")
    subprocess.run([sys.executable, ROOT / "tools" / "build_wheel.py", "--output", folder], check=True)
    (made,) = folder.glob("*.whl")
    return made


def test_the_wheel_is_for_any_python_on_its_platform_and_brings_no_library_but_its_own(wheel):
    assert re.fullmatch(r"accel_vss-[\d.]+-py3-none-manylinux_2_\d+_x86_64\.whl", wheel.name)
    names = zipfile.ZipFile(wheel).namelist()
    libraries = [name for name in names if ".so" in name]
    sets = {re.fullmatch(r"accel_ops/lib/accel_ops-cpu-([\w-]+)-\w+\.so", name)[1] for name in libraries}
    assert sets == {"avx512_bf16", "avx512", "avx2", "x86-64"}
    assert {"accel/py.typed", "accel_ops/py.typed"} < set(names)
    experiments = {str(path.relative_to(ROOT)) for path in (ROOT / "experiments").rglob("*.yaml")}
    assert {name.removeprefix("accel/") for name in names if name.startswith("accel/experiments/")} >= experiments


CHECK = """
import json, sys, torch, accel, accel_ops, accel.config
used = accel_ops.load()
print(json.dumps({
    "torch": torch.__version__,
    "operators": used,
    "library": str(accel_ops.library_file()),
    "places": [accel.__file__, accel_ops.__file__],
    "model": accel.config.load_config("camvid/accel18").model.name,
}))
"""


@pytest.mark.parametrize("version", ["==2.11.0", ">=2.11"], ids=["oldest", "newest"])
def test_installed_without_a_compiler_and_a_source_tree_it_labels_a_video(wheel, version, trained_run):
    with tempfile.TemporaryDirectory() as folder:  # gone at once: it is large
        folder = Path(folder)
        home = folder / "elsewhere"
        home.mkdir()
        subprocess.run([sys.executable, "-m", "venv", folder / "venv"], check=True)
        bin = folder / "venv" / "bin"
        subprocess.run([bin / "python", "-m", "pip", "install", "--quiet", f"torch{version}", wheel], check=True)
        # Nothing of this environment: no compiler on PATH, no PYTHONPATH, no cache with compiled operators.
        clean = {"PATH": str(bin), "HOME": str(home), "ACCEL_OPS": "native"}

        def carry_out(*command):
            done = subprocess.run(command, env=clean, cwd=home, capture_output=True, text=True, check=False)
            assert done.returncode == 0, done.stdout + done.stderr
            return done.stdout

        found = json.loads(carry_out(bin / "python", "-c", CHECK).splitlines()[-1])
        assert found["operators"] == "native" and found["model"] == "accel"
        assert version[2:] in found["torch"] or version == ">=2.11"
        inside = str((folder / "venv").resolve())
        assert all(str(Path(path).resolve()).startswith(inside) for path in (found["library"], *found["places"]))

        frames = np.random.default_rng(0).integers(0, 256, (8, 64, 96, 3), np.uint8)
        with VideoWriter(home / "drive.mp4", 10) as video:
            for frame in frames:
                video.write(frame)
        carry_out(bin / "accel", "label", "drive.mp4", "--model", trained_run, "--device", "cpu", "--output", "out")
        assert len(list((home / "out" / "labels").glob("*.png"))) == len(frames)
        with av.open(home / "out" / "video.mp4") as video:
            assert sum(1 for _ in video.decode(video=0)) == len(frames)
        assert not list(home.rglob("accel_ops*.so"))
