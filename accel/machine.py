"""Describe the machine on which a measurement was made."""

from __future__ import annotations

import functools
import os
import platform
import subprocess
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path

import torch

from accel.clock import interleaved
from accel.devices import has_bfloat16


def describe_machine(device: torch.device) -> dict:
    """Return processor, GPU, software and the state of the checkout, for the head of a results file."""
    load = round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None  # not on Windows
    cuda = device.type == "cuda"
    return {
        "processor": _processor(),
        "threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name(device) if cuda else None,
        "bfloat16": has_bfloat16(device),
        "tf32": torch.backends.cuda.matmul.allow_tf32 if cuda else None,
        "matrix_gflops": matrix_gflops(device),
        "load_average_before": load,
        "python": platform.python_version(),
        "versions": {name: _version(name) for name in ("torch", "torchvision", "segmentation-models-pytorch", "numpy")},
        "cuda": torch.version.cuda if cuda else None,
        "commit": commit(),
        "time": datetime.now(timezone.utc).isoformat(timespec="minutes"),
    }


def matrix_gflops(device: torch.device) -> dict[str, float]:
    """Return the GFLOP/s of large matrix products in float32 and bfloat16: the highest rate that the machine reaches
    today."""
    side = 8192 if device.type == "cuda" else 2048
    types = [torch.float32] + ([torch.bfloat16] if has_bfloat16(device) else [])
    rates: dict[str, float] = {}
    for dtype in types:
        a, b = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
        seconds = interleaved({"product": functools.partial(torch.matmul, a, b)}, 10, device)["product"]
        rates[str(dtype).removeprefix("torch.")] = round(2 * side**3 / seconds / 1e9)
    return rates


def machine_name(device: torch.device) -> str:
    """Return the processor or GPU in words, for a line of text."""
    if device.type == "cuda":
        return f"{torch.cuda.get_device_name(device)}, PyTorch {torch.__version__}"
    threads = torch.get_num_threads()
    return f"{_processor()}, {threads} thread{'s' * (threads > 1)}, PyTorch {torch.__version__}"


def commit() -> str | None:
    """Return the commit of the checkout from which this runs, with a plus if files were changed.

    None outside a checkout, also if the package is installed inside another project's checkout.
    """

    def git(*words: str) -> str:
        folder = Path(__file__).parent
        return subprocess.run(["git", *words], cwd=folder, capture_output=True, text=True, check=True).stdout.strip()

    try:
        git("ls-files", "--error-unmatch", Path(__file__).name)
        return git("rev-parse", "--short", "HEAD") + (
            "+" if git("status", "--porcelain", "--untracked-files=no") else ""
        )
    except (OSError, subprocess.CalledProcessError):
        return None


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _processor() -> str:
    names = [line.split(":")[1].strip() for line in _lines("/proc/cpuinfo") if line.startswith("model name")]
    flags = next((line for line in _lines("/proc/cpuinfo") if line.startswith("flags")), "")
    units = [name for name in ("avx2", "avx512f", "avx512_bf16", "amx_bf16") if f" {name} " in f"{flags} "]
    return f"{names[0] if names else platform.machine()}, {os.cpu_count()} cores ({', '.join(units)})"


def _lines(path: str) -> list[str]:
    try:
        return Path(path).read_text().splitlines()
    except OSError:
        return []
