"""The maps that R-FCN predicts for a frame, and their units."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

BINS = 7  # along each side of a region
# Networks learn dx, dy, dw, dh in these units.
PROPOSAL_DEVIATIONS = (0.1, 0.1, 0.4, 0.4)
BOX_DEVIATIONS = (0.1, 0.1, 0.2, 0.2)


class Maps(NamedTuple):
    """The predictions for each cell.

    objects: (B, 2A, h, w), logits. The first A say that an anchor is background, the others that it has an object.
    moves: (B, 4A, h, w), dx, dy, dw, dh of each anchor, in units of `PROPOSAL_DEVIATIONS`.
    classes: (B, (1 + K) * 49, h, w), logits of background and classes in each bin.
    boxes: (B, 2 * 4 * 49, h, w), dx, dy, dw, dh of background (which is never used) and of an object in each bin, in
        units of `BOX_DEVIATIONS`.
    """

    objects: Tensor
    moves: Tensor
    classes: Tensor
    boxes: Tensor

    def of_image(self, image: int) -> Maps:
        """Return the maps of one image of the batch, with B = 1."""
        return Maps(*(each[image : image + 1] for each in self))

    def objectness(self) -> Tensor:
        """Return the probability (B, A, h, w) that an anchor has an object."""
        return self.objects.unflatten(1, (2, -1)).softmax(1)[:, 1]
