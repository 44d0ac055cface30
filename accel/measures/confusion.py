"""Segmentation accuracy from one confusion matrix over the whole set."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from accel.labels import IGNORED, MANY_IGNORED, percent
from accel.wording import few

_VALUES = 256  # that a uint8 label can have
_MAX_NAMED = 8  # classes in a line


class ConfusionMatrix:
    """Counts of (true class, predicted class) over labelled pixels.

    counts: (K, K) int64, with the ground truth in the rows, on the device of the labels that were added last.
    ignored: () int64, the number of ignored pixels of the ground truth.

    Matrices can be added (`a + b`). The sum over the parts of a set, made by any number of processes, is the matrix of
    the whole set.
    """

    def __init__(self, num_classes: int):
        self.counts = torch.zeros(num_classes, num_classes, dtype=torch.int64)
        self.strays = no_strays()
        self.ignored = torch.zeros((), dtype=torch.int64)

    def update(self, predicted: Tensor, labels: Tensor) -> None:
        """Add frames: predicted and true class indices, uint8, of one shape. Pixels labelled 255 do not count.

        Raises ValueError for other types, different shapes, and a class out of range. On the CPU, a class out of range
        is reported at once. On an accelerator it is reported when scores are requested, so that the host need not wait
        for every frame.
        """
        counts, strays, ignored = count_pixels(predicted, labels, len(self.counts))
        self.counts = self.counts.to(counts.device) + counts[0]
        self.strays = self.strays.to(counts.device) + strays
        self.ignored = self.ignored.to(counts.device) + ignored

    def __add__(self, other: ConfusionMatrix) -> ConfusionMatrix:
        """Return the matrix of both sets together. Raises ValueError for different numbers of classes."""
        return ConfusionMatrix.of(*add_counts(self.all_counts(), other.all_counts()))

    @classmethod
    def of(cls, counts: Tensor, strays: Tensor, ignored: Tensor) -> ConfusionMatrix:
        """Return the matrix with these counts (K, K), counts of values that are not a class (256,), and number of
        ignored pixels ()."""
        matrix = cls(len(counts))
        matrix.counts, matrix.strays, matrix.ignored = counts, strays, ignored
        return matrix

    def all_counts(self) -> tuple[Tensor, Tensor, Tensor]:
        """Return the arguments from which `of` makes the same matrix."""
        return self.counts, self.strays, self.ignored

    def iou(self) -> Tensor:
        """Return the intersection over union, (K,) float64. NaN for classes that are neither in the ground truth nor
        predicted."""
        refuse_strays(self.strays, len(self.counts))
        hits = self.counts.diag().double()
        union = self.counts.sum(0) + self.counts.sum(1) - self.counts.diag()
        return torch.where(union > 0, hits / union, torch.nan)

    def miou(self) -> float:
        """Return the mean IoU over the classes that occur, as cityscapesscripts computes it. NaN if nothing was
        counted."""
        return float(self.iou().nanmean())

    def recall(self) -> Tensor:
        """Return the share of each class's pixels that are found, (K,) float64. NaN for classes that no label has."""
        return self._share_of_hits(self.counts.sum(1))

    def precision(self) -> Tensor:
        """Return the share of the pixels predicted as each class that are it, (K,) float64. NaN for classes that are
        not predicted."""
        return self._share_of_hits(self.counts.sum(0))

    def f1(self) -> Tensor:
        """Return the harmonic mean of recall and precision, (K,) float64. NaN for classes that are neither in the
        ground truth nor predicted."""
        return 2 * self._share_of_hits(self.counts.sum(0) + self.counts.sum(1))

    def pixel_accuracy(self) -> float:
        """Return the share of the labelled pixels that are right. NaN without pixels."""
        return int(self.counts.diag().sum()) / self.labelled() if self.labelled() else math.nan

    def _share_of_hits(self, pixels: Tensor) -> Tensor:
        refuse_strays(self.strays, len(self.counts))
        return torch.where(pixels > 0, self.counts.diag().double() / pixels, torch.nan)

    def classes_scored(self) -> int:
        """Return the number of classes in the mean IoU."""
        return int(self.iou().isfinite().sum())

    def not_in_labels(self) -> list[int]:
        """Return the classes that no pixel of the ground truth has. The IoU of such a class is 0 if it was predicted,
        otherwise NaN."""
        return torch.nonzero(self.counts.sum(1) == 0).flatten().tolist()

    def labelled(self) -> int:
        """Return the number of counted pixels: those that are not ignored."""
        return int(self.counts.sum())

    def ignored_share(self) -> float:
        """Return the share of the ground truth's pixels that is ignored. NaN without pixels."""
        pixels = self.labelled() + int(self.ignored)
        return int(self.ignored) / pixels if pixels else math.nan

    def caveats(self, class_names: Sequence[str]) -> str:
        """Return the notes on this mIoU, as in `caveats`. Empty if it is the mean over all classes."""
        missing = [class_names[k] for k in self.not_in_labels()]
        return caveats(self.classes_scored(), len(self.counts), missing, self.ignored_share())


def caveats(scored: int, classes: int, missing: Sequence[str], ignored: float) -> str:
    """Return the notes to show beside a mean IoU that does not mean what it seems to. Empty if there are none.

    scored: the number of the `classes` in the mean.
    missing: the names of the classes that no pixel of the ground truth has.
    ignored: the share of the ground truth that is ignored, 0..1.
    """
    parts = []
    if scored < classes:
        parts.append(f"mean of {scored} of {classes} classes")
    if missing:
        parts.append(f"no label has {few([f'{name!r:.80}' for name in missing], _MAX_NAMED)}")
    if ignored > MANY_IGNORED:
        parts.append(f"{percent(ignored)}% of the labels' pixels are ignored")
    return "; ".join(parts)


def count_pixels(
    predicted: Tensor, labels: Tensor, num_classes: int, bands: Tensor | None = None, num_bands: int = 1
) -> tuple[Tensor, Tensor, Tensor]:
    """Count pixels into confusion matrices, one for each band.

    predicted, labels, bands: uint8 of one shape, on one device. Bands are 0..num_bands-1; None puts all pixels into
        band 0.

    Return three tensors: the matrices (num_bands, K, K), int64; `strays` (256,), int64, which counts each value that is
    not a class, on pixels that are not ignored; and the number of ignored pixels, () int64.

    Raises ValueError for other types and different shapes. On the CPU, it also raises ValueError for strays. Elsewhere
    the host would have to wait; call `refuse_strays` later.
    """
    if predicted.shape != labels.shape:
        raise ValueError(f"predicted labels {tuple(predicted.shape)} for true ones {tuple(labels.shape)}")
    if predicted.dtype != torch.uint8 or labels.dtype != torch.uint8:
        raise ValueError(f"expected labels as uint8, got {predicted.dtype} (predicted) and {labels.dtype} (true)")
    # Everything that may stand there has its own bin: no masks, no copies of the valid pixels.
    place = labels.int() if bands is None else bands.int().mul_(_VALUES).add_(labels)
    place = place.mul_(_VALUES).add_(predicted).flatten()
    size = num_bands * _VALUES * _VALUES
    if place.device.type == "cpu":
        table = torch.bincount(place, minlength=size)
    else:  # where bincount would look up the highest value first, and make the host wait for it
        ones = torch.ones((), dtype=torch.int64, device=place.device).expand(place.shape)
        table = torch.zeros(size, dtype=torch.int64, device=place.device).scatter_add_(0, place.long(), ones)
    table = table.view(num_bands, _VALUES, _VALUES)
    strays = no_strays(table.device)
    strays[num_classes:IGNORED] += table[:, num_classes:IGNORED].sum((0, 2))
    strays[num_classes:] += table[:, :num_classes, num_classes:].sum((0, 1))
    if table.device.type == "cpu":
        refuse_strays(strays, num_classes)
    return table[:, :num_classes, :num_classes], strays, table[:, IGNORED].sum()


def no_strays(device: torch.device | str = "cpu") -> Tensor:
    return torch.zeros(_VALUES, dtype=torch.int64, device=device)


def refuse_strays(strays: Tensor, num_classes: int) -> None:
    """Raise ValueError if any value that is not a class was counted."""
    if strays.any():
        highest = int(torch.nonzero(strays).max())
        raise ValueError(
            f"class {highest} among the labels; there are {num_classes} classes, 0 to {num_classes - 1} "
            f"(found on {int(strays[highest])} pixels)"
        )


def add_counts(a: Sequence[Tensor], b: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """Return the sums of counts, strays and ignored pixels, on the device of the first. Raises ValueError for different
    numbers of classes."""
    if a[0].shape != b[0].shape:
        raise ValueError(f"confusion matrices of {a[0].shape[-1]} and {b[0].shape[-1]} classes cannot be added")
    return tuple(one + other.to(one.device) for one, other in zip(a, b, strict=True))
