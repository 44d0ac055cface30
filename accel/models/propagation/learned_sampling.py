"""Features found by attention over learned offsets."""

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


class LearnedSampling(Propagation):
    """Features are found by attention over learned offsets, without flow: Learnable Spatio-Temporal Sampling (Jiang et
    al., Learning Where to Focus for Efficient Video Object Detection, ECCV 2020, sec. 3, as in the authors' code).

    A frame is compared with the key frame by its low-level features, which Low2High brings to the kind that the
    reference backbone makes: *dense feature aggregation*. A new key frame is compared with the memory of those before
    it: *sparsely recursive feature updating*.

    low_level: a network, or a method of one that belongs to another part of the model, that takes frames
        (B, 3, H, W), RGB minus the mean, to (B, `low_channels`, h, w).
    channels: C, of the reference features.
    offsets: (K, 2), (dx, dy) in cells, where learning starts; see `grid_offsets` and `gaussian_offsets`.
    embedding: channels in which features are compared, and of inner layers; 256 as published.
    update_ratio: how much of the memory is aggregated features; the rest is the newest key frame's own.
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
            _initialise(module)

    def motion(self, current: Tensor, previous: Tensor) -> Tensor:
        """What the current frame shows, (B, C, h, w): used to find matching places in earlier frames."""
        return self.low_to_high(self.low_level(current))

    def move(self, features: Tensor, motion: Tensor) -> Tensor:
        """Features (B, C, h, w) of a key frame, brought to the frame that `motion` belongs to, and mixed with it."""
        if features.shape != motion.shape:
            raise ValueError(
                f"features {tuple(features.shape)} and low-level features brought to {tuple(motion.shape)} "
                "are not of one frame size and backbone"
            )
        return self.key_to_current(features, motion, self.offsets)

    @staticmethod
    def join(first: Tensor, second: Tensor) -> Tensor:
        """The second: a frame is compared with the key frame itself."""
        return second

    def update(self, memory: Tensor, features: Tensor) -> tuple[Tensor, Tensor]:
        """The memory's features aggregated with the new key frame's; and what will be the memory for the next one.

        Raises ValueError for features of another shape than the memory's.
        """
        if memory.shape != features.shape:
            raise ValueError(
                f"the memory of the key frames before is {tuple(memory.shape)} and the new key frame's features are "
                f"{tuple(features.shape)}; expected one shape: frames of another size start afresh, by `key_frame`"
            )
        aggregated = self.key_to_key(memory, features, self.offsets)
        if self.update_ratio == 1:
            return aggregated, aggregated
        return aggregated, self.update_ratio * aggregated + (1 - self.update_ratio) * features

    def make_fast(self, preparation: Preparation) -> None:
        """What a frame shows becomes one network, with layers of its own; so do both aggregations."""
        self.low_level = preparation.network(_Describing.of(self))
        self.low_to_high = nn.Identity()
        features = self.low_level(preparation.frame)
        examples = (features, features.clone(), self.offsets.data)
        self.key_to_current = preparation.inner(self.key_to_current, examples)
        self.key_to_key = preparation.inner(self.key_to_key, examples)


class _Describing(nn.Module):
    """What a `LearnedSampling` says of a frame, as a network of its own.

    backbone: the network that `low_level` is a method of.
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
        """(B, 3, H, W) RGB minus the mean to (B, C, h, w)."""
        return self.low_to_high(getattr(self.backbone, self.low_level)(image))


class Aggregation(nn.Module):
    """Two feature maps (B, C, h, w) to one: the older is aligned to the newer, and at each cell the better counts more.

    Both are embedded to be compared; a quality network judges them.
    """

    def __init__(self, channels: int, embedding: int):
        super().__init__()
        self.embed_memory = nn.Conv2d(channels, embedding, 1)
        self.embed_current = nn.Conv2d(channels, embedding, 1)
        self.quality = Quality(channels, embedding)

    def forward(self, memory: Tensor, current: Tensor, offsets: Tensor) -> Tensor:
        """Memory and current features (B, C, h, w) aggregated, (B, C, h, w); offsets (K, 2) in cells."""
        aligned = self.align(memory, current, offsets)
        of_current = self.share_of_current(aligned, current)
        widest = torch.promote_types(aligned.dtype, current.dtype)  # they may differ under autocast
        return torch.lerp(aligned.to(widest), current.to(widest), of_current.to(widest))

    def share_of_current(self, aligned: Tensor, current: Tensor) -> Tensor:
        """How much of the mix is the current map, (B, 1, h, w): the softmax over the two maps' quality."""
        return (self.quality(current) - self.quality(aligned)).sigmoid()

    def align(self, memory: Tensor, current: Tensor, offsets: Tensor) -> Tensor:
        """What of the memory belongs at each cell of the current map, (B, C, h, w)."""
        return accel_ops.sample_attend(self.embed_current(current), self.embed_memory(memory), memory, offsets)

    def attention(self, memory: Tensor, current: Tensor, offsets: Tensor) -> Tensor:
        """How much of `align` comes from each offset at each cell, (B, K, h, w); for looking at. Float32 or wider."""
        query, key = self.embed_current(current), self.embed_memory(memory)
        widest = torch.promote_types(query.dtype, torch.float32)  # as in `align`, half types cannot hold offsets
        return accel_ops.reference.sample_attention(query.to(widest), key.to(widest), offsets.to(widest))


class Quality(nn.Sequential):
    """How good features (B, C, h, w) are at each cell, (B, 1, h, w).

    There are no activations between the three convolutions, as published. So they are worked out as one product, with
    a row for every tap of the second at every tap of the third, whose results are moved there and added up. It is the
    same function, the zeros that each convolution sees beyond the border included, for a third of the work.
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
    """All whole offsets up to `radius` cells along each axis, ((2 * radius + 1)**2, 2)."""
    steps = torch.arange(-radius, radius + 1.0)
    return torch.cartesian_prod(steps, steps)


def gaussian_offsets(count: int = 81, deviation: float = 1.0) -> Tensor:
    """Normally distributed offsets (count, 2), drawn from PyTorch's generator."""
    return deviation * torch.randn(count, 2)


def _initialise(module: nn.Module) -> None:
    """As published: small weights, so that at first all offsets count alike."""
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.normal_(layer.weight, std=0.01)
            assert layer.bias is not None
            nn.init.zeros_(layer.bias)
