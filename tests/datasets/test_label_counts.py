"""Counting what labels say, of all of them or of a sample."""

import cv2
import numpy as np
import pytest

from accel.datasets import ClipDataset, label_sample
from accel.datasets.label_counts import LabelCounts, histogram_of
from accel.datasets.label_sample import look_at_labels
from accel.labels import percent


class Masks(ClipDataset):
    """`count` labels of class 0, but for those in `others`; each look is noted."""

    class_names = ("background", "crack")
    palette = np.zeros((2, 3), np.uint8)

    def __init__(self, count, others=(), rest=0):
        self.count, self.others, self.rest, self.looks = count, set(others), rest, []

    def __len__(self):
        return self.count

    def history(self, index):
        return 0

    def clip(self, index, length):
        raise AssertionError("a frame was read")

    def only_labels(self, index):
        self.looks.append(index)
        return np.array([[0, 1 if index in self.others else self.rest]], np.uint8)


def looked(dataset, use="training", strict=True):
    found = look_at_labels(dataset, range(len(dataset)), use, strict, "here")
    return found, set(dataset.looks)


def test_a_histogram_is_that_of_numpy_at_any_size():
    rng = np.random.default_rng(0)
    for size in ((1, 1), (37, 53), (2100, 2003), (5000, 3500)):  # the last has more pixels than float32 can count
        labels = rng.integers(0, 256, size).astype(np.uint8) if size[0] < 5000 else np.full(size, 7, np.uint8)
        assert np.array_equal(histogram_of(labels), np.bincount(labels.ravel(), minlength=256))
        assert np.array_equal(histogram_of(labels[:, ::2]), np.bincount(labels[:, ::2].ravel(), minlength=256))


def test_a_sample_is_spread_evenly_and_no_more_is_read_where_all_is_well():
    found, looks = looked(Masks(5000, range(0, 5000, 2)))
    assert found.errors == found.warnings == () and len(looks) == label_sample.SAMPLE
    assert max(np.diff(sorted(looks))) < 30 and {0, 4999} < looks


def test_a_rare_class_is_looked_for_until_it_is_found(capsys):
    found, looks = looked(Masks(5000, [1234]))
    assert found.errors == found.warnings == () and len(looks) > label_sample.SAMPLE
    assert "here: 200 labels look wrong; reading the other 4800, for 60 s at most" in capsys.readouterr().out


def test_only_all_labels_are_proof(monkeypatch):
    found, looks = looked(Masks(1000))
    assert len(looks) == 1000 and found.errors[0].startswith("class 1 'crack' occurs in none of the 1000 labels")
    monkeypatch.setattr(label_sample, "SEARCH_SECONDS", 0)
    found, looks = looked(Masks(1000))
    (line,) = found.warnings
    assert found.errors == () and "none of the 200 checked ones of the 1000 labels" in line
    found, looks = looked(Masks(1000, rest=255), strict=False)  # half of each, so not nearly all
    assert not found.errors and len(looks) == 200


def test_a_slow_disk_does_not_hold_up_the_run(monkeypatch):
    monkeypatch.setattr(label_sample, "SAMPLE_SECONDS", 0)
    _, looks = looked(Masks(1000, range(1000)))
    assert 0 < len(looks) < 50


def test_generated_labels_are_not_read(tmp_path):
    dataset = Masks(10)
    dataset.generated = True
    assert looked(dataset)[0].errors == () and not dataset.looks


def test_a_label_that_cannot_be_read_is_told_at_once(tmp_path):
    class Damaged(Masks):
        def only_labels(self, index):
            if index == 5:
                raise ValueError("5.png: damaged")
            return super().only_labels(index)

    with pytest.raises(ValueError, match=r"5\.png: damaged"):
        looked(Damaged(10, range(10)))


def test_shares_that_are_hardly_there_are_not_rounded_away():
    assert [percent(share) for share in (0, 1e-7, 0.12345, 0.99999, 1)] == ["0", "<0.01", "12.35", ">99.99", "100.00"]
    counts = LabelCounts(("a", "b"))
    assert counts.ignored == 0 and counts.missing == [0, 1] and counts.rows()[0] == ("0 a", "0", "0")


def test_no_frame_is_read_for_the_labels_of_stored_and_simulated_clips(tiny_camvid, monkeypatch):
    from accel.config import DataConfig
    from accel.datasets import build_test_dataset

    monkeypatch.setattr("accel.datasets.stored.read_frames", lambda *_: pytest.fail("a frame was read"))
    for frames in (None, 3):
        data = DataConfig(name="camvid", root=tiny_camvid, simulated_test_frames=frames)
        dataset = build_test_dataset(data, "val")
        labels = cv2.imread(str(tiny_camvid / "valannot/0016E5_07959.png"), cv2.IMREAD_UNCHANGED)
        assert np.array_equal(dataset.only_labels(0), np.where(labels == 11, 255, labels))
