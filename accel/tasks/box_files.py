"""Detections of a video as other programs read them: COCO results and MOTChallenge detections."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any, BinaryIO

from accel.models.detection.detections import Boxes
from accel.tasks.result_files import Outputs, Place, ResultFiles

COCO_FILE, MOT_FOLDER = "detections.json", "mot"
OUTPUTS = {"jsonl": Outputs(), "coco": Outputs((COCO_FILE,)), "mot": Outputs(folders=("labels", MOT_FOLDER))}


class CocoResults(ResultFiles):
    """One file for all frames, as COCO's evaluation takes it (https://cocodataset.org/#format-results):

    [{"image_id": 0, "category_id": 1, "bbox": [left, top, width, height], "score": 0.91}, ...]

    `image_id` is the number of the frame, from 0. `category_id` is the number of the class, from 1. The file is whole
    after every frame, so that nothing is lost when the program is killed.
    """

    written = COCO_FILE

    def __init__(self, place: Place, class_names: Sequence[str]):
        super().__init__(place)
        self.class_names = tuple(class_names)
        self._file: BinaryIO | None = self.place(COCO_FILE).open("wb")
        self._file.write(b"[]")
        self._file.flush()
        self._empty = True

    def add(self, index: int, said: Any) -> None:
        assert self._file is not None, "it is closed at the end"
        lines = [json.dumps(self._entry(index, said, n)) for n in range(int(said.count))]
        if not lines:
            return
        self._file.seek(-1 if self._empty else -2, 2)  # over the bracket at the end
        text = ("\n" if self._empty else ",\n") + ",\n".join(lines) + "\n]"
        self._file.write(text.encode())
        self._file.flush()
        self._empty = False

    def _entry(self, index: int, said: Boxes, n: int) -> dict:
        left, top, width, height = corner_and_sides(said, n)
        return {
            "image_id": index,
            "category_id": 1 + int(said.classes[n]),
            "bbox": [left, top, width, height],
            "score": round(float(said.scores[n]), 4),
        }

    def figures(self):
        return {"categories": {1 + k: name for k, name in enumerate(self.class_names)}}

    def close(self):
        if self._file is not None:
            self._file.close()
            self._file = None


class MotDetections(ResultFiles):
    """A file for each class, as trackers of MOTChallenge read detections (det.txt; Milan et al., arXiv:1603.00831).

    A line is `frame, -1, left, top, width, height, score, -1, -1, -1`, best first within a frame. Frames and pixels are
    counted from 1, as there. The format has no classes, hence the file for each: `mot/car.txt`.
    """

    written = f"{MOT_FOLDER}/*.txt"

    def __init__(self, place: Place, class_names: Sequence[str]):
        super().__init__(place)
        self._files = [place(f"{MOT_FOLDER}/{name}.txt") for name in _file_names(class_names)]
        for path in self._files:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(b"")

    def add(self, index: int, said: Any) -> None:
        lines: dict[int, list[str]] = {}
        for n in range(int(said.count)):
            left, top, width, height = corner_and_sides(said, n)
            score = float(said.scores[n])
            lines.setdefault(int(said.classes[n]), []).append(
                f"{index + 1},-1,{left + 1:.2f},{top + 1:.2f},{width:.2f},{height:.2f},{score:.4f},-1,-1,-1\n"
            )
        for k, of_class in lines.items():
            with self._files[k].open("a", encoding="ascii") as file:
                file.writelines(of_class)


def corner_and_sides(said: Boxes, n: int) -> tuple[float, float, float, float]:
    """Return left, top, width and height in pixels of box n, whose corners both lie within it."""
    x1, y1, x2, y2 = (float(corner) for corner in said.boxes[n])
    return round(x1, 2), round(y1, 2), round(x2 - x1 + 1, 2), round(y2 - y1 + 1, 2)


def _file_names(class_names: Sequence[str]) -> list[str]:
    """Return a file name for each class: its own, as far as that is one."""
    plain = [re.sub(r"[^\w.-]+", "_", name).strip("._") for name in class_names]
    lowered = [name.lower() for name in plain]  # of which some file systems know one alone
    return [
        name if name and lowered.count(name.lower()) == 1 else f"{name or 'class'}_{k}" for k, name in enumerate(plain)
    ]
