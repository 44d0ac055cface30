"""Labelled videos, read once and in order: what every measure of this package runs over.

A video comes as a row of stretches. Each ends in a labelled frame and brings the frames since the labelled one before
it, so that no file is read twice. A file that cannot be read breaks its video in two.
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

    index: the labelled frame that it ends in.
    video, number: of that frame (`ClipDataset.place`).
    clip: the frames that are new, or None where not even the labelled one could be read.
    extra: what the caller's `prepare` made of them.
    follows: whether the first of them comes directly after the last frame that was read before.
    problem: why something could not be read, once; else None.
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
    """The stretches that end in these labelled frames, video by video, oldest first.

    context: how many frames to have before a labelled one, as far as there are any; None: all.
    prepare: called with each clip where it is read, so in a worker; what it returns travels along.
    lead: whether `prepare` is shown one more frame at the front, where the stretch follows another.
    workers: processes that read; 0: this one.
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
    """To read the stretch that ends in a labelled frame: so many frames, if all goes well."""

    index: int
    video: str
    number: int
    available: int  # frames up to this one that can be had and are wanted
    length: int = 0
    follows: bool = False

    def after(self, end: tuple[str, int] | None) -> tuple[int, bool]:
        """How many frames to read if those up to `end` (video, number) are there, and whether they follow them."""
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
    """Labelled frames in groups, in the order of reading: no frame is read for two of them."""
    groups: list[list[int]] = []
    for plan in _plan(dataset, indices, context):
        if not plan.follows:
            groups.append([])
        groups[-1].append(plan.index)
    return groups


class _Reader(Dataset):
    """Item i is what plan i reads, or the message why it cannot be read."""

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
        """The longest readable clip of at most `most` frames; None if the labelled frame itself is damaged."""
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
