"""Detection: boxes with a class and a score."""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from accel import visualize
from accel.files.whole_files import write_whole
from accel.measures.average_precision import AveragePrecision
from accel.models.detection.detections import Boxes
from accel.models.detection.faster_rcnn import FasterRCNN
from accel.models.detection.faster_rcnn_losses import FasterRcnnLosses
from accel.models.detection.losses import Losses, RfcnLosses
from accel.models.detection.rfcn import RFCN
from accel.models.video import VideoModel
from accel.tasks.box_files import OUTPUTS, CocoResults, MotDetections
from accel.tasks.task import Score, Task
from accel.visualize_boxes import draw_boxes
from accel.wording import few

SHOWN = 0.5  # score of a box that is drawn; files have them all
PANEL_WIDTH = 640  # pixels of a picture in a panel, at most
MAX_NAMED = 3  # classes in a line


class BoxTruth(NamedTuple):
    """boxes: (M, 5) float32: x1, y1, x2, y2 in pixels of the frame, both corners within, and the class index."""

    boxes: Tensor | np.ndarray


class Detection(Task):
    """Boxes, scored by the mean average precision of ImageNet VID at an overlap of 0.5, and written as JSON lines."""

    name = "detection"
    suffix = ".jsonl"

    def objective(self, model, loss):
        if loss.name == "rfcn":
            return DetectionObjective(model, RfcnLosses(loss.anchors, loss.hardest))
        if loss.name == "faster_rcnn":
            return DetectionObjective(model, FasterRcnnLosses(loss.anchors, loss.regions))
        raise ValueError(
            f"train.loss {loss.name}: is none of a detector; expected {{name: rfcn}} or {{name: faster_rcnn}}"
        )

    def score(self):
        return MeanAveragePrecision(AveragePrecision(len(self.class_names)))

    def truth(self, clip):
        if clip.boxes is None:
            raise ValueError(f"{clip.name}: has no boxes to compare detections with")
        return BoxTruth(np.asarray(clip.boxes, np.float32))

    def picture(self, frame, said, title, view):
        """Input and boxes side by side; or the boxes on the frame, or on a black one, at full size."""
        shown = said.scores[: said.count] >= SHOWN
        boxes, scores, classes = (array[: said.count][shown] for array in (said.boxes, said.scores, said.classes))
        texts = [f"{self.class_names[k]} {score:.2f}" for k, score in zip(classes, scores, strict=True)]
        canvas = np.zeros_like(frame) if view == "labels" else frame
        drawn = draw_boxes(canvas, boxes, classes, texts, self.palette)
        if view != "panels":
            return drawn
        images = [visualize.shrink(each, PANEL_WIDTH) for each in (frame, drawn)]
        return visualize.panels(images, [f"input, {title}", "boxes"], columns=2)

    def save(self, path, said):
        """A line for each box, best first: {"class": "car", "score": 0.91, "box": [x1, y1, x2, y2]}, in pixels of the
        frame, both corners within."""
        lines = "".join(f"{json.dumps(line)}\n" for line in self.lines(said))
        write_whole(path, lines.encode())

    def result_files(self, kind, place):
        self.check_kind(kind)
        kinds = {"coco": CocoResults, "mot": MotDetections}
        return kinds[kind](place, self.class_names) if kind in kinds else super().result_files("jsonl", place)

    def check_kind(self, kind):
        if kind not in OUTPUTS:
            raise ValueError(f"--boxes {kind}: there are {', '.join(OUTPUTS)}")

    def lines(self, said: Boxes) -> Iterator[dict]:
        """What a model says of a frame, as arrays, box by box."""
        for n in range(int(said.count)):
            yield {
                "class": self.class_names[int(said.classes[n])],
                "score": round(float(said.scores[n]), 4),
                "box": [round(float(corner), 2) for corner in said.boxes[n]],
            }


class MeanAveragePrecision(Score):
    """mAP at an overlap of 0.5, over all frames; see `accel.measures.average_precision`.

    counts: of detections and true boxes.
    """

    name = "mAP"

    def __init__(self, counts: AveragePrecision):
        self.counts = counts

    def update(self, said, truth):
        count = int(said.count)
        found = [tensor[:count].cpu().numpy() for tensor in (said.boxes, said.scores, said.classes)]
        true = truth.boxes.cpu().numpy()
        self.counts.update(*found, true[:, :4], true[:, 4].astype(np.int64))

    def __add__(self, other):
        return MeanAveragePrecision(self.counts + other.counts)

    def value(self):
        return self.counts.mean()

    def figures(self, class_names):
        mean, each = self.counts.mean(), self.counts.of_classes()
        return {
            "map": None if math.isnan(mean) else mean,
            "ap": {name: None if np.isnan(ap) else float(ap) for name, ap in zip(class_names, each, strict=True)},
            "classes_scored": int((self.counts.true > 0).sum()),
            "classes_not_in_boxes": [class_names[k] for k in np.flatnonzero(self.counts.true == 0)],
            "boxes": int(self.counts.true.sum()),
        }

    def caveats(self, class_names):
        missing = [class_names[k] for k in np.flatnonzero(self.counts.true == 0)]
        if not missing:
            return ""
        named = few(missing, MAX_NAMED)
        return f"{len(class_names) - len(missing)} of {len(class_names)} classes; no box of {named}"


class DetectionObjective(nn.Module):
    """The clip's last frame, whose boxes are found by the whole model end to end: the mean over the images of the sum
    of the detector's four losses."""

    def __init__(self, model: VideoModel, of_images: RfcnLosses | FasterRcnnLosses):
        super().__init__()
        name, expected = ("rfcn", RFCN) if isinstance(of_images, RfcnLosses) else ("faster_rcnn", FasterRCNN)
        if not isinstance(getattr(model, "reference", None), expected):
            raise ValueError(f"train.loss {name}: expected a model whose reference is a {name}")
        self.model: Any = model
        self.of_images: Any = of_images

    def forward(
        self, frames: Tensor, labels: Tensor | None, flow: Tensor | None, refreshed: Collection[int] = ()
    ) -> Tensor:
        """Scalar loss of clips (B, T, 3, H, W) with boxes `labels` (B, M, 5) as in `Batch`."""
        return self.losses(frames, labels, refreshed).total()

    def losses(self, frames: Tensor, boxes: Tensor | None, refreshed: Collection[int] = ()) -> Losses:
        """The means over the images."""
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
