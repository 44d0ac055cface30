"""Check labels before a run: report labels from which nothing can be learned, or not what was intended."""

from __future__ import annotations

from collections.abc import Sequence

from accel.config import Config
from accel.datasets import GENERATED, ClipDataset, build_dataset, data_root
from accel.datasets.label_counts import Use, stops_at_doubts
from accel.datasets.label_sample import look_at_boxes, look_at_labels
from accel.datasets.own_boxes import OwnBoxes
from accel.progress import console
from accel.training.run_folder import is_done
from accel.training.validation import Validation


def check_labels(config: Config, dataset: ClipDataset, validation: Validation | None) -> None:
    """Check the labels for a run's training and validation, and print what may be wrong with them.

    Generated labels are not checked, nor are labels that the run does not learn from (the flow loss).

    Raises ValueError for labels that cannot be intended (`data.label_check`), and for unreadable labels.
    """
    if _stored_length(config) > 1:  # else each frame is on its own
        for note in dataset.notes:
            console.print(f"warning: {note}")
    if learns_labels(config):
        _look(config, dataset, trained_on(config, dataset), "training", config.data.train_split)
    if validation is not None:
        _look(config, validation.dataset, validation.indices, "validation", validation.settings.split)


def check_recipe(stages: Sequence[Config]) -> None:
    """Do `check_labels` for the later stages of a recipe now, instead of days later when each stage begins.

    Finished stages are left out. So are labels that the first unfinished stage checks itself. Raises the errors of
    `check_labels`, and an error for missing data.
    """
    ahead = [stage for stage in stages if not is_done(stage)]
    checked = {_labels_of(stage) for stage in ahead[:1] if learns_labels(stage)}
    for stage in ahead[1:]:
        if stage.data.name in GENERATED or not learns_labels(stage) or _labels_of(stage) in checked:
            continue
        checked.add(_labels_of(stage))
        check_labels(stage, build_dataset(stage.data, stage.data.train_split), None)


def learns_labels(config: Config) -> bool:
    """Return whether the run learns from labels, and not from flow or from the reference branch alone."""
    loss = config.train.loss
    return loss.name != "flow" and (loss.name != "distillation" or (config.data.videos is None and loss.labels > 0))


def trained_on(config: Config, dataset: ClipDataset) -> list[int]:
    """Return the labelled frames with enough frames before them."""
    stored = _stored_length(config)
    return [index for index in range(len(dataset)) if dataset.history(index) >= stored - 1]


def _stored_length(config: Config) -> int:
    return 1 if config.motion else config.data.clip_length


def _labels_of(config: Config) -> tuple:
    """Return the settings that decide which labels a run learns from."""
    data = config.data
    return data.name, data_root(data).resolve(), data.train_split, _stored_length(config), data.label_check


def _look(config: Config, dataset: ClipDataset, indices: Sequence[int], use: Use, split: str) -> None:
    where = f"{config.data.name} {split} at {data_root(config.data)}"
    strict = stops_at_doubts(config.data)
    if isinstance(dataset, OwnBoxes):
        found = look_at_boxes(dataset, indices, use, strict)
    else:
        found = look_at_labels(dataset, indices, use, strict, where)
    for warning in found.warnings:
        console.print(f"warning: {where}: {warning}")
    if found.errors:
        raise ValueError(f"{where}: {'; '.join(found.errors)}")
