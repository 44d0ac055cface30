"""The functions of a model that are exported: a key frame and the frame after it, from bytes to labels.

A frame is (H, W, 3) uint8 RGB, labels are (H, W) uint8. The state is a few tensors with names, without a batch
dimension. A graph takes the state as `image`, `features` and `memory` and gives the new one as `new_image` and so on.
What it neither takes nor gives stays as it was.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from accel.fast.batch_norms import fold_batch_norms
from accel.fast.preparation import InType, Preparation, Settings
from accel.fast.tracing import is_of_the_machine
from accel.models import VideoModel
from accel.models.propagation.classical_flow import DenseInverseSearch
from accel.models.propagation.learned_sampling import LearnedSampling
from accel.models.segmentation.score_map import ScoreMap
from accel.models.state import Anchor, FrameState
from accel.models.strides import STRIDE
from accel.wording import first_line

STATE = ("image", "features", "memory")
FLOW = "flow"


@dataclass(frozen=True)
class Graph:
    """One exported function.

    name: "key", "next", or "later_key": a key frame that builds on those before it.
    inputs, outputs: the names of its tensors, in order.
    border, stride, bias: how its scores become labels, see `ScoreMap`.
    """

    name: str
    program: torch.export.ExportedProgram
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    border: str
    stride: int
    bias: tuple[float, ...] | None


@dataclass(frozen=True)
class Graphs:
    """All exported functions of a model.

    preset: of the DIS flow between two frames that the caller computes and gives to `next`; None if there is none.
    offsets: the offsets of the model's learned sampling, in cells (dx, dy); empty if it has none.
    """

    graphs: tuple[Graph, ...]
    preset: str | None
    offsets: tuple[tuple[float, float], ...]


def graphs_of(model: VideoModel, size: tuple[int, int], dtype: torch.dtype, dynamic: bool) -> Graphs:
    """Trace the functions of a segmentation model.

    size: (H, W) of the frames, or with `dynamic` of an example of them.
    dtype: the type of weights and features. Labels are decided, and features moved, in float32.

    Raises ValueError for a model that cannot be exported.
    """
    check_exportable(model)
    model = _prepared(model, size, dtype)
    given = _given_flow(model)
    tracer = _Tracer(model, size, dynamic, given)
    graphs = [tracer.trace("key")]
    if model.carries_state:
        graphs.append(tracer.trace("next"))
        used = _used(graphs[1])
        if used != tracer.taken("next"):
            tracer.without = tuple(name for name in ("image",) if name not in used)
            graphs = [tracer.trace("key"), tracer.trace("next", used)]
    if model.remembers:
        graphs.append(tracer.trace("later_key"))
    sampling = next((m for m in model.modules() if isinstance(m, LearnedSampling)), None)
    offsets = () if sampling is None else tuple((float(x), float(y)) for x, y in sampling.offsets.tolist())
    return Graphs(tuple(graphs), given.preset if given else None, offsets)


def check_exportable(model: VideoModel) -> None:
    """Raise ValueError for a model that cannot be exported. The message says why."""
    if model.task != "segmentation":
        raise ValueError(f"this model is for {model.task}; only models that label pixels can be exported")
    if model.is_optimized:
        raise ValueError("this model is already optimised for this machine: export the original model")


class _Whole(Preparation):
    """Prepare networks for a graph: batch norms are folded and types set, but nothing is compiled."""

    def network(self, network, examples=None, parts=1, gives=None, eight_bits=False):
        fold_batch_norms(network, (self.frame,) if examples is None else examples)
        if self.dtype == torch.float32:
            return network
        return InType(network.to(self.dtype), self.dtype, gives or self.dtype)

    def layer(self, layer):
        return layer.to(dtype=self.dtype)

    def inner(self, network, examples):
        return self.layer(network)

    def by_shape(self, network):
        return network


def _prepared(model: VideoModel, size: tuple[int, int], dtype: torch.dtype) -> VideoModel:
    """Return a copy with the same function and less work, in evaluation mode, on the CPU."""
    fast = copy.deepcopy(model).cpu().eval().requires_grad_(False).simplified()
    fast.make_fast(_Whole(size, Settings.of(torch.device("cpu"), dtype, False, 1)))
    return fast


class _GivenFlow(nn.Module):
    """In place of a flow that no graph can hold: the caller gives it, at every pixel, as OpenCV does.

    preset: of the DIS flow that it replaces.
    """

    def __init__(self, preset: str):
        super().__init__()
        self.preset = preset
        self.pixels: list[Tensor] = []  # in a list, because the tracer watches attributes

    def forward(self, current: Tensor, previous: Tensor) -> Tensor:
        """Return the flow (1, 2, ceil(H/16), ceil(W/16)) in cells, as `DenseInverseSearch` does."""
        pixels = self.pixels[0].permute(2, 0, 1)[None]
        return F.avg_pool2d(pixels, STRIDE, ceil_mode=True) / STRIDE


def _given_flow(model: Any) -> _GivenFlow | None:
    """Replace a model's DIS flow, in place, by one that is given. None if it has no such flow."""
    propagation: Any = getattr(model, "propagation", None)
    flow = getattr(propagation, "flow", None)
    if not isinstance(flow, DenseInverseSearch):
        return None
    propagation.flow = _GivenFlow(flow.preset)
    return propagation.flow


class _Step(nn.Module):
    """One call of a model, from the tensors of a graph to those that it gives.

    taken: the names of the state that it takes. They follow the frame, and the flow if there is one.
    without: names of the state that nothing uses. It does not give them.
    names: of what it gives.  prediction: the last one. Both are known once it was called.
    """

    def __init__(
        self,
        model: VideoModel,
        name: str,
        taken: tuple[str, ...],
        without: tuple[str, ...],
        given: _GivenFlow | None,
    ):
        super().__init__()
        self.model, self.name, self.taken, self.without = model, name, taken, without
        self.given = given if name == "next" else None
        self.names: tuple[str, ...] = ()
        self.prediction: list[ScoreMap] = []  # in a list, because the tracer watches attributes

    @property
    def inputs(self) -> tuple[str, ...]:
        return ("frame", *((FLOW,) if self.given else ()), *self.taken)

    def forward(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        kept = dict(zip(self.inputs, tensors, strict=True))
        frame = kept.pop("frame")
        image = _batch(frame)
        if self.given:
            self.given.pixels[:] = [kept.pop(FLOW)]
        state = self._state(kept, image)
        call = self.model.next_frame if self.name == "next" else self.model.key_frame
        said, new = call(image, state)
        prediction: Any = said  # a `ScoreMap`
        if self.given:
            self.given.pixels.clear()
        height, width = frame.shape[:2]
        self.prediction[:] = [prediction]
        gives = {"labels": prediction.at((height, width)).labels[0], "scores": prediction.scores[0].float()}
        gives |= self._given_state(new, frame)
        self.names = tuple(gives)
        return tuple(gives.values())

    def _state(self, kept: dict[str, Tensor], image: Tensor) -> FrameState | None:
        """Return the state that the named tensors describe. What is not among them, the model does not use."""
        if not kept:
            return None
        seen: Any = self.model.reference.seen  # type: ignore[union-attr] # models that carry a state have one
        before = seen(_batch(kept["image"]) if "image" in kept else image)
        features, memory = (kept.get(name, kept.get(other)) for name, other in (STATE[1:], STATE[:0:-1]))
        assert features is not None and memory is not None
        return FrameState.at_key_frame(Anchor(before, features[None], memory[None]))

    def _given_state(self, state: Any, frame: Tensor) -> dict[str, Tensor]:
        if state is None or (self.name == "next" and not self.model.moves_on):
            return {}
        if not isinstance(state, FrameState):
            raise ValueError(f"{type(self.model).__name__} has a state of its own; expected a FrameState")
        new = {"image": frame, "features": state.anchor.features[0]}
        new |= {"memory": state.anchor.memory[0]} if self.model.remembers else {}
        return {f"new_{name}": tensor for name, tensor in new.items() if name not in self.without}


class _Tracer:
    """Traces the calls of one model for frames of one size, or of any.

    without: names of the state that no graph uses.
    """

    def __init__(self, model: VideoModel, size: tuple[int, int], dynamic: bool, given: _GivenFlow | None):
        self.model, self.dynamic, self.given = model, dynamic, given
        self.without: tuple[str, ...] = ()
        self.known: dict[str, Tensor] = {
            "frame": torch.zeros(*size, 3, dtype=torch.uint8),
            FLOW: torch.zeros(*size, 2),
        }

    def taken(self, name: str) -> tuple[str, ...]:
        """Return the names of the state that a graph takes, unless it is known not to use them all."""
        if name == "key":
            return ()
        return ("memory",) if name == "later_key" else tuple(each for each in STATE if each in self.known)

    @torch.no_grad()
    def trace(self, name: str, taken: tuple[str, ...] | None = None) -> Graph:
        step = _Step(self.model, name, self.taken(name) if taken is None else taken, self.without, self.given)
        examples = tuple(self.known[each] for each in step.inputs)
        given = step(*examples)  # an error of the model's own is told as it is
        # Copies, because the tracer takes a tensor given twice for one input.
        self.known |= {each.removeprefix("new_"): t.clone() for each, t in zip(step.names, given, strict=True)}
        last = step.prediction[0]
        try:
            program = torch.export.export(step, examples, dynamic_shapes=self._sizes(step))
        except Exception as error:  # the tracer has no class for what it cannot follow
            if is_of_the_machine(error):
                raise
            raise ValueError(f"this model cannot be exported: {first_line(error)}") from error
        if self.dynamic and not _has_symbols(program):
            raise ValueError("this model's networks take frames of one size: leave out --dynamic, and give --size")
        bias = None if last.bias is None else tuple(last.bias.tolist())
        return Graph(name, program, step.inputs, step.names, last.border, last.stride, bias)

    def _sizes(self, step: _Step) -> tuple | None:
        """Return which sides of the inputs may change. The sides of features follow from those of the frame."""
        if not self.dynamic:
            return None
        free, follows = torch.export.Dim.DYNAMIC, torch.export.Dim.AUTO
        pictures, maps = {0: free, 1: free}, {1: follows, 2: follows}
        return (tuple(maps if name in ("features", "memory") else pictures for name in step.inputs),)


def _has_symbols(program: torch.export.ExportedProgram) -> bool:
    """Return whether both sides of the frame may change."""
    first = program.graph_signature.user_inputs[0]
    (node,) = (node for node in program.graph.nodes if node.name == first)
    return not any(isinstance(side, int) for side in node.meta["val"].shape[:2])


def _used(graph: Graph) -> tuple[str, ...]:
    """Return the names of the state that a graph takes and needs for what it gives."""
    needed: set[str] = set()
    (last,) = graph.program.graph.find_nodes(op="output")
    waiting = [last]
    while waiting:
        new = [node for node in waiting.pop().all_input_nodes if node.name not in needed]
        needed |= {node.name for node in new}
        waiting += new
    placeholders = graph.program.graph_signature.user_inputs
    used = [name for name, node in zip(graph.inputs, placeholders, strict=True) if node in needed]
    return tuple(name for name in used if name in STATE)


def _batch(frame: Tensor) -> Tensor:
    """Turn (H, W, 3) into (1, 3, H, W)."""
    return frame.permute(2, 0, 1)[None]
