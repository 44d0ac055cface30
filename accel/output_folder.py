"""A folder for the results of a run, which may contain the user's own files."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path, PurePath
from typing import TextIO

from accel.wording import few

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

LIST = ".accel-written"  # the files that runs of this program wrote: a JSON string a line, relative to the folder
MAX_NAMED = 3  # files named in an error
_PART = re.compile(r"\.(.+)\.[0-9]+\.part", re.DOTALL)  # a file that is being written, under a name of its own


class OutputFolder:
    """Knows which files in the folder were written by earlier runs of this program, and changes no others.

    A file is listed before it is written. So the files of an interrupted run are known too.

    path: the folder. It need not exist yet.
    files: the names of files that this run will write.
    folders: the names of sub-folders that this run will fill.

    Raises ValueError if this program did not write one of the files, or anything in one of the sub-folders, and if the
    folder is not writable. Nothing is changed until `clear` or `file`.
    """

    def __init__(self, path: Path, files: Sequence[str], folders: Sequence[str] = ()):
        self.path = path
        self._check_place()
        self._earlier = listed_files(path)  # what earlier runs wrote, and this one has not replaced
        self._written: set[str] = set()
        self._list: TextIO | None = None
        foreign = [name for name in files if os.path.lexists(path / name) and name not in self._earlier]
        for name in files:
            self._refuse_folder(name)
        for name in folders:
            foreign += self._foreign_in(name)
        if foreign:
            raise self._not_ours(foreign)

    def clear(self) -> None:
        """Make the folder if necessary, and delete the files of earlier runs.

        Raises ValueError if another run is writing to the folder, and OSError if something cannot be deleted.
        """
        listing = self._open()
        self._earlier = listed_files(self.path)  # it may be long since this run first looked
        ends = {}  # folders that listed files are in, and whether those are inside this one
        for name in self._earlier:
            file = self.path / name
            if file.parent not in ends:
                ends[file.parent] = self._is_inside(file.parent)
            if ends[file.parent]:
                self._delete(name)
        for folder in (folder for folder, inside in ends.items() if inside and folder.is_dir()):
            for part in list(folder.iterdir()):  # of a run that was killed
                if (found := _PART.fullmatch(part.name)) and self._name(folder / found[1]) in self._earlier:
                    part.unlink(missing_ok=True)
        listing.truncate(0)
        self._earlier = set()

    def file(self, name: str) -> Path:
        """Return the path of a file that will now be written, and list it.

        Raises ValueError if another program's file is there by now.
        """
        file = self.path / name
        name = self._name(file)
        if name not in self._written:
            listing = self._open()
            if name in self._earlier:
                self._delete(name)
            elif os.path.lexists(file):
                raise self._not_ours([name])
            listing.write(f"{json.dumps(name)}\n")
            listing.flush()  # before the file is there
            self._written.add(name)
        return file

    def close(self) -> None:
        """Let other runs write to the folder."""
        if self._list is not None:
            self._list.close()
            self._list = None

    def _open(self) -> TextIO:
        """Return the list. It is open, and locked as long as it is open."""
        if self._list is None:
            self.path.mkdir(parents=True, exist_ok=True)
            listing = (self.path / LIST).open("a", encoding="ascii")
            try:
                if fcntl is not None:
                    fcntl.flock(listing, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                listing.close()
                raise ValueError(f"{self.path}: another run is writing to this folder; choose another") from None
            except OSError:  # a file system without locks
                pass
            self._list = listing
        return self._list

    def _check_place(self) -> None:
        there = self.path
        while not os.path.lexists(there) and there != there.parent:
            there = there.parent
        if not there.is_dir():
            raise ValueError(f"{self.path}: {there} is not a folder; choose another place for the results")
        if not os.access(there, os.W_OK | os.X_OK):
            raise ValueError(f"{self.path}: {there} cannot be written to; choose another folder")
        listing = self.path / LIST
        if os.path.lexists(listing) and (listing.is_symlink() or not listing.is_file()):
            raise ValueError(f"{listing}: not a file; expected the list of files that earlier runs wrote")
        if listing.exists() and not os.access(listing, os.R_OK | os.W_OK):
            raise ValueError(f"{listing}: cannot be read and written; choose another folder")

    def _foreign_in(self, folder: str) -> Iterator[str]:
        """Yield everything in a sub-folder that no run has listed, except hidden files, which no run writes."""
        top = self.path / folder
        if top.is_symlink() or (top.exists() and not top.is_dir()):
            raise ValueError(f"{top}: not a real folder; choose another folder for the results")
        for parent, folders, files in os.walk(top):
            folders[:] = (name for name in folders if not name.startswith("."))
            for name in folders:
                within = Path(parent) / name
                if within.is_symlink():
                    yield self._name(within)
                else:
                    self._refuse_folder(self._name(within))
            for name in files:
                if not name.startswith(".") and (named := self._name(Path(parent) / name)) not in self._earlier:
                    yield named

    def _refuse_folder(self, name: str) -> None:
        file = self.path / name
        if name in self._earlier and file.is_dir() and not file.is_symlink():
            raise ValueError(f"{file}: a folder, where an earlier run wrote a file; move it away")

    def _delete(self, name: str) -> None:
        self._refuse_folder(name)
        with suppress(NotADirectoryError):  # a file in place of the folder that it was in
            (self.path / name).unlink(missing_ok=True)

    def _is_inside(self, folder: Path) -> bool:
        """Return whether a folder is really in this one, and not reached by a link."""
        return folder.resolve().is_relative_to(self.path.resolve())

    def _name(self, file: Path) -> str:
        return file.relative_to(self.path).as_posix()

    def _not_ours(self, names: Sequence[str]) -> ValueError:
        return ValueError(
            f"{self.path}: holds files that no run of this program has listed in {LIST} "
            f"({few(names, MAX_NAMED)}); choose another folder, or move them away"
        )


def listed_files(folder: Path) -> set[str]:
    """Return the files that runs of this program wrote to a folder, relative to it, without names that lead out of it.

    An invalid line, cut off when a run was killed, is ignored: its file counts as the user's.
    """
    names = set()
    try:
        with (folder / LIST).open("rb") as lines:
            for line in lines:
                with suppress(ValueError):
                    name = json.loads(line) if line.startswith(b'"') else None
                    if name and not PurePath(name).is_absolute() and ".." not in PurePath(name).parts:
                        names.add(PurePath(name).as_posix())
    except FileNotFoundError:
        pass
    except OSError as error:
        raise ValueError(f"{folder / LIST}: cannot be read ({error.strerror or error})") from error
    return names
