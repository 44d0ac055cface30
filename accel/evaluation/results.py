"""What evaluation finds: plain records, which tables, files and reports are made from.

Shares (IoU, consistency, flicker) are 0..1; None where there was nothing to measure, such as a class that is neither
in the ground truth nor predicted.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field

from accel.measures.boundary import TrimapMatrix
from accel.measures.confusion import ConfusionMatrix, caveats


@dataclass(frozen=True)
class Accuracy:
    """miou: the mean over the classes that occur; iou: of each class by its name; trimap: mIoU within so many pixels
    of the class borders, by width."""

    miou: float | None
    iou: dict[str, float | None]
    trimap: dict[int, float | None]

    @classmethod
    def of(cls, matrix: TrimapMatrix, class_names: Sequence[str]) -> Accuracy:
        every = matrix.all_pixels()
        return cls(
            miou=share(every.miou()),
            iou=class_shares(every, class_names),
            trimap={width: share(matrix.within(width).miou()) for width in matrix.widths},
        )


@dataclass(frozen=True)
class TemporalResult:
    """How steady the labels of a video are (`accel.measures.temporal`), run with a key frame every so often.

    consistency: mIoU between each frame's labels and those of the frame before, brought here by `flow`.
    consistency_iou: the same for each class by its name.
    flow: "exact", "dis" or "model"; None where frames were not compared.
    compared: the share of pixels that the flow tells about, and that are compared.
    flicker: the share of pixels that change and change back within three frames.
    frames, pairs, triples: how many frames were labelled, and how many comparisons of two and of three were made.
    """

    consistency: float | None
    consistency_iou: dict[str, float | None]
    flow: str | None
    compared: float | None
    flicker: float | None
    frames: int
    pairs: int
    triples: int


@dataclass(frozen=True)
class EvaluationResult:
    """A model at an interval.

    miou, iou, trimap, confusion: all that was scored counted together; `confusion` (K rows of K pixel counts) has the
        ground truth in its rows. `trimap` is empty where it was not asked for.
    by_distance: the same for each distance from the key frame that was tried.
    mean, worst: of the mIoU of these distances; `worst_distance` has the lowest.
    classes_scored: how many classes `miou` is the mean of: those that occur, or were predicted.
    classes_not_in_labels: names of those that no scored pixel of the ground truth has.
    frames_scored, frames_damaged: labelled frames that were scored, and that could not be, for want of a file.
    ignored: the share of the pixels of these frames that is ignored.
    seconds_key, seconds_current: medians over the frames whose labels were made, a key frame and any other, from the
        frame on the device to its labels there; `fps`: frames a second at this interval.
    temporal: None where it was not asked for.
    """

    miou: float
    iou: dict[str, float | None]
    classes_scored: int
    classes_not_in_labels: tuple[str, ...]
    interval: int
    frames_scored: int
    frames_damaged: int
    ignored: float
    seconds_key: float
    seconds_current: float | None
    fps: float
    by_distance: dict[int, Accuracy]
    mean: float
    worst: float
    worst_distance: int
    trimap: dict[int, float | None]
    confusion: tuple[tuple[int, ...], ...]
    temporal: TemporalResult | None = None

    def as_dict(self) -> dict:
        return asdict(self)

    def caveats(self) -> str:
        """What has to be known of the mIoU, as `accel.measures.confusion.caveats` says it; empty where all is well."""
        return caveats(self.classes_scored, len(self.iou), self.classes_not_in_labels, self.ignored)


@dataclass(frozen=True)
class SweepResult:
    """Models at intervals, on one split of one data set: `models[name][i]` belongs to `intervals[i]`.

    class_maps: of models that were scored in other classes than their own or the data's (`ClassMap.as_dict`).
    simulated: the settings of simulated clips; None where frames were scored as they are stored.
    """

    data: str
    split: str
    class_names: tuple[str, ...]
    palette: tuple[tuple[int, int, int], ...]
    intervals: tuple[int, ...]
    models: dict[str, tuple[EvaluationResult, ...]]
    class_maps: dict[str, dict] = field(default_factory=dict)
    simulated: dict | None = None

    def single(self) -> EvaluationResult:
        """The only result there is."""
        ((result,),) = self.models.values()
        return result

    def class_map(self) -> dict | None:
        """That of the only result; None where nothing was mapped."""
        return next(iter(self.class_maps.values()), None)

    def as_dict(self) -> dict:
        return asdict(self)


def share(value: float) -> float | None:
    """None for NaN, which JSON does not have."""
    return None if math.isnan(value) else value


def class_shares(matrix: ConfusionMatrix, class_names: Sequence[str]) -> dict[str, float | None]:
    """The IoU of each class, by its name."""
    return dict(zip(class_names, map(share, matrix.iou().tolist()), strict=True))
