"""Label a shard of a manifest on this machine, with nothing but files."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from accel.fleet.guard import Guard
from accel.fleet.index import ShardIndex
from accel.fleet.manifest import Shard
from accel.fleet.settings import Settings, join_run
from accel.fleet.units import DONE, FAILED, VIDEOS, Row, Unit, read_row
from accel.progress import bar, console


def run_shard(paths: Sequence[str], shard: Shard, settings: Settings, out: Path, retry: bool = False) -> list[Row]:
    """Label a shard's videos one after another. Return the rows of its units, in the manifest's order.

    Units that are finished are passed over; so are those that failed, without `retry`. Several shards of one run may
    write to the same folder at the same time, from different machines.

    Raises ValueError or OSError for mistakes, and if results cannot be written.
    """
    join_run(out, settings)
    with Guard(settings, out) as guard:
        units = [unit for path in shard.of(list(paths)) for unit in guard.plan(path)]
        rows = finished_rows(units, out, retry)
        if rows:
            console.print(f"{len(rows)} of {len(units)} are finished already")
        with (
            ShardIndex(out, shard, rows.values()) as index,
            bar(f"shard {shard.number}/{shard.count}", len(units), before=len(rows)) as progress,
        ):
            for unit in units:
                if unit.id not in rows:
                    rows[unit.id] = row = guard.label(unit, retry)
                    index.add(row)
                    if row.status == FAILED:
                        console.print(f"failed: {row.path}: {row.error}")
                    progress.update(len(rows), row.id)
            ordered = [rows[unit.id] for unit in units]
            index.finish(ordered)
    return ordered


def finished_rows(units: Iterable[Unit], out: Path, retry: bool) -> dict[str, Row]:
    """Return the rows of units that earlier runs finished, by their names. With `retry`, without those that failed."""
    rows = {unit.id: row for unit in units if (row := read_row(out / VIDEOS / unit.id)) is not None}
    return {name: row for name, row in rows.items() if row.status == DONE or not retry}
