"""Handle Ctrl-C during work whose results so far must be kept."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

SAME = 0.5  # seconds; sooner, a second signal is the same Ctrl-C, passed on by what started this program as well


class Interrupts:
    """While this context is open, a second Ctrl-C ends the process at once, with code 130.

    The first one raises KeyboardInterrupt as usual, but not inside `held`. Outside the main thread, where Python
    accepts no signals, the context does nothing.
    """

    def __init__(self) -> None:
        self._since: float | None = None  # the first Ctrl-C
        self._holding = self._owed = False
        self._before: Callable[[int, FrameType | None], Any] | int | signal.Handlers | None = None

    def __enter__(self) -> Interrupts:
        if threading.current_thread() is threading.main_thread():
            self._before = signal.signal(signal.SIGINT, self._receive)
        return self

    def __exit__(self, *_: object) -> None:
        if self._before is not None:
            signal.signal(signal.SIGINT, self._before)

    @contextmanager
    def held(self) -> Iterator[None]:
        """Let the work inside finish. A first Ctrl-C is raised after it."""
        self._holding = True
        try:
            yield
        finally:
            self._holding = False
        if self._owed:
            self._owed = False
            raise KeyboardInterrupt

    def _receive(self, number: int, _: object) -> None:
        now = time.monotonic()
        if self._since is None:
            self._since = now
            if not self._holding:
                raise KeyboardInterrupt
            self._owed = True
        elif now - self._since > SAME:
            os.write(2, b"interrupted\n")  # `print` could wait for a lock that the interrupted code holds
            os._exit(128 + number)
