"""The tasks: the kinds of prediction that models can make."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from accel.models.video import VideoModel
from accel.tasks.detection import Detection
from accel.tasks.segmentation import Segmentation
from accel.tasks.task import Score, Task, as_tensors

if TYPE_CHECKING:
    from accel.datasets.clips import ClipDataset

TASKS = {task.name: task for task in (Segmentation, Detection)}


def build_task(name: str, class_names: Sequence[str], palette: np.ndarray) -> Task:
    """Build the task of that name (`VideoModel.task`) for these classes and their colours (K, 3).

    Raises ValueError for an unknown name.
    """
    if name not in TASKS:
        raise ValueError(f"task {name!r}: there are {', '.join(TASKS)}")
    return TASKS[name](class_names, palette)


def task_of(model: VideoModel, dataset: ClipDataset) -> Task:
    """Build the model's task for the classes of the data set."""
    return build_task(model.task, dataset.class_names, dataset.palette)


__all__ = ["TASKS", "Detection", "Score", "Segmentation", "Task", "as_tensors", "build_task", "task_of"]
