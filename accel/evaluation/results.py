"""The results of evaluation: plain records, from which tables, files and reports are made.

Shares (IoU, consistency, flicker) are 0..1. They are None if there was nothing to measure, for example for a class that
is neither in the ground truth nor predicted.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field

from torch import Tensor

from accel.measures.boundary import TrimapMatrix
from accel.measures.confusion import ConfusionMatrix, caveats


@dataclass(frozen=True)
class Accuracy:
    """The accuracy of a model on a set of pixels.

    miou: the mean over the classes that occur.
    iou: the IoU of each class by name.
    trimap: by width, the mIoU within that many pixels of the class borders.
    """

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
class ClassFigures:
    """Figures of each class by name, and over all.

    recall: the share of the class's pixels that are found. Papers also call it class accuracy.
    precision: the share of the pixels predicted as the class that are it.
    f1: their harmonic mean.
    mean_accuracy: the mean recall of the classes that occur.
    pixel_accuracy: the share of all labelled pixels that are right.
    """

    recall: dict[str, float | None]
    precision: dict[str, float | None]
    f1: dict[str, float | None]
    mean_accuracy: float | None
    pixel_accuracy: float | None

    @classmethod
    def of(cls, matrix: ConfusionMatrix, class_names: Sequence[str]) -> ClassFigures:
        def named(values: Tensor) -> dict[str, float | None]:
            return dict(zip(class_names, map(share, values.tolist()), strict=True))

        recall, precision, f1 = matrix.recall(), matrix.precision(), matrix.f1()
        return cls(
            recall=named(recall),
            precision=named(precision),
            f1=named(f1),
            mean_accuracy=share(float(recall.nanmean())),
            pixel_accuracy=share(matrix.pixel_accuracy()),
        )


@dataclass(frozen=True)
class TemporalResult:
    """How steady the labels of a video are (`accel.measures.temporal`), at a certain interval.

    consistency: mIoU between each frame's labels and those of the frame before, moved here by `flow`.
    consistency_iou: the same for each class by name.
    flow: "exact", "dis" or "model". None if frames were not compared.
    compared: the share of pixels that have flow and are compared.
    flicker: the share of pixels that change and change back within three frames.
    frames, pairs, triples: the numbers of labelled frames, and of comparisons of two and of three frames.
    video_consistency: mVC of each window length (`accel.measures.video_consistency`). None if no video has so many
        frames in a row with ground truth.
    """

    consistency: float | None
    consistency_iou: dict[str, float | None]
    flow: str | None
    compared: float | None
    flicker: float | None
    frames: int
    pairs: int
    triples: int
    video_consistency: dict[int, float | None] = field(default_factory=dict)

    def consistencies(self) -> dict[int, float]:
        """Return those that could be measured."""
        return {length: mean for length, mean in self.video_consistency.items() if mean is not None}


@dataclass(frozen=True)
class EvaluationResult:
    """The result of a model at an interval.

    miou, iou, trimap, confusion: figures with everything that was scored counted together. `confusion` (K rows of K
        pixel counts) has the ground truth in its rows. `trimap` is empty if it was not requested.
    by_distance: the same for each tried distance from the key frame.
    mean, worst: the mean and the lowest mIoU of these distances. `worst_distance` is the distance of the lowest.
    classes_scored: the number of classes in the mean `miou`: those that occur, or were predicted.
    classes_not_in_labels: the names of the classes that no scored pixel of the ground truth has.
    frames_scored, frames_damaged: the numbers of labelled frames that were scored, and that could not be scored because
        a file was missing or damaged.
    ignored: the share of ignored pixels in these frames.
    seconds_key, seconds_current: median times of a key frame and of any other frame, over the frames that were
        labelled. The time runs from the frame on the device to its labels there.
    fps: frames per second at this interval.
    temporal: None if it was not requested.
    classes: what else the confusion matrix says of each class.
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
    classes: ClassFigures | None = None

    def as_dict(self) -> dict:
        return asdict(self)

    def caveats(self) -> str:
        """Return the notes on the mIoU from `accel.measures.confusion.caveats`. Empty if there are none."""
        return caveats(self.classes_scored, len(self.iou), self.classes_not_in_labels, self.ignored)


@dataclass(frozen=True)
class SweepResult:
    """Models at intervals, on one split of one data set. `models[name][i]` belongs to `intervals[i]`.

    class_maps: the class maps (`ClassMap.as_dict`) of models that were not scored in their own classes or in those of
        the data.
    simulated: the settings of simulated clips. None if stored frames were scored.
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
        """Return the only result."""
        ((result,),) = self.models.values()
        return result

    def class_map(self) -> dict | None:
        """Return the class map of the only result. None if nothing was mapped."""
        return next(iter(self.class_maps.values()), None)

    def as_dict(self) -> dict:
        return asdict(self)


def share(value: float) -> float | None:
    """Return None for NaN, which JSON does not have."""
    return None if math.isnan(value) else value


def class_shares(matrix: ConfusionMatrix, class_names: Sequence[str]) -> dict[str, float | None]:
    """Return the IoU of each class by name."""
    return dict(zip(class_names, map(share, matrix.iou().tolist()), strict=True))
