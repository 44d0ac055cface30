"""Run work side by side on a GPU."""

from __future__ import annotations

import dataclasses
import functools
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager

import torch
from torch import Tensor

KEPT = 64  # side streams of a device; those used least recently are forgotten

_one_capture = threading.Lock()  # PyTorch allows one at a time in a process


class Cuda:
    """The streams of one GPU, as this package uses them. Tests replace this class."""

    def __init__(self, device: torch.device):
        self.device = device
        self._lock = threading.Lock()
        self._sides: OrderedDict[tuple[torch.cuda.Stream, str], torch.cuda.Stream] = OrderedDict()

    def current(self) -> torch.cuda.Stream:
        """Return the stream that the calling thread uses."""
        return torch.cuda.current_stream(self.device)

    def on(self, stream: torch.cuda.Stream) -> AbstractContextManager:
        """Return a context in which the calling thread uses `stream`."""
        return torch.cuda.stream(stream)

    def new(self) -> torch.cuda.Stream:
        return torch.cuda.Stream(self.device)

    def event(self) -> torch.cuda.Event:
        return torch.cuda.Event()

    def hold(self, tensor: Tensor, stream: torch.cuda.Stream) -> None:
        """Keep a tensor's memory, after it is freed, until the present work of `stream` is done."""
        tensor.record_stream(stream)

    def side(self, main: torch.cuda.Stream, name: str) -> torch.cuda.Stream:
        """Return the stream of this name beside `main`. It stays the same as long as it is in use."""
        with self._lock:
            if (main, name) not in self._sides:
                self._sides[main, name] = self.new()
            self._sides.move_to_end((main, name))
            while len(self._sides) > KEPT:
                self._sides.popitem(last=False)
            return self._sides[main, name]

    def capture(self, function: Callable, inputs: list[Tensor], warm_up: int) -> tuple[Callable, tuple[Tensor, ...]]:
        """Capture `function` of these inputs as a CUDA graph.

        Return a function that replays the graph on the current stream, and the outputs, which each replay overwrites.

        warm_up: the number of calls before the capture.
        """
        with _one_capture, torch.cuda.device(self.device):
            stream, graph = self._capture_stream, torch.cuda.CUDAGraph()
            stream.wait_stream(self.current())
            with torch.cuda.stream(stream):
                for _ in range(warm_up):
                    function(*inputs)
            # cuBLAS has one workspace for a stream. Two graphs captured with the same one could not run side by side;
            # without any, the capture makes one in memory of the graph's own.
            torch._C._cuda_clearCublasWorkspaces()
            # Another thread may be uploading frames meanwhile: what it does is no part of the capture.
            with torch.cuda.graph(graph, stream=stream, capture_error_mode="thread_local"):
                outputs = function(*inputs)
            torch._C._cuda_clearCublasWorkspaces()
            self.current().wait_stream(stream)
        return graph.replay, outputs

    @functools.cached_property
    def _capture_stream(self) -> torch.cuda.Stream:
        # PyTorch hands out 32 streams of each priority in turns. So a stream of the usual priority can be the one that
        # another thread uploads frames on, which would then become a part of the capture. Nobody else here asks for
        # this priority.
        return torch.cuda.Stream(self.device, priority=-1)


def streams_of(device: torch.device) -> Cuda | None:
    """Return the streams of a device. None for the CPU, which has none."""
    if device.type != "cuda":
        return None
    return _cuda(torch.cuda.current_device() if device.index is None else device.index)


@functools.cache
def _cuda(index: int) -> Cuda:
    return Cuda(torch.device("cuda", index))


def side_by_side(first: Callable, second: Callable, device: torch.device, name: str) -> tuple:
    """Return the results of both functions.

    On a GPU, without gradients, the second function runs beside the first, on a separate stream for each `name`.
    Otherwise one runs after the other. Code that uses the results needs no synchronisation.
    """
    cuda = streams_of(device)
    if cuda is None or torch.is_grad_enabled():
        return first(), second()
    main = cuda.current()
    side = cuda.side(main, name)
    side.wait_stream(main)
    try:
        with cuda.on(side):
            other = second()
        one = first()
    finally:
        main.wait_stream(side)
    # The memory is the side stream's. If another thread frees it, that stream may reuse it before `main` is done.
    for tensor in tensors_in(other):
        cuda.hold(tensor, main)
    return one, other


def tensors_in(value: object) -> Iterator[Tensor]:
    """Yield the tensors in a value, including those inside tuples, lists, dicts and dataclasses."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, tuple | list):
        for entry in value:
            yield from tensors_in(entry)
    elif isinstance(value, dict):
        yield from tensors_in(list(value.values()))
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        yield from tensors_in([getattr(value, field.name) for field in dataclasses.fields(value)])
