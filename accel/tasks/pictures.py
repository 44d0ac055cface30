"""Small pictures for the player of a report, as data URIs that a page can hold."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass

import numpy as np
from PIL import Image

from accel import visualize

QUALITY = 75  # of JPEGs


@dataclass(frozen=True)
class Shown:
    """The prediction for a frame, as data URIs.

    prediction: a picture of it.
    errors: a picture of what is wrong. None for a frame without ground truth.
    note: how much is wrong, in a few words. Empty for a frame without ground truth.
    """

    prediction: str
    errors: str | None
    note: str


def jpeg(image: np.ndarray) -> str:
    """Return an image (H, W, 3) as JPEG."""
    return _data_uri(Image.fromarray(image), "jpeg", quality=QUALITY)


def indexed(labels: np.ndarray, palette: np.ndarray) -> str:
    """Return labels (H, W) as PNG in indexed colour. Ignored pixels are black."""
    values = np.unique(labels)  # as few colours as there are take fewer bits a pixel
    colours = visualize.colourise(values[None], palette)[0]
    picture = Image.fromarray(np.searchsorted(values, labels).astype(np.uint8))
    picture.putpalette(colours.tobytes())
    return _data_uri(picture, "png", optimize=True)


def svg(text: str) -> str:
    """Return an SVG picture."""
    return f"data:image/svg+xml;base64,{base64.b64encode(text.encode()).decode()}"


def _data_uri(picture: Image.Image, kind: str, **options) -> str:
    file = io.BytesIO()
    picture.save(file, format=kind, **options)
    return f"data:image/{kind};base64,{base64.b64encode(file.getvalue()).decode()}"
