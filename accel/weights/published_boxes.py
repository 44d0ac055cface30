"""The box arrays of published R-FCN files, which hold them twice: as trained, and as NAME_test for the test programs.

A network learns boxes in units of deviations. The test programs do not know of these: for them the trained arrays are
multiplied by the deviations. `accel.models.detection.rfcn` holds the trained ones, and multiplies what they give.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from accel.models.detection.maps import BINS, BOX_DEVIATIONS

NAMES = ("rfcn_bbox_weight", "rfcn_bbox_bias")
TOLERANCE = 1e-3  # relative


def with_trained_boxes(arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The arrays of a file with the trained boxes alone: worked out where only those for the test programs are there.

    Raises ValueError where both are there and do not belong together.
    """
    made = dict(arrays)
    for name, array in arrays.items():
        plain = name.removesuffix("_test")
        if plain == name or plain.removeprefix("arg:") not in NAMES:
            continue
        del made[name]
        trained = array / _deviations(array)
        if plain not in made:
            made[plain] = trained
        elif made[plain].shape == array.shape and not _alike(made[plain], trained):
            raise ValueError(f"{name} is not {plain} times the deviations {BOX_DEVIATIONS}, as in published files")
    return made


def with_test_boxes(arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The arrays of a file with those for the test programs, too."""
    made = dict(arrays)
    for name in NAMES:
        trained = arrays[f"arg:{name}"]
        made[f"arg:{name}_test"] = trained * _deviations(trained)
    return made


def _deviations(array: np.ndarray) -> np.ndarray:
    """What each channel is multiplied by: channels are (background or object, coordinate, bin)."""
    of_channels = np.repeat(np.tile(np.array(BOX_DEVIATIONS, np.float32), 2), BINS**2)
    if len(array) != len(of_channels):  # told later, as a wrong shape
        of_channels = np.ones(len(array), np.float32)
    return of_channels.reshape(-1, *[1] * (array.ndim - 1))


def _alike(trained: np.ndarray, other: np.ndarray) -> bool:
    return bool(np.allclose(trained, other, rtol=TOLERANCE, atol=TOLERANCE * float(np.abs(trained).max(initial=0))))
