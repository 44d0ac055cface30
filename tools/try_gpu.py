"""Try everything that has never run on this GPU, in under ten minutes: tests, memory errors, races, speed, training.

python tools/try_gpu.py --json docs/results/first_gpu.json

The safest part comes first. Results are written after each part, so a later failure costs nothing before it.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from accel.cli import Parser, run

ROOT = Path(__file__).resolve().parents[1]


def main(arguments: Sequence[str] | None = None) -> int:
    parser = Parser(__doc__)
    parser.add_argument("--json", type=Path, default=ROOT / "docs" / "results" / "first_gpu.json", help="results")
    parser.add_argument("--device", default="cuda", help="cuda, cuda:1 (default: cuda)")
    args = parser.parse_args(arguments)

    from accel.benchmark.first_run import gpu_parts, run_parts
    from accel.devices import choose_device
    from accel.machine import describe_machine

    device = choose_device(args.device)
    if device.type != "cuda":
        raise ValueError(f"--device {args.device}: expected a GPU")
    results = run_parts(gpu_parts(args.device), args.json.resolve(), describe_machine(device), ROOT)
    print(f"written: {args.json}")
    return int(any(part["outcome"].startswith(("exit", "stopped")) for part in results["parts"].values()))


if __name__ == "__main__":
    run(lambda: main(sys.argv[1:]))
