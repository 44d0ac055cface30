"""The folders for native libraries: which they are, who may write there, and one builder at a time."""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Iterator
from pathlib import Path

from accel_ops.compilers import CannotBuild


def cache_folder() -> Path:
    """Return the folder for libraries compiled at first use. Raises `CannotBuild` if the user has no home folder."""
    own = os.environ.get("ACCEL_OPS_CACHE")
    base = os.environ.get("XDG_CACHE_HOME")
    try:
        if own:
            return Path(own).expanduser()
        return (Path(base) if base else Path.home() / ".cache") / "accel_ops"
    except RuntimeError as error:  # a user that the system does not know, as in containers
        raise CannotBuild(f"there is no folder to keep them in ({error}): set ACCEL_OPS_CACHE to one") from None


def is_file(path: Path) -> bool:
    """Return whether a visible file is there. A folder that is closed to us, such as another user's home, has none."""
    try:
        return path.is_file()
    except PermissionError:
        return False


def newest(folder: Path, pattern: str) -> Path | None:
    """Return the newest file there with a matching name, among the visible ones."""
    try:
        found = [path for path in folder.glob(pattern) if is_file(path)]
        return max(found, key=lambda path: path.stat().st_mtime, default=None)
    except OSError:
        return None


def safe_path(path: Path) -> Path:
    """Return the path without links, if no other user can have placed what is there. It need not exist yet.

    The other users are those who are neither root nor the owner of this program, whose code runs anyway. Raises
    `CannotBuild` if one of them may have placed it, or a folder on the way.
    """
    path = path.resolve()
    trusted = {os.geteuid(), os.stat("/").st_uid, os.stat(__file__).st_uid}
    open_to_all = False
    for place in (*reversed(path.parents), path):
        try:
            found = place.lstat()
        except FileNotFoundError:
            break
        was_open, open_to_all = open_to_all, bool(found.st_mode & stat.S_IWOTH)
        if (was_open or open_to_all) and found.st_uid not in trusted:
            raise CannotBuild(
                f"{path} is not safe to load: {place}, where everyone can write, belongs to {_user(found.st_uid)}: "
                "set ACCEL_OPS_CACHE to a folder of your own"
            )
        # In a folder with the sticky bit, such as /tmp, a name can be taken but not taken over.
        if open_to_all and not (stat.S_ISDIR(found.st_mode) and found.st_mode & stat.S_ISVTX):
            raise CannotBuild(
                f"{path} is not safe to load: everyone can write to {place}: forbid that (chmod o-w) or set "
                "ACCEL_OPS_CACHE to a folder of your own"
            )
    return path


def _user(number: int) -> str:
    import pwd  # not on Windows

    try:
        return pwd.getpwuid(number).pw_name
    except KeyError:
        return f"user {number}"


def make_folder(folder: Path) -> None:
    """Make a folder, and those above it, that not everyone can write to, whatever the umask."""
    for missing in reversed([place for place in (folder, *folder.parents) if not place.exists()]):
        missing.mkdir(mode=0o775, exist_ok=True)
    folder.mkdir(exist_ok=True)  # an error if it is something else


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[bool]:
    """A context that only one process enters at a time. The system releases the lock when a process dies.

    The value is False if the file system has no locks, as some network file systems. Then several processes may enter.
    """
    import fcntl  # not on Windows

    with open(folder / "lock", "w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX)
            alone = True
        except OSError:
            alone = False
        yield alone
