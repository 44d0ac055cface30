"""Which videos to label: a manifest, a folder or a pattern, and a shard's share of them."""

from __future__ import annotations

import csv
import glob
import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from accel.files.listing import visible
from accel.files.small_files import read_text
from accel.fleet.units import Unit
from accel.video.reader import VIDEO_SUFFIXES, natural_key

COLUMN = "path"


@dataclass(frozen=True)
class Shard:
    """One of `count` shares of the videos: those whose place in the manifest is `number`, `number` + `count`, ..."""

    number: int
    count: int

    @staticmethod
    def parse(text: str) -> Shard:
        """Read `3/64`: the share with number 3 of 64, numbered from 0. Raises ValueError."""
        found = re.fullmatch(r"([0-9]+)/([0-9]+)", text.strip())
        if found is None or not int(found[1]) < int(found[2]):
            raise ValueError(
                f"--shard {text}: expected NUMBER/COUNT, such as 0/64 for the first and 63/64 for the last"
            )
        return Shard(int(found[1]), int(found[2]))

    def of(self, paths: list[str]) -> list[str]:
        return paths[self.number :: self.count]


def find_videos(source: str) -> list[str]:
    """Return the paths of the videos that a source names, in its order.

    source: a manifest (a text file with a path a line; a CSV or Parquet file with a column `path`), a folder, which is
        searched with all folders in it, or a pattern such as `drives/**/*.mp4`.

    Relative paths are meant from the current folder. Raises FileNotFoundError or ValueError if there are none, or one
    is named twice.
    """
    place = Path(source)
    if place.is_dir():
        paths = _in_folder(place)
    elif not place.exists() and glob.has_magic(source):
        paths = sorted(glob.glob(source, recursive=True), key=natural_key)
    elif place.suffix.lower() in VIDEO_SUFFIXES:
        raise ValueError(f"{source}: a video; expected a manifest, a file with the path of a video in each line")
    else:
        paths = read_manifest(place)
    if not paths:
        raise ValueError(f"{source}: no video found; expected a manifest with a path a line, a folder, or a pattern")
    twice = [path for path, count in Counter(Unit(path).id for path in paths).items() if count > 1]
    if twice:
        named = next(path for path in paths if Unit(path).id == twice[0])
        raise ValueError(f"{source}: names {named} twice; expected every video once")
    return paths


def read_manifest(path: Path) -> list[str]:
    """Return the paths that a manifest lists. Empty lines and lines that begin with # are passed over.

    Raises FileNotFoundError or ValueError.
    """
    if path.suffix.lower() == ".parquet":
        return _from_parquet(path)
    lines = [line for line in read_text(path).split("\n") if line.strip() and not line.startswith("#")]
    if path.suffix.lower() != ".csv":
        return [line.strip() for line in lines]
    rows = list(csv.DictReader(lines))
    if rows and COLUMN not in rows[0]:
        raise ValueError(f"{path}: columns {', '.join(rows[0])}; expected one called {COLUMN}")
    return [row[COLUMN] for row in rows]


def _from_parquet(path: Path) -> list[str]:
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; expected a manifest")
    try:
        from pyarrow import parquet
    except ImportError:
        raise ValueError(f"{path}: reading Parquet needs pyarrow; pip install 'accel-vss[cluster]'") from None
    names = parquet.read_schema(path).names
    if COLUMN not in names:
        raise ValueError(f"{path}: columns {', '.join(names)}; expected one called {COLUMN}")
    return [str(each) for each in parquet.read_table(path, columns=[COLUMN])[COLUMN].to_pylist()]


def _in_folder(folder: Path) -> list[str]:
    found = []
    for entry in sorted(visible(folder), key=lambda entry: natural_key(entry.name)):
        if entry.is_dir():
            found += _in_folder(entry)
        elif entry.suffix.lower() in VIDEO_SUFFIXES:
            found.append(str(entry))
    return found
