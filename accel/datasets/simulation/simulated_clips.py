"""Turn the stills of a data set into clips of simulated camera motion, always the same ones."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from accel.datasets.clips import Clip, ClipDataset
from accel.datasets.label_counts import LabelCounts
from accel.datasets.simulation.motion import SimulatedMotion


class SimulatedClips(ClipDataset):
    """Every labelled frame of a data set as the last frame of a clip of simulated camera motion, with its exact flow.

    This is for scoring video models on stills. Training draws a new motion each time instead (`TrainingClips`).

    stills: the data set. Its frames before the labelled ones, if any, are not used.
    motion: the generator of the clips.
    length: the number of frames of a clip.
    seed: 0 or more. The seed and the frame's index determine its motion.
    """

    knows_flow = True

    def __init__(self, stills: ClipDataset, motion: SimulatedMotion, length: int, seed: int = 0):
        if length < 1:
            raise ValueError(f"a clip has at least one frame; got {length}")
        self.stills, self.motion, self.length, self.seed = stills, motion, length, seed
        self.class_names, self.palette = stills.class_names, stills.palette
        self.generated = stills.generated

    def __len__(self) -> int:
        return len(self.stills)

    def history(self, index: int) -> int:
        return self.length - 1

    def name(self, index: int) -> str:
        return self.stills.name(index)

    def only_labels(self, index: int) -> np.ndarray | None:
        """Return the labels of the still. The simulated motion moves a few pixels out of the picture, and adds no
        class."""
        return self.stills.only_labels(index)

    def likely_cause(self, counts: LabelCounts) -> str:
        return self.stills.likely_cause(counts)

    def clip(self, index: int, length: int) -> Clip:
        """Return the last `length` frames of the clip."""
        if not 1 <= length <= self.length:
            raise ValueError(f"{self.name(index)}: a clip of {length} frames; only {self.length} are simulated")
        rng = np.random.default_rng([self.seed, index])
        clip = self.motion(self.stills.clip(index, 1), self.length, rng)
        assert clip.flow is not None, "motion that was made is known"
        return replace(clip, frames=clip.frames[-length:], flow=clip.flow[self.length - length :])
