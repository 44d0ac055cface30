"""COCO's JSON for instances: regions as run lengths or polygons, and boxes."""

from __future__ import annotations

import json
from abc import abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from accel.files.whole_files import whole_file
from accel.formats.files import LineFile, json_lines, put
from accel.formats.masks import class_runs, regions, runs_to_mask, runs_to_string, string_to_runs
from accel.formats.writer import PART, FrameWriter, head
from accel.inference.segmenter import SegmentedFrame

MASKS, POLYGONS, BOXES, FRAMES = "coco.json", "coco_polygons.json", "coco.json", "json"


class Coco(FrameWriter):
    """A file in COCO's form. An image is a frame: its id is the frame's number, and `seconds` its time. The id of a
    category is the class index + 1, because tools take 0 for none.

    Until it is closed there is only `NAME.part`, with a line for each frame: its image and its annotations.
    """

    file: ClassVar[str]

    def __init__(self, place, video, task):
        super().__init__(place, video, task)
        self._lines = LineFile(place(self.file + PART))
        self._lines.add(json.dumps(head(video, task)))
        self._count = 0

    @abstractmethod
    def annotations(self, frame: SegmentedFrame) -> Iterator[dict[str, Any]]:
        """Yield the annotations of a frame, without their ids and the image's."""

    def write(self, frame):
        self._lines.add(json.dumps(self.dataset(frame, self._count + 1)))
        self._count += len(self._last)

    def dataset(self, frame: SegmentedFrame, first: int = 1) -> dict:
        """Return the image of a frame and its annotations, whose ids begin with `first`."""
        height, width = self.video.size
        image = {
            "id": frame.index,
            "file_name": f"frame_{frame.index:06d}.png",
            "width": width,
            "height": height,
            "seconds": frame.time,
        }
        self._last = [
            {"id": number, "image_id": frame.index, **each, "iscrowd": 0}
            for number, each in enumerate(self.annotations(frame), first)
        ]
        return {"image": image, "annotations": self._last}

    def close(self):
        self._lines.close()
        assemble(self._lines.path, self.place(self.file))
        self._lines.path.unlink()

    def abort(self):
        with suppress(OSError):
            self._lines.close()


class CocoMasks(Coco):
    """`coco.json`: an annotation for each class in a frame, its pixels as compressed run lengths. Nothing is lost."""

    file = MASKS

    @staticmethod
    def names():
        return [MASKS, MASKS + PART]

    def annotations(self, frame):
        return mask_annotations(frame.labels, len(self.task.class_names))


class CocoPolygons(Coco):
    """`coco_polygons.json`: an annotation for each connected region, whose polygon runs along the edges of pixels. A
    hole is joined to the outline by a line there and back."""

    file = POLYGONS

    @staticmethod
    def names():
        return [POLYGONS, POLYGONS + PART]

    def annotations(self, frame):
        for region in regions(frame.labels, len(self.task.class_names)):
            yield {
                "category_id": region.class_index + 1,
                "segmentation": [region.outline.ravel().tolist()],
                "area": region.area,
                "bbox": list(region.box),
            }


class CocoBoxes(Coco):
    """`coco.json`: an annotation for each box, with its `score`. `bbox` is x, y, width, height in pixels: a box whose
    corners are pixels 3 and 5 is 3 wide."""

    file = BOXES

    @staticmethod
    def names():
        return [BOXES, BOXES + PART]

    def annotations(self, frame):
        said = frame.prediction
        for n in range(int(said.count)):
            x1, y1, x2, y2 = (float(corner) for corner in said.boxes[n])
            width, height = x2 - x1 + 1, y2 - y1 + 1
            yield {
                "category_id": int(said.classes[n]) + 1,
                "bbox": [x1, y1, width, height],
                "area": width * height,
                "score": float(said.scores[n]),
            }


class FrameJson(CocoMasks):
    """`json/NUMBER.json`: a file for each frame, in COCO's form, with the frame's run lengths."""

    @staticmethod
    def names():
        return [f"{FRAMES}/"]

    def __init__(self, place, video, task):
        FrameWriter.__init__(self, place, video, task)

    def write(self, frame):
        said = self.dataset(frame)
        whole = {
            "info": head(self.video, self.task),
            "images": [said["image"]],
            "annotations": said["annotations"],
            "categories": categories(self.task.class_names),
        }
        put(self.place(f"{FRAMES}/{frame.index:06d}.json"), json.dumps(whole).encode())

    def close(self): ...

    def abort(self): ...


def categories(class_names: Sequence[str]) -> list[dict]:
    return [{"id": k, "name": name} for k, name in enumerate(class_names, 1)]


def mask_annotations(labels: np.ndarray, class_count: int) -> Iterator[dict[str, Any]]:
    for k, counts in class_runs(labels).items():
        if k < class_count:
            ys, xs = (np.flatnonzero((labels == k).any(axis)) for axis in (1, 0))
            yield {
                "category_id": k + 1,
                "segmentation": {"size": list(labels.shape), "counts": runs_to_string(counts)},
                "area": int(counts[1::2].sum()),
                "bbox": [int(xs[0]), int(ys[0]), int(xs[-1] - xs[0] + 1), int(ys[-1] - ys[0] + 1)],
            }


def assemble(lines: Path, path: Path) -> None:
    """Write a file in COCO's form from the lines of one that was being written. It does not have to fit into memory."""
    info = next(json_lines(lines))

    def of_frames(key: str) -> Iterator[Any]:
        frames = json_lines(lines)
        next(frames)
        for frame in frames:
            yield from frame["annotations"] if key == "annotations" else [frame["image"]]

    with whole_file(path) as file:
        file.write(f'{{"info": {json.dumps(info)},\n"images": ['.encode())
        _write_list(file, of_frames("images"))
        file.write(b'],\n"annotations": [')
        _write_list(file, of_frames("annotations"))
        file.write(f'],\n"categories": {json.dumps(categories(info["classes"]))}}}\n'.encode())


def labels_of(annotations: Iterable[dict], size: tuple[int, int]) -> np.ndarray:
    """Return the labels (H, W) of a frame's annotations with run lengths. Pixels of none are 255."""
    labels = np.full(size, 255, np.uint8)
    for each in annotations:
        labels[runs_to_mask(string_to_runs(each["segmentation"]["counts"]), size)] = each["category_id"] - 1
    return labels


def _write_list(file, items: Iterator[Any]) -> None:
    for number, item in enumerate(items):
        file.write(f"{',' if number else ''}\n{json.dumps(item)}".encode())
