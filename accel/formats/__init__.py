"""The formats in which results can be written, by task and name."""

from __future__ import annotations

from collections.abc import Sequence

from accel.formats.arrays import NpzLabels, ZarrLabels
from accel.formats.box_results import CocoResults, MotDetections
from accel.formats.coco import CocoBoxes, CocoMasks, CocoPolygons, FrameJson
from accel.formats.confidence import ConfidenceMaps
from accel.formats.cvat import CvatVideo
from accel.formats.frame_files import FrameFiles
from accel.formats.tables import BoxTable, ClassShares
from accel.formats.videos import OverlayVideo, SideBySideVideo
from accel.formats.writer import FrameWriter, VideoFacts

FORMATS: dict[str, dict[str, type[FrameWriter]]] = {
    "segmentation": {
        "png": FrameFiles,
        "npz": NpzLabels,
        "zarr": ZarrLabels,
        "coco": CocoMasks,
        "coco-polygons": CocoPolygons,
        "cvat": CvatVideo,
        "json": FrameJson,
        "confidence": ConfidenceMaps,
        "shares": ClassShares,
        "overlay": OverlayVideo,
        "side-by-side": SideBySideVideo,
    },
    "detection": {
        "jsonl": FrameFiles,
        "coco": CocoBoxes,
        "coco-results": CocoResults,
        "mot": MotDetections,
        "csv": BoxTable,
        "cvat": CvatVideo,
        "overlay": OverlayVideo,
        "side-by-side": SideBySideVideo,
    },
}


def default_formats(task: str) -> tuple[str, ...]:
    """Return the formats of a task that are written if none is chosen."""
    return (next(iter(FORMATS[task])),)


def find_formats(task: str, names: Sequence[str]) -> list[type[FrameWriter]]:
    """Return the formats of these names. Raises ValueError for a name that the task has not."""
    known = FORMATS[task]
    for name in names:
        if name not in known:
            raise ValueError(f"--write {name}: not a format of {task}; there are {', '.join(known)}")
    return [known[name] for name in dict.fromkeys(names)]


__all__ = ["FORMATS", "FrameWriter", "VideoFacts", "default_formats", "find_formats"]
