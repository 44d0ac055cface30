"""The accuracy of labels: mIoU, over all pixels and near class borders."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from accel.measures.boundary import TrimapMatrix
from accel.measures.confusion import caveats
from accel.tasks.accuracy import Accuracy, Breakdown, Words, by_name, share

WORDS = Words(
    figure="mIoU",
    of_class="IoU",
    key="miou",
    heading="Video segmentation",
    aim="labels every pixel of every frame of a video with one of {} classes",
    meaning="Of each class, the overlap of what is and what was predicted, divided by their union (IoU); the mean "
    "over the classes. 100 % is perfect. <em>Pooled</em> counts the pixels of all distances together.",
    of_class_meaning="The IoU of a class: of all pixels that have the class or were predicted as it, the share with "
    "both. A dash: no pixel has the class and none was predicted as it, so it does not count for the mean.",
    errors="Errors are red where the labels differ from the ground truth, grey where they agree, and black where "
    "nobody labelled the pixel.",
    signs=(("#000", "not labelled"),),
)


@dataclass(frozen=True)
class SegmentationAccuracy(Accuracy):
    """The accuracy of labels on a set of pixels.

    miou: the mean over the classes that occur.
    iou: the IoU of each class by name.
    trimap: by width, the mIoU within that many pixels of the class borders. Empty if it was not requested.
    classes_scored: the number of classes in the mean: those that occur, or were predicted.
    classes_not_in_labels: the names of the classes that no scored pixel of the ground truth has.
    ignored: the share of ignored pixels.
    confusion: K rows of K pixel counts. The ground truth is in the rows.
    """

    words = WORDS

    miou: float | None
    iou: dict[str, float | None]
    trimap: dict[int, float | None]
    classes_not_in_labels: tuple[str, ...]
    ignored: float | None
    confusion: tuple[tuple[int, ...], ...]

    @classmethod
    def of(cls, matrix: TrimapMatrix, class_names: Sequence[str]) -> SegmentationAccuracy:
        every = matrix.all_pixels()
        return cls(
            miou=share(every.miou()),
            iou=by_name(class_names, every.iou().tolist()),
            trimap={width: share(matrix.within(width).miou()) for width in matrix.widths},
            classes_scored=every.classes_scored(),
            classes_not_in_labels=tuple(class_names[k] for k in every.not_in_labels()),
            ignored=share(every.ignored_share()),
            confusion=tuple(map(tuple, every.counts.tolist())),
        )

    @property
    def value(self):
        return self.miou

    @property
    def of_classes(self):
        return self.iou

    def figures(self):
        return {key: value for key, value in asdict(self).items() if key not in ("trimap", "confusion")}

    def brief(self):
        return {"miou": self.miou, "iou": self.iou, "trimap": self.trimap}

    def columns(self):
        trimap = {f"trimap {width}": miou for width, miou in self.trimap.items()}
        return {"miou": self.miou, **trimap, **{f"iou {name}": iou for name, iou in self.iou.items()}}

    def counts(self) -> dict[str, Any]:
        return {
            "classes_scored": self.classes_scored,
            "classes_not_in_labels": ", ".join(self.classes_not_in_labels),
            "ignored": self.ignored,
        }

    def facts(self):
        ignored = "-" if self.ignored is None else f"{100 * self.ignored:.1f}"
        return {"classes in mIoU": f"{self.classes_scored} of {len(self.iou)}", "pixels ignored %": ignored}

    def caveats(self):
        """Return the notes of `accel.measures.confusion.caveats`."""
        return caveats(self.classes_scored, len(self.iou), self.classes_not_in_labels, self.ignored or 0.0)

    @classmethod
    def caveats_in(cls, values):
        """Older versions wrote results without the share of ignored pixels. Some files have no classes."""
        if not (values.get("iou") and values.get("confusion")):
            return ""
        missing = [name for name, row in zip(values["iou"], values["confusion"], strict=True) if not any(row)]
        scored = sum(iou is not None for iou in values["iou"].values())
        return caveats(scored, len(values["iou"]), missing, values.get("ignored") or 0.0)

    def confusions(self):
        return self.confusion

    def breakdowns(self):
        if not self.trimap:
            return ()
        near = Breakdown(
            name="boundary",
            title="Near class borders",
            caption="mIoU in per cent near class borders",
            text="mIoU of the pixels near a border between two classes of the ground truth (a trimap), within the "
            "given distance. Features that were carried along go wrong there first.",
            axis="pixels from a class border, at most",
            head="within {}",
            parts={f"{width} px": miou for width, miou in self.trimap.items()},
        )
        return (near,)
