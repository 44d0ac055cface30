"""Read annotations as JSON, with messages that say where something is missing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from accel.files.listing import not_there
from accel.files.small_files import decode

MAX_BYTES = 2**30  # of a JSON file: COCO's largest has half of it


def read_json(path: Path) -> Any:
    """Return the content of a JSON file. Raises FileNotFoundError, or ValueError with the path."""
    try:
        if path.stat().st_size > MAX_BYTES:
            raise ValueError(f"{path}: more than {MAX_BYTES} bytes")
        return json.loads(decode(path.read_bytes()))
    except FileNotFoundError:
        raise FileNotFoundError(not_there(path)) from None
    except (json.JSONDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ValueError(f"{path}: not JSON ({error})") from None


def points(values: Any, where: str) -> np.ndarray:
    """Return a polygon, (N, 2) float64, from a list of numbers x, y, x, y, ... or of pairs. Raises ValueError."""
    try:
        found = np.array(values, np.float64).reshape(-1, 2)
    except (ValueError, TypeError):
        raise ValueError(f"{where}: expected pairs of numbers x, y") from None
    if len(found) < 3 or not np.isfinite(found).all():
        raise ValueError(f"{where}: {len(found)} points; expected three or more, with finite coordinates")
    return found


def below(folder: Path, name: Any, where: Path) -> Path:
    """Return the path of a file that an annotation names, below a folder. Raises ValueError for one that leads out."""
    path = Path(str(name).replace("\\", "/"))
    if not str(name) or path.is_absolute() or ".." in path.parts:
        raise ValueError(f"{where}: the image {name!r:.100} does not lie below {folder}")
    return folder / path


def copy_name(path: Path) -> Path:
    """Return the place of an image below `images/`: in a folder at most, because deeper ones are not read."""
    *folders, name = path.parts
    return Path("_".join(folders), name) if folders else Path(name)
