"""An exported model: the two calls, on frames as numpy arrays."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np

from accel.runtime.folder import Exported, check_graph, read
from accel.runtime.pixel_flow import PixelSearch, grey


class FramePrediction(NamedTuple):
    """What a model says of a frame.

    labels: (H, W) uint8 class indices.
    scores: (K, h, w) float32, class logits of coarse cells; see `GraphInfo`.
    """

    labels: np.ndarray
    scores: np.ndarray


@dataclass(frozen=True)
class State:
    """A position in a video.

    tensors: what the next call of a graph takes, by name.
    size: (H, W) of the video's frames.
    grey: (H, W) uint8, the frame that flow leads to; None for models that take no flow.
    """

    tensors: Mapping[str, np.ndarray]
    size: tuple[int, int]
    grey: np.ndarray | None = None


class Graph(Protocol):
    """A loaded graph: a function from named arrays to named arrays."""

    def __call__(self, arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]: ...


class Model:
    """A loaded model. It keeps no video's state, so several videos may use it in turns.

    exported: what its folder says: classes, palette, interval.
    """

    def __init__(self, exported: Exported, graphs: Mapping[str, Graph]):
        self.exported = exported
        self._graphs = graphs
        self._search = None if exported.preset is None else PixelSearch(exported.preset)

    @property
    def interval(self) -> int:
        """The recommended number of frames from key frame to key frame."""
        return self.exported.interval

    def key_frame(self, frame: np.ndarray, state: State | None = None) -> tuple[FramePrediction, State]:
        """Run the full model on a frame (H, W, 3), uint8 RGB. Return the prediction and the state for the next frame.

        state: that of the frame before, if the video continues. Models that remember key frames build on it.

        Raises ValueError for another type or size of frame.
        """
        size = self._checked(frame)
        later = self.exported.remembers and state is not None and state.size == size
        arrays = {"frame": frame, **(state.tensors if later and state is not None else {})}
        prediction, new = self._run("later_key" if later else "key", arrays)
        kept = None if self._search is None else grey(frame)
        return prediction, State(new, size, kept)

    def next_frame(self, frame: np.ndarray, state: State) -> tuple[FramePrediction, State]:
        """Run the model on the frame after the one that gave `state`. Return the prediction and the new state.

        Raises ValueError for another type or size of frame, and for a state of frames of another size.
        """
        if not self.exported.carries_state:
            return self.key_frame(frame)
        size = self._checked(frame)
        if state.size != size:
            raise ValueError(f"no key frame of {size[0]}x{size[1]} pixels came before this frame")
        arrays = {"frame": frame, **state.tensors}
        kept = state.grey
        if self._search is not None:
            now = grey(frame)
            assert kept is not None, "the key frame left it"
            arrays["flow"] = self._search(now, kept)
            kept = now if self.exported.moves_on else kept
        prediction, new = self._run("next", arrays)
        return prediction, State({**state.tensors, **new}, size, kept)

    def _checked(self, frame: np.ndarray) -> tuple[int, int]:
        if not isinstance(frame, np.ndarray) or frame.dtype != np.uint8 or frame.ndim != 3 or frame.shape[2] != 3:
            found = f"{frame.dtype} {frame.shape}" if isinstance(frame, np.ndarray) else type(frame).__name__
            raise ValueError(f"frame: {found}; expected uint8 (H, W, 3) RGB")
        size = (frame.shape[0], frame.shape[1])
        self.exported.check_size(size)
        return size

    def _run(self, name: str, arrays: Mapping[str, np.ndarray]) -> tuple[FramePrediction, dict[str, np.ndarray]]:
        taken = {info.name: np.ascontiguousarray(arrays[info.name]) for info in self.exported.graphs[name].inputs}
        made = self._graphs[name](taken)
        new = {key.removeprefix("new_"): array for key, array in made.items() if key.startswith("new_")}
        return FramePrediction(made["labels"], made["scores"]), new


def load(folder: str | Path, providers: Sequence[str] | None = None, threads: int | None = None) -> Model:
    """Load the exported model in a folder.

    providers: ONNX Runtime's execution providers. The default is CUDA's if it is there, then the CPU.
    threads: for ONNX Runtime. The default is its own: as many as there are cores.

    Raises FileNotFoundError if there is no such model. Raises ValueError if it is damaged, if the runtime it was
    exported for is not installed, or if that cannot load it.
    """
    exported = read(folder)
    for info in exported.graphs.values():
        check_graph(info)
    load_graph = _loader(exported, providers, threads)
    return Model(exported, {name: load_graph(info) for name, info in exported.graphs.items()})


def _loader(exported: Exported, providers: Sequence[str] | None, threads: int | None) -> Any:
    """Return the function that loads a graph of the folder's kind."""
    if exported.runtime == "onnx":
        from accel.runtime.onnx_graphs import OnnxGraph

        return lambda info: OnnxGraph(info, providers, threads)
    from accel.runtime.compiled_graphs import CompiledGraph, load_operators

    load_operators(exported)
    return lambda info: CompiledGraph(info)
