"""A stand-in for the streams of a GPU, which finds what would be a race on one.

Everything runs at once, on the CPU, in the order in which it is put on streams. What a GPU could do in another order is
told by vector clocks, as ThreadSanitizer does it: each stream counts what is put on it, and knows of every other stream
up to where it has waited for it. Two calls that touch the memory of one graph, neither of which has waited for the
other, are a race.
"""

import threading
from contextlib import contextmanager

import torch
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes

from accel.fast.streams import Cuda


class Stream:
    def __init__(self, name):
        self.name, self.clock = name, {}

    def tick(self):
        self.clock[self] = self.clock.get(self, 0) + 1
        return self.clock[self]

    def _join(self, clock):
        self.clock = {s: max(self.clock.get(s, 0), clock.get(s, 0)) for s in {*self.clock, *clock}}

    def wait_stream(self, other):
        self._join(other.clock)

    def wait_event(self, event):
        self._join(event.clock)


class Event:
    def __init__(self):
        self.clock = {}

    def record(self, stream):
        self.clock = dict(stream.clock)


class FakeCuda(Cuda):
    """races: memory that was touched on two streams in no order, each as the names of both.
    held: of each tensor held, the stream that it is held for.  replays: of each graph, the streams it ran on."""

    def __init__(self):
        super().__init__(torch.device("cpu"))
        self.main, self.made = Stream("main"), 0
        self.here = threading.local()
        self.touched, self.races, self.held, self.replays = {}, [], [], []

    def current(self):
        return getattr(self.here, "stream", self.main)

    @contextmanager
    def on(self, stream):
        before, self.here.stream = self.current(), stream
        try:
            yield
        finally:
            self.here.stream = before

    def new(self):
        self.made += 1
        return Stream(f"side {self.made}")

    def event(self):
        return Event()

    def hold(self, tensor, stream):
        self.held.append((tensor, stream))

    def capture(self, function, inputs, warm_up):
        outputs = tuple(output.clone() for output in function(*inputs))
        own = [tensor.untyped_storage()._cdata for tensor in (*inputs, *outputs)]
        self.touched |= {place: {} for place in own}
        where = []
        self.replays.append(where)

        def replay():
            where.append(self.current())
            with _disable_current_modes():  # what is computed within touches no other graph
                for output, new in zip(outputs, function(*inputs), strict=True):
                    output.copy_(new)
            for place in own:
                self.touch(place)

        return replay, outputs

    def touch(self, place):
        """The current stream reads or writes a graph's memory. (Reads beside reads do not occur: all count alike.)"""
        stream = self.current()
        for other, tick in self.touched[place].items():
            if stream.clock.get(other, 0) < tick:
                self.races.append((other.name, stream.name))
        self.touched[place] = {stream: stream.tick()}


class Watch(TorchDispatchMode):
    """Tells a `FakeCuda` of every operation on its graphs' memory."""

    def __init__(self, cuda):
        super().__init__()
        self.cuda = cuda

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        for tensor in args:
            if isinstance(tensor, torch.Tensor) and tensor.untyped_storage()._cdata in self.cuda.touched:
                self.cuda.touch(tensor.untyped_storage()._cdata)
        return function(*args, **(kwargs or {}))
