"""Prepare networks for inference on frames of one size.

Each module defines how it is optimised, in two steps that its owner calls:

- `simplified()` returns a module with the same function, up to rounding, and less work: linear layers change places or
  merge. The new module takes over the layers of the old one. A module with nothing to save returns itself.
- `make_fast(preparation)` replaces the module's networks, in place, by those that a `Preparation` makes from them.
  Batch norms are folded into the convolutions before them (`batch_norms`). Each network is compiled for one frame size
  (`compilation`), in bfloat16 if the machine has it.

The video models, branches and propagations of `accel.models` have these methods. Nothing here depends on them.
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
    """How to prepare a model, for any frame size.

    device: where the networks run.
    dtype: the type of weights and features.
    compiler: the compiler for all networks of a model.
    parts: the number of parts of equal cost into which a key frame's work is cut.
    """

    device: torch.device
    dtype: torch.dtype
    compiler: Compiler
    parts: int

    @classmethod
    def of(cls, device: torch.device, dtype: torch.dtype | None, compile: bool, parts: int) -> Settings:
        """Make the settings.

        dtype: None means bfloat16 if the device computes it fast, otherwise float32.
        compile: whether to compile.

        Raises ValueError for an invalid type or number.
        """
        if parts < 1:
            raise ValueError(f"parts must be 1 or more, got {parts}")
        dtype = dtype or (torch.bfloat16 if has_bfloat16(device) else torch.float32)
        if dtype not in DTYPES:
            raise ValueError(f"dtype must be one of {', '.join(map(str, DTYPES))}, got {dtype}")
        return cls(device, dtype, Compiler(compile), parts)


class Preparation:
    """Prepare networks for frames (1, 3, H, W) of one size.

    size: (H, W).

    frame: an example of these frames, float32, on the device.
    dtype: the type of the networks' results, unless another is requested.
    parts: the number of parts into which to cut the reference branch's backbone.
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
        """Prepare a network for float32 images. It computes in `dtype`; its result has the type `gives`, or else
        `dtype`.

        examples: example inputs. The default is one frame.
        """
        examples = (self.frame,) if examples is None else examples
        fold_batch_norms(network, examples)
        return cut(InType(self.layer(network), self.dtype, gives or self.dtype), examples, self._compiler, parts)

    def layer(self, layer: nn.Module) -> nn.Module:
        """Prepare a layer that runs uncompiled between networks. Its inputs and results have the type `dtype`."""
        return layer.to(dtype=self.dtype, memory_format=torch.channels_last)  # type: ignore[call-overload] # undeclared

    def inner(self, network: nn.Module, examples: tuple[Tensor, ...]) -> nn.Module:
        """Prepare a network that lies between others and computes in `dtype`. examples: example inputs in that type."""
        return cut(self.layer(network), examples, self._compiler)

    def by_shape(self, network: nn.Module) -> nn.Module:
        """Prepare a network, in its own type, for the shapes of the inputs that it gets between now and `finish`."""
        self._trials.append(ByShape(network))
        return self._trials[-1]

    def finish(self) -> None:
        """Compile the networks of `by_shape`. The model must have run a key frame and a current one before."""
        for trial in self._trials:
            trial.finish(self._compiler)


class InType(nn.Module):
    """A network that computes in another type than its inputs have. Its result, one tensor or more, has the type
    `gives`."""

    def __init__(self, network: nn.Module, dtype: torch.dtype, gives: torch.dtype):
        super().__init__()
        self.network = network
        self.dtype, self.gives = dtype, gives

    def forward(self, *images: Tensor) -> Tensor | tuple[Tensor, ...]:
        made = self.network(*(image.to(self.dtype) for image in images))
        return made.to(self.gives) if isinstance(made, Tensor) else tuple(each.to(self.gives) for each in made)


class ByShape(nn.Module):
    """A network with one input, prepared for each input shape that it gets before `finish`."""

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
