"""When to take a key frame."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class FixedInterval:
    """Every `interval`-th frame, from the first on. ValueError for less than 1."""

    interval: int

    def __post_init__(self) -> None:
        if self.interval < 1:
            raise ValueError(f"interval {self.interval}: expected 1 (every frame is a key frame) or more")

    def is_key(self, index: int) -> bool:
        """Whether frame `index` (0 is the first) is a key frame."""
        return index % self.interval == 0
