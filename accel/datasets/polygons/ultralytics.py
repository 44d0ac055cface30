"""Ultralytics' text files: one for each image, `CLASS X Y X Y ...` a line, in shares of width and height."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from accel.datasets.polygons.reading import copy_name, points
from accel.datasets.polygons.shapes import Annotated, Shape, largest_first
from accel.files.image_sizes import header_sizes
from accel.files.listing import visible
from accel.files.small_files import read_text
from accel.files.yaml_files import read_yaml
from accel.video.reader import frame_files


def text_files(folder: Path) -> dict[str, Path]:
    """Return the text files directly in a folder by their stems, without lists of classes."""
    files = (path for path in visible(folder) if path.suffix.lower() == ".txt" and path.stem != "classes")
    return {path.stem: path for path in files}


def read_ultralytics(folder: Path, images: Path, names_file: Path) -> tuple[list[str], list[Annotated]]:
    """Return the names of the classes, and the images with their areas, the largest first.

    folder: the folder with the text files. An image without one has no areas.
    images: the folder with the images.
    names_file: data.yaml, whose `names` are a list or have numbers as keys.

    Raises ValueError, with file and line, for anything that is missing or invalid.
    """
    names = _names(names_file)
    files = text_files(folder)
    read = []
    for image in frame_files(images):
        path = files.pop(image.stem, folder / f"{image.stem}.txt")
        sizes = header_sizes(image)
        if not sizes:
            raise ValueError(f"{image}: damaged, or not an image")
        shapes = _shapes(path, names, sizes[-1]) if path.exists() else []
        read.append(Annotated(image, copy_name(Path(image.name)), sizes[-1], path, largest_first(shapes)))
    if files:
        raise FileNotFoundError(f"{next(iter(files.values()))}: there is no image of that name in {images}")
    return [names[key] for key in sorted(names)], read


def _shapes(path: Path, names: dict[int, str], size: tuple[int, int]) -> list[Shape]:
    shapes = []
    for number, line in enumerate(read_text(path).splitlines(), 1):
        if not (words := line.split()):
            continue
        where = f"{path}, line {number}"
        if len(words) == 5:
            raise ValueError(f"{where}: a box; expected an outline, CLASS X Y X Y X Y ...")
        try:
            key, shares = int(words[0]), np.array(words[1:], np.float64)
        except ValueError:
            raise ValueError(f"{where}: {line:.80}: expected CLASS X Y X Y X Y ...") from None
        if key not in names:
            raise ValueError(f"{where}: no class {key}; there are {min(names)} to {max(names)}")
        if (shares < -0.01).any() or (shares > 1.01).any():
            raise ValueError(f"{where}: expected shares of width and height, 0 to 1; found {shares.max():g}")
        shapes.append(Shape(names[key], (points(shares, where) * size[::-1],)))
    return shapes


def _names(path: Path) -> dict[int, str]:
    values: Any = read_yaml(path, numbered=True)
    names = values.get("names") if isinstance(values, dict) else None
    if isinstance(names, list):
        names = dict(enumerate(names))
    if not isinstance(names, dict) or not names or not all(str(key).isdecimal() for key in names):
        raise ValueError(f"{path}: expected `names:`, a list of the classes")
    return {int(key): str(name) for key, name in names.items()}
