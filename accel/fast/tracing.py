"""Networks as graphs of operators, by `torch.export`."""

from __future__ import annotations

import torch
from torch import Tensor, nn

# The tracer calls the network's own code with stand-ins for tensors. Where that code asks them for what they do not
# have, such as numbers, it fails in ways of its own. What is missing here (no disk, no module, an interrupt) says
# nothing about the network.
_REFUSALS = (RuntimeError, TypeError, ValueError, AttributeError, LookupError, AssertionError)


class TracingError(Exception):
    """A network that the tracer cannot follow, with its reason in one line."""


def trace(network: nn.Module, examples: tuple[Tensor, ...]) -> torch.export.ExportedProgram:
    """The program of a network for inputs like `examples`. Raises TracingError; lack of memory passes through."""
    try:
        return torch.export.export(network, examples)
    except _REFUSALS as error:
        if is_of_the_machine(error):
            raise
        raise TracingError(first_line(error)) from error


def is_of_the_machine(error: BaseException) -> bool:
    """Whether memory ran out or a GPU failed: an error that says nothing about what was being done."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError | torch.AcceleratorError):
        return True
    # PyTorch has no class for want of memory on the CPU, nor in cuBLAS and cuDNN.
    words = ("DefaultCPUAllocator", "out of memory", "ALLOC_FAILED")
    return isinstance(error, RuntimeError) and any(word in str(error) for word in words)


def first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
