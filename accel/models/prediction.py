"""A model's prediction for a frame."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor


class Prediction(ABC):
    """A model's prediction for a batch of frames, before it is brought to frame size.

    Its content depends on the task: class scores of coarse cells, for example, or boxes. Every prediction can give
    plain tensors at frame size. They come in a named tuple whose type belongs to the task.
    """

    @abstractmethod
    def at(self, size: tuple[int, int]) -> NamedTuple:
        """Return the tensors, by name, for frames of `size` (H, W) pixels.

        The batch is the first dimension of each tensor. The shapes depend on `size` alone.
        """

    def of_frames(self, count: int) -> list[Prediction]:
        """Return the prediction for each of the `count` frames of the batch, as a batch of one."""
        shared: dict[tuple[int, int], NamedTuple] = {}
        return [_OfFrame(self, number, shared) for number in range(count)]

    def with_confidence_at(self, size: tuple[int, int]) -> NamedTuple:
        """Return the tensors of `at` together with the model's confidence. Some tasks have it in `at` already."""
        return self.at(size)


@dataclass(frozen=True)
class _OfFrame(Prediction):
    """The prediction for one frame of a batch. shared: the tensors of the whole batch by size, for all its frames."""

    batch: Prediction
    number: int
    shared: dict[tuple[int, int], NamedTuple]

    def at(self, size):
        if size not in self.shared:
            self.shared[size] = self.batch.at(size)
        tensors = self.shared[size]
        return type(tensors)(*(tensor[self.number : self.number + 1] for tensor in tensors))


def of_first(tensors: NamedTuple) -> NamedTuple:
    """Return the tensors of the first frame of a batch, without the batch dimension."""
    return type(tensors)(*(tensor[0] for tensor in tensors))


class Labels(NamedTuple):
    """The tensors of segmentation. labels: (B, H, W) uint8 class indices."""

    labels: Tensor


class LabelsAndConfidence(NamedTuple):
    """The tensors of segmentation, with confidence. labels: (B, H, W) uint8 class indices.

    confidence: (B, H, W) float32, the highest class score of a pixel less its second highest. It is 0 at a tie.
    """

    labels: Tensor
    confidence: Tensor
