"""Average precision as COCO counts it (Lin et al., ECCV 2014), computed by pycocotools."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import redirect_stdout
from typing import Any, NamedTuple

import numpy as np

from accel.measures.average_precision import by_name

# The figures, in the order in which pycocotools has them.
FIGURES = ("AP", "AP50", "AP75", "AP small", "AP medium", "AP large")


def require_coco() -> None:
    """Raise ValueError, with the command that installs it, if pycocotools is missing."""
    try:
        import pycocotools.cocoeval  # noqa: F401
    except ImportError:
        raise ValueError("COCO's mAP needs pycocotools: pip install 'accel-vss[coco]'") from None


class _Frame(NamedTuple):
    boxes: np.ndarray  # (N, 4)
    scores: np.ndarray
    classes: np.ndarray
    true: np.ndarray  # (M, 4)
    of: np.ndarray


class CocoPrecision:
    """Detections and true boxes, counted frame by frame.

    pycocotools counts the 100 best detections of a frame for each class.

    num_classes: K.

    Raises the error of `require_coco`.
    """

    def __init__(self, num_classes: int):
        require_coco()
        self.num_classes = num_classes
        self._names: list[str] = []
        self._frames: list[_Frame] = []

    def update(
        self,
        boxes: np.ndarray,
        scores: np.ndarray,
        classes: np.ndarray,
        true: np.ndarray,
        of: np.ndarray,
        name: str = "",
    ) -> None:
        """Count a frame. Arguments as in `AveragePrecision.update`."""
        self._names.append(name)
        self._frames.append(_Frame(boxes, scores, classes, true, of))

    def __add__(self, other: CocoPrecision) -> CocoPrecision:
        both = CocoPrecision(self.num_classes)
        both._names, both._frames = self._names + other._names, self._frames + other._frames
        return both

    def figures(self) -> dict[str, float]:
        """Return `FIGURES` by name, 0..1. NaN for a figure without true boxes.

        AP is the mean over the overlaps 0.5, 0.55, ..., 0.95, and AP50 and AP75 are at one of them. Small objects have
        up to 32 x 32 pixels, large ones more than 96 x 96.
        """
        from pycocotools.cocoeval import COCOeval

        order = by_name(self._names)
        with redirect_stdout(io.StringIO()):  # it has much to say
            true, found = (self._coco(self._annotations(order, scored)) for scored in (False, True))
            evaluation = COCOeval(true, found, "bbox")
            evaluation.evaluate()
            evaluation.accumulate()
            evaluation.summarize()
        values = [float(value) for value in evaluation.stats[: len(FIGURES)]]
        return {name: value if value >= 0 else float("nan") for name, value in zip(FIGURES, values, strict=True)}

    def _annotations(self, order: list[int], scored: bool) -> Iterator[dict[str, Any]]:
        """Yield the detections, or the true boxes, as COCO writes them."""
        for image, place in enumerate(order, 1):
            frame = self._frames[place]
            boxes, classes = (frame.boxes, frame.classes) if scored else (frame.true, frame.of)
            for n, (x1, y1, x2, y2) in enumerate(boxes.astype(np.float64).tolist()):
                width, height = x2 - x1 + 1, y2 - y1 + 1
                yield {
                    "image_id": image,
                    "category_id": int(classes[n]) + 1,
                    "bbox": [x1, y1, width, height],
                    "area": width * height,
                    "iscrowd": 0,
                    **({"score": float(frame.scores[n])} if scored else {}),
                }

    def _coco(self, annotations: Iterator[dict[str, Any]]) -> Any:
        from pycocotools.coco import COCO

        made = COCO()
        made.dataset = {
            "images": [{"id": image + 1} for image in range(len(self._frames))],
            "categories": [{"id": k + 1} for k in range(self.num_classes)],
            "annotations": [each | {"id": number} for number, each in enumerate(annotations, 1)],
        }
        made.createIndex()
        return made
