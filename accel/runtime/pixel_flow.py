"""Optical flow by OpenCV's dense inverse search, at every pixel."""

from __future__ import annotations

import threading

import numpy as np

LUMA = (0.299, 0.587, 0.114)  # RGB, ITU-R BT.601
MEANS = np.array((123.15, 115.90, 103.06), np.float32)  # RGB, those that models subtract

_SMALLEST = 32  # pixels of a side: one patch of 8 at a quarter of the size, the finest that the fast presets look at


def grey(frame: np.ndarray) -> np.ndarray:
    """Turn a frame (H, W, 3), uint8 RGB, into luma (H, W), uint8.

    It is rounded as in the models, whose frames have lost their mean, so that flow is the same.
    """
    red, green, blue = (
        ((frame[..., c].astype(np.float32) - MEANS[c]) + MEANS[c]) * np.float32(LUMA[c]) for c in range(3)
    )
    return np.rint(red + green + blue).clip(0, 255).astype(np.uint8)


class PixelSearch:
    """OpenCV's DIS flow (Kroeger et al., ECCV 2016), for pairs of grey frames of any size.

    Several threads may use one object at the same time: each has its own OpenCV object, which can neither be shared nor
    copied.

    preset: "ultrafast", "fast" or "medium".
    """

    def __init__(self, preset: str = "medium"):
        self.preset = preset
        self._own = threading.local()

    def __reduce__(self):
        return type(self), (self.preset,)

    def __call__(self, now: np.ndarray, before: np.ndarray) -> np.ndarray:
        """Turn grey frames (H, W), uint8, into flow (H, W, 2), float32: where each pixel was before, in pixels (dx,
        dy). Raises ValueError if OpenCV is not installed."""
        try:
            import cv2
        except ImportError:
            raise ValueError("this model needs OpenCV for its flow: pip install opencv-python-headless") from None

        height, width = now.shape
        below, right = max(0, _SMALLEST - height), max(0, _SMALLEST - width)
        if below or right:  # OpenCV reads beyond the end of smaller frames, and crashes or returns what lies there
            now, before = (cv2.copyMakeBorder(f, 0, below, 0, right, cv2.BORDER_REPLICATE) for f in (now, before))
        own = self._own
        # A frame of under 91 pixels changes the settings of the object, for good.
        if getattr(own, "size", None) != now.shape:
            preset = getattr(cv2, f"DISOPTICAL_FLOW_PRESET_{self.preset.upper()}")
            create = cv2.DISOpticalFlow_create  # type: ignore[attr-defined] # not in OpenCV's types
            own.search, own.size = create(preset), now.shape
        flow = own.search.calc(now, before, None)
        return flow[:height, :width]
