"""MXNet's `.params` files without MXNet.

Layout (all little-endian), as MXNet's `NDArray::Save` and `NDArray::Load` have it (src/ndarray/ndarray.cc):

    uint64 0x112, uint64 0                                    the file's magic number, reserved
    uint64 count, then `count` arrays:
        legacy:  uint32 ndim, uint32 dims[ndim]
        V1:      uint32 0xF993FAC8, uint32 ndim, int64 dims[ndim]
        V2:      uint32 0xF993FAC9, int32 storage (0 = dense), uint32 ndim, int64 dims[ndim]
        then     int32 device type, int32 device number, int32 data type, the elements in C order
    uint64 count, then `count` names: uint64 length, UTF-8 bytes
"""

from __future__ import annotations

import mmap
import os
import struct
from collections.abc import Mapping
from math import prod
from pathlib import Path

import numpy as np

from accel.files.whole_files import whole_file

FILE_MAGIC = 0x112
V1_MAGIC, V2_MAGIC, V3_MAGIC = 0xF993FAC8, 0xF993FAC9, 0xF993FACA
STORAGE = {1: "row-sparse", 2: "compressed sparse row"}
DTYPES = tuple(np.dtype(d) for d in ("<f4", "<f8", "<f2", "u1", "<i4", "i1", "<i8"))  # the index is MXNet's type flag
MAX_DIMENSIONS = 32
MAX_ARRAYS = 10_000  # Accel-50 has 1,000; this and the next bound what a small hostile file can make us build
MAX_NAME = 1024  # bytes


def read_mxnet_params(path: str | os.PathLike) -> dict[str, np.ndarray]:
    """Return the arrays of a `.params` file by name (`arg:conv1_weight`, `aux:bn_conv1_moving_mean`), in file order.

    They are read-only views of the memory-mapped file. Nothing is copied, pages are read when they are accessed, and
    the file must not change while the arrays are in use.

    Raises FileNotFoundError if there is no such file. Raises ValueError, with the file's name and the byte offset,
    unless the file is a complete, well-formed dictionary of dense arrays.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such file")
    if not path.is_file():
        raise ValueError(f"{path}: not a file")
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        if size == 0:  # cannot be mapped
            raise ValueError(f"{path}: byte 0: the file is empty")
        mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    return _Reader(path, mapped).dictionary()


class _Reader:
    """Reads one mapped file from start to end. Every read is checked against the end of the file."""

    def __init__(self, path: Path, mapped: mmap.mmap):
        self.path = path
        self.mapped = mapped
        self.at = 0

    def dictionary(self) -> dict[str, np.ndarray]:
        if self.number("Q", "the file's magic number") != FILE_MAGIC:
            raise self.error("not an MXNet .params file (wrong magic number)", 0)
        self.number("Q", "the reserved word")
        # The smallest array takes 21 bytes, the smallest name 9.
        arrays = [self.array() for _ in range(self.count("arrays", 21))]
        start = self.at
        names = self.count("names", 9)
        if names != len(arrays):
            what = "an unnamed list of" if names == 0 else f"{names} names for"
            raise self.error(f"{what} {len(arrays)} arrays; expected a name for each", start)
        named: dict[str, np.ndarray] = {}
        for array in arrays:
            start = self.at
            name = self.name()
            if name in named:
                raise self.error(f"the name {name!r} occurs twice", start)
            named[name] = array
        if self.at != len(self.mapped):
            raise self.error(f"{len(self.mapped) - self.at} bytes left over after the last name")
        return named

    def array(self) -> np.ndarray:
        start = self.at
        magic = self.number("I", "an array's header")
        if magic in (V1_MAGIC, V2_MAGIC):
            storage = self.number("i", "the storage type") if magic == V2_MAGIC else 0
            if storage != 0:
                raise self.error(f"{STORAGE.get(storage, f'unknown (type {storage})')} storage; only dense", start)
            dimensions, format, width = self.number("I", "the number of dimensions"), "q", 8
        elif magic == V3_MAGIC:
            raise self.error("an array in MXNet's V3 (NumPy-shape) layout; only legacy, V1 and V2 are known", start)
        else:
            dimensions, format, width = magic, "I", 4
        if not 1 <= dimensions <= MAX_DIMENSIONS:
            raise self.error(f"an array of {dimensions} dimensions; expected 1 to {MAX_DIMENSIONS}", start)
        start = self.at
        shape = struct.unpack(f"<{dimensions}{format}", self.take(dimensions * width, "a shape"))
        if min(shape) < 1:
            raise self.error(f"an array of shape {shape}; expected positive sizes", start)
        self.take(8, "a device")
        flag = self.number("i", "a data type")
        if not 0 <= flag < len(DTYPES):
            raise self.error(f"unknown data type {flag}", self.at - 4)
        dtype = DTYPES[flag]
        start = self.at
        self.take(prod(shape) * dtype.itemsize, f"an array of shape {shape}, {dtype.name}", look=False)
        return np.frombuffer(self.mapped, dtype, prod(shape), start).reshape(shape)

    def name(self) -> str:
        length = self.number("Q", "a name's length")
        start = self.at
        if length > MAX_NAME:
            raise self.error(f"a name of {length} bytes; expected {MAX_NAME} at most", start - 8)
        raw = self.take(length, "a name")
        try:
            return raw.decode()
        except UnicodeDecodeError as error:
            raise self.error("a name that is not UTF-8", start + error.start) from None

    def count(self, what: str, smallest: int) -> int:
        start = self.at
        count = self.number("Q", f"the number of {what}")
        if count > min(MAX_ARRAYS, (len(self.mapped) - self.at) // smallest):
            raise self.error(f"{count} {what} announced, more than can follow", start)
        return count

    def number(self, format: str, what: str) -> int:
        return struct.unpack("<" + format, self.take(struct.calcsize("<" + format), what))[0]

    def take(self, length: int, what: str, look: bool = True) -> bytes:
        """Advance by `length` bytes. Return them if `look` is set."""
        left = len(self.mapped) - self.at
        if length > left:
            raise self.error(f"truncated: {what} takes {length} bytes, {left} are left")
        start, self.at = self.at, self.at + length
        return self.mapped[start : self.at] if look else b""

    def error(self, problem: str, at: int | None = None) -> ValueError:
        return ValueError(f"{self.path}: byte {self.at if at is None else at}: {problem}")


def write_mxnet_params(path: str | os.PathLike, arrays: Mapping[str, np.ndarray]) -> None:
    """Write a dictionary of arrays as a `.params` file.

    It uses the legacy layout, which every MXNet reads: V2 was added after the commit (62ecb60, 2017) on which the Accel
    release runs. The file appears completely or not at all. Raises ValueError for a data type or shape that MXNet does
    not have.
    """
    path = Path(path)
    for name, array in arrays.items():
        if array.dtype.newbyteorder("<") not in DTYPES:
            known = ", ".join(d.name for d in DTYPES)
            raise ValueError(f"{path}: {name} is {array.dtype}; MXNet has {known}")
        if not (1 <= array.ndim <= MAX_DIMENSIONS and array.size):
            raise ValueError(f"{path}: {name} has shape {array.shape}; MXNet has no empty arrays and no scalars")
    with whole_file(path) as file:
        file.write(struct.pack("<QQQ", FILE_MAGIC, 0, len(arrays)))
        for array in arrays.values():
            dtype = array.dtype.newbyteorder("<")
            file.write(struct.pack(f"<I{array.ndim}I", array.ndim, *array.shape))
            file.write(struct.pack("<iii", 1, 0, DTYPES.index(dtype)))  # device: CPU 0
            file.write(np.ascontiguousarray(array, dtype).data)
        file.write(struct.pack("<Q", len(arrays)))
        for name in arrays:
            raw = name.encode()
            file.write(struct.pack("<Q", len(raw)) + raw)
