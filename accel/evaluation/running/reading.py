"""Read labelled videos once and in order, for all measures of this package.

A video is read as a series of stretches. Each stretch ends in a labelled frame and holds the frames since the labelled
frame before it. So no file is read twice. An unreadable file splits its video in two.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch.utils.data import DataLoader, Dataset

from accel.datasets.clips import Clip, ClipDataset

Prepare = Callable[[Clip], Any]


@dataclass(frozen=True)
class Stretch:
    """The next frames of a video.

    index: the labelled frame in which it ends.
    video, number: the place of that frame (`ClipDataset.place`).
    clip: the new frames, or None if not even the labelled one could be read.
    extra: the result of the caller's `prepare`.
    follows: whether its first frame directly follows the last frame that was read before.
    problem: why something could not be read. Each message occurs only once; otherwise None.
    """

    index: int
    video: str
    number: int
    clip: Clip | None
    extra: Any
    follows: bool
    problem: str | None


def read_stretches(
    dataset: ClipDataset,
    indices: Sequence[int],
    context: int | None = None,
    prepare: Prepare | None = None,
    lead: bool = False,
    workers: int = 1,
) -> Iterator[Stretch]:
    """Yield the stretches that end in these labelled frames, video by video, oldest first.

    context: the number of frames to read before a labelled one, as far as they exist. None means all.
    prepare: a function that is called with each clip where it is read, so usually in a worker. Its result is returned
        with the stretch.
    lead: whether `prepare` gets one more frame at the front if the stretch follows another.
    workers: the number of processes that read. 0: this process reads.
    """
    plans = _plan(dataset, indices, context)
    reader = _Reader(dataset, plans, prepare, lead)
    loader = DataLoader(reader, batch_size=None, num_workers=workers, collate_fn=_as_is)
    end: tuple[str, int] | None = None  # the last frame that was read
    told: set[str] = set()
    for plan, read in zip(plans, loader, strict=True):
        length, follows = plan.after(end)
        if (length, follows) != (plan.length, plan.follows):  # what was planned before this could not be read
            read = reader.read(plan, length, follows)
        problem = None
        if isinstance(read, str):
            problem = None if read in told else read
            told.add(read)
            read, follows = reader.longest(plan, length - 1), False
        clip, extra = read or (None, None)
        if clip is not None:
            end = plan.video, plan.number
        yield Stretch(plan.index, plan.video, plan.number, clip, extra, follows, problem)


@dataclass(frozen=True)
class _Plan:
    """The plan to read the stretch that ends in a labelled frame: how many frames, if all of them are readable."""

    index: int
    video: str
    number: int
    available: int  # frames up to this one that can be had and are wanted
    length: int = 0
    follows: bool = False

    def after(self, end: tuple[str, int] | None) -> tuple[int, bool]:
        """Return how many frames to read if those up to `end` (video, number) are there, and whether they follow
        `end`."""
        if end is not None and end[0] == self.video and self.number - end[1] < self.available:
            return self.number - end[1], True
        return self.available, False


def _plan(dataset: ClipDataset, indices: Sequence[int], context: int | None) -> list[_Plan]:
    by_video: dict[str, list[_Plan]] = {}
    for index in indices:
        video, number = dataset.place(index)
        available = dataset.history(index) + 1
        available = available if context is None else min(available, context + 1)
        by_video.setdefault(video, []).append(_Plan(index, video, number, available))
    plans: list[_Plan] = []
    end = None
    for plan in (p for found in by_video.values() for p in sorted(found, key=lambda p: p.number)):
        assert end != (plan.video, plan.number), f"labelled frames {plans[-1].index} and {plan.index} are one"
        length, follows = plan.after(end)
        plans.append(replace(plan, length=length, follows=follows))
        end = plan.video, plan.number
    return plans


def connected(dataset: ClipDataset, indices: Sequence[int], context: int | None) -> list[list[int]]:
    """Group labelled frames, in reading order, so that no frame is read for two groups."""
    groups: list[list[int]] = []
    for plan in _plan(dataset, indices, context):
        if not plan.follows:
            groups.append([])
        groups[-1].append(plan.index)
    return groups


class _Reader(Dataset):
    """Item i is the result of plan i, or the error message if it cannot be read."""

    def __init__(self, dataset: ClipDataset, plans: list[_Plan], prepare: Prepare | None, lead: bool):
        self.dataset, self.plans, self.prepare, self.lead = dataset, plans, prepare, lead

    def __len__(self) -> int:
        return len(self.plans)

    def __getitem__(self, item: int) -> tuple[Clip, Any] | str:
        plan = self.plans[item]
        return self.read(plan, plan.length, plan.follows)

    def read(self, plan: _Plan, length: int, follows: bool) -> tuple[Clip, Any] | str:
        lead = int(self.lead and follows)
        try:
            clip = self.dataset.clip(plan.index, length + lead)
        except (ValueError, FileNotFoundError) as error:
            return str(error)
        extra = self.prepare(clip) if self.prepare is not None else None
        return replace(clip, frames=clip.frames[lead:], flow=None), extra

    def longest(self, plan: _Plan, most: int) -> tuple[Clip, Any] | None:
        """Return the longest readable clip of at most `most` frames. None if the labelled frame itself is damaged."""
        best, low, high = None, 1, most
        while low <= high:  # a clip is readable if a longer one is
            middle = (low + high) // 2
            read = self.read(plan, middle, False)
            if isinstance(read, str):
                high = middle - 1
            else:
                best, low = read, middle + 1
        return best


def _as_is(read: Any) -> Any:
    return read
