"""Boxes for what scores and tracks them: COCO results and MOTChallenge detections, as `accel.tasks.box_files` writes
them."""

from __future__ import annotations

from typing import ClassVar

from accel.formats.writer import FrameWriter
from accel.tasks.box_files import OUTPUTS


class _BoxResults(FrameWriter):
    kind: ClassVar[str]

    def __init__(self, place, video, task):
        super().__init__(place, video, task)
        self._files = task.result_files(self.kind, place)

    def write(self, frame):
        self._files.add(frame.index, frame.prediction)

    def close(self):
        self._files.close()

    def abort(self):
        self._files.close()


class CocoResults(_BoxResults):
    """`detections.json`: the list of results that COCO's evaluation takes. It is whole after every frame."""

    kind = "coco"

    @staticmethod
    def names():
        return list(OUTPUTS["coco"].files)


class MotDetections(_BoxResults):
    """`mot/CLASS.txt`: the detections of each class, as trackers of MOTChallenge read them."""

    kind = "mot"

    @staticmethod
    def names():
        return ["mot/"]
