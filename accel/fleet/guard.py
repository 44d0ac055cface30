"""Label units in a process of its own, so that a video that kills it ends as a failed row and not the run."""

from __future__ import annotations

import json
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import Any

from accel.fleet.settings import Settings
from accel.fleet.units import DONE, VIDEOS, Row, Unit, read_row

TRIES = 2  # of a unit whose process dies
PATIENCE = 600.0  # seconds without a new frame after which a process counts as hung
START = 1800.0  # seconds for loading a model and preparing it


class Guard:
    """Labels units one after another, in another process that holds the model.

    If that process dies over a unit, or gives no frame for a long time, another one tries once more. If it does not
    come through either, the unit fails. It is a context manager.

    settings: the run's settings.
    out: the run's output folder.
    patience: seconds without a new frame after which the process is killed.
    command: how to start the process.
    folder: where it runs: relative paths of videos are meant from there. None: where this one runs.
    """

    def __init__(
        self,
        settings: Settings,
        out: Path,
        patience: float = PATIENCE,
        command: tuple[str, ...] = (sys.executable, "-m", "accel.fleet.worker"),
        folder: Path | None = None,
    ):
        self.settings, self.out, self.patience, self.command = settings, out, patience, command
        self.folder = folder
        self._process: subprocess.Popen[str] | None = None
        self._ready = False  # whether it has loaded the model
        self._lines: queue.SimpleQueue[str | None] = queue.SimpleQueue()

    def label(self, unit: Unit, retry: bool = False, watch: Callable[[int], object] = lambda frames: None) -> Row:
        """Return the unit's row. See `Labeller.label`.

        Raises ValueError or OSError if the model cannot be loaded, or the results cannot be written.
        """
        final = self.out / VIDEOS / unit.id
        before = read_row(final)
        if before is not None and (before.status == DONE or not retry):
            return before
        why = ""
        for _ in range(TRIES):
            try:
                return Row(**self._ask({"unit": asdict(unit), "retry": retry}, "row", watch))
            except _DiedError as died:
                why = str(died)
        from accel.fleet.labelling import failed_row

        return failed_row(self.settings, self.out, unit, f"{why} (tried {TRIES} times)")

    def plan(self, path: str) -> list[Unit]:
        """Return the units of a video: itself, or its segments if it is long."""
        for _ in range(TRIES):
            try:
                return [Unit(**unit) for unit in self._ask({"plan": path}, "units")]
            except _DiedError:
                pass
        return [Unit(path)]

    def close(self) -> None:
        """End the process."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            for pipe in (self._process.stdin, self._process.stdout):
                if pipe is not None:
                    pipe.close()
            self._process = None

    def __enter__(self) -> Guard:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _ask(self, what: dict, answer: str, watch: Callable[[int], object] = lambda frames: None) -> Any:
        if self._process is None:
            self._start()
        self._send(what)
        frames, last, patience = 0, time.monotonic(), self.patience if self._ready else max(self.patience, START)
        while True:
            said = self._receive(last + patience - time.monotonic(), patience)
            if answer in said:
                return said[answer]
            if "ready" in said:
                self._ready, last, patience = True, time.monotonic(), self.patience
            elif said.get("frames", 0) > frames:
                frames, last = said["frames"], time.monotonic()
                watch(frames)

    def _start(self) -> None:
        process = subprocess.Popen(
            self.command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            encoding="utf-8",
            cwd=self.folder,
            start_new_session=True,  # Ctrl-C is for this process, which then ends that one
        )
        self._process, self._lines = process, queue.SimpleQueue()
        lines, out = self._lines, process.stdout
        assert out is not None

        def read() -> None:
            try:
                for line in out:
                    lines.put(line)
            except ValueError:  # closed
                pass
            lines.put(None)

        threading.Thread(target=read, daemon=True).start()
        self._ready = False
        self._send({"settings": json.loads(self.settings.as_json()), "out": str(self.out)})

    def _send(self, what: dict) -> None:
        assert self._process is not None and self._process.stdin is not None
        try:
            self._process.stdin.write(f"{json.dumps(what)}\n")
            self._process.stdin.flush()
        except OSError:  # it is dead, which `_receive` will see
            pass

    def _receive(self, left: float, patience: float) -> dict:
        """Return the next line that comes within `left` of the `patience` seconds."""
        process = self._process
        assert process is not None
        try:
            line = self._lines.get(timeout=max(0.0, left))
        except queue.Empty:
            self.close()
            raise _DiedError(f"no new frame for {patience:g} s") from None
        if line is None:
            code = process.wait()
            self.close()
            raise _DiedError(_end(code))
        said = json.loads(line)
        if "mistake" in said:
            self.close()
            raise ValueError(said["mistake"])
        if "broken" in said:
            self.close()
            raise _DiedError(said["broken"])
        return said


class _DiedError(Exception):
    """The process ended before it answered."""


def _end(code: int) -> str:
    if code >= 0:
        return f"the process that labelled it ended with code {code}"
    try:
        name = signal.Signals(-code).name
    except ValueError:
        name = f"signal {-code}"
    return f"the process that labelled it was killed by {name}"
