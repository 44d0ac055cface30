"""Look for races of captured graphs: an optimised model on a GPU must give the same labels each time, whatever runs
beside it.

python -m accel.benchmark.captured_graphs FIGURES.json
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from accel.evaluation.tables import write_json
from accel.models import VideoModel, build_published

TURNS = 50
SIZE = (128, 256)


@torch.inference_mode()
def repeated(model: VideoModel, size: tuple[int, int], turns: int) -> dict[str, float]:
    """Return how often labels differed from those of the first time, and the largest share of a frame's labels that
    did. Two streams of frames alternate, and copies to the device run beside them."""
    device = model.device
    generator = torch.Generator().manual_seed(0)
    clips = torch.randint(0, 256, (2, 3, 1, 3, *size), dtype=torch.uint8, generator=generator)
    on_device = clips.to(device)

    def labels() -> list[Tensor]:
        states: list[Any] = [None, None]
        made = []
        for t in range(3):
            for stream in range(2):
                image = on_device[stream, t]
                step = model.key_frame(image) if t == 0 else model.next_frame(image, states[stream])
                states[stream] = step[1]
                made.append(getattr(step[0].at(size), "labels"))  # noqa: B009 (what a prediction has, its task knows)
                clips.to(device, non_blocking=True)
        return made

    first = [each.cpu() for each in labels()]
    shares = [float((a.cpu() != b).float().mean()) for _ in range(turns) for a, b in zip(labels(), first, strict=True)]
    return {"frames": len(shares), "that_differ": sum(s > 0 for s in shares), "largest_share": max(shares)}


def main(path: str) -> int:
    torch.manual_seed(0)
    results = {}
    for version in ("accel-18", "accel-101", "dff"):
        model = build_published(version).eval().to("cuda")
        for dtype in (torch.float32, torch.bfloat16):
            results[f"{version}, {dtype}"] = repeated(model.optimized(SIZE, dtype, parts=2), SIZE, TURNS)
            write_json(Path(path), results)
    return int(any(each["that_differ"] for each in results.values()))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
