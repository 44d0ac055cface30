"""Show progress: a bar on a terminal, a line now and then in a log."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

SECONDS_BETWEEN_LINES = 15.0  # where there is no terminal

console = Console(highlight=False, soft_wrap=True, markup=False)  # file names may hold [brackets]


class Bar:
    """One running task. `update` sets its progress and its note. before: what was done before this run."""

    def __init__(self, title: str, total: int | None, progress: Progress | None, before: int = 0):
        self.title, self.total, self.progress, self.before = title, total, progress, before
        self.start = self.last = time.monotonic()
        if progress is not None:
            self.task = progress.add_task(title, total=total, completed=before, note="")

    def update(self, done: int, note: str = "") -> None:
        if self.progress is not None:
            self.progress.update(self.task, completed=done, note=note)
            return
        now = time.monotonic()
        if now - self.last >= SECONDS_BETWEEN_LINES or done == self.total:
            if self.total is None:
                console.print(f"{self.title}: {done}  {note}")
            else:
                left = (now - self.start) / max(done - self.before, 1) * (self.total - done)
                console.print(f"{self.title}: {done}/{self.total}  {note}  {left:.0f} s left".replace("    ", "  "))
            self.last = now

    def of(self, done: int, total: int) -> None:
        """Do the same as `update`, for a total that becomes known only while the task runs."""
        self.total = total
        if self.progress is not None:
            self.progress.update(self.task, total=total)
        self.update(done)


@contextmanager
def bar(title: str, total: int | None, quiet: bool = False, before: int = 0) -> Iterator[Bar]:
    """Show a progress bar with elapsed and remaining time. A total of None is unknown.

    before: the part of the total that an earlier run has done. It takes no time in this one.
    """
    if quiet or not console.is_terminal:
        muted = Bar(title, total, None, before)
        if quiet:
            muted.last = float("inf")
            muted.total = -1
        yield muted
        return
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TextColumn("{task.fields[note]}", markup=False),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console) as progress:
        yield Bar(title, total, progress, before)
