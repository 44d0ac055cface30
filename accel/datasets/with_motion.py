"""A data set of boxes that also says how fast each object moves."""

from __future__ import annotations

from dataclasses import replace

from accel.datasets.clips import Clip, ClipDataset


class WithMotion(ClipDataset):
    """A data set whose clips have `Clip.motion`. All else is unchanged.

    dataset: a data set with `ClipDataset.box_motion`. Raises ValueError for one without.
    """

    def __init__(self, dataset: ClipDataset):
        self.dataset = dataset
        self.class_names, self.palette = dataset.class_names, dataset.palette
        self.generated, self.may_be_short = dataset.generated, dataset.may_be_short
        self.plays_videos = dataset.plays_videos
        if type(dataset).box_motion is ClipDataset.box_motion:
            dataset.box_motion(0, (1, 1))

    def __len__(self) -> int:
        return len(self.dataset)

    def history(self, index: int) -> int:
        return self.dataset.history(index)

    def place(self, index: int) -> tuple[str, int]:
        return self.dataset.place(index)

    def name(self, index: int) -> str:
        return self.dataset.name(index)

    def clip(self, index: int, length: int) -> Clip:
        clip = self.dataset.clip(index, length)
        return replace(clip, motion=self.dataset.box_motion(index, (clip.frames.shape[1], clip.frames.shape[2])))
