"""A branch: a network that looks at one frame."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import torch
from torch import Tensor, nn

from accel.fast.parts import Work, work_of
from accel.fast.pointwise import Pointwise
from accel.fast.preparation import Preparation
from accel.models.images import subtract_mean
from accel.models.prediction import Prediction


class Branch(nn.Module, ABC):
    """A network in two steps. Between them, its features can be carried from one frame to another.

    task: the kind of prediction: a name in `accel.tasks.TASKS`.
    backbone: the network that `features` runs. Video models cut its work into parts.

    Each branch defines how it is optimised, see `accel.fast.preparation`.
    """

    task: str
    backbone: Any  # of accel.models.backbones, or made fast: what it has beside `forward` differs

    def seen(self, image: Tensor) -> Tensor:
        """Frames (B, 3, H, W) as they come, uint8 or float in 0..255, to what it looks at: RGB minus the mean."""
        return subtract_mean(image)

    def seen_size(self, size: tuple[int, int]) -> tuple[int, int]:
        """(H, W) of what `seen` makes of frames of `size`."""
        return size

    @abstractmethod
    def features(self, image: Tensor) -> Tensor:
        """Turn frames (B, 3, H, W), RGB minus the mean, into features (B, C, h, w)."""

    @abstractmethod
    def predict(self, features: Tensor) -> Prediction:
        """Return the prediction for the frames with these features (B, C, h, w)."""

    def predict_within(self, features: Tensor, size: tuple[int, int]) -> Prediction:
        """As `predict`, of frames of `size` (H, W): some branches have to know where in the last cells one ends."""
        return self.predict(features)

    def forward(self, image: Tensor) -> Prediction:
        height, width = image.shape[2:]
        return self.predict_within(self.features(image), (height, width))

    def work(self, image: Tensor) -> Work:
        """Return the work for `features`. It is in parts if the backbone was cut into any."""
        return work_of(self.backbone, image)

    def simplified(self, linear: bool = True) -> Branch:
        """Return a branch with the same predictions, up to rounding, and less work. It takes over this branch's layers.

        linear: whether everything between `features` and `predict` is linear. If so, linear layers may be applied to
            the features beforehand.
        """
        return self

    def split(self) -> SplitBranch | None:
        """Return the same branch with the first 1x1 convolution of `predict` as a separate step, if `predict` begins
        with one.

        It takes over this branch's layers.
        """
        return None

    def make_fast(self, preparation: Preparation, parts: int = 1) -> None:
        """Prepare the networks for frames of one size, in place. parts: the number of parts into which to cut the
        backbone."""
        # float32, because `predict` stays as it is.
        self.backbone = preparation.network(self.backbone, parts=parts, gives=torch.float32, eight_bits=True)


class SplitBranch(Branch):
    """A branch whose `predict` begins with a 1x1 convolution.

    product: that convolution, (B, C, h, w) to (B, C', h, w).
    """

    product: Pointwise

    def split(self) -> SplitBranch:
        return self

    @abstractmethod
    def predict_from(self, product: Tensor) -> Prediction:
        """Return the prediction for frames whose features give this product (B, C', h, w)."""

    def predict(self, features: Tensor) -> Prediction:
        return self.predict_from(self.product(features))
