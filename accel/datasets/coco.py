"""Frames of your own with boxes in a COCO file (instances; Lin et al., ECCV 2014).

ROOT/annotations/instances_SPLIT.json   images, annotations with `bbox`, categories; or ROOT/annotations/SPLIT.json,
                                        ROOT/SPLIT.json, ROOT/SPLIT/_annotations.coco.json
ROOT/SPLIT/NAME.jpg                     single images, by `file_name`; or below ROOT/images/SPLIT, ROOT/images, ROOT
ROOT/SPLIT/VIDEO/NAME.jpg               frames of a video, in the order of the numbers in their names
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from accel.datasets.class_list import pascal_palette
from accel.datasets.clips import OnMissing
from accel.datasets.own_boxes import Corners, OwnBoxes
from accel.files.listing import not_there
from accel.wording import few

_FILES = ("annotations/instances_{}.json", "annotations/{}.json", "{}.json", "{}/_annotations.coco.json")
_FOLDERS = ("{}", "images/{}", "images", "")
MAX_NAMED = 8  # categories in a message
MAX_CLASSES = 255


class Coco(OwnBoxes):
    """The images of a COCO file, in its order. Classes are its categories, in the order of their ids.

    Boxes of crowds (`iscrowd`) are left out.

    root: the folder with the files above.
    split: the part of their names.
    on_missing: a function that is called with a message for each image that is not there, and for each other mistake
        in the file. What it is about is left out. None: the first one is an error.

    Raises FileNotFoundError or ValueError, with the file, for anything that is missing or invalid.
    """

    own_files = False

    def __init__(self, root: str | Path, split: str, on_missing: OnMissing | None = None):
        self.file, folder = _file_of(Path(root), split)
        content = _read(self.file)
        self._tell = on_missing
        categories = self._unique(content["categories"], "categories", "id")
        categories = [each for each in categories if self._has(each, "categories", "name", str)]
        if not 1 <= len(categories) <= MAX_CLASSES:
            raise ValueError(f"{self.file}: {len(categories)} categories; expected 1 to {MAX_CLASSES}")
        categories = self._unique(categories, "categories", "name")
        categories.sort(key=lambda each: each["id"])
        self.class_names = tuple(each["name"] for each in categories)
        self.palette = pascal_palette(len(categories) + 1)[1:]  # the first colour is black
        self._classes = {each["id"]: k for k, each in enumerate(categories)}

        images = [each for each in content["images"] if self._has(each, "images", "file_name", str)]
        images = [each for each in self._unique(images, "images", "id") if self._stays_inside(each)]
        images = self._unique(images, "images", "file_name")
        self._images = {each["file_name"]: each for each in images}
        names = list(self._images)
        super().__init__(_folder_of(Path(root), split, names) if folder is None else folder, names, on_missing)
        if not len(self):
            raise ValueError(f"{self.file}: none of its {len(content['images'])} images can be used")
        known = {each["id"] for each in images}
        self._annotations: dict[int, list[dict]] = {number: [] for number in known}
        for each in self._unique(content["annotations"], "annotations", "id"):
            number = each.get("image_id")
            if type(number) is int and number in known:
                self._annotations[number].append(each)
            else:
                self._mistake(f"annotation {each['id']}: no image has its image_id {number!r:.80}")

    def written(self, index: int, size: tuple[int, int] | None) -> tuple[list[tuple[str, Corners]], list[str]]:
        image = self._images[self.name(index)]
        declared = image.get("height"), image.get("width")
        mistakes: list[str] = []
        if size is not None and None not in declared and declared != size:
            mistakes.append(
                f"{self.file}: image {image['id']} ({image['file_name']}): width and height are "
                f"{declared[1]!r:.20} x {declared[0]!r:.20}, but the image has {size[1]} x {size[0]} pixels"
            )
        boxes = []
        for each in self._annotations[image["id"]]:
            where = f"{self.file}: annotation {each['id']} (image {image['file_name']})"
            category, box = each.get("category_id"), each.get("bbox")
            if each.get("iscrowd"):
                continue
            if type(category) is not int or category not in self._classes:
                known = few([f"{number} {self.class_names[k]!r}" for number, k in self._classes.items()], MAX_NAMED)
                mistakes.append(f"{where}: unknown class, category_id {category!r:.80}; there are {known}")
            elif (sides := _four_numbers(box)) is None:
                mistakes.append(f"{where}: bbox {box!r:.80}; expected [x, y, width, height]")
            else:
                x, y, width, height = sides
                boxes.append((where, Corners(x, y, x + width, y + height, self._classes[category])))
        return boxes, mistakes

    def _unique(self, entries: Sequence[Any], list_name: str, key: str) -> list[dict]:
        """Return the entries whose `key` no other one before has. An `id` must be a whole number."""
        kept, seen = [], Counter[object]()
        for each in entries:
            if key == "id" and not self._has(each, list_name, "id", int):
                continue
            value = each[key]
            seen[value] += 1
            if seen[value] == 1:
                kept.append(each)
            elif seen[value] == 2:
                self._mistake(f"{list_name}: {key} {value!r:.80} is there more than once")
        return kept

    def _has(self, entry: Any, list_name: str, key: str, kind: type) -> bool:
        if isinstance(entry, dict) and type(entry.get(key)) is kind:
            return True
        words = {int: "a whole number", str: "a text"}[kind]
        self._mistake(f"{list_name}: expected {words} as {key!r} in {entry!r:.80}")
        return False

    def _stays_inside(self, image: dict) -> bool:
        path = PurePosixPath(image["file_name"])
        if not path.is_absolute() and ".." not in path.parts and path.name and "\0" not in image["file_name"]:
            return True
        self._mistake(f"image {image['id']}: file_name {image['file_name']!r:.80} leads out of the folder of images")
        return False

    def _mistake(self, line: str) -> None:
        line = f"{self.file}: {line}"
        if self._tell is None:
            raise ValueError(line)
        self._tell(line)


def _four_numbers(box: object) -> list[float] | None:
    """Return the numbers of a `bbox`. None if it is something else."""
    if not (isinstance(box, list) and len(box) == 4 and all(type(side) in (int, float) for side in box)):
        return None
    try:
        return list(map(float, box))
    except OverflowError:  # a whole number of some hundred digits
        return None


def _file_of(root: Path, split: str) -> tuple[Path, Path | None]:
    """Return the file of a split, and the folder of its images if the place of the file says which that is."""
    for form in _FILES:
        file = root / form.format(split)
        if file.is_file():
            return file, file.parent if form.startswith("{}/") else None
    places = ", ".join(form.format(split) for form in _FILES)
    raise FileNotFoundError(f"no COCO file for the split {split!r} in {root}: expected one of {places}")


def _folder_of(root: Path, split: str, names: list[str]) -> Path:
    """Return the folder below which the first image is that is there."""
    folders = [root / form.format(split) for form in _FOLDERS]
    return next((each for name in names for each in folders if (each / name).is_file()), folders[0])


def _read(file: Path) -> dict[str, list]:
    try:
        content = json.loads(file.read_bytes())
    except FileNotFoundError:
        raise FileNotFoundError(not_there(file)) from None
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{file}: not JSON ({error})") from None
    except OSError as error:
        raise ValueError(f"{file}: cannot be read ({error.strerror or error})") from None
    for key in ("images", "annotations", "categories"):
        if not (isinstance(content, dict) and isinstance(content.get(key), list)):
            raise ValueError(
                f"{file}: no COCO instances; expected an object with the lists images, annotations and "
                f"categories, but there is no list {key!r}"
            )
    return content
