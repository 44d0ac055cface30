"""Turn networks into graphs of operators, by `torch.export`."""

from __future__ import annotations

import torch
from torch import Tensor, fx, nn

from accel.wording import first_line

# The tracer calls the network's own code with stand-ins for tensors. Where that code asks them for what they do not
# have, such as numbers, it fails in ways of its own. What is missing here (no disk, no module, an interrupt) says
# nothing about the network.
_REFUSALS = (RuntimeError, TypeError, ValueError, AttributeError, LookupError, AssertionError)


class TracingError(Exception):
    """The tracer cannot follow a network. The message gives the reason in one line."""


def trace(network: nn.Module, examples: tuple[Tensor, ...]) -> torch.export.ExportedProgram:
    """Return the program of a network for inputs like `examples`.

    Raises TracingError. Errors of the machine, such as lack of memory, are raised unchanged.
    """
    try:
        return torch.export.export(network, examples)
    except _REFUSALS as error:
        if is_of_the_machine(error):
            raise
        raise TracingError(first_line(error)) from error


def functional(program: torch.export.ExportedProgram) -> fx.GraphModule:
    """Return the graph of a program as a module. No operator in it changes a tensor in place."""
    graph = program.module(check_guards=False)
    changed = [node for node in graph.graph.nodes if _changes_a_tensor(node)]
    for node in changed:
        elsewhere = _elsewhere(node, changed)
        if elsewhere is None:
            return program.run_decompositions({}).module(check_guards=False)  # traces once more: slow
        node.target = elsewhere
    graph.recompile()
    return graph


def _changes_a_tensor(node: fx.Node) -> bool:
    return isinstance(node.target, torch._ops.OpOverload) and node.target._schema.is_mutable


def _elsewhere(node: fx.Node, changed: list[fx.Node]) -> torch._ops.OpOverload | None:
    """Return the operator that does the same as this node's operator but leaves its first input unchanged.

    Return None if there is no such operator, or if the change is visible outside this node's result: another node reads
    that tensor, or it is a view.

    changed: the nodes that change tensors. Those before this one no longer do.
    """
    first, operator = node.args[0], node.target
    assert isinstance(first, fx.Node) and isinstance(operator, torch._ops.OpOverload), "it changes a tensor"
    its_own = first in changed or _storage(first) not in map(_storage, first.all_input_nodes)
    name = operator._schema.name.split("::")[1]
    if first.op != "call_function" or len(first.users) > 1 or not its_own or not name.endswith("_"):
        return None
    alike = getattr(getattr(torch.ops, operator.namespace), name.removesuffix("_"), None)
    return getattr(alike, operator._overloadname, None)


def _storage(node: fx.Node) -> int | None:
    """Return the identity of the memory that holds the traced result of a node. None if the result is not a tensor."""
    made = node.meta.get("val")
    return made.untyped_storage()._cdata if isinstance(made, Tensor) else None


def is_of_the_machine(error: BaseException) -> bool:
    """Return whether memory ran out or a GPU failed. Such an error says nothing about the operation itself."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError | torch.AcceleratorError):
        return True
    # PyTorch has no class for want of memory on the CPU, nor in cuBLAS and cuDNN.
    words = ("DefaultCPUAllocator", "out of memory", "ALLOC_FAILED")
    return isinstance(error, RuntimeError) and any(word in str(error) for word in words)
