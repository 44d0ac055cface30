"""Networks made ready for inference on frames of one size.

A module says itself how it is made fast, in two steps that its owner asks for:

- `simplified()` gives a module of the same function, up to rounding, and less work: linear layers change places or
  become one. It takes over the layers of the module that it is asked of. A module that knows of nothing to save gives
  itself.
- `make_fast(preparation)` replaces the module's networks, in place, by those that a `Preparation` makes of them: batch
  norms are taken into the convolutions before them (`batch_norms`), and each network is compiled for one frame size
  (`compilation`), in bfloat16 where the machine has it.

The video models, branches and propagations of `accel.models` answer these calls; nothing here knows any of them.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from accel.devices import has_bfloat16
from accel.fast.batch_norms import fold_batch_norms
from accel.fast.compilation import Compiler, cut

DTYPES = (torch.float32, torch.bfloat16, torch.float16)


@dataclass(frozen=True)
class Settings:
    """How to prepare, whatever the frame size.

    device:   where the networks run.
    dtype:    of weights and features.
    compiler: of all networks of a model.
    parts:    into how many parts of equal cost a key frame's work is cut.
    """

    device: torch.device
    dtype: torch.dtype
    compiler: Compiler
    parts: int

    @classmethod
    def of(cls, device: torch.device, dtype: torch.dtype | None, compile: bool, parts: int) -> Settings:
        """dtype: None for bfloat16 where the device computes it fast, and else float32. compile: whether to.

        Raises ValueError for a type or number that cannot be.
        """
        if parts < 1:
            raise ValueError(f"parts must be 1 or more, got {parts}")
        dtype = dtype or (torch.bfloat16 if has_bfloat16(device) else torch.float32)
        if dtype not in DTYPES:
            raise ValueError(f"dtype must be one of {', '.join(map(str, DTYPES))}, got {dtype}")
        return cls(device, dtype, Compiler(compile), parts)


class Preparation:
    """Makes networks ready for frames (1, 3, H, W) of one size.

    size: (H, W).

    frame: an example of these frames, float32, on the device.
    dtype: of what the networks make of them, unless they are asked for something else.
    parts: into how many parts the reference branch's backbone is to be cut.
    """

    def __init__(self, size: tuple[int, int], settings: Settings):
        self.frame = torch.zeros(1, 3, *size, device=settings.device).to(memory_format=torch.channels_last)
        self.dtype, self.parts = settings.dtype, settings.parts
        self._compiler = settings.compiler
        self._trials: list[ByShape] = []

    def network(
        self,
        network: nn.Module,
        examples: tuple[Tensor, ...] | None = None,
        parts: int = 1,
        gives: torch.dtype | None = None,
    ) -> nn.Module:
        """A network for float32 images, computed in `dtype`; what it gives has the type `gives`, or the same.

        examples: of what it takes; by default one frame.
        """
        examples = (self.frame,) if examples is None else examples
        fold_batch_norms(network, examples)
        return cut(_InType(self.layer(network), self.dtype, gives or self.dtype), examples, self._compiler, parts)

    def layer(self, layer: nn.Module) -> nn.Module:
        """A layer that runs as it is, between networks: it takes and gives what has the type `dtype`."""
        return layer.to(dtype=self.dtype, memory_format=torch.channels_last)  # type: ignore[call-overload] # undeclared

    def inner(self, network: nn.Module, examples: tuple[Tensor, ...]) -> nn.Module:
        """A network between others, computed in `dtype`. examples: of what it takes, in that type."""
        return cut(self.layer(network), examples, self._compiler)

    def by_shape(self, network: nn.Module) -> nn.Module:
        """A network computed in its own type, for the shapes that it is given between now and `finish`."""
        self._trials.append(ByShape(network))
        return self._trials[-1]

    def finish(self) -> None:
        """Once the model has tried a key frame and a current one: compile what waited to see its shapes."""
        for trial in self._trials:
            trial.finish(self._compiler)


class _InType(nn.Module):
    """A network that computes in a type of its own; what comes out, one tensor or more, has the type `gives`."""

    def __init__(self, network: nn.Module, dtype: torch.dtype, gives: torch.dtype):
        super().__init__()
        self.network = network
        self.dtype, self.gives = dtype, gives

    def forward(self, *images: Tensor) -> Tensor | tuple[Tensor, ...]:
        made = self.network(*(image.to(self.dtype) for image in images))
        return made.to(self.gives) if isinstance(made, Tensor) else tuple(each.to(self.gives) for each in made)


class ByShape(nn.Module):
    """One network of one input, made ready for each shape that it has seen before `finish`."""

    def __init__(self, network: nn.Module):
        super().__init__()
        self.network = network
        self._seen: dict[torch.Size, Tensor] | None = {}  # None once it is finished
        self._ready: dict[torch.Size, nn.Module] = {}

    def forward(self, x: Tensor) -> Tensor:
        ready = self._ready.get(x.shape)
        if ready is not None:
            return ready(x)
        if self._seen is not None:
            self._seen[x.shape] = x
        return self.network(x)

    def finish(self, compiler: Compiler) -> None:
        self._ready = {shape: cut(self.network, (example,), compiler) for shape, example in (self._seen or {}).items()}
        self._seen = None
