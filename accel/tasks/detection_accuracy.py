"""The accuracy of boxes: mean average precision at an overlap of 0.5, as ImageNet VID counts it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from accel.measures.average_precision import AveragePrecision
from accel.measures.coco_precision import CocoPrecision
from accel.measures.motion_precision import GROUPS, MotionPrecision
from accel.tasks.accuracy import Accuracy, Breakdown, Words, by_name, share
from accel.tasks.box_pictures import MISSED, RIGHT, WRONG
from accel.wording import few

MAX_NAMED = 3  # classes in a line

WORDS = Words(
    figure="mAP",
    of_class="AP",
    key="map",
    heading="Video object detection",
    aim="finds the objects of {} classes in every frame of a video, and draws a box around each",
    meaning="Mean average precision. A box is right if it overlaps a true box of its class by at least half (of small "
    "objects, less is asked), and no better box has taken that one. For each class, the share of right boxes "
    "(precision) is averaged over the share of objects found (recall), from the surest box to the least sure one (AP). "
    "mAP is the mean over the classes. 100 % is perfect. <em>Pooled</em> counts the boxes of all distances together.",
    of_class_meaning="The AP of a class. A dash: no object of this class is in the frames that were scored, so the "
    "class does not count for the mean. Where most classes have none, the plot leaves them out.",
    errors="Boxes with a score of at least 0.5 are shown. Among the errors, a right box is green, a wrong one red, and "
    "an object that was not found has a dashed yellow box.",
    signs=((RIGHT, "right box"), (WRONG, "wrong box"), (MISSED, "object not found")),
)


@dataclass(frozen=True)
class DetectionAccuracy(Accuracy):
    """The accuracy of boxes on a set of frames.

    map: the mean over the classes that have true boxes.
    ap: the average precision of each class by name.
    classes_scored: the number of classes in the mean.
    classes_not_in_boxes: the names of the classes without a true box.
    boxes: the number of true boxes.
    motion: the mAP of slow, medium and fast objects. Empty if it was not requested.
    motion_boxes: the number of true boxes of each. Empty likewise.
    coco: the figures of COCO, the mean over overlaps first. Empty if they were not requested.
    """

    words = WORDS

    map: float | None
    ap: dict[str, float | None]
    classes_not_in_boxes: tuple[str, ...]
    boxes: int
    motion: dict[str, float | None]
    motion_boxes: dict[str, int]
    coco: dict[str, float | None]

    @classmethod
    def of(
        cls,
        counts: AveragePrecision,
        class_names: Sequence[str],
        motion: MotionPrecision | None = None,
        coco: CocoPrecision | None = None,
    ) -> DetectionAccuracy:
        of_classes = counts.of_classes()
        missing = tuple(name for name, true in zip(class_names, counts.true, strict=True) if not true)
        return cls(
            map=share(counts.mean_of(of_classes)),
            ap=by_name(class_names, of_classes.tolist()),
            classes_scored=len(class_names) - len(missing),
            classes_not_in_boxes=missing,
            boxes=int(counts.true.sum()),
            motion={} if motion is None else {name: share(value) for name, value in motion.means().items()},
            motion_boxes={} if motion is None else dict(zip(GROUPS, motion.true.sum(1).tolist(), strict=True)),
            coco={} if coco is None else {name: share(value) for name, value in coco.figures().items()},
        )

    @property
    def value(self):
        return self.map

    @property
    def of_classes(self):
        return self.ap

    def brief(self):
        further = {"motion": self.motion, "coco": self.coco}
        return {"map": self.map, "ap": self.ap, "boxes": self.boxes} | {key: v for key, v in further.items() if v}

    def columns(self):
        further = {f"map {name}": value for name, value in self.motion.items()}
        further |= {f"coco {name}": value for name, value in self.coco.items()}
        return {"map": self.map, **further, **{f"ap {name}": ap for name, ap in self.ap.items()}}

    def counts(self) -> dict[str, Any]:
        return {
            "classes_scored": self.classes_scored,
            "classes_not_in_boxes": ", ".join(self.classes_not_in_boxes),
            "boxes": self.boxes,
        }

    def facts(self):
        return {"classes in mAP": f"{self.classes_scored} of {len(self.ap)}", "true boxes": str(self.boxes)}

    def caveats(self):
        return caveats(len(self.ap), self.classes_not_in_boxes)

    def breakdowns(self):
        found = []
        if self.motion:
            found.append(
                Breakdown(
                    name="motion",
                    title="Slow, medium and fast objects",
                    caption="mAP in per cent by how fast objects move",
                    text="How fast an object moves is measured by the overlap of its box with its own boxes in the 10 "
                    "frames before and after. On the mean, the boxes of a slow object overlap by more than 0.9, those "
                    "of a fast one by less than 0.7. What was carried along from a key frame fits fast objects worst. "
                    "These frames have "
                    + ", ".join(f"{count} boxes of {name}" for name, count in self.motion_boxes.items())
                    + " objects.",
                    axis="how fast objects move",
                    head="{}",
                    parts=self.motion,
                )
            )
        if self.coco:
            found.append(
                Breakdown(
                    name="coco",
                    title="As COCO counts",
                    caption="COCO's average precision in per cent",
                    text="AP is the mean over the overlaps 0.5, 0.55, ..., 0.95 that a box needs to be right. AP50 and "
                    "AP75 are at one of them. Small objects have up to 32 x 32 pixels, large ones more than 96 x 96. "
                    "All is VID's mAP, which differs from AP50 a little: there, small boxes need less overlap, and the "
                    "curve is read at every recall, not at 101.",
                    axis="",
                    head="COCO {}",
                    parts={name.removeprefix("AP "): value for name, value in self.coco.items()},
                )
            )
        return tuple(found)

    @classmethod
    def caveats_in(cls, values):
        return caveats(len(values["ap"]), values["classes_not_in_boxes"])


def caveats(classes: int, missing: Sequence[str]) -> str:
    """Return the note to show beside an mAP that is not the mean over all classes. Otherwise empty.

    classes: the number of classes.
    missing: the names of those without a true box.
    """
    if not missing:
        return ""
    return f"mean of {classes - len(missing)} of {classes} classes; no box of {few(missing, MAX_NAMED)}"
