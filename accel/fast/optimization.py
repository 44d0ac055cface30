"""A video model for inference: the same function, as fast as the machine allows.

Three steps. `simplification` rewrites the model by algebra that holds exactly: linear layers change places or become
one. `batch_norms` takes batch norms into the convolutions before them. `compilation` compiles each network for one
frame size, in bfloat16 where the machine has it.
"""

from __future__ import annotations

import copy
import threading
import warnings
from collections import OrderedDict

import torch
from torch import Tensor, nn

from accel.devices import choose_device, has_bfloat16
from accel.fast.batch_norms import fold_batch_norms
from accel.fast.compilation import Compiler, cut
from accel.fast.parts import Parts
from accel.fast.simplification import Head, Pointwise, SimplifiedDeepLab, check_simplifies, simplify
from accel.models.propagation.flow_warp import FlowWarp
from accel.models.propagation.learned_sampling import LearnedSampling
from accel.models.segmentation.deeplab import DeepLab
from accel.models.video import VideoModel

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
SIZES = 4  # that are kept ready, where frames of any may come


@torch.no_grad()
def optimize(
    model: VideoModel,
    size: tuple[int, int] | None = None,
    dtype: torch.dtype | None = None,
    device: torch.device | str | None = None,
    compile: bool = True,
    parts: int = 1,
    sizes: int = SIZES,
) -> VideoModel:
    """A copy of `model` for inference on frames (1, 3, H, W) of one size; it answers the same calls.

    size: (H, W) of the frames. None: each size that comes is prepared for at its first key frame.
    dtype: of weights and features; by default bfloat16 where the device computes it fast, else float32. The last layer,
        which makes scores, is float32 always; flow is computed in this type and joined and followed in float32.
    device: where to run; by default where the model is.
    compile: with TorchInductor, which takes some seconds a network the first time on a machine, and on a GPU as
        CUDA graphs. Without it, or without a working compiler (a warning says so), the rest is done all the
        same.
    parts: into how many parts of equal cost a key frame's work is cut, for `VideoModel.renew`.
    sizes: how many sizes are kept ready, where `size` is None. Each takes as much memory as a model.

    Raises ValueError for a size, type or number that cannot be, a device that this machine lacks, or a model that
    `simplify` refuses. The copy raises it for frames of another size.
    """
    if size is not None and (len(size) != 2 or min(size) < 1):
        raise ValueError(f"size must be (height, width) in pixels, got {tuple(size)}")
    if isinstance(model, AnySize) or any(isinstance(module, Parts) for module in model.modules()):
        raise ValueError("this model is optimised already: call `optimized` of the one that it was made from")
    if parts < 1:
        raise ValueError(f"parts must be 1 or more, got {parts}")
    if sizes < 1:
        raise ValueError(f"sizes must be 1 or more, got {sizes}")
    device = model.device if device is None else choose_device(str(device))
    dtype = dtype or (torch.bfloat16 if has_bfloat16(device) else torch.float32)
    if dtype not in DTYPES:
        raise ValueError(f"dtype must be one of {', '.join(map(str, DTYPES))}, got {dtype}")

    check_simplifies(model)
    compiler = Compiler(compile)
    if size is None:
        return AnySize(model, dtype, device, compiler, parts, sizes)
    return _optimize_for(size, model, dtype, device, compiler, parts)


@torch.no_grad()
def _optimize_for(
    size: tuple[int, int],
    model: VideoModel,
    dtype: torch.dtype,
    device: torch.device,
    compiler: Compiler,
    parts: int,
) -> VideoModel:
    """`optimize`, for arguments that it has checked."""
    fast = copy.deepcopy(model).eval().requires_grad_(False)
    # Before the networks change that this one may share layers with.
    describing = {m: _Describing.of(m).to(device) for m in fast.modules() if isinstance(m, LearnedSampling)}
    fast = simplify(fast).to(device)
    for module in fast.modules():
        if isinstance(module, Pointwise):
            module.to(dtype, memory_format=torch.channels_last)
    frame = torch.zeros(1, 3, *size, device=device).to(memory_format=torch.channels_last)
    for module in list(fast.modules()):
        if isinstance(module, FlowWarp) and next(module.flow.parameters(), None) is not None:
            # Classical flow is no network. Two tensors, because the tracer takes one given twice for one input.
            module.flow = _optimize_network(module.flow, (frame, frame.clone()), dtype, compiler, gives=torch.float32)
        elif isinstance(module, DeepLab | SimplifiedDeepLab):
            count = parts if module is getattr(fast, "reference", None) else 1
            module.backbone = _optimize_network(module.backbone, (frame,), dtype, compiler, count)
    for module, network in describing.items():
        module.low_level = _optimize_network(network, (frame,), dtype, compiler)
        module.low_to_high = nn.Identity()
        _optimize_aggregations(module, frame, dtype, compiler)
    _optimize_heads(fast, frame, compiler)
    return fast


class AnySize(VideoModel):
    """A model optimised for every frame size that comes, at the first key frame of that size.

    sizes: how many are kept ready. When one more comes, the one used least recently is dropped. A video of that size
    can go on: its state fits what is then made anew, which takes as long as the first time (a warning says so).
    """

    def __init__(
        self,
        model: VideoModel,
        dtype: torch.dtype,
        device: torch.device,
        compiler: Compiler,
        parts: int,
        sizes: int = SIZES,
    ):
        super().__init__()
        self.model = model
        self.carries_state = model.carries_state
        self.settings = (dtype, device, compiler, parts)
        self.place = device
        self.sizes = sizes
        self.fast: OrderedDict[tuple[int, int], VideoModel] = OrderedDict()  # least recently used first
        self._dropped: set[tuple[int, int]] = set()
        self._lock = threading.RLock()  # of both; threads may share a model

    @property
    def device(self) -> torch.device:
        return self.place

    @property
    def remembers(self) -> bool:
        return self.model.remembers

    def key_frame(self, image, state=None):
        return self._for(_size(image)).key_frame(image, state)

    def check_spreads_key_frames(self):
        if self.settings[-1] < 2:
            self.model.check_spreads_key_frames()

    def prepare(self, size):
        self._for(tuple(size))

    def next_frame(self, image, state):
        return self._after(image, state).next_frame(image, state)

    def advance(self, image, state):
        return self._after(image, state).advance(image, state)

    def renew(self, state, frames):
        return None if state is None else self._for(_size(state.image)).renew(state, frames)  # None: frame by frame

    def _for(self, size: tuple[int, int]) -> VideoModel:
        """The model for frames of this size."""
        with self._lock:
            if size not in self.fast:
                if size in self._dropped:
                    self._say_that_sizes_take_turns(size)
                self.fast[size] = _optimize_for(size, self.model, *self.settings)
                while len(self.fast) > self.sizes:
                    self._dropped.add(self.fast.popitem(last=False)[0])
            self.fast.move_to_end(size)
            return self.fast[size]

    def _after(self, image: Tensor, state: object) -> VideoModel:
        """The model for this frame, which follows the one that gave `state`."""
        size = _size(image)
        if state is not None and _size(state.image) != size:
            raise ValueError(f"no key frame of {size[0]}x{size[1]} pixels came before this frame")
        return self._for(size)

    def _say_that_sizes_take_turns(self, size: tuple[int, int]) -> None:
        """Python shows the same warning from the same place once."""
        warnings.warn(
            f"frames of more than {self.sizes} sizes come in turns, and {size[0]}x{size[1]} is prepared anew, which "
            "takes as long as the first time: `optimized(sizes=...)` keeps more ready",
            RuntimeWarning,
            stacklevel=2,
        )


def _size(image: Tensor) -> tuple[int, int]:
    """(H, W) of a frame (B, 3, H, W)."""
    return tuple(image.shape[2:])


class _InType(nn.Module):
    """A network that computes in a type of its own; what comes out has the type `gives`."""

    def __init__(self, network: nn.Module, dtype: torch.dtype, gives: torch.dtype):
        super().__init__()
        self.network = network
        self.dtype, self.gives = dtype, gives

    def forward(self, *images: Tensor) -> Tensor:
        return self.network(*(image.to(self.dtype) for image in images)).to(self.gives)


def _optimize_network(
    network: nn.Module,
    examples: tuple[Tensor, ...],
    dtype: torch.dtype,
    compiler: Compiler,
    parts: int = 1,
    gives: torch.dtype | None = None,
) -> nn.Module:
    """A network for float32 images like `examples`, computed in `dtype`; its result comes in the type `gives`, or in
    the same."""
    fold_batch_norms(network, examples)
    network = network.to(dtype, memory_format=torch.channels_last)
    return cut(_InType(network, dtype, gives or dtype), examples, compiler, parts)


class _Describing(nn.Module):
    """What a `LearnedSampling` says of a frame, as a network of its own. backbone: the module that low_level is of."""

    def __init__(self, backbone: nn.Module, low_level: str, low_to_high: nn.Module):
        super().__init__()
        self.backbone, self.low_level, self.low_to_high = backbone, low_level, low_to_high

    @staticmethod
    def of(sampling: LearnedSampling) -> _Describing:
        low_level = sampling.low_level
        shared = not isinstance(low_level, nn.Module)  # a method of the reference's backbone
        parts = (low_level.__self__, low_level.__name__) if shared else (low_level, "forward")
        return copy.deepcopy(_Describing(*parts, sampling.low_to_high))

    def forward(self, image: Tensor) -> Tensor:
        """(B, 3, H, W) RGB minus the mean to (B, C, h, w)."""
        return self.low_to_high(getattr(self.backbone, self.low_level)(image))


def _optimize_aggregations(sampling: LearnedSampling, frame: Tensor, dtype: torch.dtype, compiler: Compiler) -> None:
    """Compile both uses of a `LearnedSampling` for features of frames like this one; its offsets stay as they are."""
    features = sampling.low_level(frame)
    examples = (features, features.clone(), sampling.offsets.data)
    for name in ("key_to_current", "key_to_key"):
        aggregation = getattr(sampling, name).to(dtype, memory_format=torch.channels_last)
        setattr(sampling, name, cut(aggregation, examples, compiler))


def _optimize_heads(model: VideoModel, frame: Tensor, compiler: Compiler) -> None:
    """Compile the heads for every shape of features that they get. They stay float32, as scores decide labels."""
    examples: dict[nn.Module, dict[torch.Size, Tensor]] = {}

    def remember(head: nn.Module, given: tuple[Tensor]) -> None:
        examples.setdefault(head, {})[given[0].shape] = given[0]

    heads = [(owner, head) for owner in model.modules() for head in owner.children() if isinstance(head, Head)]
    hooks = [head.register_forward_pre_hook(remember) for _, head in heads]
    _, state = model.key_frame(frame)
    model.next_frame(frame, state)
    for hook in hooks:
        hook.remove()
    for owner, head in heads:
        # Some published networks lose a row of features on key frames: see propagation._stretch.
        owner.head = _ByShape({shape: cut(head, (example,), compiler) for shape, example in examples[head].items()})


class _ByShape(nn.Module):
    """One network for inputs of several shapes, made ready for each."""

    def __init__(self, networks: dict[torch.Size, nn.Module]):
        super().__init__()
        self.networks = networks

    def forward(self, features: Tensor) -> Tensor:
        return self.networks[features.shape](features)
