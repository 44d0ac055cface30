"""Files that grow frame by frame, and small ones that appear at once."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from accel.files.whole_files import write_part


def put(path: Path, data: bytes) -> None:
    """Write a small file: it is there as a whole or not at all if the program is killed. Missing folders are made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_part(path, data)


class LineFile:
    """A file of lines, each of which reaches the file system before `add` returns."""

    def __init__(self, path: Path):
        self.path = path
        self._file: BinaryIO = path.open("wb")

    def add(self, line: str) -> None:
        self._file.write(f"{line}\n".encode())
        self._file.flush()

    def close(self) -> None:
        self._file.close()


def whole_lines(path: Path) -> Iterator[str]:
    """Yield the lines of a file without their ends. A last one that was cut off is passed over."""
    with path.open("rb") as file:
        for line in file:
            if line.endswith(b"\n"):
                yield line[:-1].decode()


def json_lines(path: Path) -> Iterator[Any]:
    """Yield what the whole lines of a file say."""
    return map(json.loads, whole_lines(path))
