"""Turn decoded frames into pictures for display: with the right colours, size and orientation."""

from __future__ import annotations

import math

import av
import numpy as np
from av.sidedata.sidedata import SideDataContainer, Type

# AVColorSpace of a frame to libswscale's name; the others are left to `av`.
_SWS_COLOURS = {1: "ITU709", 5: "ITU601", 6: "ITU601", 7: "SMPTE240M"}


class Pictures:
    """Makes (H, W, 3) uint8 RGB pictures from the frames of one video.

    A frame is turned and mirrored according to its display matrix, and scaled to the size of the first one. Colours
    follow the frame's tags. An untagged frame is treated as BT.601, as by FFmpeg.

    first: a frame of the video.
    size: (H, W) of the pictures.
    """

    def __init__(self, first: av.VideoFrame):
        a, b, _, _ = _matrix(first)
        self.size = (first.width, first.height) if abs(a) < abs(b) else (first.height, first.width)

    def of(self, frame: av.VideoFrame) -> np.ndarray:
        """Return the picture of a frame."""
        a, b, c, d = _matrix(frame)
        height, width = reversed(self.size) if abs(a) < abs(b) else self.size
        rgb = frame.reformat(
            width=width,
            height=height,
            format="rgb24",
            src_colorspace=_SWS_COLOURS.get(int(frame.colorspace)),
            dst_colorspace="ITU601",  # means nothing for RGB; av 13 heeds the source's only if it differs
        ).to_ndarray()
        return np.ascontiguousarray(transform(rgb, a, b, c, d))


def transform(picture: np.ndarray, a: int, b: int, c: int, d: int) -> np.ndarray:
    """Turn and mirror a picture (H, W, ...) so that the pixel at (x, y) goes to (a x + c y, b x + d y).

    Only quarter turns and mirrors are applied: in each row and column, only the sign of the larger number counts.
    """
    if abs(a) < abs(b):
        picture, a, d = picture.swapaxes(0, 1), c, b
    return picture[:: -1 if d < 0 else 1, :: -1 if a < 0 else 1]


def _matrix(frame: av.VideoFrame) -> tuple[int, int, int, int]:
    """Return the part of a frame's display matrix that turns and mirrors."""
    try:
        # `frame.side_data` would keep this in the frame, a cycle: the frame, and with it the decoder, would stay until
        # the garbage collector looks.
        data = SideDataContainer(frame).get(Type.DISPLAYMATRIX)  # type: ignore[call-arg] # Cython's
    except ValueError:  # data of a kind that this version of av does not know
        return _turned(getattr(frame, "rotation", 0))  # av >= 13.1
    if data is None:
        return _turned(0)
    a, b, _, c, d = np.frombuffer(bytes(data), np.int32)[:5].tolist()  # a, b, u, c, d, v, x, y, w in fixed point
    return a, b, c, d


def _turned(degrees: float) -> tuple[int, int, int, int]:
    """Return the matrix of a turn by quarters, counterclockwise."""
    cosine, sine = round(math.cos(math.radians(degrees))), round(math.sin(math.radians(degrees)))
    return cosine, -sine, sine, cosine
