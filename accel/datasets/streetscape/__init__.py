"""Streetscape: generated street scenes with exact labels, boxes and optical flow, in the layout of Cityscapes or, with
boxes, of ImageNet VID.

`scene` lays out a street and drives through it, `objects` builds the objects in it, `textures` paints them, `renderer`
draws the scene and computes the flow, `boxes` finds the boxes, and `files` and `vid_files` write the data sets.
"""

from accel.datasets.streetscape.files import generate_streetscape, scene_of, streetscape_flow
from accel.datasets.streetscape.scene import Rendering, StreetScene
from accel.datasets.streetscape.vid_files import generate_streetscape_vid

__all__ = [
    "Rendering",
    "StreetScene",
    "generate_streetscape",
    "generate_streetscape_vid",
    "scene_of",
    "streetscape_flow",
]
