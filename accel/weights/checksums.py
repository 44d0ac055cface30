"""Checksums of files, kept beside them in the format of `sha256sum --check`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from accel.files.digests import sha256_of
from accel.files.whole_files import write_whole

SUMS = "SHA256SUMS"


def write_sums(folder: Path, digests: Mapping[str, str]) -> None:
    """Write the checksums of a folder. digests: SHA-256 by file name."""
    write_whole(folder / SUMS, "".join(f"{digest}  {name}\n" for name, digest in digests.items()).encode())


def read_sums(path: Path) -> dict[str, str]:
    """Return SHA-256 by file name. Raises OSError or ValueError for any other kind of file."""
    pairs = (line.split("  ", 1) for line in path.read_text(encoding="utf-8").splitlines())
    return {name: digest for digest, name in pairs}


def check_sum(path: Path, sums: Path) -> None:
    """Raise ValueError unless a file has the checksum that `sums` states for its name."""
    try:
        stated = read_sums(sums).get(path.name)
    except (OSError, ValueError):
        raise ValueError(f"{sums}: no checksums to read") from None
    if stated is None:
        raise ValueError(f"{sums}: has no checksum of {path.name}")
    if sha256_of(path) != stated:
        raise ValueError(f"{path}: damaged: its SHA-256 is not the one in {sums}")
