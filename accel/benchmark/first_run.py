"""Everything that a machine of a new kind should be tried with, such as the first GPU: part by part, the safest first.

Each part is a process of its own with a time limit. Results are written after each of them, so that everything before
a failure, a hang or a crash of the machine is known.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from accel.evaluation.tables import write_json

KEPT_LINES = 40  # of what a part prints
JSON = "{json}"  # in a command: the file to which it writes its figures
_COUNTS = re.compile(r"(\d+) (passed|failed|skipped|errors?|deselected)")


@dataclass(frozen=True)
class Part:
    """A part of the trial.

    command: its words. JSON stands for the file of its figures, if it writes one.
    seconds: after which it is stopped.
    needs: a program without which it is left out.
    """

    name: str
    command: Sequence[str]
    seconds: float
    needs: str | None = None


def gpu_parts(device: str = "cuda") -> list[Part]:
    """Return the parts for a GPU: less than ten minutes in all. They need the source tree, for its tests."""
    python = [sys.executable, "-m"]
    pytest = [*python, "pytest", "-q", "--tb=short", "-m", "gpu", "-p", "no:cacheprovider"]
    operators = [*pytest, "tests/ops", "-k", "not large"]
    sanitizer = ["compute-sanitizer", "--error-exitcode", "9"]
    bench = [*python, "accel", "benchmark", "--device", device, "--rounds", "5", "--json", JSON]
    small = ["models", "--versions", "accel-18", "dff", "deeplab-101", "--eager"]
    return [
        Part("gpu tests, operators", [*pytest, "tests/ops"], 90),
        Part("gpu tests, everything else", [*pytest, "tests", "--ignore", "tests/ops"], 90),
        Part("memory errors", [*sanitizer, "--tool", "memcheck", *operators, "-x"], 60, sanitizer[0]),
        Part("races within kernels", [*sanitizer, "--tool", "racecheck", *operators, "-x"], 60, sanitizer[0]),
        Part("captured graphs", [*python, "accel.benchmark.captured_graphs", JSON], 60),
        Part("benchmark, 512x1024", [*bench, "operators", *small], 90),
        Part("benchmark, 1024x2048", [*bench, "--size", "1024", "2048", *small], 90),
        Part("training step", [*bench, "training", "--cfg", "experiments/demo/accel18.yaml"], 60),
    ]


def run_parts(parts: Sequence[Part], path: Path, about: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Run the parts in order and write `path` after each.

    about: the machine.
    folder: where to run them.
    """
    results: dict[str, Any] = {"machine": about, "parts": {part.name: {"outcome": "not begun"} for part in parts}}
    path.parent.mkdir(parents=True, exist_ok=True)
    for part in parts:
        results["parts"][part.name] = {"outcome": "under way"}  # what is read if the machine does not survive it
        write_json(path, results)
        results["parts"][part.name] = _run(part, folder)
        write_json(path, results)
        print(f"{part.name}: {results['parts'][part.name]['outcome']}", flush=True)
    return results


def _run(part: Part, folder: Path) -> dict[str, Any]:
    if part.needs is not None and shutil.which(part.needs) is None:
        return {"outcome": f"left out: there is no {part.needs}"}
    with tempfile.TemporaryDirectory() as scratch:
        figures = Path(scratch) / "figures.json"
        printed = Path(scratch) / "printed.txt"
        command = [str(figures) if word == JSON else word for word in part.command]
        begin = time.perf_counter()
        with printed.open("wb") as file:
            process = subprocess.Popen(
                command,
                cwd=folder,
                stdout=file,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                start_new_session=True,
            )
            try:
                code: int | None = process.wait(part.seconds)
            except subprocess.TimeoutExpired:
                code = None
                _end(process)
        lines = printed.read_text(encoding="utf-8", errors="replace").splitlines()
        found: dict[str, Any] = {
            "outcome": f"stopped after {part.seconds:g} s" if code is None else "well" if code == 0 else f"exit {code}",
            "command": " ".join(part.command),
            "seconds": round(time.perf_counter() - begin, 1),
        }
        if counts := {kind: int(number) for number, kind in _COUNTS.findall(lines[-1] if lines else "")}:
            found["tests"] = counts
        if code != 0:
            found["printed"] = lines[-KEPT_LINES:]
        if figures.exists():
            try:
                found["figures"] = json.loads(figures.read_bytes())
            except ValueError:
                found["figures"] = "cut off"
        return found


def _end(process: subprocess.Popen) -> None:
    """End a part and the processes that it started."""
    if hasattr(os, "killpg"):
        import signal

        os.killpg(process.pid, signal.SIGKILL)
    else:
        process.kill()
    process.wait()
