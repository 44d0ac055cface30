"""Read and write at a position in an open file, on systems with and without one call for that."""

from __future__ import annotations

import os
from pathlib import Path


def open_binary(path: Path, flags: int) -> int:
    """Open a file or, with `os.O_CREAT`, make it, with its bytes unchanged. Return its descriptor. Raises OSError."""
    return os.open(path, flags | getattr(os, "O_BINARY", 0), 0o666)  # Windows would write other line ends


def read_at(file: int, size: int, offset: int) -> bytes:
    """Return up to `size` bytes from that position. Raises OSError."""
    if hasattr(os, "pread"):  # not on Windows
        return os.pread(file, size, offset)
    os.lseek(file, offset, os.SEEK_SET)
    return os.read(file, size)


def write_at(file: int, data: bytes, offset: int) -> int:
    """Write at that position. Return the number of bytes written. Raises OSError."""
    if hasattr(os, "pwrite"):  # not on Windows
        return os.pwrite(file, data, offset)
    os.lseek(file, offset, os.SEEK_SET)
    return os.write(file, data)
