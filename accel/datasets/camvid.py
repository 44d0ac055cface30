"""CamVid in the 11-class, 480 x 360 split that segmentation papers use (Brostow et al. 2008, SegNet).

ROOT/SPLIT/NAME.png        frames; a NAME is RECORDING_NUMBER, where the number counts frames of a 30 Hz video
ROOT/SPLITannot/NAME.png   class indices, 11 = unlabelled
ROOT/SPLIT.txt             the labelled NAMEs, one a line (SegNet's lines of two paths are accepted)
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np

from accel.datasets.clips import OnMissing
from accel.datasets.stored import StoredClips
from accel.files.images import UNDEFINED, read_labels
from accel.files.listing import leads_nowhere, not_there, visible
from accel.files.small_files import read_text
from accel.labels import IGNORED

CLASS_NAMES = (
    "sky", "building", "pole", "road", "sidewalk", "tree", "sign", "fence", "car", "pedestrian", "bicyclist",
)  # fmt: skip
PALETTE = np.array(  # (11, 3) RGB, from CamVid's label_colors.txt
    [
        (128, 128, 128), (128, 0, 0), (192, 192, 128), (128, 64, 128), (0, 0, 192), (128, 128, 0),
        (192, 128, 128), (64, 64, 128), (64, 0, 128), (64, 64, 0), (0, 128, 192),
    ],
    np.uint8,
)  # fmt: skip

_UNLABELLED = 11
_VIDEO_STEP = 2  # frame numbers at most this far apart are video: 15 Hz of 30

_PARTS = ("fit", "held")
_HELD = 12  # one frame of so many is held out

_TABLE = np.full(256, UNDEFINED, np.uint8)
_TABLE[: len(CLASS_NAMES)] = np.arange(len(CLASS_NAMES))
_TABLE[[_UNLABELLED, IGNORED]] = IGNORED


@dataclass(frozen=True)
class _LabelledFrame:
    name: str
    before: tuple[str, ...]  # names of the frames directly before, nearest first


class CamVid(StoredClips):
    """The labelled frames of a split, in the order of SPLIT.txt, or of names if there is no such file.

    `val` is one video at 15 Hz: frame i has i frames before it. `train` and `test` are stills a second apart, so their
    clips have one frame.

    root: the folder with SPLIT and SPLITannot.
    split: "train", "val" or "test", or a part of one. "train/held" is the last twelfth of each recording in `train`,
        and "train/fit" is the rest. These parts serve to choose models without using `val` or `test`.
    on_missing: a function that is called with a message for each labelled frame without an image. The frame is left
        out. None: it is an error.
    """

    class_names = CLASS_NAMES
    palette = PALETTE
    why_short = "CamVid's train and test are stills a second apart; val is video"

    def __init__(self, root: str | Path, split: str = "train", on_missing: OnMissing | None = None):
        self.root = Path(root)
        self.split, _, part = split.partition("/")
        if part not in ("", *_PARTS):
            raise ValueError(f"split {split!r}: the parts of a split are {' and '.join(_PARTS)}")
        self._images, self._annotations = self._folders()
        if not (self._images.is_dir() and self._annotations.is_dir()):
            raise self._not_there()
        on_disk = {p.stem for p in visible(self._images) if p.suffix == ".png" and not leads_nowhere(p)}
        names = self._listed_names() or self._annotated_names()
        if not names:
            raise self._not_there()
        names = _part(names, part)
        for name in names:
            if name not in on_disk:
                path = self._images / f"{name:.255}.png"
                problem = f"{not_there(path)}, but the {split} split lists it"
                if on_missing is None:
                    raise FileNotFoundError(problem)
                on_missing(problem)
        before = _frames_before(on_disk)
        self._labelled = [_LabelledFrame(name, _chain(name, before)) for name in names if name in on_disk]

    def __len__(self) -> int:
        return len(self._labelled)

    def history(self, index: int) -> int:
        return len(self._labelled[index].before)

    def name(self, index: int) -> str:
        return self._labelled[index].name

    def place(self, index: int) -> tuple[str, int]:
        """Return the video and the frame's number in it. The video has the name of its first frame."""
        labelled = self._labelled[index]
        return (labelled.before[-1] if labelled.before else labelled.name), len(labelled.before)

    def image_paths(self, index: int, length: int) -> list[Path]:
        labelled = self._labelled[index]
        names = [*reversed(labelled.before[: length - 1]), labelled.name]
        return [self._images / f"{name}.png" for name in names]

    def labels(self, index: int) -> tuple[Path, np.ndarray]:
        return self._labels(self._labelled[index].name)

    def _folders(self) -> tuple[Path, Path]:
        """Return the folders of the frames and of their labels."""
        return self.root / self.split, self.root / f"{self.split}annot"

    def _annotated_names(self) -> list[str]:
        return sorted(p.stem for p in visible(self._annotations) if p.suffix == ".png")

    def _labels(self, name: str) -> tuple[Path, np.ndarray]:
        path = self._annotations / f"{name}.png"
        return path, read_labels(path, _TABLE)

    def _listed_names(self) -> list[str]:
        """Return the names in SPLIT.txt: the first word of each line, without folders and suffix."""
        path = self.root / f"{self.split}.txt"
        if not (path.is_file() or leads_nowhere(path)):
            return []
        lines = [line.split() for line in read_text(path).splitlines() if line.strip()]
        names = [PurePosixPath(words[0]).name.removesuffix(".png") for words in lines]
        if not names:
            raise ValueError(f"{path}: lists no frame")
        name, times = Counter(names).most_common(1)[0]
        if times > 1:
            raise ValueError(f"{path}: lists {name:.100} more than once")
        return names

    def _not_there(self) -> FileNotFoundError:
        return FileNotFoundError(
            f"no CamVid {self.split} split at {self.root}: expected {self.split}/NAME.png, "
            f"{self.split}annot/NAME.png and {self.split}.txt, or the original 701_StillsRaw_full/NAME.png and "
            f"LabeledApproved_full/NAME_L.png"
        )


def numbered(name: str) -> tuple[str, int] | None:
    """Return the recording and the frame number of a name such as 0016E5_07959. None for a name without a number."""
    match = re.fullmatch(r"(.+_\D*)(\d+)", name)
    return (match[1], int(match[2])) if match else None


def _part(names: list[str], part: str) -> list[str]:
    """Return the frames of a part, in their order.

    The held-out part is the end of every recording, in one piece. Stills a second apart look alike, so a random
    selection of them would not be an independent test.
    """
    if not part:
        return names
    recordings: dict[str, list[str]] = {}
    for name in names:
        number = numbered(name)
        recordings.setdefault(number[0] if number else "", []).append(name)
    held = {name for frames in recordings.values() for name in sorted(frames)[-(len(frames) // _HELD or 1) :]}
    return [name for name in names if (name in held) == (part == "held")]


def _frames_before(names: set[str]) -> dict[str, tuple[str, int]]:
    """Return, for each frame of a video, the frame directly before it and the difference of their numbers."""
    places = {name: numbered(name) for name in names}
    by_number = {place: name for name, place in places.items() if place is not None}
    before: dict[str, tuple[str, int]] = {}
    for (recording, number), name in by_number.items():
        for step in range(1, _VIDEO_STEP + 1):
            if (recording, number - step) in by_number:
                before[name] = by_number[recording, number - step], step
                break
    return before


def _chain(name: str, before: dict[str, tuple[str, int]]) -> tuple[str, ...]:
    """Return the frames before `name`, nearest first, as long as they are evenly spaced."""
    chain: list[str] = []
    spacing = before[name][1] if name in before else 0
    while name in before and before[name][1] == spacing:
        name = before[name][0]
        chain.append(name)
    return tuple(chain)
