"""Labels that are stored as outlines (polygons), and how they become label images."""

from accel.datasets.polygons.conversion import Converted, convert
from accel.datasets.polygons.shapes import Annotated, Shape, draw, inside

__all__ = ["Annotated", "Converted", "Shape", "convert", "draw", "inside"]
