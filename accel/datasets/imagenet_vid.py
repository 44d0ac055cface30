"""ImageNet VID: videos with the boxes of 30 kinds of animals and vehicles (Russakovsky et al., IJCV 2015). Pictures of
ImageNet DET that show the same kinds can be added for training.

The files lie as Deep Feature Flow's release expects them:

ROOT/ImageSets/LIST.txt              lists of frames; see `ImageNetVid`
ROOT/Data/VID/VIDEO/NUMBER.JPEG      frames, from 000000 on; VIDEO is for example val/ILSVRC2015_val_00000000
ROOT/Data/DET/NAME.JPEG              pictures
ROOT/Annotations/VID/..., DET/...    the boxes of each frame and picture, .xml
"""

from __future__ import annotations

import colorsys
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from xml.etree import ElementTree

import numpy as np

from accel.datasets.box_motion import REACH, motion_iou
from accel.datasets.clips import Clip, OnMissing
from accel.datasets.stored_boxes import StoredBoxes
from accel.files.listing import not_there

# The key is the synset, which is the name in annotations.
_CLASSES = {
    "n02691156": "airplane", "n02419796": "antelope", "n02131653": "bear", "n02834778": "bicycle",
    "n01503061": "bird", "n02924116": "bus", "n02958343": "car", "n02402425": "cattle", "n02084071": "dog",
    "n02121808": "domestic_cat", "n02503517": "elephant", "n02118333": "fox", "n02510455": "giant_panda",
    "n02342885": "hamster", "n02374451": "horse", "n02129165": "lion", "n01674464": "lizard", "n02484322": "monkey",
    "n03790512": "motorcycle", "n02324045": "rabbit", "n02509815": "red_panda", "n02411705": "sheep",
    "n01726692": "snake", "n02355227": "squirrel", "n02129604": "tiger", "n04468005": "train", "n01662784": "turtle",
    "n04530566": "watercraft", "n02062744": "whale", "n02391049": "zebra",
}  # fmt: skip
CLASS_NAMES = tuple(_CLASSES.values())
PALETTE = np.array(
    [[round(255 * channel) for channel in colorsys.hsv_to_rgb(k / 30, 0.8, 0.9)] for k in range(30)], np.uint8
)


@dataclass(frozen=True)
class _Frame:
    """A frame of a video, or a picture.

    kind: VID or DET.
    video: the path of the video, or of the picture.
    number: the number of the frame's file. None for a picture.
    """

    kind: str
    video: str
    number: int | None
    length: int | None = None  # of the video, where its list says it

    def path(self, before: int = 0) -> str:
        return self.video if self.number is None else f"{self.video}/{self.number - before:06d}"


class ImageNetVid(StoredBoxes):
    """The frames in lists of the release. Before each come the frames of its video.

    root: the folder with ImageSets, Data and Annotations (ILSVRC2015).
    split: the names of lists in ImageSets, joined by +, such as DET_train_30classes+VID_train_15frames. A line of a
        list is NAME ID for a picture, or VIDEO ID NUMBER LENGTH for a frame. In lists whose name ends with _videos, it
        is VIDEO ID 0 LENGTH for a whole video.
    on_missing: a function that is called with a message for each frame that is in a list, but not on the disk. Such a
        frame is left out. None: reading it is an error.

    Training takes shorter clips where there are too few frames (`may_be_short`): pictures have no frames before them,
    and the first frames of videos have few. Pictures also show objects of other classes. These are left out. So are
    boxes whose right side lies left of their left side.

    Raises FileNotFoundError if a list is not there, and ValueError for a line of it that is not as it should be.
    """

    class_names, palette = CLASS_NAMES, PALETTE
    may_be_short = True
    names: Mapping[str, int] = {synset: k for k, synset in enumerate(_CLASSES)}  # of annotations, to class indices

    def __init__(self, root: str | Path, split: str, on_missing: OnMissing | None = None):
        self.root = Path(root)
        self._frames = [frame for name in split.split("+") for frame in _read_list(self.root, name)]
        if on_missing is not None:
            self._frames = [frame for frame in self._frames if self._is_there(frame, on_missing)]
        if not self._frames:
            raise ValueError(f"{self.root}/ImageSets: no frame in {split}")

    @property
    def plays_videos(self) -> bool:  # type: ignore[override] # it depends on the lists
        """Whether the lists have every frame of their videos, from the first one on, as those for validation do."""
        last: dict[str, tuple[int, int]] = {}  # by video, the highest number and how many there are
        for frame in self._frames:
            if frame.number is None:
                return False
            number, count = last.get(frame.video, (0, 0))
            last[frame.video] = max(number, frame.number), count + 1
        return all(number + 1 == count for number, count in last.values())

    def __len__(self) -> int:
        return len(self._frames)

    def history(self, index: int) -> int:
        return self._frames[index].number or 0

    def following(self, index: int) -> int:
        frame = self._frames[index]
        return 0 if frame.number is None or frame.length is None else max(0, frame.length - 1 - frame.number)

    def backward_clip(self, index: int, length: int) -> Clip:
        frame, following = self._frames[index], self.following(index)
        if not 1 <= length <= following + 1:
            raise ValueError(f"{self._image(frame)}: {following} frames come after it, a clip of {length} needs more")
        return self._clip(index, [self._image(frame, -after) for after in reversed(range(length))])

    def place(self, index: int) -> tuple[str, int]:
        frame = self._frames[index]
        return f"{frame.kind}/{frame.video}", frame.number or 0

    def name(self, index: int) -> str:
        return self._frames[index].path()

    def image_paths(self, index: int, length: int) -> list[Path]:
        frame = self._frames[index]
        return [self._image(frame, before) for before in reversed(range(length))]

    def truth(self, index: int, size: tuple[int, int]) -> tuple[np.ndarray, list[str]]:
        """Return the boxes, clipped to the frame. As published, nothing in a readable annotation is a mistake."""
        frame = self._frames[index]
        return _read_boxes(self._annotation(frame.kind, frame.path()), size, self.names), []

    def box_motion(self, index: int, size: tuple[int, int]) -> np.ndarray:
        frame = self._frames[index]
        own = _read_objects(self._annotation(frame.kind, frame.path()), size, self.names)[1]
        if frame.number is None:
            return np.zeros(len(own), np.float32)  # a picture has no other frames
        near = range(max(frame.number - REACH, 0), frame.number + REACH + 1)
        paths = {number: self._annotation(frame.kind, f"{frame.video}/{number:06d}") for number in near}
        names = tuple(self.names.items())
        motion = motion_iou({number: _near_objects(path, size, names) for number, path in paths.items()}, frame.number)
        return np.array([motion[track] for track in own], np.float32)

    def _annotation(self, kind: str, name: str) -> Path:
        return self.root / "Annotations" / kind / f"{name}.xml"

    def _image(self, frame: _Frame, before: int = 0) -> Path:
        return self.root / "Data" / frame.kind / f"{frame.path(before)}.JPEG"

    def _is_there(self, frame: _Frame, on_missing: OnMissing) -> bool:
        path = self._image(frame)
        if path.is_file():
            return True
        on_missing(not_there(path))
        return False


def _read_list(root: Path, name: str) -> list[_Frame]:
    path = root / "ImageSets" / f"{name}.txt"
    if not path.is_file():
        raise FileNotFoundError(
            f"{not_there(path)}: expected the lists of Deep Feature Flow's release in {path.parent}, and {root}/Data "
            f"and {root}/Annotations beside it"
        )
    kind = name.partition("_")[0]
    if kind not in ("VID", "DET"):
        raise ValueError(f"{path}: expected a list whose name begins with VID_ or DET_")
    frames: list[_Frame] = []
    for n, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        words = line.split()
        if not words:
            continue
        if len(words) not in (2, 4) or not all(word.isdecimal() for word in words[1:]) or ".." in words[0]:
            raise ValueError(f"{path}, line {n}: expected NAME ID, or VIDEO ID NUMBER LENGTH; found {line!r:.100}")
        if len(words) == 2:
            video, _, number = words[0].rpartition("/")
            is_frame = kind == "VID" and number.isdecimal()
            frames.append(_Frame(kind, video, int(number)) if is_frame else _Frame(kind, words[0], None))
        elif name.endswith("_videos"):
            frames += [_Frame(kind, words[0], number, int(words[3])) for number in range(int(words[3]))]
        else:
            frames.append(_Frame(kind, words[0], int(words[2]), int(words[3])))
    return frames


def _read_boxes(path: Path, size: tuple[int, int], names: Mapping[str, int]) -> np.ndarray:
    """The boxes (M, 5) of a frame of `size` (H, W), clipped to it, as `Clip` has them."""
    return _read_objects(path, size, names)[0]


@lru_cache(4 * REACH)
def _near_objects(path: Path, size: tuple[int, int], names: tuple[tuple[str, int], ...]) -> dict[str, list[float]]:
    """The box of each track in a frame. Empty if there is no such file. Neighbouring frames ask for the same ones."""
    boxes, tracks = _read_objects(path, size, dict(names)) if path.is_file() else (np.zeros((0, 5)), [])
    return dict(zip(tracks, boxes[:, :4].tolist(), strict=True))


def _read_objects(path: Path, size: tuple[int, int], names: Mapping[str, int]) -> tuple[np.ndarray, list[str]]:
    """The boxes (M, 5) of a frame, as `_read_boxes` returns them, and the `trackid` of each. An object without one has
    a track of its own."""
    height, width = size
    sides = "xmin", "ymin", "xmax", "ymax"
    try:
        root = ElementTree.parse(path).getroot()
        found = [
            ((*(float(each.findtext(f"bndbox/{side}", "")) for side in sides), names[name]), each.findtext("trackid"))
            for each in root.iter("object")
            if (name := (each.findtext("name") or "").strip().lower()) in names
        ]
    except FileNotFoundError:
        raise FileNotFoundError(not_there(path)) from None
    except (ElementTree.ParseError, ValueError) as error:
        raise ValueError(f"{path}: no annotation of boxes ({error})") from None
    boxes = np.array([box for box, _ in found], np.float32).reshape(-1, 5)
    boxes[:, 0:4:2] = boxes[:, 0:4:2].clip(0, width - 1)
    boxes[:, 1:4:2] = boxes[:, 1:4:2].clip(0, height - 1)
    inside = np.all(boxes[:, 2:4] >= boxes[:, :2], axis=1)
    tracks = [track or f"object {number} of {path.name}" for number, (_, track) in enumerate(found)]
    return boxes[inside], [track for track, kept in zip(tracks, inside, strict=True) if kept]
