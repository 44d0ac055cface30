"""What a measurement was made on."""

from __future__ import annotations

import os
import platform
import subprocess
from datetime import datetime, timezone
from pathlib import Path

import torch

from accel.devices import has_bfloat16


def describe_machine(device: torch.device) -> dict:
    """Processor, GPU, software and the state of the checkout, for the head of a results file."""
    gpu = torch.cuda.get_device_name(device) if device.type == "cuda" else None
    return {
        "processor": _processor(),
        "threads": torch.get_num_threads(),
        "gpu": gpu,
        "bfloat16": has_bfloat16(device),
        "matrix_gflops": {str(t).removeprefix("torch."): round(_matrix_gflops(device, t)) for t in _types(device)},
        "load_average_before": round(os.getloadavg()[0], 2),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "commit": _commit(),
        "date": datetime.now(timezone.utc).date().isoformat(),
    }


def _types(device: torch.device) -> list[torch.dtype]:
    return [torch.float32] + ([torch.bfloat16] if has_bfloat16(device) else [])


def _matrix_gflops(device: torch.device, dtype: torch.dtype, side: int = 2048) -> float:
    """GFLOP/s of a large matrix product: what the machine can give today."""
    from accel.benchmark.timing import interleaved

    a, b = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
    return 2 * side**3 / interleaved({"product": lambda: a @ b}, 10, device)["product"] / 1e9


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


def _commit() -> str | None:
    """The commit of the checkout this runs from, with a plus if files were changed; None outside one."""

    def git(*words: str) -> str:
        folder = Path(__file__).parent
        return subprocess.run(["git", *words], cwd=folder, capture_output=True, text=True, check=True).stdout.strip()

    try:
        return git("rev-parse", "--short", "HEAD") + (
            "+" if git("status", "--porcelain", "--untracked-files=no") else ""
        )
    except (OSError, subprocess.CalledProcessError):
        return None
