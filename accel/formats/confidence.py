"""How sure the model is of each pixel, as grey pictures."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image

from accel.formats.files import put
from accel.formats.writer import FrameWriter

FOLDER = "confidence"


class ConfidenceMaps(FrameWriter):
    """`confidence/NUMBER.png`, (H, W) uint8: 0 where the best two classes are equally likely, 255 where only one is.

    With p the probability of the best class against the second best, it is 255 (2 p - 1), rounded.
    """

    needs_confidence = True

    @staticmethod
    def names():
        return [f"{FOLDER}/"]

    def write(self, frame):
        picture = io.BytesIO()
        Image.fromarray(as_grey(frame.confidence)).save(picture, format="PNG")
        put(self.place(f"{FOLDER}/{frame.index:06d}.png"), picture.getvalue())

    def close(self): ...


def as_grey(confidence: np.ndarray) -> np.ndarray:
    """Turn the best score less the second best, (H, W) float32, into uint8. Scores are logits: p is a sigmoid."""
    return np.rint(255 * np.tanh(confidence / 2)).astype(np.uint8)
