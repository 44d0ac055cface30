"""Compile networks for inputs of one shape and layout; on a GPU, as CUDA graphs."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable

import torch
from torch import Tensor, nn

from accel.fast.graphs import CudaGraph
from accel.fast.parts import Parts
from accel.fast.streams import streams_of
from accel.fast.tracing import TracingError, functional, is_of_the_machine, trace
from accel.wording import first_line


def cut(network: nn.Module, examples: tuple[Tensor, ...], compiler: Compiler, parts: int = 1) -> nn.Module:
    """Return a network as `Parts`, compiled if the compiler is on. If it cannot be traced, return it unchanged, with a
    warning."""
    try:
        graph = functional(trace(network, examples))
    except TracingError as error:
        warnings.warn(f"a network runs uncompiled because it cannot be exported: {error}", stacklevel=2)
        return network
    return Parts(graph, examples, parts, compiler)


class Compiler:
    """Compile the parts of one model's networks.

    After the first failure, the other parts stay uncompiled. So each model gives only one warning, and no time is lost
    on further attempts.

    wished: whether to compile at all.
    """

    def __init__(self, wished: bool = True):
        self.wished = wished

    def __call__(self, part: nn.Module, examples: tuple[Tensor, ...]) -> Callable:
        """Return the part as a function. If it is compiled, it accepts only inputs of these shapes and layouts."""
        if not self.wished:
            return part
        from torch._dynamo.exc import BackendCompilerFailed

        try:
            return _compile(part, examples)
        except (BackendCompilerFailed, OSError) as error:  # OSError: no room for the compiled code, for one
            cause = getattr(error, "inner_exception", error)
            if is_of_the_machine(cause):
                raise cause from None
            self.wished = False
            warnings.warn(_why_uncompiled(cause, examples[0].is_cuda), RuntimeWarning, stacklevel=2)
            return part


def _why_uncompiled(error: BaseException, on_gpu: bool) -> str:
    """Explain a compiler failure to the user: what it costs, why it happened, and what helps."""
    from torch._inductor import exc

    longer = "longer" if on_gpu else "about twice as long"  # twice: Accel-18 on two AVX-512 cores, at interval 5
    costs = f"the model runs uncompiled: results are the same, but a frame takes {longer}"
    if isinstance(error, exc.InvalidCxxCompiler):
        named = os.environ.get("CXX")
        missing = f"CXX={named} cannot be run" if named else "there is no C++ compiler"
        return f"{costs}, because {missing}. Install one, such as g++, or name one in CXX; then start again"
    if isinstance(error, exc.CppCompileError):
        return (
            f"{costs}, because the C++ compiler failed ({_first_error(error.output)}). It needs the headers of Python "
            "(python3-dev on Debian and Ubuntu) and OpenMP's"
        )
    if on_gpu and isinstance(error, exc.TritonMissing):
        return f"{costs}, because Triton is missing, which compiles for the GPU. Install it (pip install triton)"
    return f"{costs}, because TorchInductor failed ({type(error).__name__}: {first_line(error)})"


def _first_error(output: str) -> str:
    """Return the most informative line of a compiler's output."""
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    return next((line for line in lines if "error" in line.lower()), lines[0] if lines else "it says nothing")


def _compile(part: nn.Module, examples: tuple[Tensor, ...]) -> Callable:
    """Compile a part of a network for inputs of these shapes and layouts."""
    from torch._inductor import compile as inductor
    from torch._inductor import config

    with config.patch(freezing=True):
        compiled = inductor(part, list(examples))  # type: ignore[arg-type] # any callable does
    fast = _InLayout(compiled, examples)
    cuda = streams_of(examples[0].device)
    return fast if cuda is None else CudaGraph(fast, examples, cuda)


class _InLayout:
    """Call a compiled part with inputs in the type and memory layout that it was compiled for. The part does not check
    them."""

    def __init__(self, compiled: Callable, examples: tuple[Tensor, ...]):
        self.compiled = compiled
        self.forms = [(example.dtype, example.stride()) for example in examples]

    def __call__(self, *given: Tensor) -> tuple[Tensor, ...]:
        return tuple(self.compiled(*map(_in_form, given, self.forms)))


def _in_form(tensor: Tensor, form: tuple[torch.dtype, tuple[int, ...]]) -> Tensor:
    """Return the tensor with this type and these strides. It is copied only if its data lie differently in memory."""
    dtype, strides = form
    if tensor.dtype == dtype and tensor.stride() == strides:
        return tensor
    same = all(n == 1 or a == b for n, a, b in zip(tensor.shape, tensor.stride(), strides, strict=True))
    if tensor.dtype == dtype and same:  # strides of dimensions of one entry mean nothing
        return tensor.as_strided(tensor.shape, strides)
    return torch.empty_strided(tensor.shape, strides, dtype=dtype, device=tensor.device).copy_(tensor)
