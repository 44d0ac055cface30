"""Predictions in Cityscapes' format for the scorer and the test server: labelIds at full size, one PNG for each
frame."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from cityscapesscripts.helpers.labels import trainId2label
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from accel.config import DataConfig
from accel.datasets import Clip, ClipDataset, build_dataset, data_root
from accel.datasets.cityscapes import CLASS_NAMES, Cityscapes
from accel.datasets.clips import frames_to_tensor
from accel.evaluation.running.mapped_classes import MappedDataset
from accel.evaluation.running.processes import ALONE, Processes
from accel.files.whole_files import write_part
from accel.inference.loading import check_classes
from accel.models.video import VideoModel
from accel.playing.schedules import FixedInterval
from accel.progress import bar

_SUFFIX = "_pred_labelIds.png"  # scorer and server want CITY_SEQ_FRAME*.png
_UNFINISHED = ".unfinished"
_LABEL_IDS = np.array([trainId2label[i].id for i in range(len(CLASS_NAMES))], np.uint8)  # (19,) of our classes


class Predictions:
    """A folder of predictions, CITY_SEQ_FRAME_pred_labelIds.png.

    The scorer takes the folder; the test server takes it as a ZIP file. Files are first written into a subfolder.
    `finish` moves them into `folder` itself. If it is never called, the subfolder is removed at the end of a `with`
    block, or by the next attempt.

    target: the folder, which is made if necessary. None means a temporary one. Raises ValueError if it contains
        anything else, so that results of two models are not mixed and no file of the user is overwritten.

    folder: the folder where the files are now.
    names: the names of the frames.
    """

    def __init__(self, target: str | Path | None = None):
        self.names: list[str] = []
        self._temporary: tempfile.TemporaryDirectory | None = None
        if target is None:
            self._temporary = tempfile.TemporaryDirectory(prefix="accel-")
            target = self._temporary.name
        self._target = Path(target)
        if self._target.exists() and not self._target.is_dir():
            raise ValueError(f"{self._target}: not a folder; predictions need one")
        self.folder = self._target / _UNFINISHED
        if self._target.is_dir() and (kept := next((p for p in self._target.iterdir() if p != self.folder), None)):
            raise ValueError(f"{self._target}: already holds {kept.name}; predictions need a new or an empty folder")
        shutil.rmtree(self.folder, ignore_errors=True)  # of an attempt that was killed
        self.folder.mkdir(parents=True)

    @classmethod
    def joining(cls, folder: str | Path) -> Predictions:
        """Return the predictions that another process has begun in its `folder`. That process finishes them.

        Raises ValueError if the folder does not exist here, for example because it is on another machine.
        """
        joined = cls.__new__(cls)
        joined.names, joined._temporary, joined._target, joined.folder = [], None, Path(folder), Path(folder)
        if not joined.folder.is_dir():
            raise ValueError(
                f"{joined.folder}: not visible to all processes; predictions of several machines need a folder that "
                "all can read"
            )
        return joined

    @classmethod
    def shared(cls, target: str | Path | None, processes: Processes) -> Predictions:
        """Make the predictions in the first process, and join them in the others. Call `gather` before `finish`."""
        begun = cls(target) if processes.is_first else None
        folder = processes.spread(None if begun is None else begun.folder)
        assert folder is not None, "the first process has one"
        return begun or cls.joining(folder)

    def gather(self, processes: Processes) -> None:
        """Wait until all processes have written theirs. The first process then has all names."""
        self.names = [name for names in processes.collect(self.names) for name in names]

    def finish(self) -> None:
        """Move the files into the folder. All of them must have been written."""
        for path in sorted(self.folder.iterdir()):
            os.replace(path, self._target / path.name)
        self.folder.rmdir()
        self.folder = self._target

    def write(self, name: str, predicted: Tensor | np.ndarray) -> Path:
        """Write the classes of a frame, (H, W) uint8 indices into Cityscapes' 19. The file is written completely or not
        at all.

        name: CITY_SEQ_FRAME.

        Raises ValueError for classes that do not exist, and for a name that is invalid or occurs twice.
        """
        predicted = predicted.cpu().numpy() if isinstance(predicted, Tensor) else predicted
        if len(name.split("_")) != 3 or "/" in name:
            raise ValueError(f"{name!r}: predictions in Cityscapes' layout are named CITY_SEQ_FRAME")
        if name in self.names:
            raise ValueError(f"{name}: a second prediction for this frame")
        if predicted.size and predicted.max() >= len(_LABEL_IDS):
            raise ValueError(f"{name}: class {predicted.max()} predicted; Cityscapes has {len(_LABEL_IDS)}")
        ok, data = cv2.imencode(".png", _LABEL_IDS[predicted])
        assert ok
        path = self.folder / f"{name}{_SUFFIX}"
        write_part(path, data.tobytes())
        self.names.append(name)
        return path

    def __enter__(self) -> Predictions:
        return self

    def __exit__(self, *error) -> None:
        if self._temporary is not None:
            self._temporary.cleanup()
        elif self.folder != self._target:
            shutil.rmtree(self.folder, ignore_errors=True)


@torch.inference_mode()
def predict(
    model: VideoModel,
    dataset: Cityscapes,
    interval: int,
    workers: int = 1,
    quiet: bool = False,
    indices: Sequence[int] | None = None,
) -> Iterator[tuple[str, Tensor]]:
    """Yield the name and the classes (H, W), uint8, of every frame of the data set. Its key frame is interval-1 frames
    before it.

    indices: the labelled frames to predict. None means all.

    Unlike an evaluation, this leaves nothing out. Raises ValueError for an interval under 1, for a frame with fewer
    frames before it, and for an unreadable frame.
    """
    FixedInterval(interval)  # refuses what is none
    for i in range(len(dataset)):
        if dataset.history(i) < interval - 1:
            raise ValueError(
                f"{dataset.image_path(i)}: {dataset.history(i)} frames come directly before it, interval {interval} "
                f"needs {interval - 1}"
            )
    model = model.eval()
    device = model.device
    indices = range(len(dataset)) if indices is None else indices
    loader = DataLoader(_Clips(dataset, interval, indices), batch_size=None, num_workers=workers, collate_fn=_as_is)
    with bar(f"interval {interval}", len(indices), quiet) as progress:
        for done, clip in enumerate(loader, 1):
            if isinstance(clip, str):
                raise ValueError(clip)
            frames = frames_to_tensor(clip.frames).to(device)  # (T, 3, H, W)
            yield clip.name, model(frames[None]).at(tuple(frames.shape[2:])).labels[0]
            progress.update(done)


class _Clips(Dataset):
    """All clips of one length. For an unreadable clip, the item is the error message, which can be sent between
    processes."""

    def __init__(self, dataset: Cityscapes, length: int, indices: Sequence[int]):
        self.dataset, self.length, self.indices = dataset, length, indices

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, item: int) -> Clip | str:
        try:
            return self.dataset.clip(self.indices[item], self.length)
        except (ValueError, FileNotFoundError) as error:
            return str(error)


def _as_is(clip: Any) -> Any:
    return clip


def require_cityscapes(checkpoint: str | Path, dataset: ClipDataset) -> Cityscapes:
    """Return the data set if it is in Cityscapes' layout and the checkpoint has Cityscapes' classes. Otherwise raise
    ValueError."""
    dataset = dataset.dataset if isinstance(dataset, MappedDataset) else dataset
    if not isinstance(dataset, Cityscapes):
        raise ValueError(f"cityscapesscripts scores data in Cityscapes' layout only, not {type(dataset).__name__}")
    check_classes(checkpoint, dataset)
    return dataset


def write_submission(
    folder: str | Path,
    checkpoint: str | Path,
    model: VideoModel,
    config: DataConfig,
    split: str,
    interval: int,
    workers: int = 1,
    quiet: bool = False,
    processes: Processes = ALONE,
) -> int:
    """Label every frame of a split into a new folder for the test server. Return the number of frames.

    processes: the processes that share the work. All of them must make this call.

    The split's own labels are not needed. Raises the errors of `Predictions` and `predict`, ValueError for data in
    another layout than Cityscapes' or a checkpoint with other classes, and FileNotFoundError for missing data.
    """
    with processes.first_alone():
        dataset: Any  # of Cityscapes' layout, or refused below
        if config.name == "cityscapes":
            dataset = Cityscapes(data_root(config), split, with_labels=False)
        else:
            dataset = build_dataset(config, split)
    require_cityscapes(checkpoint, dataset)
    indices = processes.share(dataset, range(len(dataset)), 0)
    with Predictions.shared(folder, processes) as predictions:
        for name, predicted in predict(model, dataset, interval, workers, quiet or not processes.is_first, indices):
            predictions.write(name, predicted)
        predictions.gather(processes)
        if processes.is_first:
            predictions.finish()
    return len(predictions.names)
