"""Propagation by attention over learned offsets."""

from __future__ import annotations

import copy
from typing import Any

import accel_ops
import torch
from torch import Tensor, nn

from accel.fast.preparation import Preparation
from accel.models.constants import constant
from accel.models.propagation.base import Propagation
from accel.models.propagation.routes import KeyToCurrent
from accel.models.small_weights import small_weights


class LearnedSampling(Propagation):
    """Propagation without flow, by attention over learned offsets: Learnable Spatio-Temporal Sampling (Jiang et al.,
    Learning Where to Focus for Efficient Video Object Detection, ECCV 2020, sec. 3, as in the authors' code).

    Each frame is compared with the key frame by its low-level features, which Low2High turns into features like those
    of the reference backbone: *dense feature aggregation*. Each new key frame is compared with the memory of the key
    frames before it: *sparsely recursive feature updating*.

    low_level: a network, or a method of a network in another part of the model. It turns frames (B, 3, H, W), RGB minus
        the mean, into (B, `low_channels`, h, w).
    channels: C, the number of channels of the reference features.
    offsets: (K, 2), the initial offsets (dx, dy) in cells; see `grid_offsets` and `gaussian_offsets`.
    embedding: the number of channels for comparing features, and of inner layers. 256 is published.
    update_ratio: the share of aggregated features in the memory. The rest is the newest key frame's own features.
    """

    route = KeyToCurrent()
    linear = False
    remembers = True

    def __init__(
        self,
        low_level: Any,
        low_channels: int,
        channels: int,
        offsets: Tensor,
        embedding: int = 256,
        update_ratio: float = 1.0,
    ):
        super().__init__()
        self.low_level = low_level
        self.low_to_high: nn.Module = nn.Sequential(
            nn.Conv2d(low_channels, embedding, 1),
            nn.ReLU(),
            nn.Conv2d(embedding, embedding, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(embedding, channels, 3, padding=1),
        )
        self.offsets = nn.Parameter(offsets.clone())
        # Modules, once made fast, but no longer of this class.
        self.key_to_current: Any = Aggregation(channels, embedding)
        self.key_to_key: Any = Aggregation(channels, embedding)
        self.update_ratio = update_ratio
        for module in (self.low_to_high, self.key_to_current, self.key_to_key):
            small_weights(module)  # so that at first all offsets have the same weight

    def motion(self, current: Tensor, previous: Tensor) -> Tensor:
        """Describe the current frame by features (B, C, h, w), which find the matching places in earlier frames."""
        return self.low_to_high(self.low_level(current))

    def move(self, features: Tensor, motion: Tensor) -> Tensor:
        """Move features (B, C, h, w) of a key frame to the frame that `motion` describes, and mix both."""
        if features.shape != motion.shape:
            raise ValueError(
                f"features {tuple(features.shape)} and converted low-level features {tuple(motion.shape)} "
                "do not belong to the same frame size and backbone"
            )
        return self.key_to_current(features, motion, self.offsets)

    @staticmethod
    def join(first: Tensor, second: Tensor) -> Tensor:
        """Return the second motion, because a frame is compared with the key frame itself."""
        return second

    def update(self, memory: Tensor, features: Tensor) -> tuple[Tensor, Tensor]:
        """Aggregate the memory with a new key frame's features. Return the result and the memory for the next key
        frame.

        Raises ValueError if the features and the memory differ in shape.
        """
        if memory.shape != features.shape:
            raise ValueError(
                f"the memory of earlier key frames is {tuple(memory.shape)} and the new key frame's features are "
                f"{tuple(features.shape)}; expected one shape: call `key_frame` without a state for another frame size"
            )
        aggregated = self.key_to_key(memory, features, self.offsets)
        if self.update_ratio == 1:
            return aggregated, aggregated
        return aggregated, self.update_ratio * aggregated + (1 - self.update_ratio) * features

    def make_fast(self, preparation: Preparation) -> None:
        """Make one network of its own of the frame's description, and one of each aggregation."""
        self.low_level = preparation.network(_Describing.of(self))
        self.low_to_high = nn.Identity()
        features = self.low_level(preparation.frame)
        examples = (features, features.clone(), self.offsets.data)
        self.key_to_current = preparation.inner(self.key_to_current, examples)
        self.key_to_key = preparation.inner(self.key_to_key, examples)


class _Describing(nn.Module):
    """The description of a frame by a `LearnedSampling`, as one separate network.

    backbone: the network that has the method `low_level`.
    """

    def __init__(self, backbone: nn.Module, low_level: str, low_to_high: nn.Module):
        super().__init__()
        self.backbone, self.low_level, self.low_to_high = backbone, low_level, low_to_high

    @staticmethod
    def of(sampling: LearnedSampling) -> _Describing:
        low_level = sampling.low_level
        shared = not isinstance(low_level, nn.Module)  # a method of the reference's backbone
        backbone, name = (low_level.__self__, low_level.__name__) if shared else (low_level, "forward")
        return copy.deepcopy(_Describing(backbone, name, sampling.low_to_high))

    def forward(self, image: Tensor) -> Tensor:
        """Turn frames (B, 3, H, W), RGB minus the mean, into features (B, C, h, w)."""
        return self.low_to_high(getattr(self.backbone, self.low_level)(image))


class Aggregation(nn.Module):
    """Aggregate two feature maps (B, C, h, w) into one. The older map is aligned to the newer one; in each cell, the
    better one counts more.

    Both maps are embedded for the comparison. A quality network rates them.
    """

    def __init__(self, channels: int, embedding: int):
        super().__init__()
        self.embed_memory = nn.Conv2d(channels, embedding, 1)
        self.embed_current = nn.Conv2d(channels, embedding, 1)
        self.quality = Quality(channels, embedding)

    def forward(self, memory: Tensor, current: Tensor, offsets: Tensor) -> Tensor:
        """Aggregate memory and current features (B, C, h, w) into (B, C, h, w). offsets: (K, 2), in cells."""
        aligned = self.align(memory, current, offsets)
        of_current = self.share_of_current(aligned, current)
        widest = torch.promote_types(aligned.dtype, current.dtype)  # they may differ under autocast
        return torch.lerp(aligned.to(widest), current.to(widest), of_current.to(widest))

    def share_of_current(self, aligned: Tensor, current: Tensor) -> Tensor:
        """Return the share of the current map in the mix, (B, 1, h, w): the softmax over the two maps' quality."""
        return (self.quality(current) - self.quality(aligned)).sigmoid()

    def align(self, memory: Tensor, current: Tensor, offsets: Tensor) -> Tensor:
        """Return the memory's features aligned to each cell of the current map, (B, C, h, w)."""
        return accel_ops.sample_attend(self.embed_current(current), self.embed_memory(memory), memory, offsets)

    def attention(self, memory: Tensor, current: Tensor, offsets: Tensor) -> Tensor:
        """Return the weight of each offset in `align` at each cell, (B, K, h, w), for display. Float32 or wider."""
        query, key = self.embed_current(current), self.embed_memory(memory)
        widest = torch.promote_types(query.dtype, torch.float32)  # as in `align`, half types cannot hold offsets
        return accel_ops.reference.sample_attention(query.to(widest), key.to(widest), offsets.to(widest))


class Quality(nn.Sequential):
    """Rate the quality of features (B, C, h, w) at each cell, (B, 1, h, w).

    As published, there are no activations between the three convolutions. They are therefore computed as one product.
    It has a row for every pair of a tap of the second and a tap of the third convolution. The results are shifted to
    their places and added up. The function is the same, including the zeros that each convolution sees beyond the
    border, for a third of the work.
    """

    CHANNELS = 16

    def __init__(self, channels: int, embedding: int):
        super().__init__(
            nn.Conv2d(channels, embedding, 1),
            nn.Conv2d(embedding, self.CHANNELS, 3, padding=1),
            nn.Conv2d(self.CHANNELS, 1, 3, padding=1),
        )

    def forward(self, features: Tensor) -> Tensor:
        layers: list[Any] = list(self)
        first, second, third = layers
        dtype = first.weight.dtype
        wide = torch.promote_types(dtype, torch.float32)
        with torch.autocast(features.device.type, enabled=False):
            taps = third.weight[0].flatten(1).to(wide)  # (16, 9)
            pairs = torch.einsum("sa,seb->abe", taps, second.weight.flatten(2).to(wide)).flatten(0, 1)  # (81, E)
            rows = (pairs @ first.weight.flatten(1).to(wide)).to(dtype)[..., None, None]
            of_rows = (pairs @ first.bias.to(wide)).to(dtype)
            of_taps = (second.bias.to(wide) @ taps).to(dtype)
        products = nn.functional.conv2d(features, rows, of_rows)  # (B, 81, h, w)
        moves = constant(torch.eye, 9, dtype=products.dtype, device=products.device).view(1, 9, 3, 3)
        moved = nn.functional.conv2d(products, moves.expand(9, -1, -1, -1), of_taps, padding=1, groups=9)
        return nn.functional.conv2d(moved, moves, third.bias, padding=1)


def grid_offsets(radius: int = 4) -> Tensor:
    """Return all whole offsets up to `radius` cells along each axis, ((2 * radius + 1)**2, 2)."""
    steps = torch.arange(-radius, radius + 1.0)
    return torch.cartesian_prod(steps, steps)


def gaussian_offsets(count: int = 81, deviation: float = 1.0) -> Tensor:
    """Return normally distributed offsets (count, 2), drawn from PyTorch's generator."""
    return deviation * torch.randn(count, 2)
