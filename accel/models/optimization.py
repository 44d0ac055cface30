"""A video model for inference: the same function, as fast as the machine allows.

Three steps. `simplify` rewrites the model by algebra that holds exactly: linear layers change places or become
one. `fold_batch_norms` takes batch norms into the convolutions before them. `_finish` compiles each network for one
frame size, in bfloat16 where the machine has it.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

from accel.devices import choose_device, has_bfloat16
from accel.models.backbones.published import PreActResNet
from accel.models.deeplab import DeepLab
from accel.models.images import subtract_mean
from accel.models.parts import Parts
from accel.models.propagation import FlowWarp
from accel.models.scores import ScoreMap
from accel.models.streams import side_by_side
from accel.models.video import AccelShared, DeepFeatureFlow, FrameState, VideoModel

DTYPES = (torch.float32, torch.bfloat16, torch.float16)


@torch.no_grad()
def optimize(
    model: VideoModel,
    size: tuple[int, int] | None = None,
    dtype: torch.dtype | None = None,
    device: torch.device | str | None = None,
    compile: bool = True,
    parts: int = 1,
) -> VideoModel:
    """A copy of `model` for inference on frames (1, 3, H, W) of one size; it answers the same calls.

    size: (H, W) of the frames. None: each size that comes is prepared for at its first key frame.
    dtype: of weights and features; by default bfloat16 where the device computes it fast, else float32. The last layer,
        which makes scores, is float32 always; flow is computed in this type and joined and followed in float32.
    device: where to run; by default where the model is.
    compile: with TorchInductor, which takes some seconds a network the first time on a machine, and on a GPU as
        CUDA graphs. Without it, the rest is done all the same.
    parts: into how many parts of equal cost a key frame's work is cut, for `VideoModel.renew`.

    Raises ValueError for a size, type or number that cannot be, or a device that this machine lacks. The copy raises
    it for frames of another size.
    """
    if size is not None and (len(size) != 2 or min(size) < 1):
        raise ValueError(f"size must be (height, width) in pixels, got {tuple(size)}")
    if isinstance(model, AnySize) or any(isinstance(module, Parts) for module in model.modules()):
        raise ValueError("this model is optimised already: call `optimized` of the one that it was made from")
    if parts < 1:
        raise ValueError(f"parts must be 1 or more, got {parts}")
    device = model.device if device is None else choose_device(str(device))
    dtype = dtype or (torch.bfloat16 if has_bfloat16(device) else torch.float32)
    if dtype not in DTYPES:
        raise ValueError(f"dtype must be one of {', '.join(map(str, DTYPES))}, got {dtype}")

    if size is None:
        return AnySize(model, dtype, device, compile, parts)
    fast = simplify(copy.deepcopy(model).eval().requires_grad_(False)).to(device)
    for module in fast.modules():
        if isinstance(module, Pointwise):
            module.to(dtype, memory_format=torch.channels_last)
    frame = torch.zeros(1, 3, *size, device=device).to(memory_format=torch.channels_last)
    for module in list(fast.modules()):
        if isinstance(module, FlowWarp) and next(module.flow.parameters(), None) is not None:
            # Classical flow is no network. Two tensors, because the tracer takes one given twice for one input.
            module.flow = _optimize_network(module.flow, (frame, frame.clone()), dtype, compile, gives=torch.float32)
        elif isinstance(module, DeepLab | SimplifiedDeepLab):
            cut = parts if module is getattr(fast, "reference", None) else 1
            module.backbone = _optimize_network(module.backbone, (frame,), dtype, compile, cut)
    _optimize_heads(fast, frame, compile)
    return fast


class AnySize(VideoModel):
    """A model optimised for every frame size that comes, at the first key frame of that size."""

    def __init__(self, model: VideoModel, dtype: torch.dtype, device: torch.device, compile: bool, parts: int):
        super().__init__()
        self.model = model
        self.carries_state = model.carries_state
        self.settings = (dtype, device, compile, parts)
        self.place = device
        self.fast: dict[tuple[int, int], VideoModel] = {}

    @property
    def device(self) -> torch.device:
        return self.place

    def key_frame(self, image):
        size = tuple(image.shape[2:])
        self.prepare(size)
        return self.fast[size].key_frame(image)

    def prepare(self, size):
        if size not in self.fast:
            self.fast[size] = self.model.optimized(size, *self.settings)

    def next_frame(self, image, state):
        return self._of(image).next_frame(image, state)

    def advance(self, image, state):
        return self._of(image).advance(image, state)

    def renew(self, state, frames):
        return None if state is None else self._of(state.image).renew(state, frames)  # None: frame by frame

    def _of(self, image: Tensor) -> VideoModel:
        size = tuple(image.shape[2:])
        if size not in self.fast:
            raise ValueError(f"no key frame of {size[0]}x{size[1]} pixels came before this frame")
        return self.fast[size]


# --- algebra


def simplify(model: VideoModel) -> VideoModel:
    """A model to one of the same function, up to rounding, and less work for each frame. Takes its modules over.

    fc6 is linear up to its bias, and so is propagation: fc6's product is taken before features are carried on, once
    a key frame instead of once a frame. The learned upsampling that published ResNet-18 and -34 end with is linear,
    too: it and fc6 become one.
    """
    if isinstance(model, AccelShared):
        return SimplifiedAccelShared(model)
    for name, child in model.named_children():
        if isinstance(child, DeepLab):
            setattr(model, name, SimplifiedDeepLab(child))
    return model


class SimplifiedDeepLab(nn.Module):
    """A `DeepLab` whose features are fc6's products, before its bias and ReLU."""

    def __init__(self, original: DeepLab):
        super().__init__()
        self.backbone = _followed_by(original.backbone, original.fc6.weight)
        self.head = Head(original.fc6.bias, original.score_layer)
        self.border = original.border

    def features(self, image: Tensor) -> Tensor:
        """(B, 3, H, W) RGB minus the mean to (B, head_channels, h, w)."""
        return self.backbone(image)

    def score(self, features: Tensor) -> ScoreMap:
        """(B, head_channels, h, w) to scores (B, K, h, w), float32."""
        return ScoreMap(self.head(features), self.border)

    def forward(self, image: Tensor) -> ScoreMap:
        return self.score(self.features(image))


class Head(nn.Module):
    """What is left of fc6 after its product: bias and ReLU; then the score layer, in float32."""

    def __init__(self, bias: Tensor, score_layer: nn.Conv2d):
        super().__init__()
        self.bias = nn.Parameter(bias[:, None, None], requires_grad=False)
        self.score_layer = score_layer

    def forward(self, features: Tensor) -> Tensor:
        """(B, head_channels, h, w) to (B, K, h, w)."""
        return self.score_layer((features.float() + self.bias).relu())


class SimplifiedAccelShared(DeepFeatureFlow):
    """`AccelShared` in which the fusion of features and fc6 are one product for each branch."""

    def __init__(self, original: AccelShared):
        reference, fusion = original.reference, original.fusion.correction
        super().__init__(reference, original.propagation)
        fc6 = reference.fc6.weight.flatten(1)  # (head_channels, C)
        old, new = fusion.weight.flatten(1).chunk(2, 1)  # (C, C) each
        self.project = Pointwise(fc6)
        self.carry = Pointwise(fc6 @ old)
        self.correct = Pointwise(fc6 @ new, fc6 @ fusion.bias)
        self.head = Head(reference.fc6.bias, reference.score_layer)

    def key_frame(self, image):
        image = subtract_mean(image)
        features = self.reference.features(image)
        return self._score(self.project(features)), FrameState(image, self.carry(features))

    def next_frame(self, image, state):
        image = subtract_mean(image)
        state, update = side_by_side(
            lambda: self._propagate(image, state),
            lambda: self.correct(self.reference.features(image)),
            image.device,
            "update",
        )
        if update.shape != state.features.shape:  # as in FeatureFusion
            update = F.interpolate(update, state.features.shape[2:], mode="bilinear", align_corners=True)
        return self._score(state.features + update), state

    def _score(self, features: Tensor) -> ScoreMap:
        return ScoreMap(self.head(features), self.reference.border)

    def _reference_work(self, image):
        return super()._reference_work(image).then(self.carry)


class Pointwise(nn.Module):
    """A fixed 1x1 convolution. weight: (C', C).  bias: (C',)."""

    def __init__(self, weight: Tensor, bias: Tensor | None = None):
        super().__init__()
        self.weight = nn.Parameter(weight[:, :, None, None].contiguous(), requires_grad=False)
        self.bias = None if bias is None else nn.Parameter(bias, requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.weight, self.bias)


def _followed_by(backbone: nn.Module, weight: Tensor) -> nn.Module:
    """A backbone and a 1x1 convolution of its result, as one module. weight: (C', C, 1, 1)."""
    weight = weight.flatten(1)
    if not isinstance(backbone, PreActResNet):
        return nn.Sequential(backbone, Pointwise(weight))
    upsampling = backbone.upsampling  # its weight is (inputs, C, 4, 4)
    upsampling.weight = nn.Parameter(torch.einsum("icyx,oc->ioyx", upsampling.weight, weight), requires_grad=False)
    backbone.out_channels = upsampling.out_channels = len(weight)
    return backbone


# --- batch norms


@torch.no_grad()
def fold_batch_norms(network: nn.Module, examples: tuple[Tensor, ...]) -> int:
    """Take the batch norms that directly follow a convolution into it, in place. Returns how many.

    network: in evaluation mode, its weights float32 still.  examples: of what it takes.
    """
    try:
        program = torch.export.export(network, examples)
    except Exception:  # whatever the tracer cannot follow; the network stays as it is
        return 0
    signature = program.graph_signature
    names = {**signature.inputs_to_parameters, **signature.inputs_to_buffers}  # of placeholders
    modules, folded = dict(network.named_modules()), 0
    for node in program.graph.nodes:
        if node.target is not torch.ops.aten.batch_norm.default or node.args[3] is None:  # has no statistics
            continue
        conv_node, mean_node = node.args[0], node.args[3]
        if conv_node.target is not torch.ops.aten.conv2d.default or len(conv_node.users) > 1:
            continue
        weight_node = conv_node.args[1]
        conv = modules.get(names.get(weight_node.name, "").rpartition(".")[0])
        norm = modules.get(names.get(mean_node.name, "").rpartition(".")[0])
        shared = len(weight_node.users) > 1 or len(mean_node.users) > 1
        if type(conv) is nn.Conv2d and isinstance(norm, nn.BatchNorm2d) and not shared:
            _fold(conv, norm)
            folded += 1
    return folded


def _fold(conv: nn.Conv2d, norm: nn.BatchNorm2d) -> None:
    """Move what a batch norm does to the convolution before it; the norm then does nothing."""
    conv.weight, conv.bias = fuse_conv_bn_weights(
        conv.weight, conv.bias, norm.running_mean, norm.running_var, norm.eps, norm.weight, norm.bias
    )
    norm.running_mean.zero_()
    norm.running_var.fill_(1 - norm.eps)
    if norm.affine:
        norm.weight.fill_(1)
        norm.bias.zero_()


# --- compilation


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
    compile: bool,
    parts: int = 1,
    gives: torch.dtype | None = None,
) -> nn.Module:
    """A network for float32 images like `examples`, computed in `dtype`; its result comes in the type `gives`, or in
    the same."""
    fold_batch_norms(network, examples)
    network = network.to(dtype, memory_format=torch.channels_last)
    return _cut(_InType(network, dtype, gives or dtype), examples, compile, parts)


def _optimize_heads(model: VideoModel, frame: Tensor, compile: bool) -> None:
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
        owner.head = _ByShape({shape: _cut(head, (example,), compile) for shape, example in examples[head].items()})


class _ByShape(nn.Module):
    """One network for inputs of several shapes, made ready for each."""

    def __init__(self, networks: dict[torch.Size, nn.Module]):
        super().__init__()
        self.networks = networks

    def forward(self, features: Tensor) -> Tensor:
        return self.networks[features.shape](features)


def _cut(network: nn.Module, examples: tuple[Tensor, ...], compile: bool, parts: int = 1) -> nn.Module:
    """A network as `Parts`, compiled if wished; as it is, with a warning, where it cannot be traced."""
    try:
        graph = torch.export.export(network, examples).run_decompositions({}).module()
    except Exception as error:
        reason = str(error).strip().splitlines()[0]
        warnings.warn(f"a network runs uncompiled because it cannot be exported: {reason}", stacklevel=2)
        return network
    return Parts(graph, examples, parts, _compile if compile else lambda part, examples: part)


def _compile(part: nn.Module, examples: tuple[Tensor, ...]) -> Callable:
    """A part of a network, compiled for inputs of these shapes and layouts."""
    from torch._inductor import compile as inductor
    from torch._inductor import config

    with config.patch(freezing=True):
        compiled = inductor(part, list(examples))
    fast = _InLayout(compiled, examples)
    return _CudaGraph(fast, examples) if examples[0].is_cuda else fast


class _InLayout:
    """Calls a compiled part, which trusts that its inputs have the type and lie in memory as when it was compiled."""

    def __init__(self, compiled: Callable, examples: tuple[Tensor, ...]):
        self.compiled = compiled
        self.forms = [(example.dtype, example.stride()) for example in examples]

    def __call__(self, *given: Tensor) -> tuple[Tensor, ...]:
        return tuple(self.compiled(*map(_in_form, given, self.forms)))


def _in_form(tensor: Tensor, form: tuple[torch.dtype, tuple[int, ...]]) -> Tensor:
    """The tensor in this type and with these strides; copied only where its numbers lie elsewhere."""
    dtype, strides = form
    if tensor.dtype == dtype and tensor.stride() == strides:
        return tensor
    same = all(n == 1 or a == b for n, a, b in zip(tensor.shape, tensor.stride(), strides, strict=True))
    if tensor.dtype == dtype and same:  # strides of dimensions of one entry mean nothing
        return tensor.as_strided(tensor.shape, strides)
    return torch.empty_strided(tensor.shape, strides, dtype=dtype, device=tensor.device).copy_(tensor)


class _CudaGraph:
    """A function of tensors as one CUDA graph: one launch instead of hundreds."""

    WARM_UP = 3

    def __init__(self, function: Callable, examples: tuple[Tensor, ...]):
        self.inputs = [example.clone() for example in examples]
        device = self.inputs[0].device
        self.graph = torch.cuda.CUDAGraph()
        stream = torch.cuda.Stream(device)
        stream.wait_stream(torch.cuda.current_stream(device))
        with torch.cuda.device(device):
            with torch.cuda.stream(stream):
                for _ in range(self.WARM_UP):
                    function(*self.inputs)
            # Another thread may be uploading frames meanwhile: what it does is no part of the capture.
            with torch.cuda.graph(self.graph, stream=stream, capture_error_mode="thread_local"):
                self.outputs = function(*self.inputs)
        torch.cuda.current_stream(device).wait_stream(stream)

    def __call__(self, *given: Tensor) -> tuple[Tensor, ...]:
        for own, tensor in zip(self.inputs, given, strict=True):
            own.copy_(tensor)
        self.graph.replay()
        return tuple(output.clone() for output in self.outputs)  # the next replay overwrites them
