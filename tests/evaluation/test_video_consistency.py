"""mVC of papers, against a count as the release's script makes it; class accuracy, precision and F1 by hand."""

import numpy as np
import pytest
import torch

from accel.measures.confusion import ConfusionMatrix
from accel.measures.temporal import TemporalTally
from accel.measures.video_consistency import VideoConsistency
from accel.tasks.segmentation_accuracy import ClassFigures


def videos(*lengths):
    """Labels that change now and then: (truth, predicted) of each video, (T, H, W)."""
    rng = np.random.default_rng(3)
    found = []
    for length in lengths:
        both = []
        for often in (0.02, 0.05):
            changes = rng.random((length, 6, 7)) < often
            both.append((np.cumsum(changes, 0) % 5).astype(np.uint8))
        found.append(tuple(both))
    return found


def by_windows(found, length):
    """The mean over all windows but each video's last, frame by frame and pixel by pixel."""
    shares = []
    for truth, predicted in found:
        for first in range(len(truth) - length):
            window = slice(first, first + length)
            steady = (truth[window] == truth[first]).all(0)
            kept = (predicted[window] == predicted[first]).all(0)
            if steady.any():
                shares.append((steady & kept).sum() / steady.sum())
    return np.mean(shares)


def measured(found, lengths=(8, 16)):
    total = VideoConsistency(lengths)
    for truth, predicted in found:
        total.start()
        for t, p in zip(truth, predicted, strict=True):
            total.update(torch.from_numpy(p), torch.from_numpy(t))
    return total


def test_each_window_length_is_counted_apart():
    found = videos(30, 9, 20, 8, 1)
    total = measured(found)
    assert total.windows == {8: 22 + 1 + 12, 16: 14 + 4}
    for length in (8, 16):
        assert total.mean(length) == pytest.approx(by_windows(found, length), abs=1e-12)
    assert total.mean(16) < total.mean(8) < 1
    # A script that goes on adding to the same sum prints a mean over both.
    assert total.mean(16) != pytest.approx((total.sums[8] + total.sums[16]) / sum(total.windows.values()), abs=1e-3)


def test_parts_of_a_set_add_up_and_short_videos_have_none():
    found = videos(20, 18)
    parts = measured(found[:1]) + measured(found[1:])
    assert parts.mean(8) == pytest.approx(measured(found).mean(8))
    assert np.isnan(measured(videos(8)).mean(8))


def test_a_frame_without_truth_cuts_the_video():
    ((truth, predicted),) = videos(30)
    tally = TemporalTally(5)
    for number, (t, p) in enumerate(zip(truth, predicted, strict=True)):
        tally.update(torch.from_numpy(p), None, None if number == 12 else torch.from_numpy(t))
    expected = by_windows([(truth[:12], predicted[:12]), (truth[13:], predicted[13:])], 8)
    assert tally.windows.mean(8) == pytest.approx(expected)
    assert (tally.on_host() + TemporalTally(5)).windows.mean(8) == pytest.approx(expected)


def test_the_figures_of_a_class_are_those_of_its_pixels():
    rng = np.random.default_rng(0)
    truth, predicted = (torch.from_numpy(rng.integers(0, 4, (50, 60)).astype(np.uint8)) for _ in range(2))
    truth[truth == 3] = 2
    matrix = ConfusionMatrix(5)
    matrix.update(predicted, truth)
    figures = ClassFigures.of(matrix, tuple("abcde"))
    for k, name in enumerate("abc"):
        right = ((truth == k) & (predicted == k)).sum().item()
        recall, precision = right / (truth == k).sum().item(), right / (predicted == k).sum().item()
        assert figures.recall[name] == pytest.approx(recall)
        assert figures.precision[name] == pytest.approx(precision)
        assert figures.f1[name] == pytest.approx(2 * recall * precision / (recall + precision))
    assert figures.recall["d"] is None and figures.precision["d"] == 0 and figures.f1["d"] == 0
    assert figures.recall["e"] is figures.precision["e"] is figures.f1["e"] is None
    assert figures.mean_accuracy == pytest.approx(np.mean([figures.recall[n] for n in "abc"]))
    assert figures.pixel_accuracy == pytest.approx((truth == predicted).double().mean().item())
