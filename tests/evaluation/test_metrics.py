"""IoU, against the official scorer of Cityscapes and numbers worked out by hand."""

import pickle

import cv2
import numpy as np
import pytest
import torch
from cityscapesscripts.helpers.labels import id2label

from accel.evaluation.cityscapes.official import official_scores
from accel.evaluation.running.predictions import Predictions
from accel.measures.boundary import TrimapMatrix
from accel.measures.confusion import ConfusionMatrix

ID_TO_CLASS = np.array([id2label[i].trainId if 0 <= id2label[i].trainId < 255 else 255 for i in range(34)], np.uint8)


def official_iou(pairs, folder):
    """IoU of each of the 19 classes and their mean, from files of labelIds, as Cityscapes' server computes it."""
    truths = []
    with Predictions(folder / "predicted") as predictions:
        for i, (predicted, truth) in enumerate(pairs):
            predictions.write(f"a_0_{i}", predicted)
            truths.append(folder / f"a_0_{i}_gtFine_labelIds.png")
            cv2.imwrite(str(truths[-1]), truth)
        scores = official_scores(predictions.folder, truths)
    return np.array(list(scores.classes.each.values()), float), scores.classes.mean


def ours(pairs):
    matrix = ConfusionMatrix(19)
    for predicted, truth in pairs:
        matrix.update(torch.from_numpy(predicted), torch.from_numpy(ID_TO_CLASS[truth]))
    return matrix.iou().numpy(), matrix.miou()


@pytest.mark.parametrize(
    ("predicted_classes", "true_ids"),
    [
        (range(19), range(34)),  # everything, with ids that are ignored
        (range(19), (7, 8, 11, 0, 4)),  # few true classes: others are predicted in vain
        ((0, 3), range(34)),  # few are predicted
        ((0, 1), (7, 8, 3)),  # most do not occur at all
        ((0, 9), (0, 1, 2, 7)),  # class 9 is predicted on ignored pixels, where it does not count, and on road
    ],
)
def test_scores_are_those_of_the_official_scorer(tmp_path, predicted_classes, true_ids):
    rng = np.random.default_rng(0)
    pairs = []
    for _ in range(3):
        truth = rng.choice(list(true_ids), (24, 32)).astype(np.uint8)
        predicted = rng.choice(list(predicted_classes), (24, 32)).astype(np.uint8)
        right = (rng.random((24, 32)) < 0.5) & (ID_TO_CLASS[truth] != 255)
        pairs.append((np.where(right, ID_TO_CLASS[truth], predicted).astype(np.uint8), truth))
    iou, miou = ours(pairs)
    expected, expected_mean = official_iou(pairs, tmp_path)
    np.testing.assert_allclose(iou, expected, atol=1e-12, equal_nan=True)
    assert miou == pytest.approx(expected_mean, abs=1e-12)


def matrix_of(predicted, truth, classes=4):
    matrix = ConfusionMatrix(classes)
    matrix.update(torch.tensor(predicted, dtype=torch.uint8), torch.tensor(truth, dtype=torch.uint8))
    return matrix


def test_iou_by_hand():
    matrix = matrix_of([0, 0, 1, 1, 2, 0], [0, 0, 0, 1, 1, 255])
    #   class 0: 2 right of 3 true and 2 predicted; class 1: 1 of 2 and 2; class 2: only predicted; 3: nowhere
    expected = [2 / 3, 1 / 3, 0.0, float("nan")]
    np.testing.assert_allclose(matrix.iou(), expected, equal_nan=True)
    assert matrix.miou() == pytest.approx((2 / 3 + 1 / 3 + 0) / 3)
    assert matrix.counts.tolist() == [[2, 1, 0, 0], [0, 1, 1, 0], [0, 0, 0, 0], [0, 0, 0, 0]]


def test_frames_add_up_pixel_by_pixel_not_frame_by_frame():
    a, b = ([0, 0, 0, 0], [0, 0, 0, 1]), ([1], [1])
    matrix = matrix_of(*a, 2)
    matrix.update(*(torch.tensor(x, dtype=torch.uint8) for x in b))
    assert matrix.iou().tolist() == matrix_of([*a[0], *b[0]], [*a[1], *b[1]], 2).iou().tolist() == [0.75, 0.5]


def test_nothing_counted_has_no_score():
    assert np.isnan(ConfusionMatrix(3).miou())
    assert np.isnan(matrix_of([0, 1], [255, 255]).miou())


def test_counts_do_not_overflow():
    matrix = ConfusionMatrix(2)
    matrix.counts += 2**40
    matrix.update(torch.zeros(10, dtype=torch.uint8), torch.zeros(10, dtype=torch.uint8))
    assert int(matrix.counts[0, 0]) == 2**40 + 10


@pytest.mark.parametrize(
    ("predicted", "truth", "message"),
    [
        ([0, 1], [0], r"predicted labels \(2,\) for true ones \(1,\)"),
        ([4, 9, 9], [0, 0, 1], r"class 9 among the labels; there are 4 classes, 0 to 3 \(found on 2 pixels\)"),
        ([4], [0], "class 4 among the labels; there are 4 classes"),
        ([0], [4], "class 4 among the labels"),
        ([0], [254], "class 254 among the labels"),
        ([255], [0], "class 255"),
    ],
)
def test_labels_that_do_not_fit_are_refused(predicted, truth, message):
    with pytest.raises(ValueError, match=message):
        matrix_of(predicted, truth)


def test_what_is_predicted_on_ignored_pixels_does_not_matter():
    assert matrix_of([77, 255, 1], [255, 255, 1]).counts.tolist() == matrix_of([1], [1]).counts.tolist()


def test_labels_of_another_type_are_refused():
    matrix = ConfusionMatrix(4)
    with pytest.raises(ValueError, match="expected labels as uint8, got torch.int64"):
        matrix.update(torch.zeros(3, dtype=torch.int64), torch.zeros(3, dtype=torch.uint8))


def test_nothing_is_counted_of_labels_that_are_refused():
    matrix = matrix_of([0, 1], [0, 1])
    with pytest.raises(ValueError, match="class 9"):
        matrix.update(torch.tensor([0, 9], dtype=torch.uint8), torch.tensor([0, 1], dtype=torch.uint8))
    assert matrix.counts.sum() == 2 and matrix.miou() == 1


def random_frames(seed, count=4, classes=6, size=(20, 30)):
    rng = np.random.default_rng(seed)
    predicted, truth = rng.integers(0, classes, (2, count, *size)).astype(np.uint8)
    truth[rng.random(truth.shape) < 0.15] = 255
    return predicted, truth


def counted(predicted, truth, classes=6):
    matrix = ConfusionMatrix(classes)
    for p, t in zip(predicted, truth, strict=True):
        matrix.update(torch.from_numpy(p), torch.from_numpy(t))
    return matrix


@pytest.mark.parametrize("seed", range(3))
def test_the_counts_are_those_of_counting(seed):
    predicted, truth = random_frames(seed)
    expected = np.zeros((6, 6), int)
    np.add.at(expected, (truth[truth != 255], predicted[truth != 255]), 1)
    assert counted(predicted, truth).counts.tolist() == expected.tolist()


@pytest.mark.parametrize("seed", range(3))
def test_permuting_the_classes_permutes_the_scores(seed):
    predicted, truth = random_frames(seed)
    order = np.random.default_rng(seed).permutation(6).astype(np.uint8)
    table = np.full(256, 255, np.uint8)
    table[:6] = order
    before, after = counted(predicted, truth), counted(table[predicted], table[truth])
    assert torch.equal(after.iou()[order.astype(int)], before.iou())
    assert after.miou() == pytest.approx(before.miou(), abs=1e-15)


def test_flipping_the_frames_changes_nothing():
    predicted, truth = random_frames(0)
    flipped = counted(predicted[..., ::-1].copy(), truth[..., ::-1].copy())
    assert torch.equal(flipped.counts, counted(predicted, truth).counts)


@pytest.mark.parametrize("parts", [2, 3, 4])
def test_splitting_the_set_over_processes_changes_nothing(parts):
    """A matrix travels as bytes."""
    predicted, truth = random_frames(0)
    split = [counted(p, t) for p, t in zip(np.array_split(predicted, parts), np.array_split(truth, parts), strict=True)]
    total = sum((pickle.loads(pickle.dumps(matrix)) for matrix in split), ConfusionMatrix(6))
    assert torch.equal(total.counts, counted(predicted, truth).counts)


def test_matrices_of_different_classes_do_not_add_up():
    with pytest.raises(ValueError, match="confusion matrices of 3 and 4 classes cannot be added"):
        ConfusionMatrix(3) + ConfusionMatrix(4)


def test_off_the_cpu_a_class_out_of_range_is_told_when_scores_are_read(monkeypatch):
    """As on an accelerator, where the check would make the host wait."""
    from accel.measures import confusion as metrics

    check = metrics.refuse_strays
    monkeypatch.setattr(metrics, "refuse_strays", lambda *_: None)
    matrix = matrix_of([0, 7], [0, 1]) + matrix_of([0], [0])
    monkeypatch.setattr(metrics, "refuse_strays", check)
    with pytest.raises(ValueError, match="class 7 among the labels; there are 4 classes"):
        matrix.miou()


@pytest.mark.gpu
def test_scores_on_the_gpu_are_the_same():
    truth, predicted = torch.randint(0, 4, (2, 50, 60), dtype=torch.uint8)
    matrix = ConfusionMatrix(4)
    matrix.update(predicted.cuda(), truth.cuda())
    on_cpu = ConfusionMatrix(4)
    on_cpu.update(predicted, truth)
    assert torch.equal(matrix.counts.cpu(), on_cpu.counts)
    assert torch.equal((matrix + on_cpu).counts.cpu(), 2 * on_cpu.counts)
    assert torch.equal((on_cpu + matrix).counts, 2 * on_cpu.counts)
    matrix.update(torch.full((1,), 9, dtype=torch.uint8).cuda(), torch.zeros(1, dtype=torch.uint8).cuda())
    with pytest.raises(ValueError, match="class 9 among the labels"):
        matrix.miou()


def test_what_has_to_be_known_of_an_miou_is_said():
    labels = torch.tensor([[0, 0, 255, 255]], dtype=torch.uint8)
    right, wrong = torch.zeros_like(labels), torch.ones_like(labels)
    said = {}
    for name, predicted, truth in (
        ("right", right, labels),
        ("predicted in vain", wrong, labels),
        ("hardly labelled", right, torch.cat([labels, torch.full((1, 4), 255, dtype=torch.uint8)])),
        ("whole", torch.tensor([[0, 1, 0, 1]], dtype=torch.uint8), torch.tensor([[0, 1, 0, 1]], dtype=torch.uint8)),
    ):
        matrix = ConfusionMatrix(2)
        matrix.update(predicted.expand_as(truth), truth)
        trimaps = TrimapMatrix(2)
        trimaps.update(predicted.expand_as(truth), truth)
        said[name] = matrix.caveats(["back", "crack"])
        assert (trimaps + TrimapMatrix(2)).all_pixels().caveats(["back", "crack"]) == said[name]
        assert (matrix + ConfusionMatrix(2)).caveats(["back", "crack"]) == said[name]
    assert said == {
        "right": "mean of 1 of 2 classes; no label has 'crack'",
        "predicted in vain": "no label has 'crack'",
        "hardly labelled": "mean of 1 of 2 classes; no label has 'crack'; 75.00% of the labels' pixels are ignored",
        "whole": "",
    }
    many = ConfusionMatrix(12)
    many.update(right, labels)
    assert many.caveats([f"c{k}" for k in range(12)]).endswith("'c7', 'c8' and 3 more")
