"""A unit's folder: it appears under its name when everything in it has reached the disk."""

from __future__ import annotations

import errno
import glob
import hashlib
import json
import os
import secrets
import shutil
import time
from contextlib import suppress
from pathlib import Path

from accel.files.digests import sha256_of
from accel.files.whole_files import sync_folder, write_whole
from accel.fleet.units import DONE, RESULT, Row, read_row

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

UNFINISHED = ".unfinished"  # the folder beside the units' in which they are filled
_ABANDONED = 24 * 3600.0  # seconds without a change; then a folder without locks belongs to no living process


class UnitFolder:
    """The folder of a unit while it is being filled. `commit` gives it its name.

    Folders that killed processes left for the same unit are removed first.

    final: the folder's later place.
    path: where to write until then.
    """

    def __init__(self, final: Path):
        self.final = final
        unfinished = final.parent / UNFINISHED  # few: ten thousand finished ones need not be looked through
        unfinished.mkdir(parents=True, exist_ok=True)
        for left in unfinished.glob(f"{glob.escape(final.name)}.*"):
            if _abandoned(left):
                shutil.rmtree(left, ignore_errors=True)
        self.path = unfinished / f"{final.name}.{secrets.randbits(64)}"
        self.path.mkdir()
        self._lock = _locked(self.path)

    def checksum(self) -> str:
        """Return the SHA-256 over the names and contents of all files. Empty if there are none."""
        files = sorted(
            (each.relative_to(self.path).as_posix(), each) for each in self.path.rglob("*") if each.is_file()
        )
        digest = hashlib.sha256()
        for name, file in files:
            digest.update(f"{sha256_of(file)}  {name}\n".encode())
        return digest.hexdigest() if files else ""

    def commit(self, row: Row) -> Row:
        """Write the row, bring everything to the disk, and name the folder. Return the row that counts.

        If another process has finished the same unit meanwhile, its folder stays, and its row is returned. A failed one
        is replaced.
        """
        try:
            write_whole(self.path / RESULT, f"{json.dumps(row.as_dict(), indent=2)}\n".encode())
            for parent, _, files in os.walk(self.path):
                for name in files:
                    _sync_file(Path(parent) / name)
                sync_folder(Path(parent))
            while not self._rename():
                there = read_row(self.final)
                if there is not None and there.status == DONE:
                    return there
                self._put_aside()
            sync_folder(self.final.parent)
            return row
        finally:
            self.abandon()

    def abandon(self) -> None:
        """Remove what was written, unless it was committed."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None
        shutil.rmtree(self.path, ignore_errors=True)

    def _rename(self) -> bool:
        try:
            os.rename(self.path, self.final)
        except OSError as error:
            if error.errno in (errno.ENOTEMPTY, errno.EEXIST, errno.EACCES) and self.final.exists():
                return False
            raise
        return True

    def _put_aside(self) -> None:
        aside = self.final.parent / UNFINISHED / f"{self.final.name}.{secrets.randbits(64)}"
        with suppress(FileNotFoundError):
            os.rename(self.final, aside)
            shutil.rmtree(aside, ignore_errors=True)


def _locked(folder: Path) -> int | None:
    """Return a descriptor that locks a folder as long as this process lives. None if the system cannot."""
    if fcntl is None:
        return None
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        return None
    return descriptor


def _abandoned(folder: Path) -> bool:
    if fcntl is not None:
        try:
            descriptor = os.open(folder, os.O_RDONLY)
        except OSError:
            return False
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            return False
        except OSError:  # a file system without locks
            pass
        finally:
            os.close(descriptor)
    with suppress(OSError):
        return time.time() - folder.stat().st_mtime > _ABANDONED
    return False


def _sync_file(path: Path) -> None:
    with path.open("rb+") as file:
        os.fsync(file.fileno())
