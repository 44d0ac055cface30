"""A folder that a run writes its results to, which may be the user's own."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from accel.files.small_files import read_text

LIST = ".accel-written"  # the files that runs of this program wrote, a line each, relative to the folder
MAX_NAMED = 3  # files named in an error


class OutputFolder:
    """Knows which files in the folder earlier runs of this program wrote, and touches no other.

    A file is listed before it is written. So what an interrupted run left is known, too.

    path:  the folder; it need not exist yet.
    files: names that this run will write.
    folders: of sub-folders that this run will fill.

    Raises ValueError where one of the files, or anything in one of the sub-folders, was not written by this program.
    Nothing is changed until `clear`.
    """

    def __init__(self, path: Path, files: Sequence[str], folders: Sequence[str] = ()):
        self.path = path
        self._listed = self._read()
        there = [path / name for name in files]
        there += [file for name in folders for file in sorted((path / name).rglob("*")) if file.is_file()]
        foreign = [
            name
            for file in there
            if file.exists() and not file.name.startswith(".")
            if (name := file.relative_to(path).as_posix()) not in self._listed
        ]
        if foreign:
            more = f" and {len(foreign) - MAX_NAMED} more" if len(foreign) > MAX_NAMED else ""
            raise ValueError(
                f"{path}: holds files that no run of this program has listed in {LIST} "
                f"({', '.join(foreign[:MAX_NAMED])}{more}); choose another folder, or move them away"
            )

    def clear(self) -> None:
        """Make the folder if need be, and delete what earlier runs wrote. OSError where that cannot be done."""
        self.path.mkdir(parents=True, exist_ok=True)
        for name in self._listed:
            (self.path / name).unlink(missing_ok=True)
        self._listed = set()
        (self.path / LIST).write_text("", encoding="utf-8")

    def file(self, name: str) -> Path:
        """The path of a file that is about to be written; from now on it is listed."""
        if name not in self._listed:
            with (self.path / LIST).open("a", encoding="utf-8") as file:
                file.write(f"{name}\n")
            self._listed.add(name)
        return self.path / name

    def _read(self) -> set[str]:
        """The listed names, less those that would lead out of the folder."""
        if not (self.path / LIST).exists():
            return set()
        names = (Path(line) for line in read_text(self.path / LIST).splitlines() if line)
        return {name.as_posix() for name in names if not name.is_absolute() and ".." not in name.parts}
