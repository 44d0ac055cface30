"""The labels of a video as one compressed array: NumPy's npz, or a zarr."""

from __future__ import annotations

import io
import json
import os
import struct
import zlib
from pathlib import Path
from typing import BinaryIO

import numpy as np

from accel.formats.files import LineFile, put
from accel.formats.writer import PART, FrameWriter, head

NPZ, ZARR = "labels.npz", "labels.zarr"
FRAMES = "frames" + PART  # in a zarr that is being written
NPZ_FRAMES = NPZ + ".frames" + PART  # beside an npz that is being written
_LEVEL = 1  # of compression: label maps shrink to some hundredths already
_HEADER = 128  # bytes of an array's header
_LOCAL = struct.Struct("<4s5H3I2H")
_CENTRAL = struct.Struct("<4s6H3I5H2I")


class NpzLabels(FrameWriter):
    """`labels.npz` with `labels` (T, H, W) uint8, `frames` (T,) their numbers in the video, `seconds` (T,), `classes`,
    `palette` and `video`, its name.

    The array is compressed as it comes. Only at the end it is known how many frames there are; the header, which says
    it, is then written over. `read_part` reads a file without that end. The classes, and the numbers and times of its
    frames, are in a file beside it.
    """

    @staticmethod
    def names():
        return [NPZ, NPZ + PART, NPZ_FRAMES]

    def __init__(self, place, video, task):
        super().__init__(place, video, task)
        self.part = place(NPZ + PART)
        self._file: BinaryIO = self.part.open("w+b")
        self._file.write(_local_header("labels.npy", 0, 0, 0))
        self._begin = self._file.tell()
        # The header in a block of its own, which is not compressed, so that it can be written over.
        self._file.write(b"\x00" + struct.pack("<HH", _HEADER, _HEADER ^ 0xFFFF) + self._npy_header(0))
        self._deflate = zlib.compressobj(_LEVEL, zlib.DEFLATED, -15)
        self._sum, self._size = 0, 0
        self._lines = LineFile(place(NPZ_FRAMES))
        self._lines.add(json.dumps(head(video, task)))
        self._frames: list[int] = []
        self._seconds: list[float] = []

    def write(self, frame):
        data = np.ascontiguousarray(frame.labels).tobytes()
        self._file.write(self._deflate.compress(data) + self._deflate.flush(zlib.Z_SYNC_FLUSH))
        self._file.flush()
        self._lines.add(json.dumps([frame.index, frame.time]))
        self._sum, self._size = zlib.crc32(data, self._sum), self._size + len(data)
        self._frames.append(frame.index)
        self._seconds.append(frame.time)

    def close(self):
        self._file.write(self._deflate.flush())
        end = self._file.tell()
        header = self._npy_header(len(self._frames))
        total = crc32_of_both(zlib.crc32(header), self._sum, self._size)
        self._file.seek(0)
        self._file.write(_local_header("labels.npy", total, end - self._begin, _HEADER + self._size))
        self._file.write(b"\x00" + struct.pack("<HH", _HEADER, _HEADER ^ 0xFFFF) + header)
        self._file.seek(end)
        directory = [_central_header("labels.npy", total, end - self._begin, _HEADER + self._size, 0)]
        for name, array in (
            ("frames", np.array(self._frames, np.int64)),
            ("seconds", np.array(self._seconds, np.float64)),
            ("classes", np.array(self.task.class_names)),
            ("palette", self.task.palette),
            ("video", np.array(self.video.name)),
        ):
            directory.append(self._append(f"{name}.npy", array))
        start = self._file.tell()
        self._file.write(b"".join(directory))
        self._file.write(_end_of_directory(len(directory), start, self._file.tell() - start))
        self._file.close()
        os.replace(self.part, self.place(NPZ))
        self._lines.close()
        self._lines.path.unlink()

    def abort(self):
        self._file.close()
        self._lines.close()

    def _npy_header(self, count: int) -> bytes:
        height, width = self.video.size
        shape = f"({count}, {height}, {width})"
        text = f"{{'descr': '|u1', 'fortran_order': False, 'shape': {shape}, }}"
        return b"\x93NUMPY\x01\x00" + struct.pack("<H", _HEADER - 10) + f"{text:<{_HEADER - 11}}\n".encode()

    def _append(self, name: str, array: np.ndarray) -> bytes:
        data = io.BytesIO()
        np.save(data, array)
        whole, at = data.getvalue(), self._file.tell()
        deflate = zlib.compressobj(_LEVEL, zlib.DEFLATED, -15)
        packed = deflate.compress(whole) + deflate.flush()
        self._file.write(_local_header(name, zlib.crc32(whole), len(packed), len(whole)) + packed)
        return _central_header(name, zlib.crc32(whole), len(packed), len(whole), at)


def read_part(path: Path, size: tuple[int, int]) -> np.ndarray:
    """Return the labels (T, H, W) of a `labels.npz.part`, up to the last whole frame. size: (H, W) of a frame."""
    with path.open("rb") as file:
        file.seek(len(_local_header("labels.npy", 0, 0, 0)))
        try:
            data = zlib.decompressobj(-15).decompress(file.read())
        except zlib.error as error:
            raise ValueError(f"{path}: damaged ({error}); expected what is left of a {NPZ}") from None
    height, width = size
    count = max(len(data) - _HEADER, 0) // (height * width)
    return np.frombuffer(data, np.uint8, count * height * width, _HEADER).reshape(count, height, width)


def crc32_of_both(first: int, second: int, length: int) -> int:
    """Return the CRC-32 of two pieces of data, one after the other, from those of each. length: bytes of the second.

    A CRC is linear: the zeros that follow the first piece multiply it by a matrix over GF(2), and 2**n zeros by that
    matrix squared n times (as in zlib's crc32_combine).
    """
    matrix = [0xEDB88320, *(1 << n for n in range(31))]  # a bit of zero
    for _ in range(3):  # a byte of zeros
        matrix = [_times(matrix, column) for column in matrix]
    while length:
        if length & 1:
            first = _times(matrix, first)
        matrix = [_times(matrix, column) for column in matrix]
        length >>= 1
    return first ^ second


def _times(matrix: list[int], vector: int) -> int:
    total, column = 0, 0
    while vector:
        if vector & 1:
            total ^= matrix[column]
        vector, column = vector >> 1, column + 1
    return total


# All sizes are written as ZIP64: a video's labels are often more than 4 GB before they are compressed.
def _local_header(name: str, crc: int, packed: int, size: int) -> bytes:
    extra = struct.pack("<HHQQ", 1, 16, size, packed)
    fields = (b"PK\x03\x04", 45, 0, 8, 0, 0x21, crc, 0xFFFFFFFF, 0xFFFFFFFF, len(name), len(extra))
    return _LOCAL.pack(*fields) + name.encode() + extra


def _central_header(name: str, crc: int, packed: int, size: int, offset: int) -> bytes:
    extra = struct.pack("<HHQQQ", 1, 24, size, packed, offset)
    fields = (45, 45, 0, 8, 0, 0x21, crc, 0xFFFFFFFF, 0xFFFFFFFF, len(name), len(extra), 0, 0, 0, 0o600 << 16)
    return _CENTRAL.pack(b"PK\x01\x02", *fields, 0xFFFFFFFF) + name.encode() + extra


def _end_of_directory(count: int, start: int, size: int) -> bytes:
    end = struct.pack("<4sQ2H2I4Q", b"PK\x06\x06", 44, 45, 45, 0, 0, count, count, size, start)
    end += struct.pack("<4sIQI", b"PK\x06\x07", 0, start + size, 1)
    return end + struct.pack("<4s4H2IH", b"PK\x05\x06", 0, 0, count, count, 0xFFFFFFFF, 0xFFFFFFFF, 0)


class ZarrLabels(FrameWriter):
    """`labels.zarr`, a zarr (version 2) with `labels` (T, H, W) uint8, a chunk for each frame.

    Its attributes are `video`, `classes` and `palette`; at the end also `frames`, the numbers in the video, and
    `seconds`. Until then the file `frames.part` has these, a line for each frame. A frame's chunk and line come before
    the shape that counts it.
    """

    @staticmethod
    def names():
        return [f"{ZARR}/"]

    def __init__(self, place, video, task):
        super().__init__(place, video, task)
        put(place(f"{ZARR}/.zgroup"), b'{"zarr_format": 2}')
        self._frames: list[int] = []
        self._seconds: list[float] = []
        self._describe(finished=False)
        self._lines = LineFile(place(f"{ZARR}/{FRAMES}"))

    def write(self, frame):
        chunk = zlib.compress(np.ascontiguousarray(frame.labels).tobytes(), _LEVEL)
        put(self.place(f"{ZARR}/labels/{len(self._frames)}.0.0"), chunk)
        self._lines.add(json.dumps([frame.index, frame.time]))
        self._frames.append(frame.index)
        self._seconds.append(frame.time)
        self._describe_shape()

    def close(self):
        self._lines.close()
        self._describe(finished=True)
        self._lines.path.unlink()

    def abort(self):
        self._lines.close()

    def _describe(self, finished: bool) -> None:
        attributes: dict = head(self.video, self.task)
        if finished:
            attributes |= {"frames": self._frames, "seconds": self._seconds}
        put(self.place(f"{ZARR}/labels/.zattrs"), json.dumps(attributes).encode())
        self._describe_shape()

    def _describe_shape(self) -> None:
        height, width = self.video.size
        array = {
            "zarr_format": 2,
            "shape": [len(self._frames), height, width],
            "chunks": [1, height, width],
            "dtype": "|u1",
            "compressor": {"id": "zlib", "level": _LEVEL},
            "fill_value": 0,
            "order": "C",
            "filters": None,
        }
        put(self.place(f"{ZARR}/labels/.zarray"), json.dumps(array).encode())
