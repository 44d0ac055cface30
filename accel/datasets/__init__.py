"""Data sets, and how to build them from a configuration."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from accel.datasets.clips import Batch, Clip, ClipDataset, OnMissing, collate

if TYPE_CHECKING:
    from accel.config import DataConfig
    from accel.datasets.stored import StoredClips

GENERATED = ("streetscape", "streetscape_vid")  # data that the program makes itself where they are missing


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
    if config.test_frames is None:
        return build_dataset(config, split, with_flow=with_flow)
    from accel.config import MotionConfig
    from accel.datasets.simulation.motion import SimulatedMotion
    from accel.datasets.simulation.simulated_clips import SimulatedClips

    stills = build_dataset(config, split)
    motion = SimulatedMotion(stills.label_names, **(config.motion or MotionConfig()).model_dump())
    return SimulatedClips(stills, motion, config.test_frames)


def data_root(config: DataConfig) -> Path:
    """Return the folder of a configuration's data: its `root`, otherwise $ACCEL_DATA/NAME, otherwise data/NAME.

    Generated data always go to data/NAME. The folder in $ACCEL_DATA belongs to the user and may be read-only.
    """
    if config.root is not None:
        return config.root.expanduser()
    if config.name in GENERATED:
        return Path("data") / config.name
    folder = "camvid" if config.name == "camvid_boxes" else config.name
    return Path(os.environ.get("ACCEL_DATA", "data")) / folder


def _cityscapes(config: DataConfig, split: str, progress, with_flow: bool, on_missing) -> ClipDataset:
    from accel.datasets.cityscapes import Cityscapes

    return Cityscapes(data_root(config), split, on_missing=on_missing)


def _camvid(config: DataConfig, split: str, progress, with_flow: bool, on_missing) -> StoredClips:
    from accel.datasets.camvid import CamVid
    from accel.datasets.camvid_original import CamVidOriginal, original_folders

    root = data_root(config)
    whole = split.partition("/")[0]
    is_original = not (root / f"{whole}annot").is_dir() and original_folders(root, whole) is not None
    return (CamVidOriginal if is_original else CamVid)(root, split, on_missing)


def _camvid_boxes(config: DataConfig, split: str, progress, with_flow: bool, on_missing) -> ClipDataset:
    from accel.datasets.camvid_boxes import CamVidBoxes

    return CamVidBoxes(_camvid(config, split, progress, with_flow, on_missing))


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

    return LabelledFolder(data_root(config), split, on_missing, config.label_ending)


def _coco(config: DataConfig, split: str, progress, with_flow: bool, on_missing) -> ClipDataset:
    from accel.datasets.coco import Coco

    return Coco(data_root(config), split, on_missing)


def _voc(config: DataConfig, split: str, progress, with_flow: bool, on_missing) -> ClipDataset:
    from accel.datasets.voc import Voc

    return Voc(data_root(config), split, on_missing)


def _imagenet_vid(config: DataConfig, split: str, progress, with_flow: bool, on_missing) -> ClipDataset:
    from accel.datasets.imagenet_vid import ImageNetVid

    return ImageNetVid(data_root(config), split, on_missing)


def _streetscape_vid(config: DataConfig, split: str, progress, with_flow: bool, on_missing) -> ClipDataset:
    from accel.datasets.streetscape import generate_streetscape_vid
    from accel.datasets.streetscape_vid import StreetscapeVid

    root, part = data_root(config), generated_part(split)
    if not split.startswith("VID_") or part not in config.snippets:
        lists = ", ".join(f"VID_{each}_{kind}" for each in config.snippets for kind in ("15frames", "videos"))
        raise ValueError(f"data.train_split or test_split {split!r}: expected a list of data.snippets, such as {lists}")
    generate_streetscape_vid(root, {part: config.snippets[part]}, config.size, progress=progress)
    return StreetscapeVid(root, split, on_missing, config.snippets[part])


def generated_part(split: str) -> str:
    """Return the key of `data.snippets` that a split of generated scenes belongs to: train, for VID_train_15frames."""
    words = split.split("_")
    return words[1] if len(words) == 3 and words[0] == "VID" else split


def _vspw(config: DataConfig, split: str, progress, with_flow: bool, on_missing) -> ClipDataset:
    from accel.datasets.vspw import Vspw

    return Vspw(data_root(config), split, on_missing)


def _videos(config: DataConfig, split: str, progress, with_flow: bool, on_missing) -> ClipDataset:
    raise ValueError(
        f"data.name videos: these videos have no labels, so there is no split {split!r} of labelled frames"
    )


BUILDERS = {
    "cityscapes": _cityscapes,
    "camvid": _camvid,
    "camvid_boxes": _camvid_boxes,
    "streetscape": _streetscape,
    "folder": _folder,
    "coco": _coco,
    "voc": _voc,
    "vspw": _vspw,
    "imagenet_vid": _imagenet_vid,
    "streetscape_vid": _streetscape_vid,
    "videos": _videos,
}

__all__ = [
    "GENERATED",
    "Batch",
    "Clip",
    "ClipDataset",
    "build_dataset",
    "build_test_dataset",
    "build_training_dataset",
    "collate",
    "data_root",
    "generated_part",
]
