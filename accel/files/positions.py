"""Reading and writing at a place in an open file, on systems that have one call for that and on those that do not."""

from __future__ import annotations

import os
from pathlib import Path


def open_binary(path: Path, flags: int) -> int:
    """Open, or with `os.O_CREAT` make, a file whose bytes are taken as they are; its descriptor. Raises OSError."""
    return os.open(path, flags | getattr(os, "O_BINARY", 0), 0o666)  # Windows would write other line ends


def read_at(file: int, size: int, offset: int) -> bytes:
    """Up to `size` bytes from there. Raises OSError."""
    if hasattr(os, "pread"):  # not on Windows
        return os.pread(file, size, offset)
    os.lseek(file, offset, os.SEEK_SET)
    return os.read(file, size)


def write_at(file: int, data: bytes, offset: int) -> int:
    """Write there; how many bytes were taken. Raises OSError."""
    if hasattr(os, "pwrite"):  # not on Windows
        return os.pwrite(file, data, offset)
    os.lseek(file, offset, os.SEEK_SET)
    return os.write(file, data)
