"""Which frames of a folder follow each other in time, by the numbers in their names."""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence
from pathlib import Path
from statistics import median

from accel.wording import few

_NUMBER = re.compile(r"(.*?)([0-9]+)([^0-9]*)")
_TOLERANCE = 1.5  # times the usual step: names may be times, which are not quite even
_NAMED = 3  # gaps in a message


def find_gaps(names: Sequence[str]) -> list[int]:
    """Return the places of the frames that do not directly follow the one before them.

    names: the names of the frames in their order, without suffixes. The last number in a name counts. Frames follow
        each other if what stands around the number is the same, and if the numbers differ by no more than is usual
        here: 1, 2, 3, 10, 11 has a gap before 10, and 5, 10, 15 has none. Names without numbers say nothing.
    """
    found = [_NUMBER.fullmatch(name) for name in names]
    pairs = list(itertools.pairwise(found))
    steps = [_step(a, b) for a, b in pairs]
    known = [step for step in steps if step is not None]
    usual = median(known) if known else 0
    return [
        place
        for place, ((a, b), step) in enumerate(zip(pairs, steps, strict=True), 1)
        if (a is None) != (b is None) or (b is not None and (step is None or step > _TOLERANCE * usual))
    ]


def describe_gaps(folder: Path, files: Sequence[Path], gaps: Sequence[int]) -> str:
    """Return one line for a person about the gaps of a folder of frames."""
    places = few([f"between {files[gap - 1].name} and {files[gap].name}" for gap in gaps], _NAMED)
    return (
        f"{folder}: the numbers of its {len(files)} frames have {len(gaps)} gap{'s' if len(gaps) > 1 else ''} "
        f"({places}); the video is cut there, and no clip crosses a cut"
    )


def _step(a: re.Match[str] | None, b: re.Match[str] | None) -> int | None:
    """Return the difference of two numbered names. None if their numbers do not count the same."""
    if a is None or b is None or a.group(1, 3) != b.group(1, 3):
        return None
    return int(b[2]) - int(a[2])
