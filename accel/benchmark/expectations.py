"""What to expect of a machine: frames a second by model, frame size, instruction set and company.

Each candidate is a process of its own, because PyTorch reads once which instructions it may use. The processes take
turns, one interval each (a key frame and the frames up to the next one). So whatever slows the machine slows all of
them. Weights are random, because only time counts.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from accel.benchmark.waiting import answer, busy

# What switches instructions off in PyTorch, in oneDNN and in our own operators. OpenVINO and ONNX Runtime look at the
# processor themselves: their figures under a smaller set are only sure on a processor that has no larger one.
INSTRUCTION_SETS: dict[str, dict[str, str]] = {
    "AVX2": {"ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2"},
    "AVX-512 bf16": {"ONEDNN_MAX_CPU_ISA": "AVX512_CORE_BF16"},
    "AMX": {},
}
NEEDS = {"AVX2": "avx2", "AVX-512 bf16": "avx512_bf16", "AMX": "amx_bf16"}  # as /proc/cpuinfo calls them
HERE = "this machine"
COMPANY = {"idle": 0, "beside 1": 1, "beside 2": 2}  # busy processes beside the model
SIZES = {"480x360": (360, 480), "512x1024": (512, 1024), "720p": (720, 1280)}
LITE, SMP = "lite", "smp-deeplabv3plus-101"
MODELS = ("lite", "accel-18", "dff", "deeplab-101", SMP)
FORMS = ("fastest", "inductor", "openvino", "onnxruntime", "int8")
QUICK_SECONDS = 120.0


@dataclass(frozen=True)
class Candidate:
    """A model in a form, for frames of a size, under an instruction set: one of `MODELS`, `FORMS`, `SIZES` and
    `INSTRUCTION_SETS` (or HERE, which switches nothing off)."""

    model: str
    form: str
    size: str
    instructions: str = HERE

    def environment(self) -> Mapping[str, str]:
        return INSTRUCTION_SETS.get(self.instructions, {})


@dataclass
class Row:
    """The seconds of whole intervals, by company, and those of their key frames.

    preparation: seconds from the start of the process to the first frame.
    failure: why there are none, in words.
    """

    preparation: float = 0.0
    intervals: dict[str, list[float]] = field(default_factory=dict)
    keys: dict[str, list[float]] = field(default_factory=dict)
    failure: str | None = None

    def figures(self, interval: int) -> dict[str, float | str | None]:
        """Return the frames a second in each company (medians), and how many times as long a frame takes there as when
        idle."""
        found: dict[str, float | str | None] = {"preparation_s": round(self.preparation, 1)}
        if self.failure:
            return found | {"failure": self.failure}
        idle = float(np.median(self.intervals["idle"])) if self.intervals.get("idle") else None
        for company, seconds in self.intervals.items():
            if seconds:
                found[company] = round(interval / float(np.median(seconds)), 2)
                found[f"{company}, key ms"] = round(1e3 * float(np.median(self.keys[company])), 1)
                if company != "idle" and idle:
                    found[f"{company}, times idle"] = round(float(np.median(seconds)) / idle, 2)
        return found


def instruction_sets_here(flags: Sequence[str]) -> list[str]:
    """Return the instruction sets that a processor with these flags can be measured with."""
    return [name for name, needs in NEEDS.items() if needs in flags]


def expectations(
    candidates: Sequence[Candidate],
    interval: int,
    rounds: int,
    company: Sequence[str] = tuple(COMPANY),
    seconds: float = float("inf"),
) -> dict[Candidate, Row]:
    """Return the times of each. Those of one model and size take turns.

    seconds: no model is begun after this time.
    """
    begin = time.perf_counter()
    rows = {candidate: Row() for candidate in candidates}
    groups: dict[tuple[str, str], list[Candidate]] = {}
    for candidate in candidates:
        groups.setdefault((candidate.model, candidate.size), []).append(candidate)
    for group in groups.values():
        if time.perf_counter() - begin > seconds:
            for candidate in group:
                rows[candidate].failure = "no time left"
            continue
        with ExitStack() as stack:
            processes = {}
            for candidate in group:
                process, ready = stack.enter_context(_process(candidate, interval))
                rows[candidate].preparation = ready.get("preparation", 0.0)
                rows[candidate].failure = ready.get("failure")
                if rows[candidate].failure is None:
                    processes[candidate] = process
            for name in company:
                with busy(COMPANY[name]):
                    for _ in range(rounds):
                        for candidate, process in processes.items():
                            assert process.stdin is not None, "it was started with pipes"
                            process.stdin.write("\n")
                            process.stdin.flush()
                            key, whole = answer(process)
                            rows[candidate].keys.setdefault(name, []).append(key)
                            rows[candidate].intervals.setdefault(name, []).append(whole)
    return rows


@contextmanager
def _process(candidate: Candidate, interval: int) -> Iterator[tuple[subprocess.Popen, dict[str, Any]]]:
    """Start a process that plays an interval for each line it is sent. Give it with what it says when it is ready."""
    what = [candidate.model, candidate.form, SIZES[candidate.size], interval]
    command = [sys.executable, "-m", __name__, json.dumps(what)]
    environment = os.environ | candidate.environment()
    pipe = subprocess.PIPE
    with subprocess.Popen(command, env=environment, stdin=pipe, stdout=pipe, text=True) as process:
        try:
            ready: Any = answer(process)
            yield process, ready
        finally:
            process.kill()


# --- the process ----------------------------------------------------------------------------------------------


def build(model: str) -> Any:
    """Return one of `MODELS` with random weights."""
    import torch

    from accel.models import build_published

    torch.manual_seed(0)
    if model == LITE:
        from accel.config import load_config, without_pretrained
        from accel.models import build_model

        return build_model(without_pretrained(load_config("experiments/camvid_lite/accel.yaml").model)).eval()
    if model == SMP:
        import segmentation_models_pytorch as smp

        from accel.models import FrameByFrame
        from accel.models.branch import Branch
        from accel.models.segmentation.score_map import ScoreMap

        class Whole(Branch):
            """A network that gives scores at frame size, as a user has it."""

            task = "segmentation"

            def __init__(self) -> None:
                super().__init__()
                self.backbone = smp.DeepLabV3Plus("resnet101", encoder_weights=None, classes=19)

            def features(self, image: torch.Tensor) -> torch.Tensor:
                return self.backbone(image)

            def predict(self, features: torch.Tensor) -> ScoreMap:
                return ScoreMap(features)

        return FrameByFrame(Whole()).eval()
    return build_published(model).eval()


def optimised(model: Any, form: str, size: tuple[int, int]) -> Any:
    """Return a model in one of `FORMS`."""
    import torch

    if form != "int8":
        return model.optimized(size, engine="auto" if form == "fastest" else form)
    generator = np.random.default_rng(0)
    frames = [generator.integers(0, 256, (*size, 3), np.uint8) for _ in range(6)]
    return model.optimized(size, torch.int8, calibration=frames, accept_loss=True)


def _serve(model: str, form: str, size: tuple[int, int], interval: int) -> None:
    start = time.perf_counter()
    try:
        fast = optimised(build(model), form, size)
    except ValueError as error:
        print(json.dumps({"failure": str(error)}), flush=True)
        return
    import torch

    frames = torch.randint(0, 256, (2, *size, 3), dtype=torch.uint8).permute(0, 3, 1, 2)

    def play() -> list[float]:
        begin = time.perf_counter()
        prediction, state = fast.key_frame(frames[:1])
        prediction.at(size)
        key = time.perf_counter() - begin
        for _ in range(interval - 1):
            prediction, state = fast.next_frame(frames[1:], state)
            prediction.at(size)
        return [key, time.perf_counter() - begin]

    with torch.inference_mode():
        play()
        print(json.dumps({"preparation": time.perf_counter() - start}), flush=True)
        for _ in sys.stdin:
            print(json.dumps(play()), flush=True)


if __name__ == "__main__":
    what = json.loads(sys.argv[1])
    _serve(what[0], what[1], (what[2][0], what[2][1]), what[3])
