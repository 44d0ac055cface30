"""Which frames of a folder follow each other in time, by the numbers in their names."""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence
from pathlib import Path
from statistics import median

from accel.wording import few

_NUMBERS = re.compile(r"([0-9]+)")
_TOLERANCE = 1.5  # times the usual step: names may be times, which are not quite even
_NAMED = 3  # gaps in a message


def find_gaps(names: Sequence[str]) -> list[int]:
    """Return the places of the frames that do not directly follow the one before them.

    names: the names of the frames in their order, without suffixes. Frames follow each other if their names differ in
        one number alone, and in it by no more than is usual here: 1, 2, 3, 10, 11 has a gap before 10, and 5, 10, 15
        has none. Names without numbers say nothing.
    """
    parts = [_NUMBERS.split(name) for name in names]
    steps = [_step(a, b) for a, b in itertools.pairwise(parts)]
    known = [step for step in steps if step is not None]
    usual = median(known) if known else 0
    numberless = all(len(part) == 1 for part in parts)
    return [
        place for place, step in enumerate(steps, 1) if not numberless and (step is None or step > _TOLERANCE * usual)
    ]


def describe_gaps(folder: Path, files: Sequence[Path], gaps: Sequence[int]) -> str:
    """Return one line for a person about the gaps of a folder of frames."""
    places = few([f"between {files[gap - 1].name} and {files[gap].name}" for gap in gaps], _NAMED)
    return (
        f"{folder}: the numbers of its {len(files)} frames have {len(gaps)} gap{'s' if len(gaps) > 1 else ''} "
        f"({places}); the video is cut there, and no clip crosses a cut"
    )


def _step(a: Sequence[str], b: Sequence[str]) -> int | None:
    """Return the difference of two names, split at their numbers. None if they differ in more than a number."""
    if len(a) != len(b):
        return None
    other = [(x, y) for x, y in zip(a, b, strict=True) if x != y]
    if len(other) != 1 or not (other[0][0].isdecimal() and other[0][1].isdecimal()):
        return None
    return int(other[0][1]) - int(other[0][0])
