"""LabelMe's JSON: one file beside each image."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from accel.datasets.polygons.reading import copy_name, points, read_json
from accel.datasets.polygons.shapes import Annotated, Shape
from accel.files.listing import visible


def labelme_files(folder: Path) -> list[Path]:
    """Return the JSON files directly in a folder."""
    return sorted(path for path in visible(folder) if path.suffix.lower() == ".json")


def read_labelme(folder: Path, images: Path | None) -> tuple[list[str], list[Annotated]]:
    """Return the names of the classes, in alphabetical order, and the images with their areas, in their stored order.

    images: the folder with the images. None: where each file says.

    Raises ValueError, with the file, for anything that is missing or invalid.
    """
    read = [_read(path, images) for path in labelme_files(folder)]
    return sorted({shape.name for each in read for shape in each.shapes}), read


def _read(path: Path, images: Path | None) -> Annotated:
    values = read_json(path)
    if not isinstance(values, dict) or not isinstance(values.get("shapes"), list) or not values.get("imagePath"):
        raise ValueError(f"{path}: expected LabelMe's JSON, with shapes and imagePath")
    stored = Path(str(values["imagePath"]).replace("\\", "/"))
    image = (images or path.parent) / (stored.name if images is not None else stored)
    shapes, left_out = [], []
    for number, shape in enumerate(values["shapes"]):
        where = f"{path}: shape {number}"
        if not isinstance(shape, dict) or not isinstance(shape.get("label"), str):
            raise ValueError(f"{where}: no label")
        outline = _outline(shape, where)
        if outline is None:
            left_out.append(f"shape {number} of {shape['label']:.80} is a {shape.get('shape_type')}, no area")
        else:
            shapes.append(Shape(shape["label"], (outline,)))
    size = values.get("imageHeight"), values.get("imageWidth")
    return Annotated(
        image,
        copy_name(Path(stored.name)),
        size if all(isinstance(n, int) for n in size) else None,  # type: ignore[arg-type] # both are there
        path,
        tuple(shapes),
        tuple(left_out),
    )


def _outline(shape: dict[str, Any], where: str) -> np.ndarray | None:
    """Return the outline of an area. None if the shape is none."""
    kind, stored = shape.get("shape_type", "polygon"), shape.get("points")
    if kind == "polygon":
        return points(stored, where)
    if kind in ("rectangle", "circle"):
        try:
            (x0, y0), (x1, y1) = np.array(stored, np.float64)
        except (ValueError, TypeError):
            raise ValueError(f"{where}: expected two points of a {kind}") from None
        if kind == "rectangle":
            return points([x0, y0, x1, y0, x1, y1, x0, y1], where)
        angles, radius = np.linspace(0, 2 * np.pi, 64, endpoint=False), np.hypot(x1 - x0, y1 - y0)
        return points(np.stack([x0 + radius * np.cos(angles), y0 + radius * np.sin(angles)], 1), where)
    return None
