"""Units of work, each a video or a part of one, and what a run says about them."""

from __future__ import annotations

import hashlib
import json
import posixpath
import re
from dataclasses import asdict, dataclass, fields
from pathlib import Path

VIDEOS = "videos"  # the folder in the output folder that has a folder for each unit
RESULT = "result.json"  # in a unit's folder: its row of the index
DONE, FAILED = "done", "failed"
_LONGEST = 80  # characters of the video's name in the name of a folder


@dataclass(frozen=True)
class Unit:
    """A video to label, or a part of one.

    path: the video, as the user named it.
    start, stop: the part: the numbers of its first frame and of the one after its last. stop None: up to the end.
    """

    path: str
    start: int = 0
    stop: int | None = None

    @property
    def id(self) -> str:
        """The name of the unit's folder. It depends only on the path and the part.

        It begins with the video's file name. Videos of the same name in different folders differ in the hash that
        follows.
        """
        path = posixpath.normpath(self.path.replace("\\", "/"))
        name = re.sub(r"[^\w.-]+", "_", posixpath.basename(path))[-_LONGEST:].strip("._") or "video"
        part = f"-{self.start:07d}-{self.stop - 1:07d}" if self.stop is not None else ""
        return f"{name}-{hashlib.sha256(path.encode()).hexdigest()[:12]}{part}"


@dataclass(frozen=True)
class Row:
    """A unit's row of the index.

    id: the name of the unit's folder.
    path: the video.
    start: the number of the unit's first frame in the video.
    frames: how many frames were labelled.
    seconds: how long they last in the video.
    model: the weights' name and the beginning of their SHA-256.
    checksum: SHA-256 over the names and contents of the files. Empty without files.
    status: `done`, or `failed`. A failed unit has files too if some of its frames could be read.
    error: why it failed. Empty if it did not.
    """

    id: str
    path: str
    start: int
    frames: int
    seconds: float
    model: str
    checksum: str
    status: str
    error: str

    def as_dict(self) -> dict:
        return asdict(self)


COLUMNS = tuple(field.name for field in fields(Row))


def read_row(folder: Path) -> Row | None:
    """Return the row in a unit's folder. None if the unit has not been finished."""
    try:
        values = json.loads((folder / RESULT).read_text(encoding="utf-8"))
        return Row(**{name: values[name] for name in COLUMNS})
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (ValueError, KeyError, TypeError):
        raise ValueError(f"{folder / RESULT}: damaged; delete the folder, and its video is labelled again") from None
