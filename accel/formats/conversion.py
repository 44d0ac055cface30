"""Turn results from one format into another that keeps all of them."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from accel.formats import find_formats
from accel.formats.reading import joined

# What keeps each pixel's class, or each box with its class and score.
KEEP_ALL = {
    "segmentation": ("png", "npz", "zarr", "coco", "coco-polygons", "cvat", "json"),
    "detection": ("coco", "csv"),
}


def convert(sources: Sequence[Path], name: str, out: Path) -> int:
    """Write the results of a video, or those of its segments as one, in another format. Return the number of frames.

    sources: files or folders that `read_results` reads.
    name: the format.
    out: the folder to write to.

    Raises ValueError or FileNotFoundError if a source cannot be read, if the format would lose something, or if the
    folder has such a file already.
    """
    results = joined(sources)
    task = results.task
    (kind,) = find_formats(task.name, [name])
    if name not in KEEP_ALL[task.name]:
        raise ValueError(f"--to {name}: would lose some of the {task.name}; there are {', '.join(KEEP_ALL[task.name])}")
    for each in kind.names():
        if os.path.lexists(out / each):
            raise ValueError(f"{out / each}: is there already; choose another folder with --out")
    out.mkdir(parents=True, exist_ok=True)
    writer, count = kind(out.joinpath, results.video, task), 0
    try:
        for frame in results.frames():
            writer.write(frame)
            count += 1
        writer.close()
    finally:
        writer.abort()
    return count
