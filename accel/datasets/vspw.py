"""VSPW, videos in the wild with a label for every frame (Miao et al., CVPR 2021), as it is released, at 480p or whole.

ROOT/data/VIDEO/origin/NAME.jpg      frames
ROOT/data/VIDEO/mask/NAME.png        labels: 1 to 124 are classes; 0 (others) and 255 are ignored
ROOT/{train,val,test}.txt            the VIDEOs of a split, one a line
ROOT/label_num_dic_final.json        the value of each class by name
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from accel.datasets.class_list import pascal_palette
from accel.datasets.clips import OnMissing
from accel.datasets.stored import StoredClips
from accel.files.images import UNDEFINED, read_labels
from accel.files.listing import leads_nowhere, not_there
from accel.files.small_files import read_text
from accel.labels import IGNORED
from accel.video.reader import frame_files

CLASSES_FILE = "label_num_dic_final.json"


@dataclass(frozen=True)
class _LabelledFrame:
    video: str
    frames: tuple[Path, ...]
    number: int


class Vspw(StoredClips):
    """The labelled frames of a split, video by video. The history of each is the frames of its video before it.

    Frames without a mask, as in the test split of the release, are not labelled. Videos that the release's lists name
    and that are not on the disk are an error.

    root: the folder with `data` and the lists.
    split: "train", "val" or "test".
    on_missing: a function that is called with a message for each missing video or frame. It is left out. None: it is an
        error.

    Raises FileNotFoundError or ValueError, with the file, for anything that is missing or invalid.
    """

    def __init__(self, root: str | Path, split: str, on_missing: OnMissing | None = None):
        self.root, self.split = Path(root), split
        listed = self.root / f"{split}.txt"
        if not (listed.is_file() and (self.root / "data").is_dir()):
            raise FileNotFoundError(
                f"no VSPW {split} split at {self.root}: expected {split}.txt, {CLASSES_FILE}, "
                "data/VIDEO/origin/NAME.jpg and data/VIDEO/mask/NAME.png"
            )
        values = _read_classes(self.root / CLASSES_FILE)
        self.class_names = tuple(values)
        self.palette = pascal_palette(len(values))
        self._table = np.full(256, UNDEFINED, np.uint8)
        self._table[[0, IGNORED]] = IGNORED
        self._table[list(values.values())] = np.arange(len(values))
        self._labelled: list[_LabelledFrame] = []
        for video in filter(None, map(str.strip, read_text(listed).splitlines())):
            self._labelled += self._frames_of(video, on_missing)
        if not self._labelled:
            raise FileNotFoundError(f"no VSPW {split} split at {self.root}: none of its videos has masks")

    def _frames_of(self, video: str, on_missing: OnMissing | None) -> list[_LabelledFrame]:
        folder = self.root / "data" / video
        if Path(video).name != video or not (folder / "origin").is_dir():
            _miss(f"{folder / 'origin'}: no such folder, but {self.split}.txt lists it", on_missing)
            return []
        frames = tuple(frame_files(folder / "origin"))
        masks = {path.stem for path in frame_files(folder / "mask")} if (folder / "mask").is_dir() else set()
        for name in sorted(masks - {path.stem for path in frames}):
            _miss(f"{folder / 'mask' / name}.png: there is no frame of that name", on_missing)
        for path in filter(leads_nowhere, frames):
            _miss(not_there(path), on_missing)
        return [
            _LabelledFrame(video, frames, n)
            for n, path in enumerate(frames)
            if path.stem in masks and not leads_nowhere(path)
        ]

    def __len__(self) -> int:
        return len(self._labelled)

    def history(self, index: int) -> int:
        return self._labelled[index].number

    def place(self, index: int) -> tuple[str, int]:
        return self._labelled[index].video, self._labelled[index].number

    def name(self, index: int) -> str:
        labelled = self._labelled[index]
        return f"{labelled.video}/{labelled.frames[labelled.number].stem}"

    def image_paths(self, index: int, length: int) -> list[Path]:
        labelled = self._labelled[index]
        return list(labelled.frames[labelled.number - length + 1 : labelled.number + 1])

    def labels(self, index: int) -> tuple[Path, np.ndarray]:
        labelled = self._labelled[index]
        path = self.root / "data" / labelled.video / "mask" / f"{labelled.frames[labelled.number].stem}.png"
        return path, read_labels(path, self._table)


def _read_classes(path: Path) -> dict[str, int]:
    """Return the value of each class, in the order of the values, without `others`."""
    try:
        found = {str(name): int(value) for name, value in json.loads(read_text(path)).items()}
    except (ValueError, TypeError, AttributeError):
        raise ValueError(f"{path}: expected the value of each class by name, as JSON") from None
    values = {
        name: value for name, value in sorted(found.items(), key=lambda each: each[1]) if value not in (0, IGNORED)
    }
    if len(values) < 2 or len({*values.values()}) < len(values) or not all(0 < v < IGNORED for v in values.values()):
        raise ValueError(f"{path}: expected two classes or more with values 1 to 254, each of them once")
    return values


def _miss(problem: str, on_missing: OnMissing | None) -> None:
    if on_missing is None:
        raise FileNotFoundError(problem)
    on_missing(problem)
