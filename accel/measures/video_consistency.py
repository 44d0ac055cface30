"""Video consistency, mVC: how often labels stay as they are where the ground truth does.

Miao et al., "VSPW: A Large-scale Dataset for Video Scene Parsing in the Wild", CVPR 2021. In each window of n frames of
a video, it takes the pixels whose true label is the same in all n frames. The consistency is the share of these whose
predicted label, right or wrong, is the same in all n frames, too. mVC_n is the mean over all windows of all videos.

Numbers in papers come from the release's script, VC_perclip.py, so this counts as it does: the last window of each
video is left out, ignored pixels count like a class, and windows in which no pixel keeps its true label do not count.
Copies of that script often print mVC8 and mVC16 one after the other without setting their sum to zero in between. The
second number is then a mean over the windows of both lengths. Here each length has its own sum.
"""

from __future__ import annotations

import torch
from torch import Tensor

LENGTHS = (8, 16)  # frames of a window, as papers have them


class VideoConsistency:
    """The consistency of labels in windows of some lengths, frame by frame. Sums over different videos can be added."""

    def __init__(self, lengths: tuple[int, ...] = LENGTHS):
        self.lengths = lengths
        self.sums = dict.fromkeys(lengths, 0.0)
        self.windows = dict.fromkeys(lengths, 0)
        self._ended: dict[int, Tensor] = {}  # consistency of the windows that end in the latest frame
        self._last: tuple[Tensor, Tensor] | None = None
        self._runs: tuple[Tensor, Tensor] | None = None  # for how many frames each pixel has its label, of both

    def start(self) -> None:
        """Begin another video, or go on after frames that are missing or have no ground truth."""
        self._ended, self._last, self._runs = {}, None, None

    def update(self, predicted: Tensor, truth: Tensor) -> None:
        """Add the next frame of the video: labels (H, W), uint8, on one device."""
        for length, share in self._ended.items():  # they are not the last ones of the video
            value = float(share)
            if value == value:
                self.sums[length] += value
                self.windows[length] += 1
        if self._last is None or self._runs is None:
            ones = torch.ones(truth.shape, dtype=torch.int32, device=truth.device)
            self._runs = ones, ones
        else:
            self._runs = (
                torch.where(predicted == self._last[0], self._runs[0] + 1, 1),
                torch.where(truth == self._last[1], self._runs[1] + 1, 1),
            )
        self._last = predicted, truth
        kept, steady = self._runs
        # Before a video has n frames, no pixel has had its label for n, and 0 / 0 is no number.
        self._ended = {
            length: ((kept >= length) & (steady >= length)).sum().double() / (steady >= length).sum()
            for length in self.lengths
        }

    def mean(self, length: int) -> float:
        """Return mVC of that length, 0..1. NaN if there was no window."""
        return self.sums[length] / self.windows[length] if self.windows[length] else float("nan")

    def __add__(self, other: VideoConsistency) -> VideoConsistency:
        total = VideoConsistency(self.lengths)
        for length in self.lengths:
            total.sums[length] = self.sums[length] + other.sums[length]
            total.windows[length] = self.windows[length] + other.windows[length]
        return total
