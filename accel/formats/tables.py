"""Tables for spreadsheets and pandas: the classes' shares of each frame, and boxes."""

from __future__ import annotations

import csv
import io
from abc import abstractmethod
from contextlib import suppress
from typing import Any, ClassVar

import numpy as np

from accel.formats.files import LineFile
from accel.formats.writer import FrameWriter

SHARES, BOXES = "shares.csv", "boxes.csv"


class _Table(FrameWriter):
    file: ClassVar[str]

    def __init__(self, place, video, task):
        super().__init__(place, video, task)
        self._lines = LineFile(place(self.file))
        self._lines.add(line_of(self.columns()))

    @abstractmethod
    def columns(self) -> list[str]:
        """Return the first line of the table."""

    def close(self):
        self._lines.close()

    def abort(self):
        with suppress(OSError):
            self._lines.close()


class ClassShares(_Table):
    """`shares.csv`: for each frame the share of its pixels that each class has, 0 to 1."""

    file = SHARES

    @staticmethod
    def names():
        return [SHARES]

    def columns(self):
        return ["frame", "seconds", *self.task.class_names]

    def write(self, frame):
        counts = np.bincount(frame.labels.ravel(), minlength=256)[: len(self.task.class_names)]
        shares = (f"{share:.6f}" for share in counts / frame.labels.size)
        self._lines.add(line_of([frame.index, f"{frame.time:.6f}", *shares]))


class BoxTable(_Table):
    """`boxes.csv`: a line for each box, in pixels of the frame, both corners within. A frame without a box has a line
    with nothing but its number and time."""

    file = BOXES

    @staticmethod
    def names():
        return [BOXES]

    def columns(self):
        return ["frame", "seconds", "class", "score", "x1", "y1", "x2", "y2"]

    def write(self, frame):
        said = frame.prediction
        start = [frame.index, repr(float(frame.time))]
        rows = [
            [*start, self.task.class_names[int(said.classes[n])], float(said.scores[n]), *map(float, said.boxes[n])]
            for n in range(int(said.count))
        ]
        self._lines.add("\n".join(line_of(row) for row in rows or [[*start, *[""] * 6]]))


def line_of(values: list[Any]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="").writerow(values)
    return text.getvalue()
