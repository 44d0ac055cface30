"""Copy frames to the device and predictions back, while the model computes."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor


class HostTransfer:
    """The transfer for a model on the CPU: nothing has to be copied.

    Both transfers have the same methods. `upload` may be called from another thread than the others.
    """

    overlaps = False  # whether the next frame can be given to the device before what is said of the last is there

    def upload(self, frame: np.ndarray) -> Tensor:
        """Start the upload of a frame (H, W, 3), uint8, of any strides."""
        return _tensor(frame)

    def seen(self, uploaded: Tensor) -> Tensor:
        """Return the frame (H, W, 3) in host memory."""
        return uploaded

    def receive(self, uploaded: Tensor) -> tuple[Tensor, float]:
        """Return the frame (H, W, 3) on the device, and the start time that `send` needs."""
        return uploaded, time.perf_counter()

    def send(self, tensors: NamedTuple, start: float) -> HostArrays:
        """Start the download of one frame's tensors, given by name."""
        return HostArrays(_like(tensors, (tensor.numpy() for tensor in tensors)), time.perf_counter() - start)


@dataclass(frozen=True)
class HostArrays:
    """Arrays that are already in host memory."""

    arrays: NamedTuple
    seconds: float

    def wait(self) -> tuple[NamedTuple, float]:
        """Return the arrays under the tensors' names, and the seconds from the frame in memory to the arrays."""
        return self.arrays, self.seconds


class CudaTransfer:
    """The transfer for a model on a GPU. Copies in both directions run on their own streams, through page-locked
    memory."""

    overlaps = True

    def __init__(self, device: torch.device):
        self.device = device
        self._uploads = torch.cuda.Stream(device)
        self._downloads = torch.cuda.Stream(device)

    def upload(self, frame: np.ndarray) -> CudaFrame:
        with torch.cuda.device(self.device), torch.cuda.stream(self._uploads):
            start, done = _event(), _event()
            start.record()
            # The page-locked copy goes back to PyTorch's pool, which hands it out again only after this upload.
            host = _tensor(frame)
            image = host.pin_memory().to(self.device, non_blocking=True)
            done.record()
        return CudaFrame(image, host, start, done)

    def seen(self, uploaded: CudaFrame) -> Tensor:
        return uploaded.host

    def receive(self, uploaded: CudaFrame) -> tuple[Tensor, tuple[CudaFrame, torch.cuda.Event]]:
        stream = torch.cuda.current_stream(self.device)
        stream.wait_event(uploaded.done)
        uploaded.image.record_stream(stream)  # or its memory could be given to an upload while the model reads it
        start = _event()
        start.record(stream)
        return uploaded.image, (uploaded, start)

    def send(self, tensors: NamedTuple, start: tuple[CudaFrame, torch.cuda.Event]) -> CudaTensors:
        # Where a model is replayed as a CUDA graph, what it makes next may be written to the very same place.
        own = [tensor.clone() for tensor in tensors]
        self._downloads.wait_stream(torch.cuda.current_stream(self.device))
        with torch.cuda.stream(self._downloads):
            host = [torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True) for tensor in own]
            for there, tensor in zip(host, own, strict=True):
                there.copy_(tensor, non_blocking=True)
            done = _event()
            done.record()
        for tensor in own:
            tensor.record_stream(self._downloads)
        return CudaTensors(_like(tensors, host), *start, done)


@dataclass(frozen=True)
class CudaFrame:
    """A frame (H, W, 3) that is on the device once the event `done` has happened. Its upload began at `start`.

    host: the same frame in host memory.
    """

    image: Tensor
    host: Tensor
    start: torch.cuda.Event
    done: torch.cuda.Event


@dataclass(frozen=True)
class CudaTensors:
    """Tensors in page-locked memory, complete once the event `done` has happened. The model's work began at `start`."""

    host: NamedTuple
    frame: CudaFrame
    start: torch.cuda.Event
    done: torch.cuda.Event

    def wait(self) -> tuple[NamedTuple, float]:
        self.done.synchronize()
        milliseconds = self.frame.start.elapsed_time(self.frame.done) + self.start.elapsed_time(self.done)
        # A copy: a user may keep results for long, and page-locked memory is scarce.
        return _like(self.host, (tensor.numpy().copy() for tensor in self.host)), milliseconds / 1000


def _tensor(frame: np.ndarray) -> Tensor:
    return torch.from_numpy(np.require(frame, requirements=["C", "W"]))


def _like(names: NamedTuple, values: Iterable) -> NamedTuple:
    """Return a tuple of these values under the same names."""
    return type(names)(*values)


def _event() -> torch.cuda.Event:
    # Blocking: waiting for it leaves the core to the threads that decode and write.
    return torch.cuda.Event(enable_timing=True, blocking=True)


def transfer_for(device: torch.device) -> HostTransfer | CudaTransfer:
    return CudaTransfer(device) if device.type == "cuda" else HostTransfer()
