"""Data sets and how to build them from a configuration."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from accel.datasets.clips import Batch, Clip, ClipDataset, OnMissing, collate

if TYPE_CHECKING:
    from accel.config import DataConfig


def build_dataset(
    config: DataConfig,
    split: str,
    progress: Callable[[int, int], None] | None = None,
    with_flow: bool = False,
    on_missing: OnMissing | None = None,
) -> ClipDataset:
    """The data set of a configuration.

    split: "train", "val" or "test", as the data set calls it; of CamVid also parts, "train/fit" and "train/held".
    with_flow: clips carry their exact flow where it is known; working it out takes time.
    progress: called with (done, total) while generated data are being written.
    on_missing: called with a message for each labelled frame whose image is not there, which is then left out; None:
        that is an error.

    Raises FileNotFoundError with the expected layout where the data are missing.
    """
    return BUILDERS[config.name](config, split, progress, with_flow, on_missing)


def build_test_dataset(config: DataConfig, split: str, with_flow: bool = False) -> ClipDataset:
    """The data set to score on: as `build_dataset`, or simulated clips where the configuration says so."""
    if config.simulated_test_frames is None:
        return build_dataset(config, split, with_flow=with_flow)
    from accel.config import MotionConfig
    from accel.datasets.simulation.motion import SimulatedMotion
    from accel.datasets.simulation.simulated_clips import SimulatedClips

    stills = build_dataset(config, split)
    motion = SimulatedMotion(stills.class_names, **(config.motion or MotionConfig()).model_dump())
    return SimulatedClips(stills, motion, config.simulated_test_frames)


def data_root(config: DataConfig) -> Path:
    """Where the data of a configuration are: its `root`, else $ACCEL_DATA/NAME, else data/NAME.

    Generated data go to data/NAME in any case: what $ACCEL_DATA points to is the user's, and may be read-only.
    """
    if config.root is not None:
        return config.root.expanduser()
    if config.name == "streetscape":
        return Path("data") / config.name
    return Path(os.environ.get("ACCEL_DATA", "data")) / config.name


def _cityscapes(config: DataConfig, split: str, progress, with_flow: bool, on_missing) -> ClipDataset:
    from accel.datasets.cityscapes import Cityscapes

    return Cityscapes(data_root(config), split, on_missing=on_missing)


def _camvid(config: DataConfig, split: str, progress, with_flow: bool, on_missing) -> ClipDataset:
    from accel.datasets.camvid import CamVid
    from accel.datasets.camvid_original import CamVidOriginal, original_folders

    root = data_root(config)
    whole = split.partition("/")[0]
    is_original = not (root / f"{whole}annot").is_dir() and original_folders(root, whole) is not None
    return (CamVidOriginal if is_original else CamVid)(root, split, on_missing)


def _streetscape(config: DataConfig, split: str, progress, with_flow: bool, on_missing) -> ClipDataset:
    from accel.datasets.cityscapes import Streetscape
    from accel.datasets.streetscape import generate_streetscape

    root = data_root(config)
    if split not in config.snippets:
        raise ValueError(f"data.snippets has no {split!r} split; it has {', '.join(config.snippets)}")
    generate_streetscape(root, {split: config.snippets[split]}, config.size, progress=progress)
    return Streetscape(root, split, with_flow, config.snippets[split], on_missing)


def _folder(config: DataConfig, split: str, progress, with_flow: bool, on_missing) -> ClipDataset:
    from accel.datasets.labelled_folder import LabelledFolder

    return LabelledFolder(data_root(config), split, on_missing)


def _imagenet_vid(config: DataConfig, split: str, progress, with_flow: bool, on_missing) -> ClipDataset:
    from accel.datasets.imagenet_vid import ImageNetVid

    return ImageNetVid(data_root(config), split, on_missing)


BUILDERS = {
    "cityscapes": _cityscapes,
    "camvid": _camvid,
    "streetscape": _streetscape,
    "folder": _folder,
    "imagenet_vid": _imagenet_vid,
}

__all__ = ["Batch", "Clip", "ClipDataset", "build_dataset", "build_test_dataset", "collate", "data_root"]
