"""A user's own labelled images and videos, with the user's own classes.

ROOT/classes.txt                     the classes in the order of their indices: see `accel.datasets.class_list`
ROOT/SPLIT/images/NAME.png           stills (or .jpg and others)
ROOT/SPLIT/images/VIDEO/NAME.png     frames of a video, in the order of the numbers in their names; the video is cut
                                     where these have a gap
ROOT/SPLIT/labels/[VIDEO/]NAME.png   class indices of labelled frames, 255 = ignored unless classes.txt says
                                     that it is a class; grey or palette PNG. Or their colours, if classes.txt has them.
                                     NAME_mask.png and other endings: see `accel.datasets.label_names`
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from accel.datasets.class_list import CLASSES_FILE, read_classes
from accel.datasets.clips import OnMissing
from accel.datasets.label_counts import LabelCounts
from accel.datasets.label_names import find_folder, match_labels
from accel.datasets.neighbours import describe_gaps, find_gaps
from accel.datasets.stored import StoredClips
from accel.files.image_headers import PNG_RGB, PNG_RGBA, png_colours
from accel.files.image_sizes import header_sizes
from accel.files.images import read_colour_labels, read_labels
from accel.files.listing import leads_nowhere, not_there, visible
from accel.labels import IGNORED, percent
from accel.video.reader import IMAGE_SUFFIXES, frame_files, natural_key

_BACKGROUND = {"background", "bg", "none", "nothing", "other", "void"}


@dataclass(frozen=True)
class _LabelledFrame:
    """A labelled frame. video: the frames of its video, oldest first; this is number `number`, and `history` frames
    come directly before it. A still is its own video."""

    name: str
    label: Path
    video: tuple[Path, ...]
    number: int
    history: int = 0


class LabelledFolder(StoredClips):
    """The labelled frames of a split, video by video. The history of each is the frames of its video before it.

    root: the folder with classes.txt and the splits.
    split: the name of a folder in it.
    on_missing: a function that is called with a message for each label without an image. The label is left out. None:
        it is an error.
    label_ending: as for `match_labels`.

    Raises FileNotFoundError or ValueError, with the file, for anything that is missing or invalid.
    """

    why_short = "data.motion makes clips of stills; data.clips=stored takes those of videos"

    def __init__(
        self, root: str | Path, split: str, on_missing: OnMissing | None = None, label_ending: str | None = None
    ):
        self.root, self.split, self._ending = Path(root), split, label_ending
        folder = self.root / split
        self._images, self._labels = folder / "images", folder / "labels"
        if not (self._images.is_dir() and self._labels.is_dir()):
            raise FileNotFoundError(
                f"no labelled images at {folder}: expected {folder}/images/NAME.png or images/VIDEO/NAME.png, the same "
                f"below labels/, and {self.root / CLASSES_FILE}"
            )
        self.classes = read_classes(self.root / CLASSES_FILE)
        self.class_names, self.palette = self.classes.names, self.classes.palette
        self._table = self.classes.table()
        self._labelled = self._stills(on_missing)
        for video in sorted(visible(self._labels), key=lambda p: natural_key(p.name)):
            if video.is_dir():
                self._labelled += self._video(video, on_missing)
            elif leads_nowhere(video) and video.suffix.lower() not in IMAGE_SUFFIXES:  # to the labels of a video
                _miss(not_there(video), on_missing)
        if not self._labelled:
            raise FileNotFoundError(f"no labelled images at {folder}: {self._labels} has no NAME.png or VIDEO/NAME.png")
        self._by_colour = self.classes.coloured and any(_has_colours(each.label) for each in self._labelled)
        if self._by_colour:
            self._colour_table()  # what is wrong with the colours is told at once

    def __len__(self) -> int:
        return len(self._labelled)

    def history(self, index: int) -> int:
        return self._labelled[index].history

    def place(self, index: int) -> tuple[str, int]:
        labelled = self._labelled[index]
        video = labelled.name if len(labelled.video) == 1 else labelled.video[0].parent.name
        return video, labelled.number

    def name(self, index: int) -> str:
        return self._labelled[index].name

    def image_paths(self, index: int, length: int) -> list[Path]:
        labelled = self._labelled[index]
        return list(labelled.video[labelled.number - length + 1 : labelled.number + 1])

    def labels(self, index: int) -> tuple[Path, np.ndarray]:
        path = self._labelled[index].label
        if self._by_colour or self._is_painted(path):
            return path, read_colour_labels(path, self._colour_table(), f"in {self.root / CLASSES_FILE}", grey=True)
        try:
            return path, read_labels(path, self._table)
        except ValueError as error:
            if not _has_colours(path):
                raise
            raise ValueError(
                f'{error}; to read colours, give each class its own in {self.root / CLASSES_FILE}: "R G B NAME"'
            ) from None

    def _colour_table(self) -> np.ndarray:
        try:
            return self.classes.colour_table()
        except ValueError as error:
            raise ValueError(f"{self.root / CLASSES_FILE}: {error}; the labels are colours") from None

    def _is_painted(self, path: Path) -> bool:
        """Return whether a palette has only colours of the classes, but at other indices.

        Programs that make files smaller turn colours into such palettes, in which an index means nothing.
        """
        if not self.classes.coloured or (header := png_colours(path)) is None or header[1] is None:
            return False
        palette, colours = header[1].tolist(), self.palette.tolist()
        own = ((v, colour) for v, colour in zip(self.classes.values, colours, strict=True) if v < len(palette))
        if all(palette[value] == colour for value, colour in own):
            return False
        return {*map(tuple, palette)} <= {*map(tuple, colours), *self.classes.ignored_colours}

    def likely_cause(self, counts: LabelCounts) -> str:
        """Explain ignored pixels with the value 255.

        Some people save masks as black and white, so that 255 is a class. Here it is ignored unless classes.txt says
        otherwise.
        """
        if self._by_colour or not counts.pixels[IGNORED]:
            return ""
        path, missing = self.root / CLASSES_FILE, counts.missing
        if not counts.labelled or len(missing) != 1:
            return f'255 means ignored: if it is a class here, write its line in {path} as "255 = NAME"'
        lines = [f"255 = {self.class_names[missing[0]]}"]
        if len(self.class_names) == 2 and self.class_names[missing[0]].lower() in _BACKGROUND:
            other = 1 - missing[0]  # white on black is the thing, whichever of the two comes first
            lines = [f"255 = {self.class_names[other]}", f"0 = {self.class_names[missing[0]]}"]
        written = " and ".join(f'"{line}"' for line in lines)
        line = "its line" if len(lines) == 1 else "the lines"
        return (
            f"255 (ignored) has {percent(counts.ignored)}% of the pixels and looks like a class here: write {line} in "
            f"{path} as {written}"
        )

    def _stills(self, on_missing: OnMissing | None) -> list[_LabelledFrame]:
        images = frame_files(self._images)
        found = _match(self._labels, self._images, images, on_missing, self._ending)
        return [_LabelledFrame(images[number].stem, label, (images[number],), 0) for label, number in found]

    def _video(self, labels: Path, on_missing: OnMissing | None) -> list[_LabelledFrame]:
        images = find_folder(self._images, labels.name)
        if not images.is_dir():
            raise FileNotFoundError(f"{labels}: labels of a video, but there is no folder {images} with its frames")
        frames = tuple(frame_files(images))
        found = _match(labels, images, frames, on_missing, self._ending)
        gaps = find_gaps([frame.stem for frame in frames])
        if gaps:
            self.notes += (describe_gaps(images, frames, gaps),)
        starts = {number: max((gap for gap in gaps if gap <= number), default=0) for _, number in found}
        _refuse_two_sizes([frames[start : number + 1] for number, start in starts.items()])
        return [
            _LabelledFrame(f"{images.name}/{frames[number].stem}", label, frames, number, number - starts[number])
            for label, number in found
        ]


def _match(
    labels: Path, folder: Path, images: Sequence[Path], on_missing: OnMissing | None, ending: str | None
) -> list[tuple[Path, int]]:
    """Return the label files directly in a folder, each with the number of its image among `images`, in `folder`."""
    found = []
    for label, number in match_labels(frame_files(labels), images, ending).items():
        if number is None:
            _miss(f"{label}: there is no image of that name in {folder}", on_missing)
            continue
        missing = [path for path in (label, images[number]) if leads_nowhere(path)]
        for path in missing:
            _miss(not_there(path), on_missing)
        if not missing:
            found.append((label, number))
    if on_missing is not None:  # other frames may not be needed: reading one is an error then
        for path in filter(leads_nowhere, images):
            on_missing(not_there(path))
    return found


def _refuse_two_sizes(stretches: Sequence[Sequence[Path]]) -> None:
    """Raise ValueError if frames of a stretch of video differ in size. Damaged and missing ones are left to reading."""
    sizes: dict[Path, tuple[int, int]] = {}
    for frames in stretches:
        first: Path | None = None
        for path in frames:
            if path not in sizes:
                sizes[path] = (header_sizes(path) or [(0, 0)])[-1]
            if sizes[path] == (0, 0):
                continue
            first = first or path
            if sizes[path] != sizes[first]:
                (height, width), (other_height, other_width) = sizes[path], sizes[first]
                raise ValueError(
                    f"{path}: {width} x {height} pixels, but {first} of the same video has {other_width} x "
                    f"{other_height}; expected one size; two videos need two folders"
                )


def _has_colours(path: Path) -> bool:
    header = png_colours(path)
    return header is not None and header[0] in (PNG_RGB, PNG_RGBA)


def _miss(problem: str, on_missing: OnMissing | None) -> None:
    if on_missing is None:
        raise FileNotFoundError(problem)
    on_missing(problem)
