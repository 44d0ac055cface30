"""Graphs that AOTInductor compiled, run by PyTorch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from accel.runtime.folder import Exported, GraphInfo


def load_operators(exported: Exported) -> None:
    """Load the native operators: those of the package `accel_ops` if it is installed, otherwise those in the folder.

    Raises ValueError if PyTorch is not installed or cannot load them.
    """
    try:
        import torch
    except ImportError:
        raise ValueError("models exported to AOTInductor need PyTorch: pip install torch") from None
    try:
        import accel_ops
    except ImportError:
        path = exported.folder / str(exported.library)
        try:
            torch.ops.load_library(str(path))
        except OSError as error:
            raise ValueError(f"{path}: cannot be loaded ({' '.join(str(error).split())[:300]})") from None
    else:
        accel_ops.load("cpu")


class CompiledGraph:
    """A `.pt2` file, loaded. Raises ValueError if PyTorch cannot load it."""

    def __init__(self, info: GraphInfo):
        import torch

        self._inputs, self._outputs = ([t.name for t in ts] for ts in (info.inputs, info.outputs))
        try:
            self._run: Any = torch._inductor.aoti_load_package(str(info.path))
        except Exception as error:
            reason = " ".join(str(error).split())[:300]
            raise ValueError(f"{info.path}: PyTorch {torch.__version__} cannot load it ({reason})") from error

    def __call__(self, arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        import torch

        with torch.inference_mode():
            made = self._run(*(torch.from_numpy(arrays[name]) for name in self._inputs))
        return {name: each.numpy() for name, each in zip(self._outputs, made, strict=True)}
