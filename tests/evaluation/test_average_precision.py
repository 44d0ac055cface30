"""mAP as ImageNet VID's evaluation counts it: against the published function's own results, and a count of our own that
is written another way."""

import numpy as np
import pytest

from accel.measures.average_precision import AveragePrecision


def counted(frames, detections, truth, num_classes):
    """Rows (frame, class, score, box) and (frame, class, box), classes from 1 on."""
    counts = AveragePrecision(num_classes)
    for frame in frames:
        found, true = detections[detections[:, 0] == frame], truth[truth[:, 0] == frame]
        classes, of = found[:, 1].astype(int) - 1, true[:, 1].astype(int) - 1
        counts.update(found[:, 3:], found[:, 2], classes, true[:, 2:], of)
    return counts


def test_it_is_the_published_one(parity):
    with np.load(parity("rfcn/evaluation.npz")) as stored:
        frames, detections, truth, ap, mean = (
            stored[name] for name in ("frames", "detections", "ground_truth", "ap", "mean_ap")
        )
    counts = counted(frames, detections, truth, 30)
    np.testing.assert_allclose(counts.of_classes(), ap, rtol=0, atol=1e-12)
    assert counts.mean() == pytest.approx(float(mean), abs=1e-12)
    first, second = (counted(part, detections, truth, 30) for part in (frames[:70], frames[70:]))
    both = first + second
    np.testing.assert_allclose(both.of_classes(), ap, rtol=0, atol=1e-12)
    assert (both.frames, both.true.sum()) == (150, 368)


def made_up(seed):
    """Frames of true boxes, and detections near them, of other classes and of nothing."""
    rng = np.random.default_rng(seed)
    detections, truth = [], []
    for frame in range(25):
        for _ in range(rng.integers(0, 5)):
            corner, side = rng.uniform(0, 150, 2), rng.uniform(3, 80, 2)
            box, k = np.concatenate([corner, corner + side]), rng.integers(1, 5)
            truth.append([frame, k, *box])
            for _ in range(rng.integers(0, 4)):
                seen = np.round(box + rng.normal(0, 6, 4), 2)
                seen[2:] = np.maximum(seen[2:], seen[:2])
                detections.append([frame, k if rng.random() < 0.8 else rng.integers(1, 5), 0, *seen])
    detections, truth = np.array(detections), np.array(truth)
    detections[:, 2] = np.round(rng.permutation(len(detections)) / len(detections), 4)
    return detections, truth


def plain_count(detections, truth, k):
    """Threshold by threshold: every score is once the lowest that counts, and precision is the best from there on."""

    def side(low, high):
        return high - low + 1

    def overlap(a, b):
        width, height = (side(max(a[i], b[i]), min(a[i + 2], b[i + 2])) for i in (0, 1))
        if width <= 0 or height <= 0:
            return 0.0
        areas = sum(side(x[0], x[2]) * side(x[1], x[3]) for x in (a, b))
        return width * height / (areas - width * height)

    hits, taken = [], set()
    for row in sorted((r for r in detections.tolist() if r[1] == k), key=lambda r: -r[2]):
        best, chosen = 0.0, None
        for n, true in enumerate(truth.tolist()):
            if true[0] != row[0] or true[1] != k or n in taken:
                continue
            w, h = side(true[2], true[4]), side(true[3], true[5])
            shared = overlap(row[3:], true[2:])
            if shared >= min(0.5, w * h / ((w + 10) * (h + 10))) and shared > best:
                best, chosen = shared, n
        if chosen is not None:
            taken.add(chosen)
        hits.append(chosen is not None)
    total = int((truth[:, 1] == k).sum())
    curve = [(sum(hits[: n + 1]) / total, sum(hits[: n + 1]) / (n + 1)) for n in range(len(hits))]
    area, before = 0.0, 0.0
    for recall in sorted({r for r, _ in curve}):
        area += (recall - before) * max(p for r, p in curve if r >= recall)
        before = recall
    return area


@pytest.mark.parametrize("seed", range(3))
def test_it_is_that_of_another_count(seed):
    detections, truth = made_up(seed)
    found = counted(range(25), detections, truth, 4).of_classes()
    expected = [plain_count(detections, truth, k) for k in range(1, 5)]
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-12)
    assert 0.1 < np.mean(expected) < 0.9


BOX = np.array([[10.0, 10, 59, 59]])


def ap_of(boxes, scores, true, classes=None, of=None):
    counts = AveragePrecision(2)
    classes = np.zeros(len(boxes), int) if classes is None else np.array(classes)
    counts.update(np.array(boxes, float), np.array(scores), classes, true, np.zeros(len(true), int))
    return counts.of_classes()


def test_a_box_is_found_once():
    assert ap_of([BOX[0], BOX[0]], [0.9, 0.8], BOX)[0] == 1
    assert ap_of([BOX[0] + 100, BOX[0]], [0.9, 0.8], BOX)[0] == 0.5


def test_who_finds_its_best_box_taken_takes_another():
    """Unlike in PASCAL VOC."""
    true = np.array([[0.0, 0, 99, 99], [0, 20, 99, 119]])
    assert ap_of([[0, 0, 99, 99], [0, 4, 99, 103]], [0.9, 0.8], true)[0] == 1


def test_of_small_boxes_less_overlap_is_asked_for():
    true = np.array([[0.0, 0, 9, 9]])  # 100 / 400
    assert ap_of([[0, 6, 9, 15]], [0.9], true)[0] == 1  # 40 / 160
    assert ap_of([[0, 7, 9, 16]], [0.9], true)[0] == 0


def test_a_class_without_boxes_has_no_figure():
    found = ap_of([BOX[0]], [0.9], BOX, classes=[1])
    assert found[0] == 0 and np.isnan(found[1])
    empty = AveragePrecision(2)
    assert np.isnan(empty.mean()) and np.isnan(empty.of_classes()).all()
    empty.update(np.zeros((0, 4)), np.zeros(0), np.zeros(0, int), np.zeros((0, 4)), np.zeros(0, int))
    assert np.isnan(empty.mean()) and empty.frames == 1


def test_a_class_that_is_none_is_told():
    with pytest.raises(ValueError, match="detections of the classes 2 to 2; there are 2"):
        ap_of([BOX[0]], [0.9], BOX, classes=[2])
