"""What a model says of a frame."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import NamedTuple

from torch import Tensor


class Prediction(ABC):
    """What a model says of a batch of frames, before it is brought to their size.

    What that is depends on the task: class scores of coarse cells, say, or boxes. What every prediction can do is give
    plain tensors at frame size, in a named tuple whose type belongs to the task.
    """

    @abstractmethod
    def at(self, size: tuple[int, int]) -> NamedTuple:
        """The tensors of frames of `size` (H, W) pixels, by name; each has the batch as its first dimension, and its
        shape depends on `size` alone."""

    def with_confidence_at(self, size: tuple[int, int]) -> NamedTuple:
        """As `at`, and how sure the model is of it, where `at` does not say so anyway."""
        return self.at(size)


def of_first(tensors: NamedTuple) -> NamedTuple:
    """The tensors of the first frame of a batch alone, without the dimension of the batch."""
    return type(tensors)(*(tensor[0] for tensor in tensors))


class Labels(NamedTuple):
    """Of segmentation. labels: (B, H, W) uint8 class indices."""

    labels: Tensor


class LabelsAndConfidence(NamedTuple):
    """Of segmentation. labels: (B, H, W) uint8 class indices.

    confidence: (B, H, W) float32, the highest class score of a pixel less its second highest; 0 at a tie.
    """

    labels: Tensor
    confidence: Tensor
