"""Video models on frames of one size, side by side."""

from __future__ import annotations

import re
import shlex
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from accel.benchmark.timing import turns
from accel.evaluation.timing import frames_per_second
from accel.models import VideoModel


@dataclass(frozen=True)
class FrameTimes:
    """Median seconds of a key frame and of a current one, labels at full size included, and of a frame on average at
    the interval they were taken for; `preparation` is what `optimized` took once."""

    key: float
    current: float
    mean: float
    preparation: float


def frame_times(key: float, current: float, interval: int, preparation: float = 0.0) -> FrameTimes:
    return FrameTimes(key, current, 1 / frames_per_second(key, current, interval), preparation)


@torch.inference_mode()
def benchmark_models(
    models: dict[str, VideoModel], size: tuple[int, int], interval: int, rounds: int, eager: bool
) -> dict[str, FrameTimes]:
    """Models on one device, optimised, in turns; and segmentation-models-pytorch's DeepLabV3+ on ResNet-101 as it
    comes, in float32, on every frame.

    eager: the models as they are, too.
    """
    device = next(iter(models.values())).device
    frames = torch.randint(0, 256, (4, *size, 3), dtype=torch.uint8, device=device).permute(0, 3, 1, 2)
    runs: dict[str, tuple[Callable, Callable]] = {}
    preparation = {}
    for name, model in models.items():
        if eager:
            runs[f"{name}, eager float32"] = _steps(model, frames, size)
        start = time.perf_counter()
        runs[name] = _steps(model.optimized(size), frames, size)
        preparation[name] = time.perf_counter() - start
    runs["smp DeepLabV3+ ResNet-101, eager float32"] = _smp_steps(frames, device)
    calls = {(name, which): steps[i] for name, steps in runs.items() for i, which in enumerate(("key", "current"))}
    taken = {name: float(np.median(seconds)) for name, seconds in turns(calls, rounds, device).items()}
    return {
        name: frame_times(taken[name, "key"], taken[name, "current"], interval, preparation.get(name, 0.0))
        for name in runs
    }


def _steps(model: VideoModel, frames: Tensor, size: tuple[int, int]) -> tuple[Callable, Callable]:
    """A key frame and the current frame after it, each to labels in host memory."""
    _, state = model.key_frame(frames[:1])

    def key():
        return model.key_frame(frames[:1])[0].labels(size).cpu()

    def current():
        return model.next_frame(frames[1:2], state)[0].labels(size).cpu()

    return key, current


def _smp_steps(frames: Tensor, device: torch.device) -> tuple[Callable, Callable]:
    import segmentation_models_pytorch as smp

    network = smp.DeepLabV3Plus("resnet101", encoder_weights=None, classes=19).eval().to(device)
    frame = frames[:1].float().contiguous()

    def step():
        return network(frame).argmax(1).cpu()

    return step, step


@torch.inference_mode()
def profile_model(model: VideoModel, size: tuple[int, int], frames: int = 5) -> dict[str, dict[str, float]]:
    """Where the time of an optimised model's key and current frames goes: milliseconds a frame by operator."""
    from torch.profiler import ProfilerActivity, profile

    device = model.device
    pictures = torch.randint(0, 256, (2, *size, 3), dtype=torch.uint8, device=device).permute(0, 3, 1, 2)
    steps = dict(zip(("key frame", "current frame"), _steps(model, pictures, size), strict=True))
    cuda = device.type == "cuda"
    found = {}
    for name, step in steps.items():
        step()
        with profile(activities=[ProfilerActivity.CUDA if cuda else ProfilerActivity.CPU]) as profiler:
            for _ in range(frames):
                step()
        taken = {
            event.key: (event.self_device_time_total if cuda else event.self_cpu_time_total) / 1e3 / frames
            for event in profiler.key_averages()
        }
        found[name] = dict(sorted(taken.items(), key=lambda item: -item[1])[:12])
    return found


def time_mxnet(command: str) -> tuple[float, float]:
    """Seconds of a key and a current frame in the original: run a command that prints `key frame: SECONDS s` and
    `current frame: SECONDS s`. ValueError if it fails or prints neither."""
    done = subprocess.run(shlex.split(command), capture_output=True, text=True, check=False)
    found = [re.search(rf"{which} frame: ([\d.]+) s", done.stdout) for which in ("key", "current")]
    if done.returncode or None in found:
        said = (done.stderr.strip() or done.stdout.strip() or "nothing").splitlines()[-1]
        raise ValueError(f"the MXNet command {command!r} failed (exit code {done.returncode}): {said}")
    return float(found[0][1]), float(found[1][1])
