"""Files that are there whole or not at all, also after a crash or a power cut."""

from __future__ import annotations

import glob
import hashlib
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO


@contextmanager
def whole_file(path: Path) -> Iterator[BinaryIO]:
    """A file to write, which takes its name when all is written; if that fails, what stood there before stays.

    The data reach the disk under another name before they take the file's own, and that, too, is written to the disk
    before this ends. Several writers may write one file at once, also from other machines: the last to end wins.
    """
    with whole_path(path) as temporary, temporary.open("wb") as file:
        yield file


@contextmanager
def whole_path(path: Path) -> Iterator[Path]:
    """As `whole_file`, for libraries that open their files themselves: the path to write to."""
    path.parent.mkdir(parents=True, exist_ok=True)
    # Not the process's number: two containers that share a folder may both be process 1.
    temporary = path.with_name(f".{path.name}.{secrets.randbits(64)}")
    try:
        temporary.touch(exist_ok=False)
        mode = temporary.stat().st_mode
        yield temporary
        temporary.chmod(mode)  # some libraries let nobody else read what they write
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
        sync_folder(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def write_whole(path: Path, data: bytes | memoryview) -> str:
    """Write a `whole_file` of these data; return their SHA-256."""
    with whole_file(path) as file:
        file.write(data)
    return hashlib.sha256(data).hexdigest()


def sweep(path: Path) -> None:
    """Clear away what killed processes left of writing `path`."""
    for left in path.parent.glob(f".{glob.escape(path.name)}.*"):
        if left.name.rpartition(".")[2].isdigit():
            left.unlink(missing_ok=True)


def sync_folder(folder: Path) -> None:
    """Have the names in a folder written to the disk, where the system lets us."""
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except PermissionError:  # Windows opens no folders
        return
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
