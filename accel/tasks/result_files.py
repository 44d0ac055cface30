"""The files that the predictions for a video are written to."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from accel.tasks.task import Task

Place = Callable[[str], Path]  # takes the name of a file within the folder of results, and returns its path
NameOf = Callable[[int], str]  # takes the number of a frame in its source, and returns the frame's name

numbered: NameOf = "{:06d}".format


class ResultFiles(ABC):
    """The files of one video.

    written: the files in words, for a message.
    place: see `Place`.
    """

    written: str

    def __init__(self, place: Place):
        self.place = place

    @abstractmethod
    def add(self, index: int, said: NamedTuple) -> None:
        """Write the prediction for a frame, given as arrays.

        index: the number of the frame in its source, from 0.
        """

    def figures(self) -> dict:
        """Return what a reader of the files has to know besides, for the summary."""
        return {}

    def close(self) -> None:  # noqa: B027 -- most kinds have nothing to end
        """End the files. Whatever was added is in them, even if this is never called."""


class FileOfEachFrame(ResultFiles):
    """One file for each frame, as `Task.save` writes it. name_of: see `NameOf`."""

    def __init__(self, place: Place, task: Task, name_of: NameOf = numbered):
        super().__init__(place)
        self.task, self.name_of = task, name_of
        self.written = f"labels/*{task.suffix}"

    def add(self, index, said):
        self.task.save(self.place(f"labels/{self.name_of(index)}{self.task.suffix}"), said)


class Outputs(NamedTuple):
    """The names of the files and of the folders that a kind of result files fills."""

    files: Sequence[str] = ()
    folders: Sequence[str] = ("labels",)
