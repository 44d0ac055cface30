"""Generated street scenes with boxes, read as ImageNet VID is."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from accel.datasets.clips import OnMissing
from accel.datasets.imagenet_vid import ImageNetVid
from accel.datasets.streetscape.boxes import CLASS_NAMES
from accel.datasets.streetscape.vid_files import video_number

PALETTE = np.array([(220, 20, 60), (255, 120, 0), (30, 80, 240), (0, 170, 170), (0, 200, 80), (200, 0, 200)], np.uint8)


class StreetscapeVid(ImageNetVid):
    """Generated street scenes with boxes (`accel.datasets.streetscape.vid_files`), in the layout of ImageNet VID.

    Clips have the length that is asked for: the first frames of a video only serve as history.

    limit: the number of videos of each list to use, if more have been generated.
    """

    class_names, palette = CLASS_NAMES, PALETTE
    names: Mapping[str, int] = {name: k for k, name in enumerate(CLASS_NAMES)}
    generated = True
    may_be_short = False

    def __init__(self, root: str | Path, split: str, on_missing: OnMissing | None = None, limit: int | None = None):
        super().__init__(root, split, on_missing)
        if limit is not None:
            self._frames = [frame for frame in self._frames if video_number(frame.video) < limit]
