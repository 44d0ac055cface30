"""A bounded cache of objects that are made for each frame size and take memory."""

from __future__ import annotations

import threading
import warnings
from collections import OrderedDict
from collections.abc import Callable
from typing import Generic, TypeVar

Made = TypeVar("Made")


class BySize(Generic[Made]):
    """The results of `make` for the most recently used frame sizes (H, W). Threads may share it.

    most: how many are kept. When one more comes, the least recently used one is dropped.
    """

    def __init__(self, make: Callable[[tuple[int, int]], Made], most: int):
        self.make, self.most = make, most
        self._made: OrderedDict[tuple[int, int], Made] = OrderedDict()  # least recently used first
        self._dropped: set[tuple[int, int]] = set()
        self._lock = threading.Lock()

    def __getitem__(self, size: tuple[int, int]) -> Made:
        """Return the object for this size. If it is not there, it is made now. If it was dropped before, a warning says
        so."""
        with self._lock:
            if size not in self._made:
                if size in self._dropped:
                    self._warn(size)
                self._made[size] = self.make(size)
                while len(self._made) > self.most:
                    self._dropped.add(self._made.popitem(last=False)[0])
            self._made.move_to_end(size)
            return self._made[size]

    def sizes(self) -> list[tuple[int, int]]:
        """Return the sizes that are kept, the least recently used one first."""
        with self._lock:
            return list(self._made)

    def _warn(self, size: tuple[int, int]) -> None:
        """Warn about a size that is made again. Python shows the same warning from the same place only once."""
        warnings.warn(
            f"the frames have more sizes than are kept ready ({self.most}): {size[0]}x{size[1]} is prepared "
            "again, which takes as long as the first time. `optimized(sizes=...)` keeps more",
            RuntimeWarning,
            stacklevel=3,
        )
