"""The interface of a task: a kind of prediction with its loss, its metric and its files."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from functools import reduce
from operator import add
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeAlias, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from accel import visualize
from accel.models.video import VideoModel
from accel.tasks.accuracy import Accuracy
from accel.tasks.pictures import Shown, jpeg
from accel.tasks.result_files import FileOfEachFrame, NameOf, Place, ResultFiles, numbered

if TYPE_CHECKING:
    from accel.config import sections as c
    from accel.datasets.clips import Clip

View: TypeAlias = Literal["panels", "overlay", "labels"]
Own = TypeVar("Own", bound="Score")


class Score(ABC):
    """How good a model's predictions are, counted frame by frame. The scores of parts of a data set can be added up.

    name: the name of the figure, such as mIoU.
    """

    name: str

    @abstractmethod
    def update(self, said: NamedTuple, truth: NamedTuple) -> None:
        """Count the prediction for one frame.

        said: the tensors of `Prediction.at`, without the batch dimension.
        truth: the ground truth from `Task.truth`, as tensors on the same device.
        """

    @abstractmethod
    def __add__(self: Own, other: Own) -> Own: ...

    @abstractmethod
    def value(self) -> float:
        """Return the figure, 0..1; higher is better. NaN if nothing was counted."""

    @abstractmethod
    def accuracy(self, class_names: Sequence[str]) -> Accuracy:
        """Return the figure, that of each class by name, and what has to be known of them."""

    @abstractmethod
    def emptiness(self) -> str:
        """Return why the frames that were counted say nothing: none of their pixels is labelled, for example. Empty if
        they say something."""

    def caveats(self, class_names: Sequence[str]) -> str:
        """Return a note that must be shown beside the figure. Empty if there is nothing to note."""
        return self.accuracy(class_names).caveats()

    def on_host(self: Own) -> Own:
        """Return this score with its counts in host memory, so that it can be sent to another process."""
        return self


def as_tensors(truth: NamedTuple, device: torch.device | str = "cpu") -> NamedTuple:
    """Return the arrays of a ground truth, or of a prediction, as tensors on a device. None stays None."""
    made: Any = type(truth)
    return made(*(None if array is None else torch.from_numpy(array).to(device) for array in truth))


class Task(ABC):
    """One kind of prediction, for certain classes: its loss, its metric, and how a result is drawn and written.

    name: the task's name, as in `VideoModel.task`.
    suffix: the suffix of the files that `save` writes.
    accuracy_type: the type of its scores' accuracy.
    shows_over_input: whether the pictures of `shown` are transparent, and belong over the frame.
    class_names: the names of the K classes.
    palette: their colours, (K, 3) uint8 RGB.
    """

    name: str
    suffix: str
    accuracy_type: type[Accuracy]
    shows_over_input = False

    def __init__(self, class_names: Sequence[str], palette: np.ndarray):
        self.class_names, self.palette = tuple(class_names), np.asarray(palette, np.uint8)

    @abstractmethod
    def objective(self, model: VideoModel, loss: c.LossConfig) -> nn.Module:
        """Return a module that holds the model and turns a batch's tensors into one loss.

        If the loss is a sum, its addends are logged, too. The module then has an attribute `parts`: the addends of its
        last call by name, scalars without a gradient, always of the same names.
        """

    @abstractmethod
    def score(self) -> Score:
        """Return a score with nothing counted yet."""

    def sum_of(self, scores: Iterable[Score]) -> Score:
        """Return the sum of scores of this task. Without any, nothing is counted in it."""
        return reduce(add, scores, self.score())

    @abstractmethod
    def truth(self, clip: Clip) -> NamedTuple:
        """Return the ground truth for a clip's last frame, as arrays. A score compares the prediction with it.

        It is made where the clip is read, usually in another process.
        """

    def is_empty(self, truth: NamedTuple) -> bool:
        """Return whether a ground truth, as arrays, has nothing that a prediction could be right about. False (the
        default) if that is not known."""
        return False

    def near_borders(self, widths: Sequence[int]) -> Task:
        """Return this task with scores that also count near the borders between classes, within each of these widths in
        pixels.

        See `accel.measures.boundary`. Raises ValueError for a task without such borders.
        """
        if widths:
            raise ValueError(f"trimap widths: there are none in {self.name}")
        return self

    def also_measuring(self, measures: Sequence[str]) -> Task:
        """Return this task with scores that also have these measures, each by its name.

        Raises ValueError for a measure that the task does not have.
        """
        if measures:
            raise ValueError(f"--{measures[0]}: there is no such measure in {self.name}")
        return self

    def labels(self, said: NamedTuple) -> Tensor:
        """Return the labels (H, W) or (B, H, W) of a prediction, for measures of labels.

        Raises the error of `check_labels`.
        """
        self.check_labels()
        raise AssertionError(f"{self.name} has labels, and does not say where")

    @property
    def has_labels(self) -> bool:
        """Whether `labels` gives any."""
        return type(self).check_labels is not Task.check_labels

    def check_labels(self) -> None:
        """Raise ValueError for a task without labels."""
        raise ValueError(f"models for {self.name} give no labels; temporal consistency and label images need some")

    @abstractmethod
    def picture(self, frame: np.ndarray, said: NamedTuple, title: str, view: View) -> np.ndarray:
        """Draw a prediction for people. Return (H, W, 3), uint8 RGB.

        frame: (H, W, 3) uint8 RGB.
        said: the prediction for it, as arrays.
        title: the kind of the frame.
        view: `panels` shows pictures side by side under titles. `overlay` shows the frame at its own size with the
            prediction drawn on it. `labels` shows the prediction alone.
        """

    def result_files(self, kind: str, place: Place, name_of: NameOf = numbered) -> ResultFiles:
        """Return the files that the predictions for a video are written to.

        kind: which ones, of a task that has several. `jsonl` is what `save` writes, one file for each frame.
        place: takes the name of a file within the folder of results, and returns its path.
        name_of: takes the number of a frame in its source, and returns the frame's name.

        Raises the error of `check_kind`.
        """
        self.check_kind(kind)
        return FileOfEachFrame(place, self, name_of)

    def check_kind(self, kind: str) -> None:
        """Raise ValueError for a kind of result files that this task does not have."""
        if kind != "jsonl":
            raise ValueError(f"--boxes {kind}: expected a model that finds boxes; this one is for {self.name}")

    def truth_shown(self, truth: NamedTuple, size: tuple[int, int], width: int) -> str | None:
        """Return a small picture of the ground truth for the player of a report, as a data URI. None (the default) if
        there is none.

        truth: the ground truth, as arrays.
        size: (H, W) of the frame.
        width: the width of the picture in pixels.
        """
        return None

    def shown(self, frame: np.ndarray, said: NamedTuple, truth: NamedTuple | None, width: int) -> Shown:
        """Return small pictures of a prediction for the player of a report. By default, the one of `picture`.

        frame: (H, W, 3) uint8 RGB.
        said: the prediction for it, as arrays.
        truth: the ground truth, as arrays. None if it is not known.
        width: the width of the pictures in pixels.
        """
        return Shown(jpeg(visualize.shrink(self.picture(frame, said, "", "overlay"), width)), None, "")

    @abstractmethod
    def save(self, path: Path, said: NamedTuple) -> None:
        """Write a frame's prediction, given as arrays, to a file, completely or not at all. Missing folders are
        made."""
