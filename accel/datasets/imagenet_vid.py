"""ImageNet VID: videos with the boxes of 30 kinds of animals and vehicles (Russakovsky et al., IJCV 2015)."""

from __future__ import annotations

import colorsys

import numpy as np

CLASS_NAMES = (
    "airplane", "antelope", "bear", "bicycle", "bird", "bus", "car", "cattle", "dog", "domestic_cat",
    "elephant", "fox", "giant_panda", "hamster", "horse", "lion", "lizard", "monkey", "motorcycle", "rabbit",
    "red_panda", "sheep", "snake", "squirrel", "tiger", "train", "turtle", "watercraft", "whale", "zebra",
)  # fmt: skip
PALETTE = np.array(
    [[round(255 * channel) for channel in colorsys.hsv_to_rgb(k / 30, 0.8, 0.9)] for k in range(30)], np.uint8
)
