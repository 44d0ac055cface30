"""All formats in which the results of one video are written."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from fractions import Fraction

from accel.formats import FORMATS
from accel.formats.writer import FrameWriter, Place, VideoFacts
from accel.inference.segmenter import SegmentedFrame
from accel.tasks import Task


class Formats:
    """Writes the results of a video in several formats. Their files are made with the first frame.

    kinds: the formats.
    place: as in `FrameWriter`.
    name, fps: of the video.
    task: the task of the model.
    """

    def __init__(
        self,
        kinds: Sequence[type[FrameWriter]],
        place: Place,
        name: str,
        fps: Fraction | float | None,
        task: Task,
    ):
        self.kinds, self.place, self.name, self.fps, self.task = kinds, place, name, fps, task
        self._writers: list[FrameWriter] | None = None

    def write(self, frame: SegmentedFrame) -> None:
        if self._writers is None:
            height, width = frame.frame.shape[:2]
            facts = VideoFacts(self.name, (height, width), self.fps)
            self._writers = []
            for kind in self.kinds:
                self._writers.append(kind(self.place, facts, self.task))
        for writer in self._writers:
            writer.write(frame)

    def close(self) -> None:
        """Finish the files, if there are any."""
        for writer in self._writers or ():
            writer.close()

    def end(self) -> None:
        """Finish the files, and free what is open in any case."""
        try:
            self.close()
        finally:
            self.abort()

    def abort(self) -> None:
        """Free what is open."""
        for writer in self._writers or ():
            with suppress(Exception):
                writer.abort()


def named_by(names: Sequence[str]) -> tuple[list[str], list[str]]:
    """Return the files, and the folders, that formats of these names write, whichever the task. Names that are none are
    passed over."""
    kinds = [kind for known in FORMATS.values() for name, kind in known.items() if name in names]
    written = sorted({name for kind in kinds for name in kind.names()})
    return [name for name in written if not name.endswith("/")], [name[:-1] for name in written if name.endswith("/")]
