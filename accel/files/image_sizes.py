"""Read the size of an image from its header alone."""

from __future__ import annotations

import warnings
from pathlib import Path

_ORIENTATION = 0x0112  # EXIF's tag
_ON_ITS_SIDE = (5, 6, 7, 8)


def header_sizes(path: Path) -> list[tuple[int, int]]:
    """Return the (H, W) of an image according to its header and, if it is shown turned, also that of the turned image.

    Empty if the header cannot be read. The data after it are not read and may be damaged.
    """
    from PIL import Image

    try:
        with warnings.catch_warnings():  # of large pictures, which are not decoded here
            warnings.simplefilter("ignore")
            with Image.open(path) as image:
                width, height = image.size
                # In a PNG, Pillow would look for it behind the picture.
                known = image.format != "PNG" or "exif" in image.info
                turned = known and image.getexif().get(_ORIENTATION) in _ON_ITS_SIDE
    except Exception:  # Pillow meets some damage with whatever it leads to
        return []
    return [(height, width), (width, height)] if turned else [(height, width)]
