"""Networks compiled for inputs of one shape and layout, and on a GPU as CUDA graphs."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import torch
from torch import Tensor, nn

from accel.fast.parts import Parts


def cut(network: nn.Module, examples: tuple[Tensor, ...], compile: bool, parts: int = 1) -> nn.Module:
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
