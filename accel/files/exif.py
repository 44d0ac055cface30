"""The orientation that cameras store in an image file (EXIF): how to turn the stored picture upright."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import BinaryIO

import numpy as np

_ORIENTATION = 0x0112
_MAX_BYTES = 2**16  # of a block: its first entries are looked at


def orientation(path: str | Path) -> int:
    """Return the EXIF orientation, 1 to 8. It is 1 (as stored) if there is none or it cannot be read.

    JPEG, PNG, WebP and TIFF may have it. Nothing is decoded.
    """
    try:
        with Path(path).open("rb") as file:
            block = _block(file)
            return _entry(block) if block else 1
    except (OSError, struct.error):
        return 1


def upright(image: np.ndarray, orientation: int) -> np.ndarray:
    """Turn and mirror a stored image (H, W, ...) according to its orientation."""
    if orientation >= 5:
        image = image.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):  # of the rows, after that
        image = image[::-1]
    if orientation in (2, 3, 6, 7):
        image = image[:, ::-1]
    return np.ascontiguousarray(image)


def _block(file: BinaryIO) -> bytes | None:
    """Return the block of entries, which has the form of a TIFF file."""
    start = file.read(12)
    if start[:2] in (b"II", b"MM"):
        file.seek(0)
        return _tiff(file)
    if start.startswith(b"\xff\xd8"):
        file.seek(2)
        return _jpeg(file)
    if start.startswith(b"\x89PNG\r\n\x1a\n"):
        file.seek(8)
        return _chunk(file, b"eXIf", ">I4s", swapped=False)
    if start[:4] == b"RIFF" and start[8:] == b"WEBP":
        return _chunk(file, b"EXIF", "<4sI", swapped=True)
    return None


def _tiff(file: BinaryIO) -> bytes:
    """Return the header and the first directory of a TIFF file, which suffice. The whole file may be large."""
    header = file.read(8)
    order = "<" if header[:2] == b"II" else ">"
    file.seek(struct.unpack(f"{order}I", header[4:])[0])
    return header[:4] + struct.pack(f"{order}I", 8) + file.read(_MAX_BYTES)


def _jpeg(file: BinaryIO) -> bytes | None:
    while True:
        mark, kind, length = struct.unpack(">BBH", file.read(4))
        if mark != 0xFF or kind == 0xDA:  # the picture begins
            return None
        if kind in (0xFF, 0x01):  # fill byte; marker without content
            file.seek(-3 if kind == 0xFF else -2, 1)
            continue
        if kind == 0xE1:
            content = file.read(length - 2)
            if content.startswith(b"Exif\0\0"):
                return content[6:]
        else:
            file.seek(length - 2, 1)


def _chunk(file: BinaryIO, wanted: bytes, form: str, swapped: bool) -> bytes | None:
    """Return a chunk of a PNG (length, kind, content, checksum) or a WebP (kind, length, content, padded to an even
    length)."""
    while head := file.read(8):
        first, second = struct.unpack(form, head)
        kind, length = (first, second) if swapped else (second, first)
        if kind == wanted:
            return file.read(min(length, _MAX_BYTES)).removeprefix(b"Exif\0\0")
        file.seek(length + (length % 2 if swapped else 4), 1)
    return None


def _entry(block: bytes) -> int:
    order = "<" if block[:2] == b"II" else ">"
    (start,) = struct.unpack_from(f"{order}I", block, 4)
    (count,) = struct.unpack_from(f"{order}H", block, start)
    for entry in range(count):
        tag, kind, _, value = struct.unpack_from(f"{order}HHIH", block, start + 2 + 12 * entry)
        if tag == _ORIENTATION and kind == 3:
            return value if 1 <= value <= 8 else 1
    return 1
