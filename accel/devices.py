"""Choose the device to run on, and tell what it can do."""

from __future__ import annotations

import platform

import torch

DEVICES = ("cpu", "cuda")


def choose_device(name: str) -> torch.device:
    """Return the device of that name. "auto" is the GPU if there is one. Raises ValueError for a device that this
    machine lacks."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError:
        device = None
    if device is None or device.type not in DEVICES:
        raise ValueError(f"device {name!r}: expected auto, cpu, cuda or cuda:N")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ValueError(f"device {name!r}: this machine has {torch.cuda.device_count()} CUDA devices")
    return device if device.type == "cuda" else torch.device("cpu")


def has_bfloat16(device: torch.device) -> bool:
    """Return whether bfloat16 is fast on the device. If not, PyTorch still computes it, a hundred times slower."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return torch.ops.mkldnn._is_mkldnn_bf16_supported() and (
        torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported() or platform.machine() == "aarch64"
    )
