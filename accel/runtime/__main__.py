"""Label a video file with an exported model, without PyTorch.

python -m accel.runtime EXPORTED drive.mp4 --output labelled
"""

from __future__ import annotations

import argparse
import struct
import sys
import time
import zlib
from pathlib import Path

import numpy as np

from accel.runtime.model import load
from accel.runtime.streams import label, read_video


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m accel.runtime", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", metavar="EXPORTED", help="folder that `accel export` wrote")
    parser.add_argument("video", metavar="VIDEO", help="video file")
    parser.add_argument("-i", "--interval", type=int, help="frames from key frame to key frame (default: the model's)")
    parser.add_argument("--output", type=Path, default=Path("labels"), help="folder for the labels (default: labels)")
    args = parser.parse_args()
    try:
        print(run(args.model, args.video, args.output, args.interval))
    except (ValueError, OSError) as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)


def run(model: str | Path, video: str | Path, output: Path, interval: int | None) -> str:
    """Label a video. Write a PNG of class indices for each frame, with the classes' colours. Return a line about it."""
    loaded = load(model)
    output.mkdir(parents=True, exist_ok=True)
    start, count, keys = time.perf_counter(), 0, 0
    for labelled in label(loaded, read_video(video), interval):
        (output / f"{count:06d}.png").write_bytes(png(labelled.labels, loaded.exported.palette))
        count, keys = count + 1, keys + labelled.is_key
    seconds = time.perf_counter() - start
    return f"{count} frames, {keys} of them key frames, {count / max(seconds, 1e-9):.1f} a second; written: {output}/"


def png(labels: np.ndarray, palette: tuple[tuple[int, int, int], ...]) -> bytes:
    """Turn labels (H, W), uint8, into a PNG file that holds the indices and shows the colours."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    height, width = labels.shape
    rows = np.zeros((height, width + 1), np.uint8)  # each row begins with its filter: none
    rows[:, 1:] = labels
    header = struct.pack(">IIBBBBB", width, height, 8, 3, 0, 0, 0)  # 8 bits, indices into a palette
    colours = bytes(value for colour in palette for value in colour)
    parts = ((b"IHDR", header), (b"PLTE", colours), (b"IDAT", zlib.compress(rows.tobytes(), 1)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*part) for part in parts)


if __name__ == "__main__":
    main()
