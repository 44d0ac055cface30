"""What is being predicted, and all that hangs on it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeAlias, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from accel.models.video import VideoModel

if TYPE_CHECKING:
    from accel.config import sections as c
    from accel.datasets.clips import Clip

View: TypeAlias = Literal["panels", "overlay", "labels"]
Own = TypeVar("Own", bound="Score")


class Score(ABC):
    """How right a model is, counted frame by frame. Those of a data set's parts add up to the one of the whole.

    name: what the figure is called, such as mIoU.
    """

    name: str

    @abstractmethod
    def update(self, said: NamedTuple, truth: NamedTuple) -> None:
        """Count what a model says of a frame.

        said: the tensors of `Prediction.at`, without the dimension of the batch.
        truth: `Task.truth`, as tensors on the same device.
        """

    @abstractmethod
    def __add__(self: Own, other: Own) -> Own: ...

    @abstractmethod
    def value(self) -> float:
        """The figure, 0..1; higher is better. NaN if nothing was counted."""

    @abstractmethod
    def figures(self, class_names: Sequence[str]) -> dict:
        """The figure, and those of each class by name, for a JSON file; None where there is none."""

    def caveats(self, class_names: Sequence[str]) -> str:
        """What has to be known of the figure, to stand beside it; empty where all is well."""
        return ""

    def on_host(self: Own) -> Own:
        """This score with its counts in host memory, so that it can travel to another process."""
        return self


def as_tensors(truth: NamedTuple, device: torch.device | str = "cpu") -> NamedTuple:
    """The arrays of a truth, or of a prediction, as tensors on a device. What is None stays None."""
    made: Any = type(truth)
    return made(*(None if array is None else torch.from_numpy(array).to(device) for array in truth))


class Task(ABC):
    """One kind of prediction, for certain classes: its loss, its figure, and how a result is shown and written.

    name: as `VideoModel.task` has it.  suffix: of the files that `save` writes.
    class_names: of the K classes.  palette: their colours, (K, 3) uint8 RGB.
    """

    name: str
    suffix: str

    def __init__(self, class_names: Sequence[str], palette: np.ndarray):
        self.class_names, self.palette = tuple(class_names), np.asarray(palette, np.uint8)

    @abstractmethod
    def objective(self, model: VideoModel, loss: c.LossConfig) -> nn.Module:
        """A module that holds the model and takes a batch's tensors to one loss."""

    @abstractmethod
    def score(self) -> Score:
        """A figure with nothing counted yet."""

    @abstractmethod
    def truth(self, clip: Clip) -> NamedTuple:
        """What a score compares the prediction of a clip's last frame with, as arrays. It is made where the clip is
        read, so mostly in another process."""

    def near_borders(self, widths: Sequence[int]) -> Task:
        """This task with scores that also count within so many pixels of the borders between classes; see
        `accel.measures.boundary`. ValueError for a task without such borders."""
        if widths:
            raise ValueError(f"trimap widths: there are none in {self.name}")
        return self

    def labels(self, said: NamedTuple) -> Tensor:
        """The labels (H, W) or (B, H, W) in what a model says, for measures of labels. ValueError for a task that has
        none."""
        raise ValueError(f"models for {self.name} give no labels; temporal consistency and label images need some")

    @abstractmethod
    def picture(self, frame: np.ndarray, said: NamedTuple, title: str, view: View) -> np.ndarray:
        """A picture for people, (H, W, 3) uint8 RGB: a frame (H, W, 3) uint8 RGB, with what a model says of it as
        arrays.

        title: what kind of frame it is.  view: `panels` are pictures side by side under titles, `overlay` is the frame
        at its own size with what was said drawn on it, `labels` that alone.
        """

    @abstractmethod
    def save(self, path: Path, said: NamedTuple) -> None:
        """Write what a model says of a frame, as arrays, to a file; whole or not at all. Missing folders are made."""
