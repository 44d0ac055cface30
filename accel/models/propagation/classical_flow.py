"""Optical flow that needs no training: dense inverse search."""

from __future__ import annotations

import threading

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from accel.models.constants import per_channel
from accel.models.images import PIXEL_MEANS
from accel.models.strides import STRIDE
from accel.runtime import pixel_flow
from accel.runtime.pixel_flow import LUMA

PRESETS = ("ultrafast", "fast", "medium")


class DenseInverseSearch(nn.Module):
    """Flow from the current frame to the one before by OpenCV's DIS (Kroeger et al., "Fast optical flow using dense
    inverse search", ECCV 2016). It replaces a flow network. It runs on the CPU and has no gradient.

    preset: OpenCV's "ultrafast", "fast" or "medium". "ultrafast" is the fastest and "medium" the most exact.
    """

    def __init__(self, preset: str = "medium"):
        super().__init__()
        if preset not in PRESETS:
            raise ValueError(f"unknown preset {preset!r} of DIS flow; expected {', '.join(PRESETS)}")
        self.preset = preset
        self.search = PixelSearch(preset)

    @torch.no_grad()
    def forward(self, current: Tensor, previous: Tensor) -> Tensor:
        """Turn two frames (B, 3, H, W), RGB minus the mean, into flow (B, 2, ceil(H/16), ceil(W/16)) in cells. The flow
        of a cell is the mean over its pixels."""
        flows = [self.search(now, before) for now, before in zip(_grey(current), _grey(previous), strict=True)]
        pixels = torch.from_numpy(np.stack(flows)).permute(0, 3, 1, 2).to(current.device)
        return F.avg_pool2d(pixels, STRIDE, ceil_mode=True) / STRIDE


class PixelSearch(pixel_flow.PixelSearch):
    """OpenCV's DIS flow at every pixel, with as many threads as PyTorch, so that the times of models with and without
    it can be compared."""

    def __call__(self, now: np.ndarray, before: np.ndarray) -> np.ndarray:
        with _threads_of_pytorch:
            return super().__call__(now, before)


class _ThreadsOfPyTorch:
    """Set OpenCV's number of threads to PyTorch's while any thread is inside this context. OpenCV has one number for
    the whole process."""

    def __init__(self):
        self._lock = threading.Lock()
        self._inside = 0
        self._usual = 0

    def __enter__(self) -> None:
        import cv2

        with self._lock:
            if self._inside == 0:
                self._usual = cv2.getNumThreads()
            self._inside += 1
            self._set(torch.get_num_threads())

    def __exit__(self, *_) -> None:
        with self._lock:
            self._inside -= 1
            if self._inside == 0:
                self._set(self._usual)

    @staticmethod
    def _set(number: int) -> None:
        import cv2

        if cv2.getNumThreads() != number:  # setting it stops and starts threads
            cv2.setNumThreads(number)


_threads_of_pytorch = _ThreadsOfPyTorch()


def _grey(images: Tensor) -> np.ndarray:
    """Turn images (B, 3, H, W), RGB minus the mean, into luma (B, H, W), uint8."""
    luma = ((images + per_channel(PIXEL_MEANS, images)) * per_channel(LUMA, images)).sum(1)
    return luma.round().clamp(0, 255).to(torch.uint8).cpu().numpy()
