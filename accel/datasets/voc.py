"""Frames of your own with boxes in Pascal VOC's layout (Everingham et al., IJCV 2010): an XML file for each frame.

ROOT/classes.txt                        the classes, one a line, in the order of their indices
ROOT/JPEGImages/NAME.jpg                single images (or .png and others), or
ROOT/JPEGImages/VIDEO/NAME.jpg          frames of a video, in the order of the numbers in their names
ROOT/Annotations/NAME.xml               boxes of each labelled frame, and likewise Annotations/VIDEO/NAME.xml
ROOT/ImageSets/Main/SPLIT.txt           the labelled frames of a split: NAME or VIDEO/NAME, one a line

Without a list of the split, ROOT/SPLIT has JPEGImages (or images) and Annotations of its own.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path, PurePosixPath
from xml.etree import ElementTree

from accel.datasets.class_list import CLASSES_FILE, read_classes
from accel.datasets.clips import OnMissing
from accel.datasets.own_boxes import Corners, OwnBoxes
from accel.files.listing import not_there, visible
from accel.files.small_files import read_text
from accel.video.reader import IMAGE_SUFFIXES, natural_key
from accel.wording import few

MAX_NAMED = 8  # classes in a message
_SIDES = ("xmin", "ymin", "xmax", "ymax")


class Voc(OwnBoxes):
    """The labelled frames of a split, in the order of its list, or of their names.

    As in Pascal VOC, 1 is the first pixel of a row or column. Objects that are marked as difficult are left out.

    root: the folder with the files above.
    split: the name of a list, or of a folder in it.
    on_missing: a function that is called with a message for each frame whose image or annotation is not there, and for
        each name that is listed twice. It is left out. None: the first one is an error.

    Raises FileNotFoundError or ValueError, with the file, for anything that is missing or invalid.
    """

    def __init__(self, root: str | Path, split: str, on_missing: OnMissing | None = None):
        root = Path(root)
        listing = root / "ImageSets" / "Main" / f"{split}.txt"
        base = root if listing.is_file() else root / split
        images = next((base / name for name in ("JPEGImages", "images") if (base / name).is_dir()), None)
        self._annotations = base / "Annotations"
        if images is None or not self._annotations.is_dir():
            raise FileNotFoundError(
                f"no frames with boxes for the split {split!r} in {root}: expected {root}/JPEGImages, "
                f"{root}/Annotations and {listing}; or {root / split}/JPEGImages and {root / split}/Annotations"
            )
        names = _listed(listing) if listing.is_file() else _found(self._annotations)
        if not names:
            raise ValueError(f"{listing if listing.is_file() else self._annotations}: names no frame")
        self._file = root / CLASSES_FILE
        if not self._file.is_file():
            raise FileNotFoundError(f"{not_there(self._file)}: expected the classes, one a line{self._seen(names)}")
        classes = read_classes(self._file)
        self.class_names, self.palette = classes.names, classes.palette
        self._classes = {name: k for k, name in enumerate(self.class_names)}
        if self.palette[0].sum() == 0:  # black boxes are hard to see
            self.palette[0] = 255
        kept = []
        for name, times in Counter(names).items():
            if times > 1:
                _tell(f"{listing}: lists {name:.100} more than once", ValueError, on_missing)
            annotation = self._annotations / f"{name}.xml"
            if not annotation.is_file():
                _tell(not_there(annotation), FileNotFoundError, on_missing)
                continue
            suffixes = [suffix for suffix in _suffixes(images) if (images / f"{name}{suffix}").is_file()]
            if not suffixes:
                problem = f"{images / name}.jpg: no such file, nor with another ending of an image"
                _tell(f"{problem}, but {annotation} is there", FileNotFoundError, on_missing)
                continue
            kept.append(f"{name}{suffixes[0]}")
        super().__init__(images, kept, on_missing)
        if not len(self):
            raise ValueError(f"{self._annotations}: none of the {len(names)} frames of the split can be used")

    def name(self, index: int) -> str:
        return str(PurePosixPath(super().name(index)).with_suffix(""))

    def written(self, index: int, size: tuple[int, int] | None) -> tuple[list[tuple[str, Corners]], list[str]]:
        path = self._annotations / f"{self.name(index)}.xml"
        root = _parsed(path)
        boxes: list[tuple[str, Corners]] = []
        mistakes: list[str] = []
        declared = tuple(root.findtext(f"size/{side}", "").strip() for side in ("height", "width"))
        if size is not None and all(declared) and declared != tuple(map(str, size)) and set(declared) != {"0"}:
            mistakes.append(
                f"{path}: size is {declared[1]:.20} x {declared[0]:.20}, but the image has {size[1]} x {size[0]} pixels"
            )
        tracks = Counter(track.strip() for each in root.iter("object") if (track := each.findtext("trackid")))
        mistakes += [f"{path}: trackid {t:.80} is there more than once" for t, times in tracks.items() if times > 1]
        for number, each in enumerate(root.iter("object"), 1):
            name = (each.findtext("name") or "").strip()
            where = f"{path}: object {number} ({name:.80})"
            if (each.findtext("difficult") or "0").strip() == "1":
                continue
            if name not in self._classes:
                known = few(self.class_names, MAX_NAMED)
                mistakes.append(f"{where}: unknown class; {self._file} has {known}")
                continue
            try:
                left, top, right, bottom = (float(each.findtext(f"bndbox/{side}", "")) for side in _SIDES)
            except ValueError:
                mistakes.append(f"{where}: expected a bndbox with {', '.join(_SIDES)}, each a number")
                continue
            boxes.append((where, Corners(left - 1, top - 1, right, bottom, self._classes[name])))
        return boxes, mistakes

    def _seen(self, names: list[str]) -> str:
        """Return which classes the first annotations name, as the end of a message."""
        found: Counter[str] = Counter()
        for name in names[:100]:
            path = self._annotations / f"{name}.xml"
            if path.is_file():
                found.update((each.findtext("name") or "").strip() for each in _parsed(path).iter("object"))
        return f"; the annotations name {few([name for name, _ in found.most_common()], MAX_NAMED)}" if found else ""


def _listed(listing: Path) -> list[str]:
    """Return the names in a list: the first word of each line, as VOC's lists of a class have a second one."""
    names = [line.split()[0] for line in read_text(listing).splitlines() if line.strip()]
    for name in names:
        path = PurePosixPath(name)
        if path.is_absolute() or ".." in path.parts or "\0" in name:
            raise ValueError(f"{listing}: {name!r:.100} leads out of the folder of annotations")
    return [name.removesuffix(".xml") for name in names]


def _found(annotations: Path) -> list[str]:
    """Return the names of all annotations in a folder, those in sub-folders after those in none."""
    names = [path.stem for path in visible(annotations) if path.suffix == ".xml"]
    for video in (path for path in visible(annotations) if path.is_dir()):
        names += [f"{video.name}/{path.stem}" for path in visible(video) if path.suffix == ".xml"]
    return sorted(names, key=lambda name: ("/" in name, natural_key(name)))


def _suffixes(images: Path) -> list[str]:
    common = [".jpg", ".png", ".jpeg", ".JPG", ".JPEG"]
    return [*common, *sorted(IMAGE_SUFFIXES - set(common))]


def _parsed(path: Path) -> ElementTree.Element:
    try:
        return ElementTree.fromstring(read_text(path))
    except (ElementTree.ParseError, ValueError) as error:
        words = str(error).removeprefix(f"{path}: ")
        raise ValueError(f"{path}: no annotation of boxes ({words})") from None


def _tell(line: str, kind: type[Exception], on_missing: OnMissing | None) -> None:
    if on_missing is None:
        raise kind(line)
    on_missing(line)
