"""Prepare networks for inference on frames of one size.

Each module defines how it is optimised, in two steps that its owner calls:

- `simplified()` returns a module with the same function, up to rounding, and less work: linear layers change places or
  merge. The new module takes over the layers of the old one. A module with nothing to save returns itself.
- `make_fast(preparation)` replaces the module's networks, in place, by those that a `Preparation` makes from them.
  Batch norms are folded into the convolutions before them (`batch_norms`). Each network is compiled for one frame size
  (`compilation`), in bfloat16 if the machine has it, or in eight bits (`eight_bits`).

The video models, branches and propagations of `accel.models` have these methods. Nothing here depends on them.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from accel.devices import has_bfloat16
from accel.fast.batch_norms import fold_batch_norms
from accel.fast.compilation import Compiler, Memory, cut
from accel.fast.eight_bits import Calibration, check_calibration
from accel.fast.engines import check_engine
from accel.fast.kept import Kept, kept

DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.int8)


@dataclass(frozen=True)
class Settings:
    """How to prepare a model, for any frame size.

    device: where the networks run.
    dtype: the type of weights and features.
    compiler: the compiler for all networks of a model.
    parts: the number of parts of equal cost into which a key frame's work is cut.
    kept: where compiled networks are kept for later starts. None: nowhere.
    calibration: the frames that eight-bit networks are made with. None: there are no such networks.
    """

    device: torch.device
    dtype: torch.dtype
    compiler: Compiler
    parts: int
    kept: Kept | None = None
    calibration: Calibration | None = None

    @classmethod
    def of(
        cls,
        device: torch.device,
        dtype: torch.dtype | None,
        compile: bool,
        parts: int,
        engine: str = "inductor",
        keep: bool = False,
        calibration: Calibration | None = None,
    ) -> Settings:
        """Make the settings.

        dtype: None means bfloat16 if the device computes it fast, otherwise float32. int8 means eight bits where that
            is safe, and None elsewhere.
        compile: whether to compile.
        engine: what to compile with, see `accel.fast.engines`.
        keep: whether to keep compiled networks in this user's cache.
        calibration: frames, for int8.

        Raises ValueError for an invalid type, number or engine, and for int8 without frames.
        """
        if parts < 1:
            raise ValueError(f"parts must be 1 or more, got {parts}")
        if dtype is not None and dtype not in DTYPES:
            raise ValueError(f"dtype must be one of {', '.join(map(str, DTYPES))}, got {dtype}")
        check_engine(engine, device)
        check_calibration(dtype, calibration, device)
        in_float = dtype if dtype not in (None, torch.int8) else None
        in_float = in_float or (torch.bfloat16 if has_bfloat16(device) else torch.float32)
        cache = kept() if keep and compile and device.type == "cpu" else None
        return cls(device, in_float, Compiler(compile, engine), parts, cache, calibration)


class Preparation:
    """Prepare networks for frames (1, 3, H, W) of one size.

    size: (H, W).
    memory: where the model's compiled networks are kept.

    frame: an example of these frames, float32, on the device.
    dtype: the type of the networks' results, unless another is requested.
    parts: the number of parts into which to cut the reference branch's backbone.
    """

    def __init__(self, size: tuple[int, int], settings: Settings, memory: Memory | None = None):
        self.frame = torch.zeros(1, 3, *size, device=settings.device).to(memory_format=torch.channels_last)
        self.dtype, self.parts = settings.dtype, settings.parts
        self.calibration = settings.calibration
        self._compiler, self._memory = settings.compiler, memory
        self._trials: list[ByShape] = []

    def network(
        self,
        network: nn.Module,
        examples: tuple[Tensor, ...] | None = None,
        parts: int = 1,
        gives: torch.dtype | None = None,
        eight_bits: bool = False,
    ) -> nn.Module:
        """Prepare a network for float32 images. It computes in `dtype`; its result has the type `gives`, or else
        `dtype`.

        examples: example inputs. The default is one frame.
        eight_bits: whether it may compute in eight bits if the user wishes that: its results may be off by about a
            hundredth.
        """
        examples = (self.frame,) if examples is None else examples
        short = eight_bits and self.calibration is not None
        dtype = torch.float32 if short else self.dtype

        def prepare(network: nn.Module) -> nn.Module:
            fold_batch_norms(network, examples)
            network = network.to(dtype=dtype, memory_format=torch.channels_last)  # type: ignore[call-overload] # undeclared
            return InType(network, dtype, gives or self.dtype)

        calibration = self.calibration if short else None
        return cut(network, examples, self._compiler, parts, prepare, self._memory, calibration)

    def layer(self, layer: nn.Module) -> nn.Module:
        """Prepare a layer that runs uncompiled between networks. Its inputs and results have the type `dtype`."""
        return layer.to(dtype=self.dtype, memory_format=torch.channels_last)  # type: ignore[call-overload] # undeclared

    def inner(self, network: nn.Module, examples: tuple[Tensor, ...]) -> nn.Module:
        """Prepare a network that lies between others and computes in `dtype`. examples: example inputs in that type."""
        return cut(network, examples, self._compiler, prepare=self.layer, memory=self._memory)

    def by_shape(self, network: nn.Module) -> nn.Module:
        """Prepare a network, in its own type, for the shapes of the inputs that it gets between now and `finish`."""
        self._trials.append(ByShape(network))
        return self._trials[-1]

    def finish(self) -> None:
        """Compile the networks of `by_shape`. The model must have run a key frame and a current one before."""
        for trial in self._trials:
            trial.finish(self._compiler, self._memory)


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

    def finish(self, compiler: Compiler, memory: Memory | None = None) -> None:
        self._ready = {
            shape: cut(self.network, (example,), compiler, memory=memory)
            for shape, example in (self._seen or {}).items()
        }
        self._seen = None
