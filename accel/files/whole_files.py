"""Files that exist completely or not at all, even after a crash or a power cut."""

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
    """A file to write, which gets its name when everything is written. If writing fails, an earlier file stays.

    The data reach the disk under another name before they get the file's own name, and that name also reaches the disk
    before this ends. Several writers may write one file at once, even from different machines. The last one to end
    wins.
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
    """Write these data as a `whole_file`. Return their SHA-256."""
    with whole_file(path) as file:
        file.write(data)
    return hashlib.sha256(data).hexdigest()


@contextmanager
def part_path(path: Path) -> Iterator[Path]:
    """As `whole_path`, without waiting for the disk, which takes too long where every frame has a file. If the program
    is killed, the file is there completely or not at all; after a power cut it may be damaged."""
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        yield part
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def write_part(path: Path, data: bytes) -> None:
    """Write these data to a `part_path`."""
    with part_path(path) as part:
        part.write_bytes(data)


def sweep(path: Path) -> None:
    """Remove what killed processes left while writing `path`."""
    for left in path.parent.glob(f".{glob.escape(path.name)}.*"):
        if left.name.rpartition(".")[2].isdigit():
            left.unlink(missing_ok=True)


def sync_folder(folder: Path) -> None:
    """Write the names in a folder to the disk, if the system allows it."""
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except PermissionError:  # Windows opens no folders
        return
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
