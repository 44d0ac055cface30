"""One file a frame, as the task saves it: palette PNGs of labels, JSON lines of boxes."""

from __future__ import annotations

import json

from accel.formats.files import LineFile
from accel.formats.writer import FrameWriter, head

FOLDER, LIST = "labels", "labels.jsonl"


class FrameFiles(FrameWriter):
    """A file `labels/NUMBER` for each frame, in the format of `Task.save`. The number is that of the frame in its
    source. `labels.jsonl` says what the files do not: the classes in its first line, and in each later one the number
    and the time of a frame."""

    @staticmethod
    def names():
        return [f"{FOLDER}/", LIST]

    def __init__(self, place, video, task):
        super().__init__(place, video, task)
        self._lines = LineFile(place(LIST))
        self._lines.add(json.dumps(head(video, task)))

    def write(self, frame):
        self.task.save(self.place(f"{FOLDER}/{frame.index:06d}{self.task.suffix}"), frame.prediction)
        self._lines.add(json.dumps([frame.index, frame.time]))

    def close(self):
        self._lines.close()

    def abort(self):
        self._lines.close()
