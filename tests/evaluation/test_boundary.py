"""Trimaps: small ones by hand, random ones against a search of all pixels."""

import numpy as np
import pytest
import torch

from accel.measures.boundary import WIDTHS, TrimapMatrix, border_distance, check_widths, trimap_bands
from accel.measures.confusion import ConfusionMatrix


def array(rows):
    """Digits are classes, x is ignored."""
    return np.array([[255 if c == "x" else int(c) for c in row] for row in rows.split()], np.uint8)


def test_distances_by_hand():
    found = border_distance(array("00111 00111 00111"))
    assert found.tolist() == [[2, 1, 1, 2, 3]] * 3
    corner = border_distance(array("1000 0000 0000 0000"))
    # beside the border lie the corner and its two neighbours; (1, 1) touches them with a side, (3, 3) is far off
    assert corner[0].tolist() == [1, 1, 2, 3] and corner[1, 1] == 2
    assert corner[2, 2] == pytest.approx(1 + np.hypot(2, 1)) and corner[3, 3] == pytest.approx(1 + np.hypot(3, 2))


def test_what_is_ignored_makes_no_border():
    assert np.isinf(border_distance(array("00x11 00x11"))).all()
    assert border_distance(array("00x11 00011")).tolist()[1] == [3, 2, 1, 1, 2]
    assert np.isinf(border_distance(np.full((4, 4), 255, np.uint8))).all()


def brute_force(labels):
    """The distance of each pixel by looking at all pairs."""
    height, width = labels.shape
    beside = set()
    for y in range(height):
        for x in range(width):
            for j, i in ((y + 1, x), (y, x + 1)):
                if (
                    j < height
                    and i < width
                    and 255 not in (labels[y, x], labels[j, i])
                    and labels[y, x] != labels[j, i]
                ):
                    beside |= {(y, x), (j, i)}
    return np.array([[1 + min(np.hypot(y - j, x - i) for j, i in beside) for x in range(width)] for y in range(height)])


def blobs(seed, size=(14, 19), classes=4):
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, classes, (-(-size[0] // 4), -(-size[1] // 4)))
    labels = np.kron(coarse, np.ones((4, 4), int))[: size[0], : size[1]].astype(np.uint8)
    labels[rng.random(size) < 0.1] = 255
    return labels


@pytest.mark.parametrize("seed", range(3))
def test_distances_are_those_of_a_search(seed):
    labels = blobs(seed)
    np.testing.assert_allclose(border_distance(labels), brute_force(labels), rtol=1e-6)


def test_a_pixel_is_in_every_trimap_at_least_as_wide_as_it_is_far():
    labels = blobs(4)
    distance = border_distance(labels)
    bands = trimap_bands(labels, (1, 2, 4))
    for place, width in enumerate((1, 2, 4)):
        assert np.array_equal(bands <= place, distance <= width)
    assert trimap_bands(np.zeros((3, 3), np.uint8), (1, 2, 4)).tolist() == [[3] * 3] * 3


def test_miou_near_borders_by_hand():
    truth = array("0000111x 0000111x")
    predicted = array("00001110 20000111")
    #                   beside the border: columns 3, 4; within 2: columns 2 to 5
    matrix = TrimapMatrix(3, (1, 2))
    matrix.update(*map(torch.from_numpy, (predicted, truth, trimap_bands(truth, (1, 2)))))
    assert matrix.within(1).counts.tolist() == [[2, 0, 0], [1, 1, 0], [0, 0, 0]]
    assert matrix.within(1).miou() == pytest.approx((2 / 3 + 1 / 2) / 2)
    assert matrix.within(2).counts.tolist() == [[4, 0, 0], [1, 3, 0], [0, 0, 0]]
    assert matrix.within(2).miou() == pytest.approx((4 / 5 + 3 / 4) / 2)
    assert matrix.all_pixels().counts.tolist() == [[7, 0, 1], [1, 5, 0], [0, 0, 0]]


def random_pair(seed):
    truth = blobs(seed)
    predicted = np.where(np.random.default_rng(seed).random(truth.shape) < 0.7, truth, blobs(seed + 50)) % 4
    return predicted.astype(np.uint8), truth


def counted(predicted, truth, widths=(1, 2, 4)):
    matrix = TrimapMatrix(4, widths)
    matrix.update(*map(torch.from_numpy, (predicted, truth, trimap_bands(truth, widths))))
    return matrix


@pytest.mark.parametrize("seed", range(3))
def test_a_trimap_is_the_set_with_everything_else_ignored(seed):
    predicted, truth = random_pair(seed)
    matrix = counted(predicted, truth)
    for width in (1, 2, 4):
        near = ConfusionMatrix(4)
        kept = np.where(border_distance(truth) <= width, truth, 255).astype(np.uint8)
        near.update(torch.from_numpy(predicted), torch.from_numpy(kept))
        assert torch.equal(matrix.within(width).counts, near.counts)
    whole = ConfusionMatrix(4)
    whole.update(torch.from_numpy(predicted), torch.from_numpy(truth))
    assert torch.equal(matrix.all_pixels().counts, whole.counts)


def test_flipping_changes_nothing_and_permuting_classes_permutes():
    predicted, truth = random_pair(1)
    matrix = counted(predicted, truth)
    flipped = counted(predicted[:, ::-1].copy(), truth[:, ::-1].copy())
    assert torch.equal(flipped.counts, matrix.counts)
    table = np.full(256, 255, np.uint8)
    table[:4] = order = np.array([2, 0, 3, 1])
    permuted = counted(table[predicted], table[truth])
    assert torch.equal(permuted.counts[:, order][:, :, order], matrix.counts)


def test_trimaps_of_parts_add_up():
    a, b = random_pair(1), random_pair(2)
    both = TrimapMatrix(4, (1, 2, 4))
    for predicted, truth in (a, b):
        both.update(*map(torch.from_numpy, (predicted, truth, trimap_bands(truth, (1, 2, 4)))))
    assert torch.equal((counted(*a) + counted(*b)).counts, both.counts)
    with pytest.raises(ValueError, match=r"trimaps of widths \(1, 2, 4\) and \(1,\) cannot be added"):
        counted(*a) + counted(*b, widths=(1,))


def test_widths_are_whole_pixels():
    assert check_widths([4, 1]) == (1, 4) and check_widths(WIDTHS) == WIDTHS
    for widths in ([0], [1, 1], [-3], [1.5]):
        with pytest.raises(ValueError, match="expected whole pixels from 1, none twice"):
            check_widths(widths)


def test_trimaps_need_bands():
    with pytest.raises(ValueError, match="trimaps of 1, 2 pixels need the bands"):
        TrimapMatrix(3, (1, 2)).update(*torch.zeros(2, 3, 3, dtype=torch.uint8))
