"""Time exported models in turns with the models that they were made from."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from accel import runtime
from accel.benchmark.models import Contender, steps_of, two_frames
from accel.config import ModelConfig
from accel.exporting.exporter import Settings, export_model
from accel.inference.exported import ExportedModel
from accel.models import VideoModel
from accel.weights.checkpoints import Description
from accel.weights.hub import About


@torch.inference_mode()
def exported_contenders(
    name: str, model: VideoModel, size: tuple[int, int], dtype: torch.dtype | None = None
) -> dict[str, Contender]:
    """Return a model as it is, optimised, exported to ONNX, and compiled ahead of time, all on the CPU. Preparation is
    the export with its check.

    dtype: of the optimised model. None: the best one for this machine; float32 is then there too, if it is another.
    """
    frames = two_frames(size, torch.device("cpu"))
    contenders = {}
    for form, made, seconds in _forms(model, size, dtype):
        steps = steps_of(made, frames, size)
        current = steps["current frame"] if model.carries_state else None
        contenders[f"{name}, {form}"] = Contender(steps["key frame"], current, preparation=seconds)
    return contenders


def described(model: VideoModel, config: ModelConfig) -> VideoModel:
    """Give a model with random weights a description, without which it cannot be exported."""
    count = config.num_classes
    names = tuple(f"class {number}" for number in range(count))
    model.about = About(Description(config, names, ((0, 0, 0),) * count, 0))
    return model


def instruction_sets() -> str:
    """Return the widest vector instructions that PyTorch uses on this processor, such as "AVX512"."""
    return torch.backends.cpu.get_cpu_capability()


def _forms(
    model: VideoModel, size: tuple[int, int], dtype: torch.dtype | None
) -> Iterator[tuple[str, VideoModel, float]]:
    """Yield each form of a model with its name and the seconds that it took to make."""
    yield "eager float32", model, 0.0
    for each in dict.fromkeys((torch.float32, dtype)):
        start = time.perf_counter()
        fast = model.optimized(size, each)
        yield f"optimised {str(each or 'best type').removeprefix('torch.')}", fast, time.perf_counter() - start
    for form, settings in (
        ("ONNX Runtime", Settings("onnx", size)),
        ("ONNX Runtime, no GridSample", Settings("onnx", size, grid_sample=False)),
        ("AOTInductor", Settings("aoti", size)),
    ):
        with TemporaryDirectory(prefix="accel-") as folder:
            start = time.perf_counter()
            export_model(model, Path(folder) / "exported", settings)
            seconds = time.perf_counter() - start
            exported = runtime.load(Path(folder) / "exported", threads=torch.get_num_threads())
        yield form, ExportedModel(exported), seconds
