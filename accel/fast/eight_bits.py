"""Networks in eight bits: made from float ones with frames of the user's own video, without labels.

NNCF (OpenVINO's tool for this) chooses a scale for each channel of the weights, and for each map of activations, from
the values that the frames give. The first convolution stays in float: it sees the image itself.
"""

from __future__ import annotations

import hashlib
import importlib.util
import logging
import os
import platform
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, fx

from accel.fast.engines import (
    PRECISIONS,
    EngineError,
    Form,
    OpenVino,
    in_float32,
    openvino_model,
    wide,
)
from accel.fast.parts import Parts
from accel.fast.segments import Runner, segments
from accel.wording import first_line

LEAST = 0.98  # share of the labels that must stay the same, unless the user accepts less
FEWEST, HELD = 5, 0.25  # calibration frames; the share of them that is compared, and not calibrated with
SAMPLES = 32  # inputs of a network that are remembered
DOT_PRODUCTS = ("avx512_vnni", "avx_vnni", "asimddp")  # instructions that sum products of eight bits in 32
CONVOLUTIONS = ("Convolution", "GroupConvolution")


class Calibration:
    """The frames that a model is calibrated with, and what became of it.

    frames: at least 5 frames in their order, (H, W, 3) uint8 RGB. The last fourth of them is not calibrated with: on
        these, the labels are compared with those of the float model.
    accepts_loss: whether to take the result even if fewer than 98% of the labels stay the same.

    Raises ValueError for too few frames, or other arrays.
    """

    def __init__(self, frames: Sequence[np.ndarray], accepts_loss: bool = False):
        for number, frame in enumerate(frames):
            if not isinstance(frame, np.ndarray) or frame.dtype != np.uint8 or frame.ndim != 3 or frame.shape[2] != 3:
                found = f"{frame.dtype} {frame.shape}" if isinstance(frame, np.ndarray) else type(frame).__name__
                raise ValueError(f"calibration frame {number}: {found}; expected uint8 (H, W, 3) RGB")
        if len(frames) < FEWEST:
            raise ValueError(f"calibration: {len(frames)} frames; expected {FEWEST} or more")
        self.frames, self.accepts_loss = list(frames), accepts_loss
        self.waiting: list[_Waiting] = []
        self._recording = False

    def digest(self) -> str:
        """Return what depends on the frames alone."""
        digest = hashlib.sha256()
        for frame in self.frames:
            digest.update(f"{frame.shape}".encode() + np.ascontiguousarray(frame).tobytes())
        return digest.hexdigest()

    def images(self, size: tuple[int, int], held: bool) -> Iterator[Tensor]:
        """Yield the frames to calibrate with, or those held back, as (1, 3, H, W) float32 of this size."""
        first_held = len(self.frames) - max(2, round(HELD * len(self.frames)))
        for frame in self.frames[first_held:] if held else self.frames[:first_held]:
            image = torch.from_numpy(np.ascontiguousarray(frame)).permute(2, 0, 1)[None].float()
            if tuple(image.shape[2:]) != size:
                image = F.interpolate(image, size, mode="bilinear", antialias=True)
            yield image.contiguous(memory_format=torch.channels_last)

    @contextmanager
    def recording(self) -> Iterator[None]:
        """Remember the inputs that networks get inside this context."""
        self._recording = True
        try:
            yield
        finally:
            self._recording = False

    def network(self, graph: fx.GraphModule, examples: tuple[Tensor, ...], parts: int) -> Parts:
        """Return a network that computes in float until `finish`."""
        waiting = _Waiting()
        waiting.network = Parts(graph, examples, parts, lambda part, _: waiting.part(part, self))
        self.waiting.append(waiting)
        return waiting.network

    def finish(self, precision: torch.dtype) -> list[Parts]:
        """Bring the networks into eight bits, in place. Return them. The model must have run `recording`.

        precision: the type of what stays in float.

        Raises ValueError if OpenVINO cannot do that.
        """
        made = []
        for each in self.waiting:
            try:
                each.network.parts = [eight_bits(part.part, part.inputs, precision) for part in each.parts]
            except EngineError as error:
                raise ValueError(f"a network cannot be brought into eight bits: {error}") from error
            made.append(each.network)
        self.waiting = []
        return made


@dataclass
class _Waiting:
    """A network that is still to be brought into eight bits, and its parts."""

    parts: list[_Recorder] = field(default_factory=list)
    network: Any = None

    def part(self, part: fx.GraphModule, calibration: Calibration) -> _Recorder:
        self.parts.append(_Recorder(part, calibration))
        return self.parts[-1]


class _Recorder:
    """Runs a part of a network and remembers its inputs while its calibration records."""

    def __init__(self, part: fx.GraphModule, calibration: Calibration):
        self.part, self.calibration = part, calibration
        self.inputs: list[tuple[Tensor, ...]] = []

    def __call__(self, *given: Tensor) -> tuple[Tensor, ...]:
        if self.calibration._recording and len(self.inputs) < SAMPLES:
            self.inputs.append(tuple(tensor.clone() for tensor in given))
        return self.part(*given)


def check_calibration(dtype: torch.dtype | None, calibration: Calibration | None, device: torch.device) -> None:
    """Raise ValueError unless eight bits and frames to calibrate with come together, where the tools are."""
    if (dtype == torch.int8) != (calibration is not None):
        raise ValueError("dtype=torch.int8 and calibration=FRAMES go together: one is there without the other")
    if calibration is None:
        return
    if device.type != "cpu":
        raise ValueError(f"eight bits are for CPUs, and the model is on {device}")
    if missing := [name for name in ("openvino", "nncf") if importlib.util.find_spec(name) is None]:
        raise ValueError(f"eight bits need {' and '.join(missing)}: pip install 'accel-vss[openvino]'")


def eight_bits(part: fx.GraphModule, inputs: list[tuple[Tensor, ...]], precision: torch.dtype) -> Runner:
    """Return a part of a network in eight bits, run by OpenVINO.

    inputs: what it gets in use, one entry a call.
    """

    def of(piece: fx.GraphModule, samples: list[tuple[Tensor, ...]], made: tuple[Tensor, ...], first: bool) -> Runner:
        with warnings.catch_warnings(), torch.no_grad(), _silent():
            warnings.simplefilter("ignore")  # about what happens inside the converters
            model = openvino_model(in_float32(piece), tuple(map(wide, samples[0])))
            model = _quantized(model, samples, first)
            return OpenVino(model, Form.of(samples[0], made), PRECISIONS[precision])

    return segments(part, inputs, of)


def _quantized(model: Any, samples: list[tuple[Tensor, ...]], first: bool) -> Any:
    """Return OpenVINO's model in eight bits. first: whether its first convolution stays as it is."""
    import nncf

    convolutions = [op.get_friendly_name() for op in model.get_ordered_ops() if op.get_type_name() in CONVOLUTIONS]
    left = convolutions[:1] if first else []
    if len(convolutions) == len(left):
        return model
    arrays = [[wide(tensor).contiguous().numpy() for tensor in sample] for sample in samples]
    saturates = not has_dot_products()
    fix = nncf.OverflowFix.ENABLE if saturates else nncf.OverflowFix.DISABLE  # ENABLE: weights of seven bits
    try:
        return nncf.quantize(
            model,
            nncf.Dataset(arrays),
            preset=nncf.QuantizationPreset.MIXED,  # asymmetric activations, symmetric weights
            subset_size=len(arrays),
            ignored_scope=nncf.IgnoredScope(names=left),
            advanced_parameters=nncf.AdvancedQuantizationParameters(overflow_fix=fix),
        )
    except Exception as error:  # its classes are many, and change
        raise EngineError(f"NNCF: {first_line(error)}") from error


def has_dot_products() -> bool:
    """Return whether this processor sums products of eight bits without overflow. AVX2 alone sums two of them in 16
    bits, which is too little for weights of eight bits."""
    if os.environ.get("ONEDNN_MAX_CPU_ISA", "").upper() == "AVX2":
        return False
    try:
        flags = Path("/proc/cpuinfo").read_text(encoding="utf-8").split("\n\n", 1)[0].split()
    except OSError:
        return platform.machine() in ("arm64", "aarch64") or torch.cpu._is_vnni_supported()
    return any(name in flags for name in DOT_PRODUCTS)


@contextmanager
def _silent() -> Iterator[None]:
    """Keep NNCF's notes off the terminal."""
    log = logging.getLogger("nncf")
    before = log.level
    log.setLevel(logging.ERROR)
    try:
        yield
    finally:
        log.setLevel(before)
