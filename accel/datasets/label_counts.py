"""Count all labels together: how often each class occurs, and which counts cannot be intended.

All files may be intact and still teach nothing. In masks of 0 and 255, for example, 255 may be meant as a class but
count as "ignored". Training on them ends with a loss of 0, and their score is 100%.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from accel.labels import IGNORED, MANY_IGNORED, NEARLY_ALL_IGNORED, percent
from accel.wording import few

if TYPE_CHECKING:
    from accel.config import DataConfig
    from accel.datasets.clips import ClipDataset

MAX_NAMED = 8  # classes in a message
OWN = "folder", "coco", "voc"  # names of data sets that are a user's own
_PART = 2**22  # pixels counted at a time: OpenCV counts in float32, which is exact up to 2**24

Use = Literal["training", "validation"]  # what labels are for


class LabelCounts:
    """The numbers of pixels and of label images that have each class.

    pixels, images: (256,) int64, by class index. [255] counts the ignored ones.
    read: the number of counted label images.
    """

    columns = "pixels %", "images %"

    def __init__(self, class_names: Sequence[str]):
        self.class_names = tuple(class_names)
        self.pixels, self.images = np.zeros(256, np.int64), np.zeros(256, np.int64)
        self.read = 0

    def add(self, histogram: np.ndarray) -> None:
        """Count an image, given its `histogram_of`."""
        self.pixels += histogram
        self.images += histogram > 0
        self.read += 1

    @property
    def labelled(self) -> int:
        """The number of pixels that have a class."""
        return int(self.pixels[:IGNORED].sum())

    @property
    def ignored(self) -> float:
        """The share of ignored pixels. 0 if there is no pixel."""
        return float(self.pixels[IGNORED] / max(1, self.pixels.sum()))

    @property
    def missing(self) -> list[int]:
        """The classes that no pixel has."""
        return [k for k in range(len(self.class_names)) if not self.pixels[k]]

    def rows(self) -> list[tuple[str, str, str]]:
        """Return, for each class and for ignored pixels: index and name, the share of the pixels, and the share of the
        images that have it, in per cent."""
        names = {k: f"{k} {name}" for k, name in enumerate(self.class_names)} | {IGNORED: "ignored"}
        total = max(1, self.pixels.sum())
        return [
            (name, percent(self.pixels[k] / total), percent(self.images[k] / max(1, self.read)))
            for k, name in names.items()
        ]


@dataclass(frozen=True)
class Doubts:
    """Reasons to doubt labels, one line each. After an error, nothing must be trained or scored. The others are
    warnings."""

    errors: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()


def histogram_of(labels: np.ndarray) -> np.ndarray:
    """Return how many pixels of a label image (H, W), uint8, have each value: (256,) int64."""
    import cv2  # three times as fast as NumPy's bincount

    flat, histogram = labels.reshape(1, -1), np.zeros(256, np.int64)
    for start in range(0, flat.size, _PART):
        counted = cv2.calcHist([flat[:, start : start + _PART]], [0], None, [256], [0, 256])
        histogram += counted.reshape(256).astype(np.int64)
    return histogram


def stops_at_doubts(data: DataConfig) -> bool:
    """Return whether doubtful labels of these data are an error (`data.label_check`)."""
    return data.label_check == "error" or (data.label_check is None and data.name in OWN)


def doubts(counts: LabelCounts, dataset: ClipDataset, use: Use, strict: bool, total: int | None = None) -> Doubts:
    """Return the reasons to doubt the counted labels.

    strict: whether a class that never occurs, or very few labelled pixels, is an error in training. Labels without any
        labelled pixel are always an error.
    total: the number of all labels. If fewer were counted, nothing is certain, and everything is a warning.
    """
    if not counts.read:
        return Doubts()
    total = counts.read if total is None else total
    whole = counts.read >= total
    labels = f"the {total} labels" if total > 1 else "the only label"
    labels = labels if whole else f"the {counts.read} checked ones of {labels}"
    cause = dataset.likely_cause(counts)
    cause = f"; {cause}" if cause else ""
    strict = strict and use == "training" and whole
    way_out = " (if nothing is wrong: data.label_check=warn)" if strict else ""
    if not counts.labelled:
        line = f"all pixels of {labels} are ignored{cause}"
        return Doubts(errors=(line,)) if whole else Doubts(warnings=(line,))
    errors: list[str] = []
    warnings: list[str] = []
    # What is scored on may lack a class, and a sample of it all the more.
    missing = counts.missing if use == "training" or whole or cause else []
    if missing:
        line = f"{classes_occur(missing, counts.class_names)} in none of {labels}{cause}"
        (errors if strict else warnings).append(line + way_out)
    if counts.ignored > MANY_IGNORED and not (missing and cause):
        line = f"{percent(counts.ignored)}% of the pixels of {labels} are ignored{cause}"
        nearly_all = strict and counts.ignored > NEARLY_ALL_IGNORED
        (errors if nearly_all else warnings).append(line + (way_out if nearly_all else ""))
    return Doubts(tuple(errors), tuple(warnings))


def is_doubtful(counts: LabelCounts, use: Use) -> bool:
    """Return whether more labels should be read before a verdict."""
    return counts.ignored > NEARLY_ALL_IGNORED or (use == "training" and bool(counts.missing))


def classes_occur(classes: Sequence[int], names: Sequence[str]) -> str:
    """Return classes as the subject of a sentence, with its verb."""
    shown = few([f"{k} {names[k]!r:.80}" for k in classes], MAX_NAMED)
    return f"class {shown} occurs" if len(classes) == 1 else f"classes {shown} occur"
