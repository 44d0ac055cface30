"""The log of a run: one JSON line for each logged step, and TensorBoard curves made from these lines."""

from __future__ import annotations

import json
import os
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from accel.files.positions import open_binary, read_at, write_at
from accel.progress import console

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

LOG, CURVES = "log.jsonl", "tensorboard"
VALIDATION = "validation_"  # begins the name of what was validated, such as validation_miou


class RunLog:
    """Append lines to the log. When `write` returns, the line has been passed to the operating system.

    start: the step from which the run continues. Lines of later steps, logged before the run stopped, are dropped.
    validated: the step of the last validation, `start` by default. A later validation is repeated, so its line is
        dropped too.

    The log is kept up to the first unreadable line, with a warning. The curves are drawn again from the kept lines:
    TensorBoard writes late, and a killed run has lost some of its points.

    If the disk is full, lines wait in memory, a warning is printed once, and training continues.
    """

    def __init__(self, folder: Path, start: int, validated: int | None = None):
        self.folder = folder
        path = folder / LOG
        self.file = open_binary(path, os.O_RDWR | os.O_CREAT)
        self.end = _length_up_to(path, start, start if validated is None else validated)
        os.ftruncate(self.file, self.end)
        self.waiting = b""
        self.warned = False
        self.curves: SummaryWriter | None = None
        self._draw_all()

    def write(self, step: int, **values: float | None) -> None:
        """Log these values of a step. None means no value."""
        line = {"step": step, **values}
        self.waiting += json.dumps(line).encode() + b"\n"
        try:
            self._append()
        except OSError as error:
            self._warn(LOG, error)
            return
        try:
            if self.curves is None:
                self._draw_all()  # this line, too
            else:
                self._draw(self.curves, line)
        except OSError as error:
            self._warn(CURVES, error)
            self._close_curves()

    def sync(self) -> None:
        """Make sure that all logged lines are on the disk. Raises OSError."""
        os.fsync(self.file)

    def _append(self) -> None:
        """Write the waiting lines, or leave the file unchanged and raise OSError."""
        written = 0
        try:
            while written < len(self.waiting):
                written += write_at(self.file, self.waiting[written:], self.end + written)
        except OSError:
            os.ftruncate(self.file, self.end)
            raise
        self.end += written
        self.waiting, self.warned = b"", False

    def _draw_all(self) -> None:
        from torch.utils.tensorboard import SummaryWriter

        remove_curves(self.folder)
        self.curves = curves = SummaryWriter(self.folder / CURVES)
        for line in read_at(self.file, self.end, 0).split(b"\n")[:-1]:
            self._draw(curves, json.loads(line))

    @staticmethod
    def _draw(curves: SummaryWriter, line: dict) -> None:
        for name, value in line.items():
            if name != "step" and value is not None:
                curves.add_scalar(name, value, line["step"])

    def _close_curves(self) -> None:
        curves, self.curves = self.curves, None
        if curves is not None:
            with suppress(OSError):  # it tries to write what waits
                curves.close()

    def _warn(self, name: str, error: OSError) -> None:
        if not self.warned:
            console.print(f"warning: {self.folder / name}: {error.strerror or error}; training goes on")
        self.warned = True

    def __enter__(self) -> RunLog:
        return self

    def __exit__(self, *_: object) -> None:
        self._close_curves()
        os.close(self.file)


def remove_curves(folder: Path) -> None:
    """Remove the curves that a run wrote to `folder`, and nothing else in it."""
    for curve in (folder / CURVES).glob("events.out.tfevents.*"):
        if curve.is_file():
            curve.unlink()


def _length_up_to(path: Path, start: int, validated: int) -> int:
    """Return the length in bytes of the complete lines at the beginning of the log whose steps are up to `start`, or up
    to `validated`."""
    length = 0
    for number, line in enumerate(path.read_bytes().split(b"\n")[:-1], 1):  # what no newline ends was being written
        try:
            entry = _read(line)
        except (ValueError, KeyError, TypeError, RecursionError):
            console.print(
                f"warning: {path}, line {number}: not a step with its values; this line and all after it are dropped"
            )
            break
        if entry["step"] > (validated if any(name.startswith(VALIDATION) for name in entry) else start):
            break
        length += len(line) + 1
    return length


def _read(line: bytes) -> dict:
    """Read a line. Raise ValueError, KeyError or TypeError for a line that this program did not write."""
    entry = json.loads(line)
    if not isinstance(entry["step"], int) or not all(isinstance(v, int | float | None) for v in entry.values()):
        raise TypeError("not numbers")
    return entry
