"""CamVid as its authors distribute it: 960 x 720, labels as colours of 32 classes (Brostow et al. 2009).

ROOT/701_StillsRaw_full/NAME.png         frames
ROOT/LabeledApproved_full/NAME_L.png     their labels, as colours
ROOT/label_colors.txt                    the colours, lines "R G B  Class"; if absent, the ones below
ROOT/SPLIT.txt                           the NAMEs of a split; if absent, SegNet's split is used

ROOT/SPLIT and ROOT/SPLIT_labels, and labels in the folder of their frames, are accepted too. So is any size.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

import numpy as np

from accel.datasets.camvid import CLASS_NAMES, CamVid, numbered
from accel.datasets.clips import OnMissing
from accel.files.images import UNDEFINED, read_colour_labels
from accel.files.listing import leads_nowhere, visible
from accel.files.small_files import read_text
from accel.labels import IGNORED

# Class, colour (label_colors.txt), and which of the 11 classes it belongs to in SegNet's labels; None: unlabelled.
#
# The groups are those of A. Kundu's program VideoParsing. MathWorks' CamVid example, which others copy, differs in ten
# classes: it takes bridges, tunnels and archways for building, cones for pole, road shoulders for sidewalk, trains and
# OtherMoving for car, and children, animals and luggage for pedestrian. SegNet's labels decide: prams, luggage, dogs
# and the bonnet of the recording car (OtherMoving) are unlabelled in them, and 684 of the 701 frames have cars and 640
# have pedestrians, where MathWorks counts 699 and 643. What both group alike agrees: in sign, fence and bicyclist the
# shares of pixels do to 0.001%.
CLASSES = (
    ("Animal", (64, 128, 64), None),
    ("Archway", (192, 0, 128), None),
    ("Bicyclist", (0, 128, 192), "bicyclist"),
    ("Bridge", (0, 128, 64), None),
    ("Building", (128, 0, 0), "building"),
    ("Car", (64, 0, 128), "car"),
    ("CartLuggagePram", (64, 0, 192), None),
    ("Child", (192, 128, 64), None),
    ("Column_Pole", (192, 192, 128), "pole"),
    ("Fence", (64, 64, 128), "fence"),
    ("LaneMkgsDriv", (128, 0, 192), "road"),
    ("LaneMkgsNonDriv", (192, 0, 64), "road"),
    ("Misc_Text", (128, 128, 64), "sign"),
    ("MotorcycleScooter", (192, 0, 192), "bicyclist"),
    ("OtherMoving", (128, 64, 64), None),
    ("ParkingBlock", (64, 192, 128), "sidewalk"),
    ("Pedestrian", (64, 64, 0), "pedestrian"),
    ("Road", (128, 64, 128), "road"),
    ("RoadShoulder", (128, 128, 192), "road"),
    ("Sidewalk", (0, 0, 192), "sidewalk"),
    ("SignSymbol", (192, 128, 128), "sign"),
    ("Sky", (128, 128, 128), "sky"),
    ("SUVPickupTruck", (64, 128, 192), "car"),
    ("TrafficCone", (0, 0, 64), None),
    ("TrafficLight", (0, 64, 64), "sign"),
    ("Train", (192, 64, 128), None),
    ("Tree", (128, 128, 0), "tree"),
    ("Truck_Bus", (192, 128, 192), "car"),
    ("Tunnel", (64, 0, 64), None),
    ("VegetationMisc", (192, 192, 0), "tree"),
    ("Void", (0, 0, 0), None),
    ("Wall", (64, 192, 0), "building"),
)

_COLOURS = {name: colour for name, colour, _ in CLASSES}
_GROUP = {name: IGNORED if group is None else CLASS_NAMES.index(group) for name, _, group in CLASSES}
_ENDING = "_L.png"  # of label files


class CamVidOriginal(CamVid):
    """The labelled frames of a split in the original form. Everything else, classes included, is as in `CamVid`.

    Without ROOT/SPLIT.txt, frames that share one folder are split as by SegNet (`segnet_split`).
    """

    def __init__(self, root: str | Path, split: str = "train", on_missing: OnMissing | None = None):
        super().__init__(root, split, on_missing)
        self._colours = self.root / "label_colors.txt"
        colour_table(self._colours)  # what is wrong in there is told at once; workers make the table themselves

    def _folders(self) -> tuple[Path, Path]:
        return original_folders(self.root, self.split) or (self.root / "701_StillsRaw_full",) * 2

    def _annotated_names(self) -> list[str]:
        names = sorted(path.name.removesuffix(_ENDING) for path in _label_files(self._annotations))
        if self._images == self.root / self.split:
            return names
        return [name for name in names if segnet_split(name) == self.split]

    def _labels(self, name: str) -> tuple[Path, np.ndarray]:
        path = self._annotations / f"{name}{_ENDING}"
        return path, read_colour_labels(path, colour_table(self._colours))

    def _not_there(self) -> FileNotFoundError:
        return FileNotFoundError(
            f"no CamVid {self.split} split at {self.root}: expected 701_StillsRaw_full/NAME.png and "
            f"LabeledApproved_full/NAME{_ENDING}, and {self.split}.txt if the frames are not CamVid's own"
        )


def original_folders(root: Path, split: str) -> tuple[Path, Path] | None:
    """Return the folders of the frames and of the labels of a split in the original form. None if there are none."""
    stills = root / "701_StillsRaw_full"
    layouts = (
        (stills, root / "LabeledApproved_full"),
        (root / split, root / f"{split}_labels"),
        (stills, stills),
        (root / split, root / split),
        (root, root),
    )
    return next((pair for pair in layouts if pair[0].is_dir() and any(_label_files(pair[1]))), None)


def _label_files(folder: Path) -> Iterator[Path]:
    return (path for path in visible(folder) if path.name.endswith(_ENDING)) if folder.is_dir() else iter(())


def segnet_split(name: str) -> str | None:
    """Return the split (367 train, 101 val, 233 test) of a frame, from its recording and number. None: it is in none.

    0006R0 is for training, Seq05VD for testing. 0001TP is cut in halves. Of 0016E5, the part at 15 Hz is val.
    """
    recording, number = numbered(name) or (name, 0)
    match recording:
        case "0006R0_f":
            return "train"
        case "Seq05VD_f":
            return "test"
        case "0001TP_":
            return "train" if number <= 8520 else "test"
        case "0016E5_":
            return "val" if 7959 <= number <= 8159 else "train"
    return None


@lru_cache(maxsize=2)
def colour_table(path: Path) -> np.ndarray:
    """Return the class index of every colour, for `read_colour_labels`: (2**24,) uint8. It takes 16 MB and some
    milliseconds.

    path: label_colors.txt. If it does not exist, the usual colours are used.

    Raises ValueError, with file and line, for an invalid line, an unknown class, and a colour that occurs twice.
    """
    colours = _read_colours(path) if path.is_file() or leads_nowhere(path) else _COLOURS
    table = np.full(2**24, UNDEFINED, np.uint8)
    for name, (red, green, blue) in colours.items():
        table[(red << 16) + (green << 8) + blue] = _GROUP[name]
    return table


def _read_colours(path: Path) -> dict[str, tuple[int, int, int]]:
    colours: dict[str, tuple[int, int, int]] = {}
    for number, line in enumerate(read_text(path).splitlines(), 1):
        words = line.split()
        if not words:
            continue
        where = f"{path} line {number}"
        if len(words) != 4 or not all(w.isdecimal() and len(w) <= 3 and int(w) <= 255 for w in words[:3]):
            raise ValueError(f"{where}: expected R G B Class, found {line.strip()!r:.100}")
        red, green, blue, name = words
        if name not in _GROUP:
            raise ValueError(f"{where}: {name!r:.100} is none of CamVid's 32 classes")
        colour = int(red), int(green), int(blue)
        if name in colours or colour in colours.values():
            raise ValueError(f"{where}: a second line for this class or this colour")
        colours[name] = colour
    if not colours:
        raise ValueError(f"{path}: lists no colour")
    return colours
