"""Wrap models and data with different classes in a `ClassMap`, so that the evaluation can use them unchanged."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import torch
from torch import Tensor

from accel.datasets import Clip, ClipDataset
from accel.datasets.class_maps import ClassMap, find_class_map
from accel.inference.loading import check_classes, classes_of
from accel.models.prediction import Prediction
from accel.models.video_model import VideoModel, Wrapping


@dataclass(frozen=True)
class MappedPrediction(Prediction):
    """A prediction whose labels are mapped."""

    original: Prediction
    table: Tensor  # (256,) uint8

    def at(self, size):
        return self._mapped(self.original.at(size))

    def with_confidence_at(self, size):
        return self._mapped(self.original.with_confidence_at(size))

    def _mapped(self, tensors: Any) -> NamedTuple:
        """Return the same tensors with labels (B, H, W), uint8, in the mapped classes."""
        labels = self.table.index_select(0, tensors.labels.flatten().int()).view(tensors.labels.shape)
        return tensors._replace(labels=labels)


class MappedModel(Wrapping):
    """A model whose labels are in `class_map.class_names`. Everything else is unchanged. The look-up takes little
    time."""

    def __init__(self, model: VideoModel, class_map: ClassMap):
        super().__init__(model)
        self.class_map, self.carries_state = class_map, model.carries_state
        self.register_buffer("table", torch.from_numpy(class_map.predictions).to(model.device), persistent=False)

    def key_frame(self, image, state=None):
        prediction, state = self.model.key_frame(image, state)
        return MappedPrediction(prediction, self.table), state

    def next_frame(self, image, state):
        prediction, state = self.model.next_frame(image, state)
        return MappedPrediction(prediction, self.table), state

    def advance(self, image, state):
        return self.model.advance(image, state)

    def renew(self, state, frames):
        return self.model.renew(state, frames)

    def check_spreads_key_frames(self):
        self.model.check_spreads_key_frames()

    def optimized(self, *settings, **more):
        return MappedModel(self.model.optimized(*settings, **more), self.class_map)


class MappedDataset(ClipDataset):
    """A data set whose labels are in `class_map.class_names`. Labels that are not scored are 255."""

    def __init__(self, dataset: ClipDataset, class_map: ClassMap):
        self.dataset, self.class_map = dataset, class_map
        self.class_names, self.palette = class_map.class_names, class_map.palette
        self.knows_flow = dataset.knows_flow

    def __len__(self) -> int:
        return len(self.dataset)

    def history(self, index: int) -> int:
        return self.dataset.history(index)

    def name(self, index: int) -> str:
        return self.dataset.name(index)

    def place(self, index: int) -> tuple[str, int]:
        return self.dataset.place(index)

    def clip(self, index: int, length: int) -> Clip:
        clip = self.dataset.clip(index, length)
        assert clip.labels is not None, "only labelled frames are mapped"
        return replace(clip, labels=cv2.LUT(clip.labels, self.class_map.truth))


def bring_together(
    checkpoints: Mapping[str, str | Path], models: Mapping[str, VideoModel], dataset: ClipDataset
) -> tuple[dict[str, VideoModel], ClipDataset, dict[str, ClassMap]]:
    """Return the models, by name, and the data in classes that can be compared, and the class maps by model.

    If all have the same classes, they are unchanged and there are no maps. A model that already has the common classes,
    like the data, needs no map either.

    checkpoints: by model, the weights file (or the run's folder) that it was loaded from.

    Raises ValueError if classes differ and no map between them is known.
    """
    found = tuple(dataset.class_names)
    known = {name: classes_of(checkpoint).names for name, checkpoint in checkpoints.items()}
    if set(known.values()) <= {found}:
        return dict(models), dataset, {}
    maps: dict[str, ClassMap] = {}
    for name, classes in known.items():
        class_map = find_class_map(classes, found)
        if class_map is None:  # one of them has other classes than the data, and is refused
            check_classes(checkpoints[name], dataset)
        else:
            maps[name] = class_map
    together, *_ = maps.values()
    scored = together.class_names
    mapped = {
        name: model if known[name] == scored else MappedModel(model, maps[name]) for name, model in models.items()
    }
    if found == scored:
        return mapped, dataset, {name: class_map for name, class_map in maps.items() if known[name] != scored}
    return mapped, MappedDataset(dataset, together), maps
