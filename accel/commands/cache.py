"""Show or clear the compiled networks that are kept for quick starts.

accel cache
accel cache --clear

They are made by --optimize and --int8. ACCEL_CACHE names another folder (`off`: none), ACCEL_CACHE_GB another limit.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from accel.cli import Parser


def main(arguments: Sequence[str] | None = None) -> None:
    parser = Parser(__doc__)
    parser.add_argument("--clear", action="store_true", help="remove all of them")
    args = parser.parse_args(arguments)

    from accel.fast.kept import kept

    cache = kept()
    if cache is None:
        print("no networks are kept (ACCEL_CACHE=off)")
        return
    if args.clear:
        print(f"removed {_megabytes(cache.clear())} from {cache.folder}")
        return
    entries = cache.entries()
    for entry in entries:
        used = datetime.fromtimestamp(entry.used).strftime("%Y-%m-%d %H:%M")
        print(f"{_megabytes(entry.bytes):>10}  used {used}  {entry.about}")
    total = _megabytes(sum(entry.bytes for entry in entries))
    print(f"{cache.folder}: {total} of {_megabytes(cache.limit)}; accel cache --clear removes all")


def _megabytes(size: float) -> str:
    return f"{size / 1e6:.1f} MB"
