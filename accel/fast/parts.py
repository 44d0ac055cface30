"""A network for inputs of one shape, cut into parts of similar cost, so that its work can be spread over frames."""

from __future__ import annotations

import operator
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.utils.flop_counter import FlopCounterMode

FLOPS_PER_BYTE = 30  # what a processor or GPU computes in bfloat16 while it moves a byte, in order of magnitude

Values = dict[str, Tensor]


@dataclass(frozen=True)
class Work:
    """A computation in parts, some of which are done. Continuing leaves this object unchanged and returns a new one.

    parts: functions that turn the values left by the part before into those that later parts need. The last one leaves
        only the result, under the name `Work.RESULT`.
    """

    RESULT = "result"

    parts: tuple[Callable[[Values], Values], ...]
    values: Values
    done: int = 0

    def until(self, count: int) -> Work:
        """Return this work with its first `count` parts done."""
        values = self.values
        for part in self.parts[self.done : count]:
            values = part(values)
        return replace(self, values=values, done=max(self.done, count))

    def then(self, function: Callable[[Any], Any]) -> Work:
        """Return the same work with a function applied to its result. The function belongs to the last part."""
        *first, last = self.parts
        return replace(self, parts=(*first, lambda values: {Work.RESULT: function(last(values)[Work.RESULT])}))

    @property
    def result(self) -> Any:
        """The result of all parts: a tensor, or the result of a function given to `then`. None until the last part is
        done."""
        return self.values[Work.RESULT] if self.done >= len(self.parts) else None


def work_of(network: nn.Module, image: Tensor) -> Work:
    """Return the work of `network` on `image` (B, 3, H, W): in its parts if it was cut, otherwise in one."""
    if isinstance(network, Parts):
        return network.work(image)
    return Work((lambda values: {Work.RESULT: network(values["image"])},), {"image": image})


class Parts(nn.Module):
    """A network for inputs of one shape, as parts of about equal cost. Its result is a tensor, or a tuple of several.

    Calling it runs the whole network.

    graph: the functional graph of the network from `torch.export`, as a module.
    examples: example inputs: one or more frames (B, 3, H, W).
    count: the number of parts.
    finish: a function that turns each part, with example inputs for it, into a function with the same result.
    """

    def __init__(
        self,
        graph: fx.GraphModule,
        examples: tuple[Tensor, ...],
        count: int = 1,
        finish: Callable[[fx.GraphModule, tuple[Tensor, ...]], Callable] = lambda part, examples: part,
    ):
        super().__init__()
        self.shapes = tuple(example.shape for example in examples)
        # The weights are constants of the compiled code; this says where they are.
        self.register_buffer("place", examples[0].new_empty(0), persistent=False)
        nodes = [node for node in graph.graph.nodes if node.op == "call_function"]
        takes = tuple(node for node in graph.graph.nodes if node.op == "placeholder")
        results = _flat(next(node for node in graph.graph.nodes if node.op == "output").args[0])
        self.entries, self.results = tuple(node.name for node in takes), tuple(node.name for node in results)
        assert graph._out_spec is not None, "`torch.export` has said what the network gives"
        self.gives_tensor = graph._out_spec.is_leaf()
        part_of = _share_out(nodes, _costs(graph, examples) if count > 1 else {}, count)
        self.parts: list[Callable] = []
        self.ends: list[tuple[tuple[str, ...], tuple[str, ...]]] = []  # of each part: names it takes, and leaves
        for number in range(count):
            inside = [node for node in nodes if part_of[node] == number]
            known = (*takes, *inside)
            leaves = tuple(n for n in known if n in results or any(part_of.get(u, number) > number for u in n.users))
            part = subgraph(graph, takes, inside, leaves)
            self.parts.append(finish(part, examples))
            self.ends.append((tuple(n.name for n in takes), tuple(n.name for n in leaves)))
            with torch.no_grad():
                examples = part(*examples)
            takes = leaves

    def description(self) -> dict[str, Any]:
        """Return what `restored` needs to know beside the parts, as JSON knows it."""
        return {
            "shapes": [list(shape) for shape in self.shapes],
            "entries": self.entries,
            "results": self.results,
            "gives_tensor": self.gives_tensor,
            "ends": self.ends,
        }

    @classmethod
    def restored(cls, description: dict[str, Any], parts: list[Callable], place: Tensor) -> Parts:
        """Return a network made before, from its `description` and its parts. place: any tensor on its device."""
        made = cls.__new__(cls)
        nn.Module.__init__(made)
        made.register_buffer("place", place.new_empty(0), persistent=False)
        made.shapes = tuple(torch.Size(shape) for shape in description["shapes"])
        made.entries, made.results = tuple(description["entries"]), tuple(description["results"])
        made.gives_tensor = description["gives_tensor"]
        made.ends = [(tuple(takes), tuple(leaves)) for takes, leaves in description["ends"]]
        made.parts = parts
        return made

    def work(self, *images: Tensor) -> Work:
        """Return the work on these images, with no part done. Raises ValueError if the shapes differ from those of the
        examples."""
        if tuple(image.shape for image in images) != self.shapes:
            made, got = (
                " and ".join(str(list(shape)) for shape in s) for s in (self.shapes, [i.shape for i in images])
            )
            raise ValueError(
                f"this model was optimised for frames {made}, got {got}; call `optimized` for another size"
            )
        parts = tuple(lambda values, i=i: self._run(i, values) for i in range(len(self.parts)))
        return Work(parts, dict(zip(self.entries, images, strict=True)))

    def forward(self, *images: Tensor) -> Tensor | tuple[Tensor, ...]:
        return self.work(*images).until(len(self.parts)).result

    def _run(self, number: int, values: Values) -> Values:
        takes, leaves = self.ends[number]
        made = dict(zip(leaves, self.parts[number](*(values[name] for name in takes)), strict=True))
        if number < len(self.parts) - 1:
            return made
        results = tuple(made[name] for name in self.results)
        given: Any = results[0] if self.gives_tensor else results
        return {Work.RESULT: given}


def _flat(output: Any) -> list[fx.Node]:
    """Return the nodes that a graph returns."""
    return [node for entry in output for node in _flat(entry)] if isinstance(output, tuple | list) else [output]


def _costs(graph: fx.GraphModule, examples: tuple[Tensor, ...]) -> dict[fx.Node, float]:
    """Return the cost of every node in floating-point operations: its own, plus what the processor could compute while
    the node moves its data through memory.

    Only nodes that compute have a cost. Compilers fuse the others into them.
    """
    costs = {}

    class Counter(fx.Interpreter):
        def run_node(self, node: fx.Node):
            with FlopCounterMode(display=False) as counter:
                made = super().run_node(node)
            if flops := counter.get_total_flops():
                inputs: Any = self.map_nodes_to_values(node.all_input_nodes, node)
                moved = [made, *inputs]
                costs[node] = flops + FLOPS_PER_BYTE * sum(t.nbytes for t in moved if isinstance(t, Tensor))
            return made

    with torch.no_grad():
        Counter(graph).run(*examples)
    return costs


def _share_out(nodes: list[fx.Node], costs: dict[fx.Node, float], count: int) -> dict[fx.Node, int]:
    """Assign each node to a part, 0..count-1, by the position of the middle of its cost in the whole."""
    share = max(sum(costs.values()), 1) / count
    part_of: dict[Any, int] = {}
    before = 0.0
    for node in nodes:
        if node.target is operator.getitem:  # one of several results stays with what made them
            part_of[node] = part_of[node.args[0]]
        else:
            part_of[node] = min(int((before + costs.get(node, 0) / 2) / share), count - 1)
        before += costs.get(node, 0)
    return part_of


def subgraph(
    graph: fx.GraphModule, takes: tuple[fx.Node, ...], inside: list[fx.Node], leaves: tuple[fx.Node, ...]
) -> fx.GraphModule:
    """Return some nodes of a graph as a separate module, with the weights they use. The module returns a tuple."""
    own = fx.Graph()
    copies = {node: own.placeholder(node.name) for node in takes}
    for node in inside:
        for weight in node.all_input_nodes:
            if weight.op == "get_attr" and weight not in copies:
                copies[weight] = own.node_copy(weight)
        copies[node] = own.node_copy(node, copies.__getitem__)
    own.output(tuple(copies[node] for node in leaves))
    return fx.GraphModule(graph, own)
