"""The index of a run: a row for each unit, in a file for each shard."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from types import TracebackType

from accel.files.whole_files import write_whole
from accel.fleet.manifest import Shard
from accel.fleet.units import COLUMNS, Row

INDEX = "index"  # the folder in the output folder


class ShardIndex:
    """The index of a shard, `index/shard-0003-of-0064.csv`. Each row is on the disk before `add` returns.

    out: the run's output folder.
    before: the rows of units that earlier runs finished.
    """

    def __init__(self, out: Path, shard: Shard, before: Iterable[Row] = ()):
        self.path = out / INDEX / f"shard-{shard.number:04d}-of-{shard.count:04d}.csv"
        write_whole(self.path, _lines([dict(zip(COLUMNS, COLUMNS, strict=True)), *(row.as_dict() for row in before)]))
        self._file = self.path.open("ab")

    def add(self, row: Row) -> None:
        self._file.write(_lines([row.as_dict()]))
        self._file.flush()
        os.fsync(self._file.fileno())

    def finish(self, rows: Sequence[Row]) -> None:
        """Write the index anew, with these rows in this order. It does not tell then in which order they were made."""
        self.close()
        write_whole(self.path, _lines([dict(zip(COLUMNS, COLUMNS, strict=True)), *(row.as_dict() for row in rows)]))

    def close(self) -> None:
        self._file.close()

    def __enter__(self) -> ShardIndex:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def read_index(path: Path) -> list[dict[str, str]]:
    """Return the rows of a shard's index. A last line that was cut off is passed over."""
    text = path.read_text(encoding="utf-8")
    rows = csv.DictReader(io.StringIO(text[: text.rfind("\n") + 1], newline=""))
    return [row for row in rows if None not in row.values()]


def _lines(rows: Iterable[dict]) -> bytes:
    text = io.StringIO(newline="")
    csv.DictWriter(text, COLUMNS, lineterminator="\n").writerows(rows)
    return text.getvalue().encode()
