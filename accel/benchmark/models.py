"""Measure video models on frames of one size, in turns with networks that a user would use otherwise."""

from __future__ import annotations

import copy
import json
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from accel.benchmark.resident import peak_resident
from accel.clock import turns
from accel.models import VideoModel

CLASSES = 19
ORIGINAL = Path(__file__).with_name("mxnet_original.py")


@dataclass(frozen=True)
class Contender:
    """The calls to time: a key frame and a current one, from a frame on the device to labels in host memory, and their
    floating-point operations.

    current: None for a network that runs frame by frame.
    """

    key: Callable[[], object]
    current: Callable[[], object] | None = None
    key_gflop: float = 0.0
    current_gflop: float = 0.0
    preparation: float = 0.0  # seconds, once


@dataclass(frozen=True)
class FrameTimes:
    """Times in seconds: medians of a key frame and of a current frame, their mean over an interval, and percentiles of
    all timed frames.

    frames_per_second: the rate at that mean.
    gflop: operations of a frame on average, in 10^9.
    share_of_matrix_rate: the share of the machine's rate of matrix products that is reached.
    """

    key: float
    current: float
    mean: float
    frames_per_second: float
    p50: float
    p95: float
    p99: float
    gflop: float | None = None
    share_of_matrix_rate: float | None = None
    preparation: float = 0.0

    @classmethod
    def of(cls, key: list[float], current: list[float], interval: int, **known) -> FrameTimes:
        """Make the times from the seconds of single frames. Without current ones, all frames are key frames."""
        of_key = float(np.median(key))
        of_current = float(np.median(current)) if current else of_key
        mean = (of_key + (interval - 1) * of_current) / interval
        p50, p95, p99 = np.percentile([*key, *current], (50, 95, 99)).tolist()
        return cls(of_key, of_current, mean, 1 / mean, p50, p95, p99, **known)


@torch.inference_mode()
def benchmark_models(
    contenders: dict[str, Contender], interval: int, rounds: int, device: torch.device, matrix_gflops: float
) -> dict[str, FrameTimes]:
    """Return the times of each, all in turns: each round has a key frame and `interval - 1` current ones of each."""
    calls: dict[tuple[str, int], Callable] = {}
    for name, contender in contenders.items():
        calls[name, 0] = contender.key
        if contender.current is not None:
            calls |= {(name, number): contender.current for number in range(1, interval)}
    taken = turns(calls, rounds, device)
    results = {}
    for name, contender in contenders.items():
        key = taken[name, 0]
        current = [seconds for (whose, number), all_ in taken.items() if whose == name and number for seconds in all_]
        times = FrameTimes.of(key, current, interval)
        of_current = contender.current_gflop if contender.current else contender.key_gflop
        gflop = (contender.key_gflop + (interval - 1) * of_current) / interval
        share = gflop / times.mean / matrix_gflops
        results[name] = FrameTimes.of(
            key, current, interval, gflop=gflop, share_of_matrix_rate=share, preparation=contender.preparation
        )
    return results


@torch.inference_mode()
def video_contenders(
    name: str, model: VideoModel, size: tuple[int, int], dtype: torch.dtype | None, eager: bool
) -> dict[str, Contender]:
    """Return an optimised model as a contender and, with `eager`, also the model itself in float32.

    A model that remembers key frames appears twice: with its first key frame, and with later ones, which build on those
    before.
    """
    frames = two_frames(size, model.device)
    start = time.perf_counter()
    fast = model.optimized(size, dtype)
    preparation = time.perf_counter() - start
    contenders = _contenders(name, fast, copy.deepcopy(model).simplified(), frames, size, preparation)
    if eager:
        contenders |= _contenders(f"{name}, eager float32", model, model, frames, size)
    return contenders


def _contenders(
    name: str, model: VideoModel, counted: VideoModel, frames: Tensor, size: tuple[int, int], preparation: float = 0.0
) -> dict[str, Contender]:
    """Return the contenders of `model`. Operations are those of `counted`, the same model before it was compiled."""
    steps, counts = steps_of(model, frames, size), gflop_of(counted, frames, size)
    kinds = {name: "key frame"} | ({f"{name}, later key frames": "later key frame"} if model.remembers else {})
    return {
        row: Contender(steps[key], steps["current frame"], counts[key], counts["current frame"], preparation)
        for row, key in kinds.items()
    }


@torch.inference_mode()
def image_contenders(size: tuple[int, int], device: torch.device) -> dict[str, Contender]:
    """Return networks that a user would use otherwise, frame by frame in float32: DeepLabV3+ of
    segmentation-models-pytorch and DeepLabV3 of torchvision, both on ResNet-101, uncompiled and compiled."""
    import segmentation_models_pytorch as smp
    from torchvision.models.segmentation import deeplabv3_resnet101

    class Scores(nn.Module):
        def __init__(self, network: nn.Module):
            super().__init__()
            self.network = network

        def forward(self, image: Tensor) -> Tensor:
            return self.network(image)["out"]

    networks = {
        "smp DeepLabV3+ ResNet-101": smp.DeepLabV3Plus("resnet101", encoder_weights=None, classes=CLASSES),
        "torchvision DeepLabV3 ResNet-101": Scores(
            deeplabv3_resnet101(weights=None, weights_backbone=None, num_classes=CLASSES)
        ),
    }
    frame = two_frames(size, device)[:1].float().contiguous()
    contenders = {}
    for name, network in networks.items():
        network = network.eval().to(device)
        step = _labelling(network, frame)
        contenders[f"{name}, eager float32"] = Contender(step, key_gflop=gflop(step))
        start = time.perf_counter()
        fast: Any = torch.compile(network)
        compiled = _labelling(fast, frame)
        compiled()
        preparation = time.perf_counter() - start
        contenders[f"{name}, compiled float32"] = Contender(compiled, key_gflop=gflop(step), preparation=preparation)
    return contenders


def time_mxnet(
    python: str, symbols: Path, size: tuple[int, int], interval: int, rounds: int, operators: Path | None = None
) -> tuple[str, FrameTimes]:
    """Return MXNet's version, and the times of the original graphs in its own interpreter.

    symbols: the folder with key-symbol.json and cur-symbol.json.
    operators: a Python file that registers the operators which MXNet lacks and these graphs have.

    Raises ValueError if that cannot be run.
    """
    command = [python, str(ORIGINAL), str(symbols), *map(str, (*size, interval, rounds))]
    command += [str(operators)] if operators else []
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        found = json.loads(done.stdout.splitlines()[-1])
    except OSError as error:
        raise ValueError(f"--mxnet {python}: cannot be run ({error.strerror})") from None
    except (subprocess.CalledProcessError, IndexError, json.JSONDecodeError) as error:
        said = (getattr(error, "stderr", None) or "it printed no times").strip().splitlines()[-1]
        raise ValueError(f"--mxnet {python} --symbols {symbols}: {said}") from None
    return found["version"], FrameTimes.of(found["key"], found["current"], interval)


@torch.inference_mode()
def profile_model(
    model: VideoModel, size: tuple[int, int], frames: int = 5, optimised: bool = True
) -> dict[str, dict[str, float]]:
    """Return where the time of each of a model's `steps_of` goes, in milliseconds a frame: the slowest operators, all
    others together, and by the clock.

    On a CPU, compiled loops are among the others.
    """
    from torch.profiler import ProfilerActivity, profile

    device = model.device
    cuda = device.type == "cuda"
    model = model.optimized(size, engine="inductor") if optimised else model  # others are not seen inside
    found = {}
    for name, step in steps_of(model, two_frames(size, device), size).items():
        step()
        start = time.perf_counter()
        for _ in range(frames):
            step()
        clock = 1e3 * (time.perf_counter() - start) / frames
        with profile(activities=[ProfilerActivity.CUDA if cuda else ProfilerActivity.CPU]) as profiler:
            for _ in range(frames):
                step()
        taken = {
            event.key: (event.self_device_time_total if cuda else event.self_cpu_time_total) / 1e3 / frames
            for event in profiler.key_averages()
        }
        most = dict(sorted(taken.items(), key=lambda item: -item[1])[:10])
        found[name] = most | {"all others": sum(taken.values()) - sum(most.values()), "by the clock": clock}
    return found


def peak_memory(device: torch.device) -> float:
    """Return the peak memory of this process in megabytes: on the GPU if it runs there, otherwise resident."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    return peak_resident()


def two_frames(size: tuple[int, int], device: torch.device) -> Tensor:
    """Return two frames (2, 3, H, W), with the memory layout of a decoder."""
    return torch.randint(0, 256, (2, *size, 3), dtype=torch.uint8, device=device).permute(0, 3, 1, 2)


def steps_of(model: VideoModel, frames: Tensor, size: tuple[int, int]) -> dict[str, Callable]:
    """Return calls for a key frame and the current frame after it, each up to the prediction in host memory.

    If a key frame within a video takes more work, there is a call for that too.

    frames: two frames of `size`, (2, 3, H, W).
    """
    _, state = model.key_frame(frames[:1])
    steps = {
        "key frame": lambda: model.key_frame(frames[:1]),
        "current frame": lambda: model.next_frame(frames[1:], state),
    }
    if model.remembers:
        steps["later key frame"] = lambda: model.key_frame(frames[1:], state)
    return {name: (lambda step=step: [each.cpu() for each in step()[0].at(size)]) for name, step in steps.items()}


def gflop_of(model: VideoModel, frames: Tensor, size: tuple[int, int]) -> dict[str, float]:
    """Return the floating-point operations of each of `steps_of`, in 10^9."""
    model = copy.deepcopy(model).requires_grad_(False)  # PyTorch's counter trips over parameters that are inputs
    return {name: gflop(step) for name, step in steps_of(model, frames, size).items()}


def _labelling(network: nn.Module, frame: Tensor) -> Callable:
    return lambda: network(frame).argmax(1).to(torch.uint8).cpu()


def gflop(step: Callable) -> float:
    """Return the floating-point operations of a call, in 10^9."""
    with FlopCounterMode(display=False) as counter:
        step()
    return counter.get_total_flops() / 1e9
