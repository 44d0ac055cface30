"""Class maps: use a model with one data set's classes on the data of another.

Cityscapes (19 classes) and CamVid (11) are compared in CamVid's classes, whichever of the two a model was trained on.
Each class of Cityscapes lies in one of CamVid's, so no guess is needed. The other direction would need one: a
"bicyclist" of CamVid is both rider and bicycle. The predictions of a Cityscapes model are mapped, and so is Cityscapes'
ground truth for a CamVid model.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from accel.datasets import camvid, cityscapes
from accel.labels import IGNORED


@dataclass(frozen=True)
class Row:
    """A class of Cityscapes in terms of CamVid's.

    counterpart: the class of CamVid that it lies in. None: it lies in none, and ground truth of it is not scored.
    predicted: the class that predictions of it count as. A wrong prediction of `train` is an error like any other.
    """

    name: str
    counterpart: str | None
    predicted: str
    why: str


def _row(name: str, counterpart: str, why: str) -> Row:
    return Row(name, counterpart, counterpart, why)


# CamVid's 11 classes are groups of 32 (accel.datasets.camvid_original lists them); the reasons name the member.
CITYSCAPES_TO_CAMVID = (
    _row("road", "road", "Road, and the markings on it in both"),
    _row("sidewalk", "sidewalk", "Sidewalk, traffic islands among it in both"),
    _row("building", "building", "Building"),
    _row("wall", "building", "Wall is among building"),
    _row("fence", "fence", "Fence"),
    _row("pole", "pole", "Column_Pole"),
    _row("traffic light", "sign", "TrafficLight is among sign"),
    _row("traffic sign", "sign", "SignSymbol; sign has the lettering on shops, too (Misc_Text), Cityscapes building"),
    _row("vegetation", "tree", "Tree, and hedges and bushes (VegetationMisc)"),
    _row("terrain", "tree", "grass and verges are VegetationMisc, hence tree"),
    _row("sky", "sky", "Sky"),
    _row("person", "pedestrian", "Pedestrian; CamVid leaves children out, Cityscapes has them here"),
    _row("rider", "bicyclist", "Bicyclist is the person with the bicycle"),
    _row("car", "car", "Car and SUVPickupTruck, vans in both"),
    _row("truck", "car", "Truck_Bus is among car"),
    _row("bus", "car", "Truck_Bus is among car"),
    Row("train", None, "car", "Train is unlabelled in CamVid; a train predicted there was some vehicle, at best"),
    _row("motorcycle", "bicyclist", "MotorcycleScooter is among bicyclist"),
    _row("bicycle", "bicyclist", "Bicyclist is the person with the bicycle; CamVid leaves parked ones unlabelled"),
)


@dataclass(frozen=True)
class ClassMap:
    """How predictions and ground truth with different classes are mapped to common classes.

    known, found: the class names of the model and of the data set.
    class_names: the K classes in which they are compared.
    palette: their colours, (K, 3) uint8.
    predictions: (256,) uint8: for each class that the model predicts, the class of the K it counts as.
    truth: (256,) uint8: for each class of the ground truth, its class of the K. 255: not scored.
    ignored: the classes of the data set that are not scored.
    """

    known: tuple[str, ...]
    found: tuple[str, ...]
    class_names: tuple[str, ...]
    palette: np.ndarray
    predictions: np.ndarray
    truth: np.ndarray
    ignored: tuple[str, ...]

    def as_dict(self) -> dict:
        """Return the map as names, for JSON: what each predicted class, and each true one, counts as. None: not
        scored."""

        def names(classes: tuple[str, ...], table: np.ndarray) -> dict[str, str | None]:
            targets = table[: len(classes)].tolist()
            return {
                name: None if target == IGNORED else self.class_names[target]
                for name, target in zip(classes, targets, strict=True)
            }

        return {"predictions": names(self.known, self.predictions), "truth": names(self.found, self.truth)}

    def describe(self) -> str:
        """Return one line for a person."""
        ignored = f"; not scored: {', '.join(self.ignored)}" if self.ignored else ""
        return (
            f"classes mapped: the model knows {len(self.known)}, the data have {len(self.found)}, "
            f"scored in {len(self.class_names)} ({', '.join(self.class_names)}){ignored}"
        )


def find_class_map(known: Sequence[str], found: Sequence[str]) -> ClassMap | None:
    """Return the map from a model's classes and a data set's classes to common ones. None if no map is known.

    If both have Cityscapes' classes, there is a map too: for comparison with a model that has CamVid's classes.
    """
    known, found = tuple(known), tuple(found)
    if not {known, found} <= _TAXONOMIES.keys():
        return None
    ignored = tuple(row.name for row in CITYSCAPES_TO_CAMVID if row.counterpart is None)
    return ClassMap(
        known,
        found,
        camvid.CLASS_NAMES,
        camvid.PALETTE,
        predictions=_table([row.predicted for row in _TAXONOMIES[known]]),
        truth=_table([row.counterpart for row in _TAXONOMIES[found]]),
        ignored=tuple(name for name in found if name in ignored),
    )


_TAXONOMIES = {
    cityscapes.CLASS_NAMES: CITYSCAPES_TO_CAMVID,
    camvid.CLASS_NAMES: tuple(_row(name, name, "the class itself") for name in camvid.CLASS_NAMES),
}


def _table(targets: Sequence[str | None]) -> np.ndarray:
    """Return for each class index the index of the CamVid class of that name: (256,) uint8. 255 for None, and for
    indices that are not a class."""
    table = np.full(256, IGNORED, np.uint8)
    table[: len(targets)] = [IGNORED if name is None else camvid.CLASS_NAMES.index(name) for name in targets]
    return table
