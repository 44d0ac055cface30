"""Measure the cost of propagation: learned sampling compared with warping along flow, and whole models with either.

    python -m accel.benchmark.propagation HEIGHT WIDTH DTYPE DEVICE

measures the memory of training in a separate process, and prints it as one line of JSON.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from typing import Any

import accel_ops
import torch
from torch import Tensor, nn

from accel.benchmark.models import gflop, gflop_of, two_frames
from accel.benchmark.resident import begin_anew, resident
from accel.clock import interleaved
from accel.devices import has_bfloat16
from accel.models import FlowWarp, LearnedSampling, VideoModel, build_model
from accel.models.propagation.learned_sampling import grid_offsets

CHANNELS, EMBEDDING = 1024, 256  # of the published network
CELL = 16
TYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
FRAME = (256, 512)  # of which operations are counted: the generated scenes'
FLOW, SAMPLING = {"flow": {"width": 0.5}}, {"name": "learned_sampling"}
MODELS = {
    "ResNet-50, FlowNet-S of half width": ("resnet50", FLOW),
    "ResNet-50, learned sampling, blocks: 2": ("resnet50", {"propagation": {**SAMPLING, "blocks": 2}}),
    "ResNet-50, learned sampling, encoder: resnet18": (
        "resnet50",
        {"propagation": {**SAMPLING, "encoder": "resnet18"}},
    ),
    "ResNet-101, FlowNet-S of half width": ("resnet101", FLOW),
    "ResNet-101, learned sampling, blocks: 4": ("resnet101", {"propagation": {**SAMPLING, "blocks": 4}}),
}


def propagation_times(size: tuple[int, int], device: torch.device, rounds: int) -> dict[str, dict[str, float]]:
    """Return the milliseconds of one propagation at the cells of frames of `size`, by type. All take turns.

    Learned sampling is the published one, with 1024 channels, 256 channels for comparison and 81 offsets. It is neither
    traced nor compiled.
    """
    types = [name for name in TYPES if name == "float32" or has_bfloat16(device)]
    results = {}
    for name in types:
        features, low, sampling = _sampling(size, TYPES[name], device)
        flow = 2 * torch.randn(1, 2, *features.shape[2:], device=device)
        use = sampling.key_to_current
        with torch.inference_mode():
            motion, query, key = sampling.motion(low, low), use.embed_current(features), use.embed_memory(features)
        ways: dict[str, Callable[[], object]] = {
            "learned sampling: Low2High and move": partial(sampling, features, low, low),
            "learned sampling: move": partial(sampling.move, features, motion),
            "learned sampling: the operator in it": partial(_attend, sampling, features, query, key),
            "flow: move": partial(FlowWarp.move, features, flow),
        }
        seconds = interleaved(ways, rounds, device)
        results[name] = {way: 1e3 * taken for way, taken in seconds.items()}
    return results


def learning_memory(size: tuple[int, int], device: torch.device) -> dict[str, dict[str, float]]:
    """Return the memory of training one `move` of learned sampling at the cells of frames of `size`, in megabytes, by
    type.

    It is measured in a forward and backward pass with gradients for everything: the peak of the process, and how much
    that adds to network and features.
    """
    types = [name for name in TYPES if name == "float32" or has_bfloat16(device)]
    command = [sys.executable, "-m", "accel.benchmark.propagation", *map(str, size)]
    found = {}
    for name in types:
        done = subprocess.run([*command, name, str(device)], capture_output=True, text=True, check=True)
        found[name] = json.loads(done.stdout.splitlines()[-1])
    return found


def model_operations() -> dict[str, dict[str, float]]:
    """Return the floating-point operations, in 10^9, of each kind of frame of `FRAME`, for models that differ in their
    propagation.

    They are DeepLabs with fc6 of 256 channels. For learned sampling, the parts of the current frame are included.
    """
    from accel.config import parse_model

    rows = {}
    for name, (encoder, way) in MODELS.items():
        branch = {"encoder": encoder, "head_channels": 256}
        changed: Any = way
        values = {"name": "deep_feature_flow", "num_classes": 19, "reference": branch, **changed}
        model = build_model(parse_model(values, name)).eval().requires_grad_(False)
        with torch.inference_mode():
            rows[name] = gflop_of(model, two_frames(FRAME, model.device), FRAME) | _parts(model)
    return rows


def _parts(model: VideoModel) -> dict[str, float]:
    sampling = model.propagation
    if not isinstance(sampling, LearnedSampling):
        return {}
    image = torch.zeros(1, 3, *FRAME)
    low = sampling.low_level(image)
    features = sampling.low_to_high(low)
    return {
        "of it low level": gflop(lambda: sampling.low_level(image)),
        "of it Low2High": gflop(lambda: sampling.low_to_high(low)),
        "of it aggregation": gflop(lambda: sampling.move(features, features)),
    }


def _sampling(
    size: tuple[int, int], dtype: torch.dtype, device: torch.device
) -> tuple[Tensor, Tensor, LearnedSampling]:
    """Return features and low-level features (1, C, h, w), and the sampling, whose offsets are not at whole cells, as
    after training."""
    torch.manual_seed(0)
    cells = [-(-side // CELL) for side in size]
    offsets = grid_offsets() + 0.2 * torch.randn(81, 2)
    sampling = LearnedSampling(nn.Identity(), CHANNELS, CHANNELS, offsets, EMBEDDING).to(device)
    for part in (sampling.low_to_high, sampling.key_to_current):
        part.to(dtype=dtype, memory_format=torch.channels_last)  # type: ignore[call-overload] # undeclared
    maps = torch.randn(2, CHANNELS, *cells, device=device).to(dtype, memory_format=torch.channels_last)
    return maps[:1], maps[1:], sampling


def _attend(sampling: LearnedSampling, features: Tensor, query: Tensor, key: Tensor) -> Tensor:
    return accel_ops.sample_attend(query, key, features, sampling.offsets)


def _learn(features: Tensor, motion: Tensor, sampling: LearnedSampling) -> None:
    sampling.move(features.requires_grad_(), motion.requires_grad_()).float().square().mean().backward()


def _measure(size: tuple[int, int], dtype: torch.dtype, device: torch.device) -> dict[str, float]:
    _learn(*_sampling((3 * CELL, 3 * CELL), dtype, device))  # sets up libraries and threads
    given = _sampling(size, dtype, device)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device) / 2**20
        _learn(*given)
        peak = torch.cuda.max_memory_allocated(device) / 2**20
    else:
        begin_anew()
        before = resident()
        _learn(*given)
        peak = resident("VmHWM")
    return {"added_megabytes": peak - before, "peak_megabytes": peak}


if __name__ == "__main__":
    height, width, chosen, place = sys.argv[1:]
    print(json.dumps(_measure((int(height), int(width)), TYPES[chosen], torch.device(place))))
