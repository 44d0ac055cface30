"""The number of classes of a model that learns from a data set."""

from __future__ import annotations

from typing import TYPE_CHECKING

from accel.datasets import build_dataset, data_root

if TYPE_CHECKING:
    from accel.config import Config, DataConfig


def with_num_classes(config: Config) -> Config:
    """Return the configuration with `model.num_classes` filled in from the data, if it was left out.

    Raises ValueError or FileNotFoundError if the data do not say it, and for a setting that does not fit the number.
    """
    if config.model.num_classes:
        return config
    from accel.config import replace_in_model

    return replace_in_model(config, {"num_classes": count_classes(config.data)})


def count_classes(data: DataConfig) -> int:
    """Return the number of classes of a data set, without looking at its frames where possible."""
    if data.name == "streetscape":  # which would be generated
        from accel.datasets.cityscapes import CLASS_NAMES

        return len(CLASS_NAMES)
    if data.name == "folder":
        from accel.datasets.class_list import CLASSES_FILE, read_classes

        return len(read_classes(data_root(data) / CLASSES_FILE).names)
    return build_dataset(data, data.train_split).num_classes
