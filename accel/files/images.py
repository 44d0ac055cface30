"""Read image and label files correctly and completely, or refuse them with a message that names the file.

OpenCV does the decoding. But it does little checking, scales 16 bits to 8 and expands palettes to colours. So the file
is examined first (`accel.files.image_headers`), which takes little time.
"""

from __future__ import annotations

import io
import stat
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np

from accel.files.exif import orientation, upright
from accel.files.image_headers import (
    MAX_BYTES_PER_PIXEL,
    MAX_PIXELS_VARIABLE,
    PNG_GREY,
    PNG_PALETTE,
    PNG_RGB,
    PNG_RGBA,
    ImageHeader,
    examine,
    max_pixels,
)
from accel.files.listing import not_there
from accel.labels import IGNORED

UNDEFINED = 254  # entry of a label table for stored values that mean nothing in the data set


def read_image(path: str | Path) -> np.ndarray:
    """Return the image as (H, W, 3), uint8 RGB. Grey is repeated, alpha dropped, and 16 bits become 8.

    The image is turned according to its EXIF orientation, as in image viewers. Raises FileNotFoundError if there is no
    such file, and ValueError if it is damaged, too large or not an image.
    """
    data = _read_bytes(path)
    examine(data, path)
    image = _decode(data, cv2.IMREAD_COLOR, path)
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB, dst=image)


def read_frames(
    paths: Sequence[Path], label_path: Path | None = None, size: tuple[int, int] | None = None
) -> np.ndarray:
    """Return the frames of a clip, (T, H, W, 3) uint8 RGB. Their size (H, W) must be that of the labels or, without
    labels, of the first frame.

    Raises ValueError, with both files, for a frame of another size, and the errors of `read_image`.
    """
    frames: np.ndarray | None = None
    for i, path in enumerate(paths):
        image = read_image(path)
        if size is None:
            label_path, size = path, (image.shape[0], image.shape[1])
        if image.shape[:2] != size:
            turned = f"; {path} is turned as its EXIF orientation says" if orientation(path) != 1 else ""
            raise ValueError(
                f"{path} and {label_path} must have the same size; found {image.shape[1]} x {image.shape[0]} "
                f"and {size[1]} x {size[0]} (width x height){turned}"
            )
        if frames is None:
            frames = np.empty((len(paths), *size, 3), np.uint8)
        frames[i] = image
    assert frames is not None, "a clip has a frame"
    return frames


def read_labels(path: str | Path, table: np.ndarray | None = None) -> np.ndarray:
    """Return the label image as (H, W), uint8, one class index for each pixel.

    Accepts grey PNGs of any number of bits, palette PNGs, whose indices are the labels, and colours that are grey: all
    channels alike. An alpha channel is dropped. Anything else (colours, JPEG) would silently give wrong classes, so it
    raises ValueError, like damaged files and values above 255. A label that has an EXIF orientation itself, which is
    rare, is turned like an image.

    table: (256,) uint8, the class index of each stored value. `UNDEFINED` means that the stored value is an error.
        White counts as 255 in a grey PNG of other than 8 bits, if 255 is a class and the stored value is not.
    """
    data = _read_bytes(path)
    header = examine(data, path)
    if header.kind != "PNG":
        raise ValueError(f"{path}: labels must be PNG files (other formats alter values); found {header}")
    stored = _palette_indices(data, path) if header.colour == PNG_PALETTE else _grey_values(data, header, path)
    if header.colour == PNG_GREY and header.bits != 8 and table is not None:
        stored = _of_8_bits(stored, header.bits, table)
    if stored.dtype != np.uint8:
        if stored.max(initial=0) > 255:
            found = f"the value {stored.max()} in a {header}"
            raise ValueError(f"{path}: expected labels of 0 to 255; found {found}; write it anew with smaller values")
        stored = stored.astype(np.uint8)
    labels = _upright(stored, data, path)
    return labels if table is None else _translate(labels, table, path)


def _grey_values(data: bytes, header: ImageHeader, path: str | Path) -> np.ndarray:
    """Return the values as stored, (H, W) uint8 or uint16, of a PNG without a palette."""
    values = _decode(data, cv2.IMREAD_UNCHANGED | cv2.IMREAD_IGNORE_ORIENTATION, path)
    if values.ndim == 3:  # blue, green, red and perhaps alpha
        if not (np.array_equal(values[..., 0], values[..., 1]) and np.array_equal(values[..., 0], values[..., 2])):
            raise ValueError(f"{path}: expected labels as one channel (or palette indices); found {header}")
        return values[..., 0]
    # OpenCV stretches fewer bits to 8.
    return values // (255 // (2**header.bits - 1)) if header.bits < 8 else values


def _of_8_bits(stored: np.ndarray, bits: int, table: np.ndarray) -> np.ndarray:
    """Return grey values of `bits` bits as the 8 bits that the table is for.

    Programs that make files smaller store masks of 0 and 255 with 1 bit, and some others with 16. The values are kept
    if they are in the table. Otherwise they are stretched or shrunk, if these values are and white is a class.
    """
    if table[255] in (UNDEFINED, IGNORED):
        return stored
    found = np.unique(stored)
    if found[-1] <= 255 and (table[found] != UNDEFINED).all():
        return stored
    white = 2**bits - 1
    scaled = found.astype(np.int64) * 255
    if (scaled % white).any() or (table[scaled // white] == UNDEFINED).any():
        return stored
    return (stored.astype(np.int64) * 255 // white).astype(np.uint8)


def read_colour_labels(path: str | Path, table: np.ndarray, listed: str = "", grey: bool = False) -> np.ndarray:
    """Return a label image whose colours are classes as (H, W), uint8.

    Accepts RGB PNGs of 8 bits and palette PNGs. An alpha channel is dropped.

    table: (2**24,) uint8, the class index of colour (R << 16) + (G << 8) + B. `UNDEFINED` means that the colour is an
        error.
    listed: the place where the user may list another colour, for the error message. Empty: none.
    grey: whether grey images are accepted too. Value v is the colour (v, v, v).

    Raises ValueError for an unknown colour, with the first pixel that has it, and for damaged files.
    """
    data = _read_bytes(path)
    header = examine(data, path)
    if header.kind != "PNG":
        raise ValueError(f"{path}: labels must be PNG files (other formats alter colours); found {header}")
    kinds = (PNG_RGB, PNG_PALETTE, PNG_RGBA, *((PNG_GREY,) if grey else ()))
    if header.colour not in kinds or header.bits > 8:
        raise ValueError(f"{path}: expected colours of 8 bits a channel (or a palette); found {header}")
    image = _decode(data, cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION, path)
    image = cv2.cvtColor(_upright(image, data, path), cv2.COLOR_BGR2BGRA)
    codes = image.view("<u4")[..., 0]  # one number a pixel; the highest byte is the alpha, 255
    codes &= 0xFFFFFF
    labels = table[codes]
    unknown = labels == UNDEFINED
    if unknown.any():
        y, x = np.unravel_index(unknown.argmax(), unknown.shape)
        blue, green, red, _ = image[y, x].tolist()
        way_out = f'; if it is to be ignored, {listed} write "{red} {green} {blue} ignored"' if listed else ""
        raise ValueError(
            f"{path}: colour ({red}, {green}, {blue}) at pixel ({x}, {y}) (column, row) belongs to no class; "
            f"{int(unknown.sum())} pixels have such colours{way_out}"
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
    """Return [0, 1, 2, 255] as "0-2, 255"."""
    runs: list[list[int]] = []
    for v in values:
        if runs and v == runs[-1][1] + 1:
            runs[-1][1] = v
        else:
            runs.append([v, v])
    return ", ".join(str(a) if a == b else f"{a}-{b}" for a, b in runs)


def _read_bytes(path: str | Path) -> bytes:
    path = Path(path)
    limit = MAX_BYTES_PER_PIXEL * max_pixels()
    try:
        found = path.stat()
        if not stat.S_ISREG(found.st_mode):  # a pipe would be waited for
            raise ValueError(f"{path}: not a file; expected an image")
        if found.st_size > limit:
            raise ValueError(
                f"{path}: {found.st_size} bytes; at most {limit} are read ({MAX_PIXELS_VARIABLE}=N sets another limit)"
            )
        with path.open("rb") as file:
            data = file.read()
    except FileNotFoundError:
        raise FileNotFoundError(not_there(path)) from None
    except NotADirectoryError:
        raise ValueError(f"{path}: not a file; expected an image") from None
    except OSError as error:  # a disk that fails, a file that may not be read
        raise ValueError(f"{path}: cannot be read ({error.strerror or error})") from error
    if not data:
        raise ValueError(f"{path}: the file is empty; expected an image")
    return data


def _decode(data: bytes, flags: int, path: str | Path) -> np.ndarray:
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    except cv2.error as error:  # OpenCV's own limits on size
        raise ValueError(f"{path}: cannot be decoded: {' '.join(error.err.split())}") from error
    if image is None:
        raise ValueError(f"{path}: damaged, or not an image (it starts with {data[:8]!r})")
    return image


def _upright(labels: np.ndarray, data: bytes, path: str | Path) -> np.ndarray:
    """Turn labels according to the PNG with this content, independently of the version of OpenCV."""
    return upright(labels, orientation(path)) if b"eXIf" in data else labels


def _palette_indices(data: bytes, path: str | Path) -> np.ndarray:
    from PIL import Image  # OpenCV always expands palettes to colours

    try:
        with Image.open(io.BytesIO(data)) as image:
            return np.array(image, dtype=np.uint8)
    except Exception as error:  # Pillow meets some damage with whatever it leads to
        raise ValueError(f"{path}: damaged palette PNG: {error}") from error
