"""Weights of classes in the loss, from how often they occur: `class_weights: balanced`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from accel.config import TrainConfig
from accel.datasets import ClipDataset
from accel.datasets.label_counts import LabelCounts, histogram_of
from accel.progress import console
from accel.threads import usable_cores
from accel.wording import few

COUNTED = 1000  # labels, spread evenly: the shares of classes hardly change after that
_NAMED = 30  # weights in the message


def with_class_weights(settings: TrainConfig, dataset: ClipDataset, indices: Sequence[int]) -> TrainConfig:
    """Return the settings with numbers in place of `balanced`, and print them.

    indices: the labelled frames that the run learns from.
    """
    loss = settings.loss
    if getattr(loss, "class_weights", None) != "balanced":
        return settings
    weights = balanced_weights(dataset, indices)
    told = few([f"{name} {w:g}" for name, w in zip(dataset.class_names, weights, strict=True)], _NAMED)
    console.print(f"weights of the classes: {told}")
    return settings.model_copy(update={"loss": loss.model_copy(update={"class_weights": weights})})


def balanced_weights(dataset: ClipDataset, indices: Sequence[int]) -> tuple[float, ...]:
    """Return a weight for each class: 1 / ln(1.05 + share of its pixels), as in ENet (Paszke et al. 2016), scaled so
    that their mean over the pixels is 1.

    Raises ValueError if the labels cannot be had without frames, or none of their pixels has a class.
    """
    counts = LabelCounts(dataset.class_names)
    places = np.unique(np.linspace(0, len(indices) - 1, min(COUNTED, len(indices))).round().astype(int))

    def histogram(place: int) -> np.ndarray:
        labels = dataset.only_labels(indices[place])
        if labels is None:
            raise ValueError("train.loss.class_weights: balanced needs labels that are stored as files")
        return histogram_of(labels)

    with ThreadPoolExecutor(usable_cores()) as pool:  # decoding lets other threads run
        for each in pool.map(histogram, places.tolist()):
            counts.add(each)
    if not counts.labelled:
        raise ValueError("train.loss.class_weights: balanced needs labels; all pixels are ignored")
    shares = [int(n) / counts.labelled for n in counts.pixels[: len(counts.class_names)]]
    raw = [1 / math.log(1.05 + share) for share in shares]
    mean = sum(share * weight for share, weight in zip(shares, raw, strict=True))
    return tuple(float(f"{weight / mean:.4g}") for weight in raw)
