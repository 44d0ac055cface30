"""Data sets, and how to build them from a configuration."""

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
    """Build the data set of a configuration.

    split: "train", "val" or "test", as the data set calls it. CamVid also has the parts "train/fit" and "train/held".
    progress: a function that is called with (done, total) while generated data are being written.
    with_flow: whether clips carry their exact flow if it is known. Computing it takes time.
    on_missing: a function that is called with a message for each labelled frame without an image. The frame is left
        out. None: it is an error.

    Raises FileNotFoundError, with the expected layout, if the data are missing.
    """
    return BUILDERS[config.name](config, split, progress, with_flow, on_missing)


def build_training_dataset(
    config: DataConfig,
    progress: Callable[[int, int], None] | None = None,
    with_flow: bool = False,
    num_classes: int = 0,
) -> ClipDataset:
    """Build the data set to learn from: that of `build_dataset` for `train_split`, or the videos without labels that
    the configuration names.

    num_classes: the number of classes of the model, if the configuration does not name those of the videos.
    """
    if config.videos is None:
        return build_dataset(config, config.train_split, progress, with_flow)
    from accel.datasets.unlabelled_videos import UnlabelledVideos

    if config.name != "videos":  # its labelled frames say which classes there are
        labelled = build_dataset(config, config.test_split)
        return UnlabelledVideos(config.videos, labelled.class_names, labelled.palette, progress)
    names = config.classes or tuple(f"class {number}" for number in range(num_classes))
    return UnlabelledVideos(config.videos, names, None, progress)


def build_test_dataset(config: DataConfig, split: str, with_flow: bool = False) -> ClipDataset:
    """Build the data set to score: that of `build_dataset`, or simulated clips if the configuration requests them."""
    if config.simulated_test_frames is None:
        return build_dataset(config, split, with_flow=with_flow)
    from accel.config import MotionConfig
    from accel.datasets.simulation.motion import SimulatedMotion
    from accel.datasets.simulation.simulated_clips import SimulatedClips

    stills = build_dataset(config, split)
    motion = SimulatedMotion(stills.class_names, **(config.motion or MotionConfig()).model_dump())
    return SimulatedClips(stills, motion, config.simulated_test_frames)


def data_root(config: DataConfig) -> Path:
    """Return the folder of a configuration's data: its `root`, otherwise $ACCEL_DATA/NAME, otherwise data/NAME.

    Generated data always go to data/NAME. The folder in $ACCEL_DATA belongs to the user and may be read-only.
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


def _videos(config: DataConfig, split: str, progress, with_flow: bool, on_missing) -> ClipDataset:
    raise ValueError(
        f"data.name videos: these videos have no labels, so there is no split {split!r} of labelled frames"
    )


BUILDERS = {
    "cityscapes": _cityscapes,
    "camvid": _camvid,
    "streetscape": _streetscape,
    "folder": _folder,
    "imagenet_vid": _imagenet_vid,
    "videos": _videos,
}

__all__ = [
    "Batch",
    "Clip",
    "ClipDataset",
    "build_dataset",
    "build_test_dataset",
    "build_training_dataset",
    "collate",
    "data_root",
]
