"""Keep on the disk what took long to make, such as compiled networks, for later starts of the program.

Each entry is a folder of files under a key that says everything that it depends on. An entry appears under its name
only when it is complete, so several processes may use one cache.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
import sys
import time
import warnings
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from accel.files.digests import sha256_of

PLACE, LIMIT = "ACCEL_CACHE", "ACCEL_CACHE_GB"  # environment variables: the folder, or `off`; the most it may take
GIGABYTES = 4.0
LIST = "entry.json"  # in each entry: its files with their checksums, and what it is
_LEFT_BEHIND = 3600.0  # seconds after which an entry that is still being written belongs to a process that died


@dataclass(frozen=True)
class Entry:
    """What is kept under one key. about: what it is, in words. used: the time of its last use, in seconds."""

    key: str
    about: str
    bytes: int
    used: float


class Kept:
    """A cache of bounded size.

    folder: where it lies. It need not exist.
    limit: the most bytes it may take. When an entry is added, those used least recently are removed until it fits.
    """

    def __init__(self, folder: Path, limit: float = GIGABYTES * 1e9):
        self.folder, self.limit = folder, limit

    def find(self, key: str) -> Path | None:
        """Return the folder with the files of an entry. None if there is none. A damaged entry is removed."""
        place = self.folder / key
        try:
            listed = json.loads((place / LIST).read_bytes())
            whole = all(sha256_of(place / name) == known for name, known in listed["files"].items())
            os.utime(place / LIST)
        except FileNotFoundError:
            if place.is_dir():  # without its list it is of no use
                self._remove(place)
            return None
        except (OSError, ValueError, LookupError, TypeError, AttributeError):
            whole = False
        if not whole:
            self._remove(place)
            return None
        return place

    def add(self, key: str, about: str, write: Callable[[Path], object]) -> None:
        """Keep an entry, unless another process was faster.

        write: a function that writes the files of the entry into the folder that it is given.

        Raises OSError if there is no room, for one.
        """
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)  # it holds code that is run
        part = self.folder / f".{key}.{secrets.randbits(64)}"
        part.mkdir(mode=0o700)
        try:
            write(part)
            files = {path.name: sha256_of(path) for path in sorted(part.iterdir())}
            (part / LIST).write_text(json.dumps({"about": about, "files": files}), encoding="utf-8")
            if self.find(key) is None:
                with suppress(OSError):  # another process has just done the same
                    os.rename(part, self.folder / key)
        finally:
            shutil.rmtree(part, ignore_errors=True)
        self._shrink(key)

    def entries(self) -> list[Entry]:
        """Return all entries, the most recently used one first."""
        found = []
        for place in self._places():
            with suppress(OSError, ValueError, LookupError, TypeError):
                about = json.loads((place / LIST).read_bytes())["about"]
                found.append(Entry(place.name, str(about), _size(place), (place / LIST).stat().st_mtime))
        return sorted(found, key=lambda entry: -entry.used)

    def clear(self) -> int:
        """Remove everything, also what is damaged. Return how many bytes that were."""
        places = [*self._places(), *self._parts()]
        size = sum(map(_size, places))
        for place in places:
            self._remove(place)
        return size

    def _shrink(self, newest: str) -> None:
        entries = self.entries()
        size = sum(entry.bytes for entry in entries)
        for entry in reversed(entries):
            if size <= self.limit:
                break
            if entry.key != newest:
                self._remove(self.folder / entry.key)
                size -= entry.bytes
        for part in self._parts():
            with suppress(OSError):
                if time.time() - part.stat().st_mtime > _LEFT_BEHIND:
                    self._remove(part)

    def _places(self) -> list[Path]:
        return [path for path in self._folders() if not path.name.startswith(".")]

    def _parts(self) -> list[Path]:
        """Return the entries that are being written, or were, by processes that died."""
        return [path for path in self._folders() if path.name.startswith(".")]

    def _folders(self) -> list[Path]:
        try:
            return [path for path in self.folder.iterdir() if path.is_dir()]
        except OSError:
            return []

    def _remove(self, place: Path) -> None:
        # Another process may be reading it: first it loses its name, all at once.
        away = self.folder / f".{place.name.lstrip('.')[:64]}.{secrets.randbits(64)}"
        with suppress(OSError):
            os.rename(place, away)
            shutil.rmtree(away, ignore_errors=True)


def kept() -> Kept | None:
    """Return this user's cache. None if it is switched off by ACCEL_CACHE=off.

    It lies in the folder ACCEL_CACHE, or else in that of this user's caches. It takes 4 GB at most, or ACCEL_CACHE_GB.
    If another user may have placed something there, a warning says so, and the cache is off: it holds code that is run.

    Raises ValueError for a limit that is no number.
    """
    place = os.environ.get(PLACE, "")
    if place.lower() in ("off", "0", "no"):
        return None
    text = os.environ.get(LIMIT) or str(GIGABYTES)
    try:
        limit = float(text)
    except ValueError:
        limit = -1.0
    if not limit >= 0:
        raise ValueError(f"{LIMIT} {text}: expected a number of gigabytes")
    try:
        folder = Path(place) if place else _of_this_user() / "accel" / "networks"
    except RuntimeError:  # a user that the system does not know, as in containers
        return None
    if hasattr(os, "geteuid"):  # not on Windows
        from accel_ops.compilers import CannotBuild
        from accel_ops.places import safe_path

        try:
            safe_path(folder)
        except CannotBuild as error:
            warnings.warn(f"compiled networks are not kept: {error}", RuntimeWarning, stacklevel=2)
            return None
    return Kept(folder, limit * 1e9)


def _of_this_user() -> Path:
    if os.environ.get("XDG_CACHE_HOME"):
        return Path(os.environ["XDG_CACHE_HOME"])
    home = Path.home()
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA") or home / "AppData" / "Local")
    return home / ("Library/Caches" if sys.platform == "darwin" else ".cache")


def _size(place: Path) -> int:
    total = 0
    for path in place.rglob("*"):
        with suppress(OSError):
            total += path.stat().st_size
    return total
