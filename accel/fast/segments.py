"""Split a part of a network between an inference engine and PyTorch: an engine knows PyTorch's operators, but not those
of accel_ops."""

from __future__ import annotations

import json
import operator
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, fx
from torch.fx.node import map_aggregate

from accel.fast.parts import subgraph

KNOWN = ("aten", "prims")  # namespaces of the operators that engines convert


class Runner(Protocol):
    """Something that runs a part of a network: a function of tensors that can be written to files."""

    def __call__(self, *given: Tensor) -> tuple[Tensor, ...]: ...

    def save(self, path: Path) -> None:
        """Write it to files whose names begin with that of `path`."""


class Segments:
    """Segments of a part, run one after another.

    steps: of each segment its runner, the names of the tensors it takes, and of those it leaves.
    takes, leaves: the names of the tensors that the whole takes and leaves.
    """

    def __init__(
        self, steps: list[tuple[Runner, tuple[str, ...], tuple[str, ...]]], takes: tuple[str, ...], leaves: list[str]
    ):
        self.steps, self.takes, self.leaves = steps, takes, leaves

    def __call__(self, *given: Tensor) -> tuple[Tensor, ...]:
        values = dict(zip(self.takes, given, strict=True))
        for runner, takes, leaves in self.steps:
            values.update(zip(leaves, runner(*(values[name] for name in takes)), strict=True))
        return tuple(values[name] for name in self.leaves)

    def save(self, path: Path) -> None:
        steps = []
        for number, (runner, takes, leaves) in enumerate(self.steps):
            runner.save(path.with_name(f"{path.name}-{number}"))
            steps.append([isinstance(runner, ByPyTorch), takes, leaves])
        described = {"steps": steps, "takes": self.takes, "leaves": self.leaves}
        path.with_name(f"{path.name}.json").write_text(json.dumps(described), encoding="utf-8")

    @classmethod
    def load(cls, path: Path, load: Callable[[Path], Runner]) -> Segments:
        """Read what `save` wrote. load: the engine's function for its own segments."""
        described = json.loads(path.with_name(f"{path.name}.json").read_bytes())
        steps = []
        for number, (by_pytorch, takes, leaves) in enumerate(described["steps"]):
            name = path.with_name(f"{path.name}-{number}")
            runner: Runner = ByPyTorch.load(name) if by_pytorch else load(name)
            steps.append((runner, tuple(takes), tuple(leaves)))
        return cls(steps, tuple(described["takes"]), described["leaves"])


Build = Callable[[fx.GraphModule, list[tuple[Tensor, ...]], tuple[Tensor, ...], bool], Runner]


def segments(part: fx.GraphModule, samples: list[tuple[Tensor, ...]], build: Build) -> Segments:
    """Split a part at the operators that engines do not know.

    part: a graph that returns a tuple.
    samples: example inputs, one or more.
    build: the engine's function from a segment, its example inputs, the results of the first of them, and whether it is
        the first segment, to its runner.
    """
    takes = tuple(node for node in part.graph.nodes if node.op == "placeholder")
    nodes = [node for node in part.graph.nodes if node.op == "call_function"]
    results: Any = next(node for node in part.graph.nodes if node.op == "output").args[0]
    number = _numbered(nodes)
    values: list[dict[fx.Node, Tensor]] = [dict(zip(takes, sample, strict=True)) for sample in samples]
    known = list(takes)
    steps: list[tuple[Runner, tuple[str, ...], tuple[str, ...]]] = []
    for each in sorted(set(number.values())):
        inside = [node for node in nodes if number[node] == each]
        within = set(inside)
        needs = tuple(node for node in known if any(user in within for user in node.users))
        leaves = tuple(n for n in inside if n in results or any(number.get(user) != each for user in n.users))
        piece = subgraph(part, needs, inside, leaves)
        given = [tuple(value[node] for node in needs) for value in values]
        with torch.no_grad():
            for value, sample in zip(values, given, strict=True):
                value.update(zip(leaves, piece(*sample), strict=True))
        made = tuple(values[0][node] for node in leaves)
        runner = ByPyTorch.of(piece) if each % 2 else build(piece, given, made, not steps)
        steps.append((runner, tuple(node.name for node in needs), tuple(node.name for node in leaves)))
        known += leaves
    return Segments(steps, tuple(node.name for node in takes), [node.name for node in results])


def _numbered(nodes: list[fx.Node]) -> dict[fx.Node, int]:
    """Assign each node to a segment: even numbers to the engine's, odd ones to PyTorch's. No segment needs results of a
    later one."""
    number: dict[fx.Node, int] = {}
    for node in nodes:
        before = max((number[n] for n in node.all_input_nodes if n in number), default=0)
        if node.target is operator.getitem:  # one of several results stays with what made them
            number[node] = number[node.all_input_nodes[0]]
        else:
            number[node] = before + (before % 2 != _is_foreign(node))
    return number


def _is_foreign(node: fx.Node) -> bool:
    return getattr(node.target, "namespace", None) not in KNOWN


class ByPyTorch:
    """A few operators that PyTorch runs one by one. It can be read again without being traced.

    calls: of each operator its name, its arguments and that of its result. An argument that is a tensor stands as
        {"tensor": name}.
    weights: the tensors that are known beforehand, by name.
    """

    def __init__(self, takes: list[str], calls: list[tuple[str, list, dict, str]], leaves: list[str], weights: dict):
        self.takes, self.calls, self.leaves, self.weights = takes, calls, leaves, weights
        self._functions = [_function(name) for name, *_ in calls]

    @classmethod
    def of(cls, piece: fx.GraphModule) -> ByPyTorch:
        takes, calls, leaves, weights = [], [], [], {}
        for node in piece.graph.nodes:
            if node.op == "placeholder":
                takes.append(node.name)
            elif node.op == "get_attr":
                weights[node.name] = _attribute(piece, node.target)
            elif node.op == "call_function":
                arguments = map_aggregate([list(node.args), dict(node.kwargs)], _written)
                calls.append((_called(node.target), *arguments, node.name))
            else:
                leaves = [each.name for each in node.args[0]]
        return cls(takes, calls, leaves, weights)

    def __call__(self, *given: Tensor) -> tuple[Tensor, ...]:
        values = self.weights | dict(zip(self.takes, given, strict=True))
        for function, (_, args, kwargs, name) in zip(self._functions, self.calls, strict=True):
            values[name] = function(*_filled(args, values), **_filled(kwargs, values))
        return tuple(values[name] for name in self.leaves)

    def save(self, path: Path) -> None:
        described = {"takes": self.takes, "calls": self.calls, "leaves": self.leaves}
        path.with_name(f"{path.name}.json").write_text(json.dumps(described), encoding="utf-8")
        torch.save(self.weights, path.with_name(f"{path.name}.weights"))

    @classmethod
    def load(cls, path: Path) -> ByPyTorch:
        described = json.loads(path.with_name(f"{path.name}.json").read_bytes())
        weights = torch.load(path.with_name(f"{path.name}.weights"), weights_only=True)
        return cls(described["takes"], described["calls"], described["leaves"], weights)


def _attribute(module: Any, name: str) -> Tensor:
    for part in name.split("."):
        module = getattr(module, part)
    return module.detach()


def _called(target: Any) -> str:
    return "getitem" if target is operator.getitem else f"{target.namespace}.{target._opname}.{target._overloadname}"


def _function(name: str) -> Callable:
    if name == "getitem":
        return operator.getitem
    namespace, operator_name, overload = name.split(".")
    return getattr(getattr(getattr(torch.ops, namespace), operator_name), overload)


def _written(argument: Any) -> Any:
    if isinstance(argument, fx.Node):
        return {"tensor": argument.name}
    if isinstance(argument, torch.dtype | torch.device | torch.memory_format | torch.layout):
        return {"of torch": str(argument)}
    return argument


def _filled(argument: Any, values: dict[str, Any]) -> Any:
    if isinstance(argument, list | tuple):
        return [_filled(each, values) for each in argument]
    if not isinstance(argument, dict):
        return argument
    if argument.keys() == {"tensor"}:
        return values[argument["tensor"]]
    if argument.keys() == {"of torch"}:
        text = argument["of torch"]
        return getattr(torch, text.removeprefix("torch.")) if text.startswith("torch.") else torch.device(text)
    return {name: _filled(each, values) for name, each in argument.items()}
