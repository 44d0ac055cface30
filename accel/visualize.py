"""Pictures for people: labels in colour, overlays, panels side by side, legends, errors and flow.

Images are (H, W, 3) uint8 RGB. Labels are (H, W) uint8 class indices, 255 = ignored. Palettes are (K, 3) uint8 RGB.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from accel.files.whole_files import part_path
from accel.labels import IGNORED

_BACKING, _INK = (24, 24, 24), (240, 240, 240)
_FONT = cv2.FONT_HERSHEY_SIMPLEX  # 22 pixels from top to baseline at scale 1


def shrink(picture: np.ndarray, width: int) -> np.ndarray:
    """Return a copy of an image or of labels, at most `width` pixels wide, in proportion. Labels are never mixed."""
    height, own = picture.shape[:2]
    width = min(width, own)
    how = cv2.INTER_AREA if picture.ndim == 3 else cv2.INTER_NEAREST_EXACT
    return cv2.resize(picture, (width, max(1, round(height * width / own))), interpolation=how)


def colourise(labels: np.ndarray, palette: np.ndarray) -> np.ndarray:
    """Draw each pixel in the colour of its class, (H, W, 3). Ignored pixels are black.

    Raises ValueError if a label has no colour in the palette.
    """
    _check_labels(labels, "labels")
    return _table(labels, palette)[labels]


def overlay(image: np.ndarray, labels: np.ndarray, palette: np.ndarray, opacity: float = 0.5) -> np.ndarray:
    """Tint the image with the colours of its labels. Ignored pixels keep the image's colour.

    opacity: 0 shows the image alone, 1 the labels alone.
    """
    _check_image(image, "image")
    _check_labels(labels, "labels")
    _check_sizes(image, "image", labels, "labels")
    if not 0 <= opacity <= 1:
        raise ValueError(f"opacity is {opacity}; expected 0 to 1")
    tinted = cv2.addWeighted(image, 1 - opacity, colourise(labels, palette), opacity, 0)
    ignored = labels == IGNORED
    tinted[ignored] = image[ignored]
    return tinted


def panels(images: Sequence[np.ndarray], titles: Sequence[str] | None = None, columns: int = 2) -> np.ndarray:
    """Combine several images into one, row by row, each below a dark bar with its title.

    Images may differ in size. Every cell is as large as the largest image; smaller images are centred on dark ground.
    Titles that would not fit are drawn smaller. Before OpenCV 5 they can only be ASCII.
    """
    if not images:
        raise ValueError("no images; expected at least one")
    for i, image in enumerate(images):
        _check_image(image, f"image {i}")
    if titles is not None and len(titles) != len(images):
        raise ValueError(f"{len(titles)} titles for {len(images)} images; expected one each")
    if columns < 1:
        raise ValueError(f"columns is {columns}; expected 1 or more")
    columns = min(columns, len(images))
    height = max(image.shape[0] for image in images)
    width = max(image.shape[1] for image in images)
    scale = min(max(height / 500, 0.45), 1.5)
    bar = 0 if titles is None else round(46 * scale)
    gap = max(2, round(4 * scale))
    rows = -(-len(images) // columns)
    shape = rows * (bar + height) + (rows - 1) * gap, columns * width + (columns - 1) * gap, 3
    sheet = np.full(shape, _BACKING, np.uint8)
    for i, image in enumerate(images):
        top, left = (i // columns) * (bar + height + gap), (i % columns) * (width + gap)
        if titles is not None:
            _put_text(sheet[top : top + bar, left : left + width], titles[i], scale)
        h, w = image.shape[:2]
        y, x = top + bar + (height - h) // 2, left + (width - w) // 2
        sheet[y : y + h, x : x + w] = image
    return sheet


def legend(class_names: Sequence[str], palette: np.ndarray, width: int) -> np.ndarray:
    """Draw a strip (h, width, 3) with each class's colour and name, in as many rows as the width requires."""
    _check_palette(palette)
    if len(class_names) != len(palette):
        raise ValueError(f"{len(class_names)} class names for a palette of {len(palette)} colours")
    if width < 1:
        raise ValueError(f"width is {width}; expected 1 or more pixels")
    scale = min(max(width / 2400, 0.45), 1.2)
    row, swatch, pad = round(40 * scale), round(26 * scale), round(8 * scale)
    cell = max((_text_width(name, scale) for name in class_names), default=0) + swatch + 4 * pad
    columns = max(1, min(width // cell, len(class_names)))
    cell = width // columns
    rows = -(-len(class_names) // columns)
    strip = np.full((rows * row + pad, width, 3), _BACKING, np.uint8)
    for i, (name, colour) in enumerate(zip(class_names, palette, strict=True)):
        top, left = pad // 2 + (i // columns) * row, (i % columns) * cell
        y = top + (row - swatch) // 2
        strip[y - 1 : y + swatch + 1, left + pad - 1 : left + pad + swatch + 1] = 110  # dark colours want an edge
        strip[y : y + swatch, left + pad : left + pad + swatch] = colour
        _put_text(strip[top : top + row, left + pad + swatch : left + cell], name, scale)
    return strip


def save_palette_png(path: str | Path, labels: np.ndarray, palette: np.ndarray) -> None:
    """Write labels as an indexed-colour PNG. Pixel values are the class indices; viewers show the palette.

    255 is kept and is shown black. Missing folders are made. The file appears under its name only when it is complete.
    """
    _check_labels(labels, "labels")
    path = Path(path)
    picture = Image.fromarray(np.ascontiguousarray(labels))
    picture.putpalette(_table(labels, palette).tobytes())  # makes it a picture of mode P
    path.parent.mkdir(parents=True, exist_ok=True)
    with part_path(path) as part:
        picture.save(part, format="PNG")


def flow_to_colour(flow: np.ndarray) -> np.ndarray:
    """Draw flow as colours. Hue is the direction, and saturation is the length, which is full for the longest vector.

    No motion is white, NaN is black.

    flow: (H, W, 2) floating point, (dx, dy) in pixels.

    The colour wheel is that of the Middlebury flow code (Baker et al., "A Database and Evaluation Methodology for
    Optical Flow", IJCV 2011). Its hues are spaced by how well eyes tell them apart.
    """
    if flow.ndim != 3 or flow.shape[2] != 2 or not np.issubdtype(flow.dtype, np.floating):
        raise ValueError(f"flow is {flow.dtype} {flow.shape}; expected floating point (H, W, 2)")
    known = np.isfinite(flow).all(axis=2)
    dx, dy = np.moveaxis(np.where(known[..., None], flow, 0).astype(np.float32), 2, 0)
    length = np.hypot(dx, dy)
    length = (length / (float(length.max(initial=0)) or 1.0))[..., None]

    wheel = _colour_wheel()  # (55, 3) in 0..1
    place = (np.arctan2(-dy, -dx) / np.pi + 1) / 2 * (len(wheel) - 1)
    before = np.floor(place).astype(int)
    share = (place - before)[..., None]
    hue = (1 - share) * wheel[before] + share * wheel[(before + 1) % len(wheel)]
    colour = 1 - length * (1 - hue)
    colour[~known] = 0
    return np.floor(255 * np.clip(colour, 0, 1)).astype(np.uint8)


@cache
def _colour_wheel() -> np.ndarray:
    """Return the colour wheel, (55, 3): red to yellow in 15 steps, yellow to green in 6, and so on back to red (Baker
    et al.)."""
    corners = np.array([(1, 0, 0), (1, 1, 0), (0, 1, 0), (0, 1, 1), (0, 0, 1), (1, 0, 1)], np.float32)
    steps = (15, 6, 4, 11, 13, 6)
    arcs = [
        start + (end - start) * np.floor(255 * np.arange(n)[:, None] / n) / 255
        for start, end, n in zip(corners, np.roll(corners, -1, axis=0), steps, strict=True)
    ]
    return np.concatenate(arcs).astype(np.float32)


def _table(labels: np.ndarray, palette: np.ndarray) -> np.ndarray:
    """Return the colour of every label value, (256, 3). Raises ValueError if `labels` has a value without a colour."""
    _check_palette(palette)
    if labels.size and labels.max() >= len(palette):
        unknown = np.unique(labels[(labels >= len(palette)) & (labels != IGNORED)])
        if len(unknown):
            raise ValueError(
                f"labels hold class {unknown[0]}, but the palette has colours for 0 to {len(palette) - 1} "
                f"(and {IGNORED} is ignored)"
            )
    table = np.zeros((256, 3), np.uint8)
    table[: len(palette)] = palette
    table[IGNORED] = 0
    return table


def _put_text(area: np.ndarray, text: str, scale: float) -> None:
    """Draw `text` into `area` (a view of an image), left-aligned, centred vertically, shrunk to fit."""
    height, width = area.shape[:2]
    if width == 0:
        return
    pad = round(8 * scale)
    room = max(width - 2 * pad, 1)
    while (wanted := _text_width(text, scale)) > room and scale > 0.05:  # widths do not shrink evenly with the scale
        scale *= max(0.5, min(room / wanted, 0.98))
    baseline = round(height / 2 + 10 * scale)
    cv2.putText(area, text, (pad, baseline), _FONT, scale, _INK, _thickness(scale), cv2.LINE_AA)


def _text_width(text: str, scale: float) -> int:
    return cv2.getTextSize(text, _FONT, scale, _thickness(scale))[0][0]


def _thickness(scale: float) -> int:
    return 1 if scale < 0.8 else 2


def _check_image(image: np.ndarray, name: str) -> None:
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        raise ValueError(f"{name} is {image.dtype} {image.shape}; expected uint8 (H, W, 3)")


def _check_labels(labels: np.ndarray, name: str) -> None:
    if labels.dtype != np.uint8 or labels.ndim != 2:
        raise ValueError(f"{name}: {labels.dtype} {labels.shape}; expected uint8 (H, W)")


def _check_palette(palette: np.ndarray) -> None:
    if palette.dtype != np.uint8 or palette.ndim != 2 or palette.shape[1] != 3 or not 1 <= len(palette) <= 256:
        raise ValueError(f"palette is {palette.dtype} {palette.shape}; expected uint8 (K, 3), K at most 256")


def _check_sizes(a: np.ndarray, a_name: str, b: np.ndarray, b_name: str) -> None:
    if a.shape[:2] != b.shape[:2]:
        raise ValueError(f"{a_name} is {a.shape[:2]} and {b_name} {b.shape[:2]} (H, W); expected one size")
