"""Frames to the device and labels back, beside its computing."""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor


class HostTransfer:
    """For a model on the CPU: what comes and goes is in its memory anyway.

    Both transfers answer the same three calls. `upload` may be called in another thread than the others.
    """

    overlaps = False  # whether the next frame can be given to the device before the labels of the last are there

    def upload(self, frame: np.ndarray) -> Tensor:
        """A frame (H, W, 3) uint8, of any strides, on its way."""
        return _tensor(frame)

    def receive(self, uploaded: Tensor) -> tuple[Tensor, float]:
        """The frame (H, W, 3) on the device, and what `send` needs to tell the time from here to there."""
        return uploaded, time.perf_counter()

    def send(self, labels: Tensor, start: float) -> HostLabels:
        """Labels (H, W) on their way back."""
        return HostLabels(labels.numpy(), time.perf_counter() - start)


@dataclass(frozen=True)
class HostLabels:
    """Labels that are there."""

    labels: np.ndarray
    seconds: float

    def wait(self) -> tuple[np.ndarray, float]:
        """The labels (H, W), and the seconds from the frame in memory to them."""
        return self.labels, self.seconds


class CudaTransfer:
    """For a model on a GPU: copies in both directions run on streams of their own, through page-locked memory."""

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
            image = _tensor(frame).pin_memory().to(self.device, non_blocking=True)
            done.record()
        return CudaFrame(image, start, done)

    def receive(self, uploaded: CudaFrame) -> tuple[Tensor, tuple[CudaFrame, torch.cuda.Event]]:
        stream = torch.cuda.current_stream(self.device)
        stream.wait_event(uploaded.done)
        uploaded.image.record_stream(stream)  # or its memory could be given to an upload while the model reads it
        start = _event()
        start.record(stream)
        return uploaded.image, (uploaded, start)

    def send(self, labels: Tensor, start: tuple[CudaFrame, torch.cuda.Event]) -> CudaLabels:
        # Where a model is replayed as a CUDA graph, its next labels may be written to the very same place.
        labels = labels.clone()
        self._downloads.wait_stream(torch.cuda.current_stream(self.device))
        with torch.cuda.stream(self._downloads):
            host = torch.empty(labels.shape, dtype=labels.dtype, pin_memory=True)
            host.copy_(labels, non_blocking=True)
            done = _event()
            done.record()
        labels.record_stream(self._downloads)
        return CudaLabels(host, *start, done)


@dataclass(frozen=True)
class CudaFrame:
    """A frame (H, W, 3) that is on the device once `done` has happened; its upload began at `start`."""

    image: Tensor
    start: torch.cuda.Event
    done: torch.cuda.Event


@dataclass(frozen=True)
class CudaLabels:
    """Labels (H, W) in page-locked memory, there once `done` has happened; the model's work began at `start`."""

    host: Tensor
    frame: CudaFrame
    start: torch.cuda.Event
    done: torch.cuda.Event

    def wait(self) -> tuple[np.ndarray, float]:
        self.done.synchronize()
        milliseconds = self.frame.start.elapsed_time(self.frame.done) + self.start.elapsed_time(self.done)
        # A copy: a user may keep labels for long, and page-locked memory is scarce.
        return self.host.numpy().copy(), milliseconds / 1000


def _tensor(frame: np.ndarray) -> Tensor:
    return torch.from_numpy(np.require(frame, requirements=["C", "W"]))


def _event() -> torch.cuda.Event:
    # Blocking: waiting for it leaves the core to the threads that decode and write.
    return torch.cuda.Event(enable_timing=True, blocking=True)


def transfer_for(device: torch.device) -> HostTransfer | CudaTransfer:
    return CudaTransfer(device) if device.type == "cuda" else HostTransfer()
