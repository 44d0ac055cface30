"""COCO's mAP is what pycocotools says, and at an overlap of 0.5 what our own count says when both read every recall."""

import io
import sys
from contextlib import redirect_stdout

import numpy as np
import pytest

from accel.measures.average_precision import AveragePrecision
from accel.measures.coco_precision import FIGURES, CocoPrecision, require_coco


@pytest.fixture
def coco():
    pytest.importorskip("pycocotools", reason="needs pycocotools (pip install 'accel-vss[coco]')")


def test_a_case_by_hand(coco):
    """Two true boxes of 50 x 50: one is found exactly, one with an overlap of 0.6, and one detection is wrong."""
    true = np.array([[10, 10, 59, 59], [100, 10, 149, 59]], np.float32)
    boxes = np.array([[10, 10, 59, 59], [200, 200, 249, 249], [112.5, 10, 161.5, 59]], np.float32)
    counts = CocoPrecision(2)
    counts.update(boxes, np.array([0.9, 0.8, 0.7]), np.zeros(3, int), true, np.zeros(2, int), "a")
    found = (counts + CocoPrecision(2)).figures()
    assert tuple(found) == FIGURES
    # Both found, with precision 1 up to recall 0.5 and 2/3 after it; above an overlap of 0.6, only the first.
    both, one = (51 + 50 * 2 / 3) / 101, 51 / 101
    assert found["AP50"] == pytest.approx(both, abs=1e-9) and found["AP75"] == pytest.approx(one, abs=1e-9)
    assert found["AP"] == pytest.approx((3 * both + 7 * one) / 10, abs=1e-9)
    assert np.isnan(found["AP small"]) and np.isnan(found["AP large"]) and found["AP medium"] > 0
    nothing = CocoPrecision(2)
    nothing.update(boxes[:0], np.zeros(0), np.zeros(0, int), true, np.zeros(2, int), "a")
    assert nothing.figures()["AP"] == 0 and np.isnan(CocoPrecision(2).figures()["AP"])


def made_up(seed, classes=3):
    """Frames of large true boxes, and detections near them, of other classes and of nothing."""
    rng = np.random.default_rng(seed)
    for frame in range(20):
        corner, side = rng.uniform(0, 150, (4, 2)), rng.uniform(40, 120, (4, 2))
        true, of = np.concatenate([corner, corner + side], 1), rng.integers(0, classes, 4)
        near = np.concatenate([true + rng.normal(0, 8, true.shape), true + rng.normal(0, 60, true.shape)])
        near = np.round(np.concatenate([near[:, :2], np.maximum(near[:, 2:], near[:, :2])], 1), 2)
        classes_of = np.where(rng.random(8) < 0.8, np.tile(of, 2), rng.integers(0, classes, 8))
        scores = np.round((rng.permutation(8) + 8 * rng.permutation(20)[frame]) / 200, 4)
        yield near, scores, classes_of, true, of, f"{frame:02d}"


@pytest.mark.parametrize("seed", range(2))
def test_at_every_recall_it_is_our_own(coco, seed):
    from pycocotools.cocoeval import COCOeval

    own, theirs = AveragePrecision(3), CocoPrecision(3)
    for frame in made_up(seed):
        own.update(*frame)
        theirs.update(*frame)
    order = list(range(20))
    with redirect_stdout(io.StringIO()):
        true, found = (theirs._coco(theirs._annotations(order, scored)) for scored in (False, True))
        for k in range(3):
            evaluation = COCOeval(true, found, "bbox")
            evaluation.params.catIds, evaluation.params.iouThrs = [k + 1], np.array([0.5])
            evaluation.params.recThrs = np.arange(1, own.true[k] + 1) / own.true[k] - 1e-9
            evaluation.evaluate()
            evaluation.accumulate()
            precision = evaluation.eval["precision"][0, :, 0, 0, 2]
            assert precision.mean() == pytest.approx(own.of_classes()[k], abs=1e-9)
    assert 0.2 < own.mean() < 0.9
    assert theirs.figures()["AP50"] == pytest.approx(own.mean(), abs=0.03)  # at 101 recalls


def test_its_absence_is_one_line(monkeypatch):
    monkeypatch.setitem(sys.modules, "pycocotools.cocoeval", None)
    with pytest.raises(ValueError, match=r"COCO's mAP needs pycocotools: pip install 'accel-vss\[coco\]'"):
        require_coco()
