"""Weights of another library's model, in the file that its owner has."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn

from accel.wording import few, first_line

PREFIXES = ("", "model.", "module.", "net.")  # under which trainers keep a model
MAX_NAMED = 3


def load_own_weights(model: nn.Module, path: Path) -> None:
    """Load a model's weights from a safetensors file, or from a file of `torch.save` that holds nothing but tensors.

    They may lie under "state_dict" or "model", and each name may begin with "model.", "module." or "net.". No code from
    the file is run. Names that the model does not have are ignored, for auxiliary heads are left out.

    Raises FileNotFoundError if there is no file, and ValueError for other content and for weights that are missing.
    """
    if not path.is_file():
        raise FileNotFoundError(f"no weights at {path}; expected a .safetensors or .pt file of the model's state")
    try:
        stored: Any
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            stored = load_file(path)
        else:
            stored = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # of two libraries
        raise ValueError(f"{path}: not a file of weights ({first_line(error)})") from error
    for key in ("state_dict", "model"):
        if isinstance(stored, dict) and isinstance(stored.get(key), dict):
            stored = stored[key]
    if not isinstance(stored, dict):
        raise ValueError(f"{path}: holds {type(stored).__name__}, expected names and tensors")
    expected = model.state_dict()
    prefix = max(PREFIXES, key=lambda p: sum(f"{p}{name}" in stored for name in expected))
    found = {name: stored[f"{prefix}{name}"] for name in expected if f"{prefix}{name}" in stored}
    missing = [name for name in expected if name not in found and not name.endswith("num_batches_tracked")]
    if missing:
        raise ValueError(f"{path}: weights of another architecture ({len(missing)} missing: {few(missing, MAX_NAMED)})")
    try:
        model.load_state_dict(found, strict=False)
    except RuntimeError as error:
        wrong = [n for n, tensor in found.items() if tensor.shape != expected[n].shape]
        raise ValueError(f"{path}: weights of another shape ({few(wrong, MAX_NAMED)})") from error
