"""Check some labels before work begins, in a few seconds. More of them are read only if something looks wrong."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from accel.datasets.box_counts import BoxCounts
from accel.datasets.clips import ClipDataset
from accel.datasets.label_counts import Doubts, LabelCounts, Use, doubts, histogram_of, is_doubtful
from accel.datasets.own_boxes import OwnBoxes
from accel.progress import console
from accel.threads import usable_cores

SAMPLE = 200  # labels
SAMPLE_SECONDS = 3.0  # for these
SEARCH_SECONDS = 60.0  # for all, where a class was not among these: an hour of training in vain takes longer
_TOGETHER = 20  # labels read before the clock is looked at


def look_at_labels(dataset: ClipDataset, indices: Sequence[int], use: Use, strict: bool, where: str) -> Doubts:
    """Return the reasons to doubt the labels of these labelled frames. There are errors only if all of them were read.

    strict: as for `doubts`.
    where: the name of these data for a person, for the message that this takes longer.

    No frame is read. Generated labels, and those that are not available without frames, are not checked. Raises
    ValueError or FileNotFoundError, with the path, for an unreadable label file.
    """
    if dataset.generated or not indices or dataset.only_labels(indices[0]) is None:
        return Doubts()
    counts = LabelCounts(dataset.class_names)
    order = list(_spread(indices))
    began, told = time.monotonic(), False

    def histogram(index: int) -> np.ndarray:
        labels = dataset.only_labels(index)
        assert labels is not None, "those of the first could be had alone"
        return histogram_of(labels)

    with ThreadPoolExecutor(usable_cores()) as pool:  # decoding lets other threads run
        for start in range(0, len(order), _TOGETHER):
            seconds = time.monotonic() - began
            sampled = counts.read >= SAMPLE or seconds > SAMPLE_SECONDS
            if counts.read and sampled and (not is_doubtful(counts, use) or seconds > SEARCH_SECONDS):
                break
            if counts.read and sampled and not told:
                told = True
                console.print(
                    f"{where}: {counts.read} labels look wrong; reading the other {len(order) - counts.read}, for "
                    f"{SEARCH_SECONDS:.0f} s at most"
                )
            for each in pool.map(histogram, order[start : start + _TOGETHER]):
                counts.add(each)
    return doubts(counts, dataset, use, strict, len(order))


def look_at_boxes(dataset: OwnBoxes, indices: Sequence[int], use: Use, strict: bool) -> Doubts:
    """Return the reasons to doubt the boxes of these labelled frames, as `look_at_labels` does for labels.

    Files of boxes are read as long as a class is missing, for a minute at most. Raises ValueError or
    FileNotFoundError, with the path, for an unreadable one.
    """
    counts = BoxCounts(dataset.class_names)
    began = time.monotonic()
    for index in _spread(indices):
        if counts.read >= SAMPLE and (counts.boxes.all() or time.monotonic() - began > SEARCH_SECONDS):
            break
        dataset.count(index, counts)
    return counts.doubts(use, strict, whole=counts.read == len(indices))


def _spread(indices: Sequence[int]) -> Iterator[int]:
    """Yield the labelled frames in an order whose first `SAMPLE` are spread evenly, because neighbours belong to one
    video."""
    sample = np.unique(np.linspace(0, len(indices) - 1, min(SAMPLE, len(indices))).round().astype(int)).tolist()
    rest = sorted(set(range(len(indices))).difference(sample))
    for place in (*sample, *np.random.default_rng(0).permutation(rest).tolist()):
        yield indices[int(place)]
