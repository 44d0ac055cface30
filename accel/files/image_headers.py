"""Check the header of an image file before anything is decoded: kind, size, and whether the file is complete.

OpenCV does the decoding. But it does little checking: many versions return the readable part of a truncated file, and
allocate as much memory as a header requests. A file of a kilobyte can request gigabytes.
"""

from __future__ import annotations

import os
import stat
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

MAX_PIXELS = 2**27  # 134 megapixels, 400 MB decoded: four times an 8K frame; more is a damaged header or an attack
MAX_PIXELS_VARIABLE = "ACCEL_MAX_PIXELS"
MAX_BYTES_PER_PIXEL = 8  # of a file: 16 bits of four channels, uncompressed
MAX_SCANS = 100  # of a progressive JPEG, each a pass over all of the image; encoders make ten

PNG_GREY, PNG_RGB, PNG_PALETTE, PNG_RGBA = 0, 2, 3, 6  # colour types of the PNG header
_PNG_COLOURS = {
    PNG_GREY: "grey", PNG_RGB: "RGB", PNG_PALETTE: "palette", 4: "grey + alpha", PNG_RGBA: "RGB + alpha",
}  # fmt: skip
_PNG_CHANNELS = {PNG_GREY: 1, PNG_RGB: 3, PNG_PALETTE: 1, 4: 2, PNG_RGBA: 4}
_PNG = b"\x89PNG\r\n\x1a\n"
_JPEG = b"\xff\xd8\xff"
_DEFLATE_RATIO = 1032  # a match of 258 bytes takes two bits, at least


@dataclass(frozen=True)
class ImageHeader:
    """The header of an image.

    kind: "PNG", "JPEG", ...
    width, height: in pixels.
    bits: the bits of a channel.
    colour: the colour type of a PNG.
    """

    kind: str
    width: int
    height: int
    bits: int = 8
    colour: int | None = None

    def __str__(self) -> str:
        if self.colour is None:
            return self.kind
        return f"PNG with {self.bits} bit {_PNG_COLOURS.get(self.colour, f'colour type {self.colour}')}"


def max_pixels() -> int:
    """Return the largest number of pixels of an image: `MAX_PIXELS`, or that of the environment. Raises ValueError if
    that is invalid."""
    text = os.environ.get(MAX_PIXELS_VARIABLE)
    if text is None:
        return MAX_PIXELS
    if not (text.isascii() and text.isdecimal() and 0 < len(text) < 16 and int(text)):
        raise ValueError(f"{MAX_PIXELS_VARIABLE}={text}: expected a number of pixels, such as {MAX_PIXELS}")
    return int(text)


def refuse_too_large(width: int, height: int, what: str | Path, says: str = "its header says") -> None:
    """Raise ValueError for a frame with more pixels than are read."""
    limit = max_pixels()
    if width * height > limit:
        raise ValueError(
            f"{what}: {says} {width} x {height} pixels; at most {limit} are read ({MAX_PIXELS_VARIABLE}=N sets another "
            "limit)"
        )


def examine(data: bytes, path: str | Path) -> ImageHeader:
    """Return the header of an image file with this content.

    Raises ValueError unless it is a PNG, JPEG, BMP, WebP or TIFF, for a truncated or too large file, and for a PNG with
    a wrong checksum or too few data for its size.
    """
    for start, parse in _PARSERS.items():
        if data.startswith(start):
            try:
                header = parse(data, path)
            except struct.error:  # a field beyond the end
                raise ValueError(f"{path}: cut off after {len(data)} bytes (inside its header)") from None
            if header.width < 1 or header.height < 1:
                raise ValueError(f"{path}: damaged: its header says {header.width} x {header.height} pixels")
            refuse_too_large(header.width, header.height, path)
            return header
    raise ValueError(
        f"{path}: damaged, or not an image (expected PNG, JPEG, BMP, WebP or TIFF; it starts with {data[:8]!r})"
    )


def png_colours(path: Path) -> tuple[int, np.ndarray | None] | None:
    """Return the colour type of a PNG and, if it has one, its palette, (N, 3) uint8 RGB. Only the beginning of the file
    is read.

    None if the file is not a PNG or cannot be read. `examine` checks whether the rest of it is intact.
    """
    try:
        with path.open("rb") as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                return None
            beginning = file.read(33)  # with the header
            if not beginning.startswith(_PNG) or len(beginning) < 33:
                return None
            colour = beginning[25]
            while colour == PNG_PALETTE:
                length, kind = struct.unpack(">I4s", file.read(8))
                if kind == b"PLTE":
                    content = file.read(min(length, 768))
                    return colour, np.frombuffer(content[: len(content) // 3 * 3], np.uint8).reshape(-1, 3)
                if kind in (b"IDAT", b"IEND"):
                    break
                file.seek(length + 4, os.SEEK_CUR)
    except (OSError, struct.error):
        return None
    return colour, None


def _examine_png(data: bytes, path: str | Path) -> ImageHeader:
    header, position, compressed = None, len(_PNG), 0
    while True:
        if position + 12 > len(data):
            raise ValueError(f"{path}: the PNG is cut off after {len(data)} bytes (no end marker)")
        length, kind = struct.unpack_from(">I4s", data, position)
        end = position + 8 + length
        if end + 4 > len(data):
            raise ValueError(f"{path}: the PNG is cut off after {len(data)} bytes (inside chunk {kind!r})")
        if zlib.crc32(memoryview(data)[position + 4 : end]) != struct.unpack_from(">I", data, end)[0]:
            raise ValueError(f"{path}: the PNG is damaged (checksum of chunk {kind!r} at byte {position})")
        if header is None:
            if kind != b"IHDR" or length < 13:
                raise ValueError(f"{path}: the PNG is damaged (its first chunk is {kind!r}, not the header)")
            header = ImageHeader("PNG", *struct.unpack_from(">IIBB", data, position + 8))
            refuse_too_large(header.width, header.height, path)
        if kind == b"IDAT":
            compressed += length
        if kind == b"IEND":
            break
        position = end + 4
    row = -(-header.width * header.bits * _PNG_CHANNELS.get(header.colour or PNG_GREY, 1) // 8)
    if header.height * row > _DEFLATE_RATIO * compressed:
        raise ValueError(
            f"{path}: the PNG is damaged (its header says {header.width} x {header.height} pixels, and {compressed} "
            "bytes of compressed data cannot hold them)"
        )
    return header


def _examine_jpeg(data: bytes, path: str | Path) -> ImageHeader:
    """Examine a JPEG. The end marker is searched after the beginning of the scan, because an embedded preview has its
    own."""
    width = height = 0
    position = 2
    while True:
        if position + 4 > len(data):
            raise ValueError(f"{path}: the JPEG is cut off after {len(data)} bytes (before the image data)")
        mark, kind, length = struct.unpack_from(">BBH", data, position)
        if mark != 0xFF:
            raise ValueError(f"{path}: the JPEG is damaged (no marker at byte {position})")
        if kind in (0xFF, 0x01):  # fill byte; marker without content
            position += 1 if kind == 0xFF else 2
            continue
        if 0xC0 <= kind <= 0xCF and kind not in (0xC4, 0xC8, 0xCC) and position + 9 <= len(data):
            height, width = struct.unpack_from(">HH", data, position + 5)
        if kind == 0xDA:  # start of scan
            break
        position += 2 + length
    if data.rfind(b"\xff\xd9", position) < 0:
        raise ValueError(f"{path}: the JPEG is cut off after {len(data)} bytes (no end marker)")
    scans = data.count(b"\xff\xda", position)
    if scans > MAX_SCANS:
        raise ValueError(f"{path}: a JPEG of {scans} scans; at most {MAX_SCANS} are read")
    return ImageHeader("JPEG", width, height)


def _examine_bmp(data: bytes, path: str | Path) -> ImageHeader:
    start, header_size = struct.unpack_from("<II", data, 10)
    if header_size == 12:
        width, height, _, bits = struct.unpack_from("<HHHH", data, 18)
        compression = 0
    else:
        width, height, _, bits, compression = struct.unpack_from("<iiHHI", data, 18)
    height = abs(height)  # negative: top row first
    whole = start + -(-width * bits // 32) * 4 * height
    if compression in (0, 3) and whole > len(data):  # neither run lengths nor another format inside
        raise ValueError(f"{path}: the BMP is cut off after {len(data)} bytes; its header says {whole}")
    return ImageHeader("BMP", width, height)


def _examine_webp(data: bytes, path: str | Path) -> ImageHeader:
    size, form, kind = struct.unpack_from("<I4s4s", data, 4)
    if form != b"WEBP":
        raise ValueError(f"{path}: a RIFF file of {form!r}; expected an image")
    if size + 8 > len(data):
        raise ValueError(f"{path}: the WebP is cut off after {len(data)} bytes; its header says {size + 8}")
    if kind == b"VP8X":  # three bytes each, minus one
        fields = struct.unpack_from("<HBHB", data, 24)
        return ImageHeader("WebP", fields[0] + (fields[1] << 16) + 1, fields[2] + (fields[3] << 16) + 1)
    if kind == b"VP8L":
        (packed,) = struct.unpack_from("<I", data, 21)
        return ImageHeader("WebP", (packed & 0x3FFF) + 1, (packed >> 14 & 0x3FFF) + 1)
    if kind == b"VP8 ":
        width, height = struct.unpack_from("<HH", data, 26)
        return ImageHeader("WebP", width & 0x3FFF, height & 0x3FFF)
    raise ValueError(f"{path}: the WebP is damaged (its first chunk is {kind!r})")


# TIFF: tags that say how much there is to decode.
_WIDTH, _HEIGHT, _BITS, _OFFSETS, _SAMPLES, _COUNTS, _TILE_WIDTH, _TILE_HEIGHT, _TILE_OFFSETS, _TILE_COUNTS = (
    256, 257, 258, 273, 277, 279, 322, 323, 324, 325,
)  # fmt: skip
_COMPRESSION, _DEFLATE = 259, (8, 32946)
_TIFF_FORMATS = {1: "B", 3: "H", 4: "I"}  # of the entries that matter
_MAX_TIFF_VALUES = 2**20  # strips or tiles


def _examine_tiff(data: bytes, path: str | Path) -> ImageHeader:
    """Examine the first picture of the file, which is the one that is read."""
    order = "<" if data.startswith(b"II") else ">"
    (start,) = struct.unpack_from(f"{order}I", data, 4)
    (entries,) = struct.unpack_from(f"{order}H", data, start)
    tags: dict[int, tuple[int, ...]] = {}
    for entry in range(entries):
        at = start + 2 + 12 * entry
        tag, kind, count = struct.unpack_from(f"{order}HHI", data, at)
        if kind not in _TIFF_FORMATS:
            continue
        if count > _MAX_TIFF_VALUES:
            raise ValueError(f"{path}: damaged TIFF: {count} values of tag {tag}")
        form = f"{order}{count}{_TIFF_FORMATS[kind]}"
        if struct.calcsize(form) > 4:
            (at,) = struct.unpack_from(f"{order}I", data, at + 8)
            at -= 8
        tags[tag] = struct.unpack_from(form, data, at + 8)
    if not {_WIDTH, _HEIGHT} <= tags.keys() or not all(tags.values()):
        raise ValueError(f"{path}: damaged TIFF: no size in its header")
    width, height = tags[_WIDTH][0], tags[_HEIGHT][0]
    if _TILE_WIDTH in tags and _TILE_HEIGHT in tags:
        refuse_too_large(tags[_TILE_WIDTH][0], tags[_TILE_HEIGHT][0], path, "its header says tiles of")
    bits, samples = max(tags.get(_BITS, (1,))), tags.get(_SAMPLES, (1,))[0]
    if bits > 16 or samples > 4:
        raise ValueError(f"{path}: a TIFF of {samples} channels with {bits} bits; expected up to 4 with 16 at most")
    for offsets, counts in ((_OFFSETS, _COUNTS), (_TILE_OFFSETS, _TILE_COUNTS)):
        for offset, count in zip(tags.get(offsets, ()), tags.get(counts, ()), strict=False):
            if offset + count > len(data):
                raise ValueError(f"{path}: the TIFF is cut off after {len(data)} bytes; a part of it is beyond that")
            if tags.get(_COMPRESSION, (1,))[0] in _DEFLATE and not _is_whole(data[offset : offset + count]):
                raise ValueError(f"{path}: the TIFF is damaged (checksum of the part at byte {offset})")
    return ImageHeader("TIFF", width, height)


def _is_whole(compressed: bytes) -> bool:
    """Return whether data in zlib's format end properly, with the right checksum. OpenCV leaves damaged parts grey."""
    stream, rest = zlib.decompressobj(), compressed
    try:
        while rest and not stream.eof:
            stream.decompress(rest, 2**20)
            rest = stream.unconsumed_tail
    except zlib.error:
        return False
    return stream.eof


_PARSERS = {
    _PNG: _examine_png,
    _JPEG: _examine_jpeg,
    b"BM": _examine_bmp,
    b"RIFF": _examine_webp,
    b"II*\0": _examine_tiff,
    b"MM\0*": _examine_tiff,
}
