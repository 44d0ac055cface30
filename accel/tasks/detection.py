"""Detection: boxes with a class and a score."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from accel import visualize
from accel.files.whole_files import write_whole
from accel.measures.average_precision import AveragePrecision
from accel.measures.coco_precision import CocoPrecision
from accel.measures.motion_precision import MotionPrecision
from accel.models.detection.detections import Boxes
from accel.models.detection.faster_rcnn import FasterRCNN
from accel.models.detection.faster_rcnn_losses import FasterRcnnLosses
from accel.models.detection.losses import Losses, RfcnLosses
from accel.models.detection.rfcn import RFCN
from accel.models.video import VideoModel
from accel.tasks.box_files import OUTPUTS, CocoResults, MotDetections
from accel.tasks.box_pictures import detections_shown, truth_picture
from accel.tasks.detection_accuracy import DetectionAccuracy, caveats
from accel.tasks.result_files import numbered
from accel.tasks.task import Score, Task
from accel.visualize_boxes import draw_boxes

SHOWN = 0.5  # score of a box that is drawn; files have them all
PANEL_WIDTH = 640  # pixels of a picture in a panel, at most


class BoxTruth(NamedTuple):
    """The ground truth of a frame.

    boxes: (M, 5) float32: x1, y1, x2, y2 in pixels of the frame, both corners within, and the class index.
    name: the frame's name in UTF-8, uint8. Equal scores are counted in the order of these names.
    motion: (M,) float32, as in `Clip`, or None.
    """

    boxes: Tensor | np.ndarray
    name: Tensor | np.ndarray
    motion: Tensor | np.ndarray | None = None


class Detection(Task):
    """Boxes, scored by the mean average precision of ImageNet VID at an overlap of 0.5, and written as JSON lines.

    measures: further measures: "motion" counts objects by their speed (`accel.measures.motion_precision`), "coco"
        counts as COCO does (`accel.measures.coco_precision`).
    """

    name = "detection"
    suffix = ".jsonl"
    accuracy_type = DetectionAccuracy
    shows_over_input = True

    def __init__(self, class_names: Sequence[str], palette: np.ndarray, measures: Sequence[str] = ()):
        super().__init__(class_names, palette)
        self.measures = tuple(measures)

    def objective(self, model, loss):
        if loss.name == "rfcn":
            return DetectionObjective(model, RfcnLosses(loss.anchors, loss.hardest))
        if loss.name == "faster_rcnn":
            return DetectionObjective(model, FasterRcnnLosses(loss.anchors, loss.regions))
        raise ValueError(
            f"train.loss {loss.name}: is none of a detector; expected {{name: rfcn}} or {{name: faster_rcnn}}"
        )

    def score(self):
        number = len(self.class_names)
        return MeanAveragePrecision(
            AveragePrecision(number),
            MotionPrecision(number) if "motion" in self.measures else None,
            CocoPrecision(number) if "coco" in self.measures else None,
        )

    def also_measuring(self, measures):
        return Detection(self.class_names, self.palette, measures)

    def truth(self, clip):
        if clip.boxes is None:
            raise ValueError(f"{clip.name}: has no boxes to compare detections with")
        if "motion" in self.measures and clip.motion is None:
            raise ValueError(f"{clip.name}: nothing is known of the motion of its objects")
        return BoxTruth(np.asarray(clip.boxes, np.float32), np.array([*clip.name.encode()], np.uint8), clip.motion)

    def is_empty(self, truth):
        return not len(truth.boxes)

    def picture(self, frame, said, title, view):
        """Draw the input and the boxes side by side; or the boxes at full size, on the frame or on black."""
        shown = said.scores[: said.count] >= SHOWN
        boxes, scores, classes = (array[: said.count][shown] for array in (said.boxes, said.scores, said.classes))
        texts = [f"{self.class_names[k]} {score:.2f}" for k, score in zip(classes, scores, strict=True)]
        canvas = np.zeros_like(frame) if view == "labels" else frame
        drawn = draw_boxes(canvas, boxes, classes, texts, self.palette)
        if view != "panels":
            return drawn
        images = [visualize.shrink(each, PANEL_WIDTH) for each in (frame, drawn)]
        return visualize.panels(images, [f"input, {title}", "boxes"], columns=2)

    def truth_shown(self, truth, size, width):
        return truth_picture(truth.boxes, self.class_names, self.palette, size)

    def shown(self, frame, said, truth, width):
        true = None if truth is None else truth.boxes
        return detections_shown(said, true, self.class_names, self.palette, frame.shape[:2], SHOWN)

    def save(self, path, said):
        """Write a line for each box, best first: {"class": "car", "score": 0.91, "box": [x1, y1, x2, y2]}.

        Boxes are in pixels of the frame. Both corners lie within the box.
        """
        lines = "".join(f"{json.dumps(line)}\n" for line in self.lines(said))
        write_whole(path, lines.encode())

    def result_files(self, kind, place, name_of=numbered):
        self.check_kind(kind)
        kinds = {"coco": CocoResults, "mot": MotDetections}
        return kinds[kind](place, self.class_names) if kind in kinds else super().result_files("jsonl", place, name_of)

    def check_kind(self, kind):
        if kind not in OUTPUTS:
            raise ValueError(f"--boxes {kind}: there are {', '.join(OUTPUTS)}")

    def lines(self, said: Boxes) -> Iterator[dict]:
        """Yield the content of each line for a prediction, given as arrays."""
        for n in range(int(said.count)):
            yield {
                "class": self.class_names[int(said.classes[n])],
                "score": round(float(said.scores[n]), 4),
                "box": [round(float(corner), 2) for corner in said.boxes[n]],
            }


class MeanAveragePrecision(Score):
    """mAP at an overlap of 0.5, over all frames; see `accel.measures.average_precision`.

    counts: the counts of detections and true boxes.
    motion, coco: those of further measures, or None.
    """

    name = "mAP"

    def __init__(
        self, counts: AveragePrecision, motion: MotionPrecision | None = None, coco: CocoPrecision | None = None
    ):
        self.counts, self.motion, self.coco = counts, motion, coco

    def update(self, said, truth):
        count = int(said.count)
        found = [tensor[:count].cpu().numpy() for tensor in (said.boxes, said.scores, said.classes)]
        true = truth.boxes.cpu().numpy()
        boxes, of, name = true[:, :4], true[:, 4].astype(np.int64), bytes(truth.name.tolist()).decode()
        matches = self.counts.update(*found, boxes, of, name)
        if self.motion is not None:
            self.motion.update(matches, of, truth.motion.cpu().numpy(), name)
        if self.coco is not None:
            self.coco.update(*found, boxes, of, name)

    def __add__(self, other):
        motion = None if self.motion is None else self.motion + other.motion
        coco = None if self.coco is None else self.coco + other.coco
        return MeanAveragePrecision(self.counts + other.counts, motion, coco)

    def value(self):
        return self.counts.mean()

    def accuracy(self, class_names):
        return DetectionAccuracy.of(self.counts, class_names, self.motion, self.coco)

    def emptiness(self):
        return "" if self.counts.true.any() else "none of these frames has a box"

    def caveats(self, class_names):
        missing = [class_names[k] for k in np.flatnonzero(self.counts.true == 0)]
        return caveats(len(class_names), missing)


class DetectionObjective(nn.Module):
    """The loss on the clip's last frame, whose boxes the whole model predicts end to end. It is the sum of the
    detector's four losses, averaged over the images.

    of_images: the detector's losses.
    """

    def __init__(self, model: VideoModel, of_images: RfcnLosses | FasterRcnnLosses):
        super().__init__()
        reference = getattr(model, "reference", None)
        if isinstance(of_images, RfcnLosses) and not isinstance(reference, RFCN):
            raise ValueError("train.loss rfcn: expected a model whose reference is an R-FCN")
        if isinstance(of_images, FasterRcnnLosses) and not isinstance(reference, FasterRCNN):
            raise ValueError("train.loss faster_rcnn: expected a model whose reference is a Faster R-CNN")
        self.model: Any = model
        self.of_images: Any = of_images
        self.parts: dict[str, Tensor] = {}

    def forward(
        self, frames: Tensor, labels: Tensor | None, flow: Tensor | None, refreshed: Collection[int] = ()
    ) -> Tensor:
        """Return the scalar loss of clips (B, T, 3, H, W), whose boxes are `labels` (B, M, 5) as in `Batch`."""
        losses = self.losses(frames, labels, refreshed)
        self.parts = dict(zip(self.of_images.parts, (each.detach() for each in losses), strict=True))
        return losses.total()

    def losses(self, frames: Tensor, boxes: Tensor | None, refreshed: Collection[int] = ()) -> Losses:
        """Return the four losses, averaged over the images. Raises ValueError for clips without boxes."""
        if boxes is None or boxes.dim() != 3:
            raise ValueError("train.loss: these clips have no boxes to train on")
        said = self.model(frames, refreshed)
        scales = said.scales(tuple(frames.shape[3:]))  # to the pixels of what the network sees
        boxes = torch.cat([boxes[..., :4] * boxes.new_tensor(scales * 2), boxes[..., 4:]], -1)
        of_images = []
        for image, truth in enumerate(boxes):
            there = truth[truth[:, 4] >= 0]
            losses = self.of_images.of_image(self.model.reference, said, image, there[:, :4], there[:, 4].long())
            of_images.append(losses)
        return Losses(*(torch.stack(each).mean() for each in zip(*of_images, strict=True)))
