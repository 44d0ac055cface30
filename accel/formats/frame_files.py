"""One file a frame, as the task saves it: palette PNGs of labels, JSON lines of boxes."""

from __future__ import annotations

from accel.formats.writer import FrameWriter

FOLDER = "labels"


class FrameFiles(FrameWriter):
    """A file `labels/NUMBER` for each frame, in the format of `Task.save`. The number is that of the frame in its
    source."""

    @staticmethod
    def names():
        return [FOLDER]

    def write(self, frame):
        self.task.save(self.folder / FOLDER / f"{frame.index:06d}{self.task.suffix}", frame.prediction)

    def close(self):
        (self.folder / FOLDER).mkdir(exist_ok=True)
