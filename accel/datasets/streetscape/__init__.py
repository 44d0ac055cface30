"""Streetscape: generated street scenes in Cityscapes' layout, with exact labels and exact optical flow.

`scene` lays out a street and drives through it, `objects` builds the objects in it, `textures` paints them, `renderer`
draws the scene and computes the flow, and `files` writes the data set.
"""

from accel.datasets.streetscape.files import generate_streetscape, scene_of, streetscape_flow
from accel.datasets.streetscape.scene import Rendering, StreetScene

__all__ = ["Rendering", "StreetScene", "generate_streetscape", "scene_of", "streetscape_flow"]
