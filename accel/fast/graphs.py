"""Run a function of tensors as a CUDA graph."""

from __future__ import annotations

import threading
from collections.abc import Callable

from torch import Tensor

from accel.fast.streams import Cuda


class CudaGraph:
    """A function of tensors as one CUDA graph: one launch instead of hundreds.

    The graph has its own memory for inputs and outputs. So calls must not overlap, neither those of several threads nor
    those of one thread on several streams (a network that is both branches does that). The object takes care of this:
    on the device, each call waits until the results of the one before have been copied.

    function: a function from tensors shaped like `examples` to a tuple of tensors.
    """

    WARM_UP = 3

    def __init__(self, function: Callable, examples: tuple[Tensor, ...], cuda: Cuda):
        self.cuda = cuda
        self.inputs = [example.clone() for example in examples]
        self.replay, self.outputs = cuda.capture(function, self.inputs, self.WARM_UP)
        self.lock = threading.Lock()
        self.copied = cuda.event()  # once the last call's results have been

    def __call__(self, *given: Tensor) -> tuple[Tensor, ...]:
        with self.lock:
            stream = self.cuda.current()
            stream.wait_event(self.copied)
            for own, tensor in zip(self.inputs, given, strict=True):
                own.copy_(tensor)
            self.replay()
            results = tuple(output.clone() for output in self.outputs)  # the next replay overwrites them
            self.copied.record(stream)
        return results
