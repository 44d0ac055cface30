"""COCO's JSON: one file with images, categories and annotations."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from accel.datasets.polygons.reading import below, copy_name, points, read_json
from accel.datasets.polygons.shapes import Annotated, Shape, largest_first


def read_coco(path: Path, images: Path) -> tuple[list[str], list[Annotated]]:
    """Return the names of the classes, and the images with their areas, the largest first.

    images: the folder that the names of the images are relative to.

    Raises ValueError, with the file, for anything that is missing or invalid.
    """
    values = read_json(path)
    if not isinstance(values, dict) or not all(
        isinstance(values.get(k), list) for k in ("images", "annotations", "categories")
    ):
        raise ValueError(f"{path}: expected COCO's JSON, with lists images, annotations and categories")
    names = {_of(c, "id", path): str(_of(c, "name", path)) for c in values["categories"]}
    found = {_of(image, "id", path): image for image in values["images"]}
    if len(names) < len(values["categories"]) or len(found) < len(values["images"]):
        raise ValueError(f"{path}: two categories or two images have the same id")
    shapes: dict[Any, list[Shape]] = {}
    left_out: dict[Any, list[str]] = {}
    for annotation in values["annotations"]:
        image, category = _of(annotation, "image_id", path), _of(annotation, "category_id", path)
        where = f"{path}: annotation {annotation.get('id', '')}"
        if image not in found or category not in names:
            raise ValueError(f"{where}: no image {image}" if image not in found else f"{where}: no category {category}")
        shape = _shape(annotation.get("segmentation"), names[category], where, found[image])
        if shape is None:
            left_out.setdefault(image, []).append(f"annotation {annotation.get('id', '')} has a box and no outline")
        else:
            shapes.setdefault(image, []).append(shape)
    read = []
    for key, image in found.items():
        file = below(images, _of(image, "file_name", path), path)
        size = (image["height"], image["width"]) if "height" in image and "width" in image else None
        name = copy_name(file.relative_to(images))
        read.append(Annotated(file, name, size, path, largest_first(shapes.get(key, ())), tuple(left_out.get(key, ()))))
    return [names[key] for key in sorted(names)], read


def _of(values: Any, key: str, path: Path) -> Any:
    if not isinstance(values, dict) or not isinstance(values.get(key), int | str):
        raise ValueError(f"{path}: an entry without {key!r}: {values!r:.100}")
    return values[key]


def _shape(segmentation: Any, name: str, where: str, image: dict) -> Shape | None:
    if not segmentation:
        return None
    if isinstance(segmentation, list):
        return Shape(name, tuple(points(each, where) for each in segmentation))
    try:
        height, width = segmentation["size"]
        counts = segmentation["counts"]
        runs = _decompressed(counts) if isinstance(counts, str) else np.array(counts, np.int64)
        if (height, width) != (image.get("height", height), image.get("width", width)) or (runs < 0).any():
            raise ValueError
        flat = np.repeat(np.arange(len(runs)) % 2 == 1, runs)
        return Shape(name, mask=flat.reshape(width, height).T)  # column after column
    except (KeyError, TypeError, ValueError, IndexError):
        raise ValueError(f"{where}: expected polygons, or run lengths that make up the image") from None


def _decompressed(text: str) -> np.ndarray:
    """Return the run lengths of COCO's compressed form: 5 bits a character; from the fourth on, differences."""
    runs: list[int] = []
    value = shift = 0
    for character in text:
        bits = ord(character) - 48
        value |= (bits & 31) << shift
        shift += 5
        if not bits & 32:
            value -= (1 << shift) if bits & 16 else 0
            runs.append(value + (runs[-2] if len(runs) > 2 else 0))
            value = shift = 0
    return np.array(runs, np.int64)
