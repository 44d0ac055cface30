"""Which image a label file belongs to, by their names.

Usually both have the same name. Annotation programs often add an ending to that of the label: NAME_mask.png for
NAME.jpg. Names that differ in case, or in the Unicode form of their accents, are the same: copies from one system to
another change these.
"""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

from accel.wording import few

_STARTS = ("_", "-", ".", " ")  # of an ending; what follows a bare letter or digit may be part of another name
_NAMED = 4  # files in a message


def plain(name: str) -> str:
    """Return a name without the differences of case and Unicode form."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())


def find_folder(parent: Path, name: str) -> Path:
    """Return the folder of that name, or the only one whose name is the same to `plain`. Otherwise the path that was
    expected."""
    if (parent / name).is_dir():
        return parent / name
    alike = [path for path in parent.iterdir() if plain(path.name) == plain(name) and path.is_dir()]
    return alike[0] if len(alike) == 1 else parent / name


def match_labels(labels: Sequence[Path], images: Sequence[Path], ending: str | None = None) -> dict[Path, int | None]:
    """Return for each label file the number of its image. None: no image has that name.

    ending: what the names of the labels have more than those of the images, such as "_mask". Labels with another ending
        are left out. None: nothing, or the ending that all labels share, if none of them has the name of an image.

    Raises ValueError if two images have one name, if an image would have several labels, and for several endings.
    """
    numbers: dict[str, int] = {}
    for number, path in enumerate(images):
        if path.stem in numbers:
            raise ValueError(f"{images[numbers[path.stem]]} and {path}: two images have this name; which is labelled?")
        numbers[path.stem] = number
    alike = Counter(map(plain, numbers))
    by_plain = {plain(stem): number for stem, number in numbers.items() if alike[plain(stem)] == 1}

    def image_of(stem: str) -> int | None:
        return numbers.get(stem, by_plain.get(plain(stem)))

    if ending is None:
        found = {label: image_of(label.stem) for label in labels}
        if found and all(number is None for number in found.values()):
            ending = _shared_ending(labels, image_of)
    if ending:
        kept = [label for label in labels if label.stem.endswith(ending)]
        found = {label: image_of(label.stem.removesuffix(ending)) for label in kept}
    elif ending is not None:
        found = {label: image_of(label.stem) for label in labels}
    _refuse_several(found, images)
    return found


def _shared_ending(labels: Sequence[Path], image_of: Callable[[str], int | None]) -> str | None:
    """Return the ending of all labels that have one. Raises ValueError if there are several endings."""
    endings = Counter(_ending(label.stem, image_of) for label in labels)
    del endings[""]
    if len(endings) > 1:
        told = few([f"{ending} ({count} labels)" for ending, count in endings.most_common()], _NAMED)
        raise ValueError(
            f"{labels[0].parent}: the labels are named like their images with several endings: {told}; choose with "
            f"data.label_ending={endings.most_common(1)[0][0]}"
        )
    return next(iter(endings), None)


def _ending(stem: str, image_of: Callable[[str], int | None]) -> str:
    """Return the shortest ending without which this is the name of an image. Empty if there is none.

    A number is none: `frame_12` is another frame than `frame`.
    """
    for length in range(len(stem) - 1, 0, -1):
        ending = stem[length:]
        if ending[0] in _STARTS and not ending[1:].isdecimal() and image_of(stem[:length]) is not None:
            return ending
    return ""


def _refuse_several(found: dict[Path, int | None], images: Sequence[Path]) -> None:
    first: dict[int, Path] = {}
    for label, number in found.items():
        if number is not None and first.setdefault(number, label) != label:
            raise ValueError(f"{first[number]} and {label}: two labels of the image {images[number].name}")
