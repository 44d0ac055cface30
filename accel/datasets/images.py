"""Image and label files: read whole and right, or refused with a message that names the file.

OpenCV decodes, but it is trusting: many versions return the readable part of a cut-off PNG, all scale 16 bits
to 8 and expand palettes to colours. So the file is examined first (`_examine`), which takes little time.
"""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

MAX_PIXELS = 2**27  # 134 megapixels, 400 MB decoded: four times an 8K frame; more is a damaged header or an attack
UNDEFINED = 254  # entry of a label table for stored values that mean nothing in the data set

_PNG = b"\x89PNG\r\n\x1a\n"
_JPEG = b"\xff\xd8\xff"
_PNG_GREY, _PNG_RGB, _PNG_PALETTE, _PNG_RGBA = 0, 2, 3, 6  # colour types of the PNG header
_PNG_WITH_COLOURS = (_PNG_RGB, _PNG_PALETTE, _PNG_RGBA)
_PNG_COLOURS = {
    _PNG_GREY: "grey", _PNG_RGB: "RGB", _PNG_PALETTE: "palette", 4: "grey + alpha", _PNG_RGBA: "RGB + alpha",
}  # fmt: skip


def read_image(path: str | Path) -> np.ndarray:
    """The image as (H, W, 3) uint8 RGB: grey is repeated, alpha dropped, 16 bits become 8.

    Raises FileNotFoundError if there is no such file, ValueError if it is damaged, too large or no image.
    """
    data = _read_bytes(path)
    _examine(data, path)
    image = _decode(data, cv2.IMREAD_COLOR, path)
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB, dst=image)


def read_frames(
    paths: Sequence[Path], label_path: Path | None = None, size: tuple[int, int] | None = None
) -> np.ndarray:
    """The frames of a clip, (T, H, W, 3) uint8 RGB, of the (H, W) that its labels have; without, that of the first.

    Raises ValueError with both files for a frame of another size, and what `read_image` raises.
    """
    frames = None
    for i, path in enumerate(paths):
        image = read_image(path)
        if size is None:
            label_path, size = path, image.shape[:2]
        if image.shape[:2] != size:
            raise ValueError(
                f"{path} and {label_path} must be of one size; found {image.shape[1]} x {image.shape[0]} "
                f"and {size[1]} x {size[0]} (width x height)"
            )
        if frames is None:
            frames = np.empty((len(paths), *size, 3), np.uint8)
        frames[i] = image
    return frames


def read_labels(path: str | Path, table: np.ndarray | None = None) -> np.ndarray:
    """The label image as (H, W) uint8, one class index a pixel.

    Accepts PNGs with one channel of 8 bits and palette PNGs, whose indices are the labels. Anything else (16
    bits, colours, JPEG) would give wrong classes silently, hence ValueError, as for damaged files.

    table: (256,) uint8, the class index of each stored value, `UNDEFINED` where a stored value is an error.
    """
    data = _read_bytes(path)
    header = _examine(data, path)
    if not isinstance(header, _PngHeader):
        raise ValueError(f"{path}: labels must be PNG files (other formats alter values); found {header}")
    if header.colour == _PNG_PALETTE:
        labels = _palette_indices(data, path)
    elif header.colour == _PNG_GREY and header.bits == 8:
        labels = _decode(data, cv2.IMREAD_GRAYSCALE, path)
    else:
        raise ValueError(f"{path}: expected labels as one channel of 8 bits (or palette indices); found {header}")
    return labels if table is None else _translate(labels, table, path)


def read_colour_labels(path: str | Path, table: np.ndarray) -> np.ndarray:
    """The label image whose colours are classes, as (H, W) uint8.

    Accepts RGB PNGs of 8 bits and palette PNGs; an alpha channel is dropped.

    table: (2**24,) uint8, the class index of colour (R << 16) + (G << 8) + B, `UNDEFINED` where it means nothing.

    Raises ValueError for a colour that means nothing, with the first pixel that has it, and for damaged files.
    """
    data = _read_bytes(path)
    header = _examine(data, path)
    if not isinstance(header, _PngHeader):
        raise ValueError(f"{path}: labels must be PNG files (other formats alter colours); found {header}")
    if header.colour not in _PNG_WITH_COLOURS or header.bits > 8:
        raise ValueError(f"{path}: expected colours of 8 bits a channel (or a palette); found {header}")
    image = cv2.cvtColor(_decode(data, cv2.IMREAD_COLOR, path), cv2.COLOR_BGR2BGRA)
    codes = image.view("<u4")[..., 0]  # one number a pixel; the highest byte is the alpha, 255
    codes &= 0xFFFFFF
    labels = table[codes]
    unknown = labels == UNDEFINED
    if unknown.any():
        y, x = np.unravel_index(unknown.argmax(), unknown.shape)
        blue, green, red, _ = image[y, x].tolist()
        raise ValueError(
            f"{path}: colour ({red}, {green}, {blue}) at pixel ({x}, {y}) (column, row) is that of no class; "
            f"{int(unknown.sum())} pixels have such colours"
        )
    return labels


def _translate(labels: np.ndarray, table: np.ndarray, path: str | Path) -> np.ndarray:
    translated = cv2.LUT(labels, table)
    undefined = translated == UNDEFINED
    if undefined.any():
        found = np.unique(labels[undefined]).tolist()
        raise ValueError(
            f"{path}: label value{'s' if len(found) > 1 else ''} {', '.join(map(str, found[:8]))}"
            f"{', ...' if len(found) > 8 else ''} on {int(undefined.sum())} pixels; "
            f"expected one of {_ranges(np.flatnonzero(table != UNDEFINED).tolist())}"
        )
    return translated


def _ranges(values: list[int]) -> str:
    """[0, 1, 2, 255] as "0-2, 255"."""
    runs: list[list[int]] = []
    for v in values:
        if runs and v == runs[-1][1] + 1:
            runs[-1][1] = v
        else:
            runs.append([v, v])
    return ", ".join(str(a) if a == b else f"{a}-{b}" for a, b in runs)


def _read_bytes(path: str | Path) -> bytes:
    path = Path(path)
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise FileNotFoundError(f"{path}: no such file") from None
    except (IsADirectoryError, NotADirectoryError):
        raise ValueError(f"{path}: not a file; expected an image") from None
    if not data:
        raise ValueError(f"{path}: the file is empty; expected an image")
    return data


def _decode(data: bytes, flags: int, path: str | Path) -> np.ndarray:
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    except cv2.error as error:  # OpenCV's own limits on size
        raise ValueError(f"{path}: cannot be decoded: {error.err}") from error
    if image is None:
        raise ValueError(f"{path}: damaged, or not an image (it starts with {data[:8]!r})")
    return image


@dataclass(frozen=True)
class _PngHeader:
    width: int
    height: int
    bits: int  # a channel
    colour: int  # colour type, a key of _PNG_COLOURS

    def __str__(self) -> str:
        return f"PNG with {self.bits} bit {_PNG_COLOURS.get(self.colour, f'colour type {self.colour}')}"


def _examine(data: bytes, path: str | Path) -> _PngHeader | str:
    """What kind of image this is: the header of a PNG, or the name of another format.

    Raises ValueError if a PNG or JPEG is cut off, a PNG's checksums are wrong, or the image is too large.
    Other formats are left to OpenCV's judgement.
    """
    if data.startswith(_PNG):
        header = _examine_png(data, path)
        width, height = header.width, header.height
    elif data.startswith(_JPEG):
        header = "JPEG"
        width, height = _examine_jpeg(data, path)
    else:
        return f"another format (it starts with {data[:8]!r})"
    if width * height > MAX_PIXELS:
        raise ValueError(f"{path}: its header says {width} x {height} pixels; at most {MAX_PIXELS} are read")
    return header


def _examine_png(data: bytes, path: str | Path) -> _PngHeader:
    header, position = None, len(_PNG)
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
            header = _PngHeader(*struct.unpack_from(">IIBB", data, position + 8))
        if kind == b"IEND":
            return header
        position = end + 4


def _examine_jpeg(data: bytes, path: str | Path) -> tuple[int, int]:
    """Width and height. The end marker is searched after the scan begins: an embedded preview has its own."""
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
    return width, height


def _palette_indices(data: bytes, path: str | Path) -> np.ndarray:
    from PIL import Image  # OpenCV always expands palettes to colours

    try:
        with Image.open(io.BytesIO(data)) as image:
            return np.array(image, dtype=np.uint8)
    except (OSError, SyntaxError, ValueError) as error:
        raise ValueError(f"{path}: damaged palette PNG: {error}") from error
