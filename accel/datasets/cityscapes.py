"""Cityscapes: 30-frame snippets of driving through cities, one frame of each labelled (Cordts et al. 2016).

ROOT/leftImg8bit_sequence/SPLIT/CITY/CITY_SEQ_FRAME_leftImg8bit.png      every frame
ROOT/gtFine/SPLIT/CITY/CITY_SEQ_FRAME_gtFine_labelIds.png                labelled frames
ROOT/gtFine/SPLIT/CITY/CITY_SEQ_FRAME_gtFine_labelTrainIds.png           the same as class indices, if present
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from cityscapesscripts.helpers.labels import labels as _LABELS

from accel.datasets.clips import OnMissing
from accel.datasets.stored import StoredClips
from accel.files.images import UNDEFINED, read_labels
from accel.files.listing import is_hidden, leads_nowhere, not_there, visible
from accel.labels import IGNORED

_CLASSES = sorted((label for label in _LABELS if 0 <= label.trainId < IGNORED), key=lambda label: label.trainId)

CLASS_NAMES: tuple[str, ...] = tuple(label.name for label in _CLASSES)
PALETTE: np.ndarray = np.array([label.color for label in _CLASSES], np.uint8)  # (19, 3) RGB

_SNIPPET = 30  # frames

_IMAGE, _LABEL_IDS, _TRAIN_IDS = "_leftImg8bit.png", "_gtFine_labelIds.png", "_gtFine_labelTrainIds.png"


def _tables() -> tuple[np.ndarray, np.ndarray]:
    """Return the class index of each value stored in labelIds and in labelTrainIds files, (256,) uint8 each."""
    from_id, from_train_id = np.full(256, UNDEFINED, np.uint8), np.full(256, UNDEFINED, np.uint8)
    from_train_id[IGNORED] = IGNORED
    for label in _LABELS:
        if label.id >= 0:  # the licence plate, -1, is never drawn
            from_id[label.id] = label.trainId if 0 <= label.trainId < IGNORED else IGNORED
    from_train_id[: len(_CLASSES)] = np.arange(len(_CLASSES))
    return from_id, from_train_id


_FROM_ID, _FROM_TRAIN_ID = _tables()


@dataclass(frozen=True)
class _LabelledFrame:
    city: str
    sequence: str  # CITY_SEQ
    frame: str  # as many digits as in the file name
    history: int
    has_train_ids: bool

    @property
    def name(self) -> str:
        return f"{self.sequence}_{self.frame}"

    def name_before(self, steps: int) -> str:
        return f"{self.sequence}_{int(self.frame) - steps:0{len(self.frame)}d}"


class Cityscapes(StoredClips):
    """The labelled frames of a split, in order of name, with the frames of their snippets that are on disk.

    root: the folder with gtFine and leftImg8bit_sequence. With leftImg8bit alone, clips have one frame.
    split: the folder below those: "train", "val" or "test" (whose published labels are all ignored).
    with_labels: whether clips carry labels. If not, no label file is read. If gtFine then has no such split,
        leftImg8bit, which has the same frames, gives the list of labelled frames.
    on_missing: a function that is called with a message for each missing labelled frame. The frame is left out. None:
        it is an error.

    Folders are listed here, once. Raises FileNotFoundError if folders or a labelled frame are missing.
    """

    class_names = CLASS_NAMES
    palette = PALETTE

    def __init__(
        self, root: str | Path, split: str = "train", with_labels: bool = True, on_missing: OnMissing | None = None
    ):
        self.root, self.split, self.with_labels = Path(root), split, with_labels
        self._on_missing = on_missing
        self.is_video = (self.root / "leftImg8bit_sequence" / split).is_dir()
        self.why_short = "" if self.is_video else f"clips need leftImg8bit_sequence/{split}, which is not there"
        stills = self.root / "leftImg8bit" / split
        self._images = self.root / "leftImg8bit_sequence" / split if self.is_video else stills
        self._annotations = self.root / "gtFine" / split
        listing = self._annotations if with_labels or self._annotations.is_dir() else stills
        if not (self._images.is_dir() and listing.is_dir()):
            raise self._not_there()
        self._labelled = [f for city in self._cities(listing) for f in self._labelled_frames(listing, city)]
        if not self._labelled:
            raise self._not_there()

    def __len__(self) -> int:
        return len(self._labelled)

    def history(self, index: int) -> int:
        return self._labelled[index].history

    def name(self, index: int) -> str:
        return self._labelled[index].name

    def place(self, index: int) -> tuple[str, int]:
        """Return the video, CITY_SEQ, and the number in the file name."""
        labelled = self._labelled[index]
        return labelled.sequence, int(labelled.frame)

    def image_path(self, index: int, before: int = 0) -> Path:
        """Return the file of labelled frame `index`, or of the frame `before` frames earlier."""
        labelled = self._labelled[index]
        return self._images / labelled.city / (labelled.name_before(before) + _IMAGE)

    def label_id_path(self, index: int) -> Path:
        """Return the labelIds file, which the official scorer uses."""
        labelled = self._labelled[index]
        return self._annotations / labelled.city / (labelled.name + _LABEL_IDS)

    def image_paths(self, index: int, length: int) -> list[Path]:
        return [self.image_path(index, before) for before in reversed(range(length))]

    def labels(self, index: int) -> tuple[Path, np.ndarray]:
        labelled = self._labelled[index]
        suffix, table = (_TRAIN_IDS, _FROM_TRAIN_ID) if labelled.has_train_ids else (_LABEL_IDS, _FROM_ID)
        path = self._annotations / labelled.city / (labelled.name + suffix)
        return path, read_labels(path, table)

    def gaps(self, index: int, length: int) -> list[Path]:
        """Return the missing files, as in `StoredClips.gaps`. Frames more than a snippet of 30 earlier belong to
        another snippet and do not count."""
        labelled = self._labelled[index]
        oldest = max(int(labelled.frame) - _SNIPPET + 1, 0)
        before = range(labelled.history + 1, int(labelled.frame) - oldest + 1)
        there = [self.image_path(index, steps).is_file() for steps in before]
        if not any(there):  # the video begins here
            return []
        return [
            self.image_path(index, steps)
            for steps, found in zip(before, there, strict=True)
            if steps < length and not found
        ]

    def flow(self, image_path: Path) -> np.ndarray | None:
        """Return the displacement in pixels from this frame to the one before, (H, W, 2) float32. NaN: not visible.

        None if it is unknown, as always in Cityscapes. Data sets with the same layout and known flow override this.
        """
        return None

    def flows(self, index: int, length: int, size: tuple[int, int]) -> np.ndarray | None:
        flows = []
        for path in self.image_paths(index, length)[1:]:
            flow = self.flow(path)
            if flow is None:
                return None
            if flow.shape != (*size, 2):
                raise ValueError(f"{path}: its flow is {flow.shape}, expected {(*size, 2)}")
            flows.append(flow)
        return np.stack(flows).astype(np.float32, copy=False) if flows else None

    def _labelled_frames(self, listing: Path, city: str) -> list[_LabelledFrame]:
        """Return the labelled frames of a city that `listing` names. `listing` is gtFine, or leftImg8bit if there is no
        gtFine."""
        ending = _LABEL_IDS if listing == self._annotations else _IMAGE
        listed = {f for f in _files(listing / city) if f.endswith((ending, _TRAIN_IDS))}
        for lost in sorted(f for f in listed if leads_nowhere(listing / city / f)):
            self._miss(not_there(listing / city / lost))
            listed.remove(lost)
        images = {f[: -len(_IMAGE)] for f in _files(self._images / city) if f.endswith(_IMAGE)}
        with_train_ids = {f[: -len(_TRAIN_IDS)] for f in listed if f.endswith(_TRAIN_IDS)}
        others = {f[: -len(ending)] for f in listed if f.endswith(ending)}
        found: dict[str, _LabelledFrame] = {}
        for name in sorted(with_train_ids | others):
            sequence, _, frame = name.rpartition("_")
            if not (sequence and frame.isdecimal()):
                raise ValueError(f"{listing / city / name}_*: expected a name CITY_SEQ_FRAME")
            if name not in images:
                path = self._images / city / (name + _IMAGE)
                self._miss(f"{not_there(path)}, but {listing.parent.name}/{self.split} lists this frame")
                continue
            labelled = _LabelledFrame(city, sequence, frame, 0, name in with_train_ids)
            history = 0
            while history < int(frame) and (before := labelled.name_before(history + 1)) in images:
                history += 1
                if before in found:  # the frames before that one are counted already
                    history += found[before].history
                    break
            found[name] = _LabelledFrame(city, sequence, frame, history, name in with_train_ids)
        return list(found.values())

    def _cities(self, listing: Path) -> list[str]:
        there = sorted(visible(listing))
        for path in filter(leads_nowhere, there):
            self._miss(not_there(path))
        return [path.name for path in there if path.is_dir()]

    def _miss(self, problem: str) -> None:
        if self._on_missing is None:
            raise FileNotFoundError(problem)
        self._on_missing(problem)

    def _not_there(self) -> FileNotFoundError:
        stills = "" if self.with_labels else f", or leftImg8bit/{self.split} in place of gtFine"
        return FileNotFoundError(
            f"no Cityscapes {self.split} split at {self.root}: expected "
            f"leftImg8bit_sequence/{self.split}/CITY/CITY_SEQ_FRAME{_IMAGE} and "
            f"gtFine/{self.split}/CITY/CITY_SEQ_FRAME{_LABEL_IDS}{stills}"
        )


class Streetscape(Cityscapes):
    """Generated street scenes (`accel.datasets.streetscape`) in Cityscapes' layout, with exact flow.

    with_flow: whether clips carry it. It is computed from the scene's description, which takes time.
    limit: the number of labelled frames to use, in order of name, if more have been generated.
    """

    generated = True

    def __init__(
        self,
        root: str | Path,
        split: str = "train",
        with_flow: bool = True,
        limit: int | None = None,
        on_missing: OnMissing | None = None,
    ):
        super().__init__(root, split, on_missing=on_missing)
        if limit is not None and not 1 <= limit <= len(self):
            raise ValueError(
                f"limit must be between 1 and the {len(self)} labelled frames of {self.root}, split {split}; "
                f"got {limit}"
            )
        self.with_flow = self.knows_flow = with_flow
        self._labelled = self._labelled[:limit]

    def flow(self, image_path: Path) -> np.ndarray | None:
        if not self.with_flow:
            return None
        sequence, frame, _ = image_path.name.rsplit("_", 2)
        return _scene(self.root, sequence).flow(int(frame))


@lru_cache(maxsize=4)
def _scene(root: Path, sequence: str):
    """Return the scene of CITY_SEQ. It is cached: laying out a scene takes longer than the flow of a frame, and a clip
    has several frames."""
    from accel.datasets.streetscape import scene_of

    return scene_of(root, f"{sequence}_000000{_IMAGE}")[0]


def _files(path: Path) -> Iterable[str]:
    return [name for name in os.listdir(path) if not is_hidden(name)] if path.is_dir() else []
