"""Write a folder of labelled images from annotations as outlines."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from accel.datasets.class_list import CLASSES_FILE, IGNORED_NAME, pascal_palette, read_classes
from accel.datasets.polygons.coco import read_coco
from accel.datasets.polygons.labelme import labelme_files, read_labelme
from accel.datasets.polygons.shapes import Annotated, draw
from accel.datasets.polygons.ultralytics import read_ultralytics, text_files
from accel.files.exif import orientation
from accel.files.image_sizes import header_sizes
from accel.files.whole_files import write_whole
from accel.labels import IGNORED

BACKGROUND = "background"


@dataclass(frozen=True)
class Converted:
    """What was written.

    images: the number of images.
    shares: the share of the pixels of each class by name, and of `ignored` pixels if there are any.
    left_out: what is in no label image, one line each.
    """

    images: int
    shares: dict[str, float]
    left_out: tuple[str, ...]


def convert(source: Path, output: Path, images: Path | None = None, rest_is_ignored: bool = False) -> Converted:
    """Write `output/images` and `output/labels`, and classes.txt beside `output` if there is none.

    source: a JSON file of COCO, a folder of LabelMe's JSON files, or a folder of Ultralytics' text files.
    images: the folder with the images. None: where the format has them: beside COCO's file; where LabelMe's files say;
        `images` in place of Ultralytics' `labels`.
    rest_is_ignored: whether pixels in no area count as ignored. Otherwise they are a class, the background.

    Raises ValueError or FileNotFoundError, with the file, before anything is written.
    """
    for folder in (output / "images", output / "labels"):
        if folder.exists():
            raise FileExistsError(f"{folder} exists; nothing in it is replaced: choose another --output, or move it")
    names, annotated = _read(source, images)
    if not annotated:
        raise ValueError(f"{source}: no images")
    _check_images(annotated)
    values, rest, text = _values(names, output.parent / CLASSES_FILE, rest_is_ignored)
    if text:
        write_whole(output.parent / CLASSES_FILE, text.encode())
    pixels, palette = np.zeros(256, np.int64), _palette(values)
    for each in annotated:
        size = each.size or header_sizes(each.image)[-1]
        labels = draw(each.shapes, values, size, rest)
        pixels += np.bincount(labels.ravel(), minlength=256)
        _copy(each, output, labels, palette)
    left_out = tuple(f"{each.where}: {line}" for each in annotated for line in each.left_out)
    named = values if pixels[IGNORED] == 0 or IGNORED in values.values() else {**values, IGNORED_NAME: IGNORED}
    shares = {name: float(pixels[value] / pixels.sum()) for name, value in named.items()}
    return Converted(len(annotated), shares, left_out)


def _read(source: Path, images: Path | None) -> tuple[list[str], list[Annotated]]:
    if source.is_file():
        return read_coco(source, images or source.parent)
    if not source.is_dir():
        raise FileNotFoundError(f"{source}: no such file or folder")
    if labelme_files(source):
        return read_labelme(source, images)
    if text_files(source):
        folder = images or Path(*("images" if part == "labels" else part for part in source.parts))
        if folder == source or not folder.is_dir():
            raise FileNotFoundError(f"{source}: text files of Ultralytics; --images FOLDER says where the images are")
        lists = [parent / "data.yaml" for parent in (source, *source.absolute().parents[:3])]
        names = next((path for path in lists if path.is_file()), None)
        if names is None:
            raise FileNotFoundError(f"{source}: no data.yaml with the `names` of the classes in it, nor above it")
        return read_ultralytics(source, folder, names)
    raise ValueError(f"{source}: expected COCO's JSON file, or a folder with LabelMe's JSON or Ultralytics' text files")


def _check_images(annotated: Sequence[Annotated]) -> None:
    """Raise an error for an image that is missing or not that of its outlines, and for two of one name."""
    first: dict[Path, Annotated] = {}
    for each in annotated:
        if not each.image.is_file():
            raise FileNotFoundError(f"{each.where}: no image {each.image}; --images FOLDER says where they are")
        sizes = header_sizes(each.image)
        if not sizes:
            raise ValueError(f"{each.image}: damaged, or not an image")
        if each.size is not None and each.size != sizes[-1]:
            height, width = sizes[-1]
            turned = ", turned as its EXIF orientation says" if orientation(each.image) != 1 else ""
            raise ValueError(
                f"{each.image}: {width} x {height} pixels{turned}, but {each.where} was made for "
                f"{each.size[1]} x {each.size[0]}"
            )
        other = first.setdefault(each.name.with_suffix(""), each)
        if other is not each:
            raise ValueError(f"{other.where} and {each.where}: both are about an image {each.name.with_suffix('')}")


def _values(names: Sequence[str], path: Path, rest_is_ignored: bool) -> tuple[dict[str, int], int, str]:
    """Return the value of each class, that of pixels in no area, and the text of classes.txt, empty if there is one."""
    if path.exists():
        classes = read_classes(path)
        values = dict(zip(classes.names, classes.values, strict=True))
        needed = [*([] if rest_is_ignored else [BACKGROUND]), *names]
        if lacking := [name for name in needed if name not in values]:
            raise ValueError(f"{path}: has no class {lacking[0]!r:.80}; it has {', '.join(values)}")
        if rest_is_ignored and IGNORED in values.values():
            raise ValueError(f"{path}: 255 is a class there; it is needed for ignored pixels")
        return values, IGNORED if rest_is_ignored else values[BACKGROUND], ""
    ordered = list(dict.fromkeys([*([] if rest_is_ignored else [BACKGROUND]), *names]))
    if not 2 <= len(ordered) < IGNORED:
        raise ValueError(f"{len(ordered)} classes; expected 2 to {IGNORED - 1}")
    values = {name: value for value, name in enumerate(ordered)}
    return values, IGNORED if rest_is_ignored else 0, "".join(f"{v} = {name}\n" for name, v in values.items())


def _palette(values: dict[str, int]) -> list[int]:
    palette = np.zeros((256, 3), np.uint8)
    for value, colour in zip(values.values(), pascal_palette(len(values)), strict=True):
        palette[value] = colour
    return palette.ravel().tolist()


def _copy(each: Annotated, output: Path, labels: np.ndarray, palette: list[int]) -> None:
    from PIL import Image

    image = output / "images" / each.name
    label = (output / "labels" / each.name).with_suffix(".png")
    for path in (image, label):
        path.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(each.image, image)
    picture = Image.fromarray(labels)
    picture.putpalette(palette)
    picture.save(label)
