"""Boxes, anchors, suppression, proposals and detections, against MXNet's own numbers and plain loops."""

import numpy as np
import pytest
import torch

from accel.models.detection.anchors import anchors
from accel.models.detection.boxes import clipped, decoded, encoded, overlaps
from accel.models.detection.detections import Boxes, Detections, Selection
from accel.models.detection.proposals import Proposing, propose
from accel.models.detection.suppression import best_of, best_of_each_class

FIXTURES = [
    f"{version}/{name}" for version in ("rfcn", "dff-rfcn") for name in ("golden", "golden-odd", "golden-resized")
]
THRESHOLDS = {"rfcn": 1e-3, "dff-rfcn": 1e-4}
CASES = ("plain", "odd", "batch", "many", "min_size", "few")


@pytest.fixture(scope="module")
def operators(parity):
    with np.load(parity("rfcn/operators.npz")) as stored:
        return dict(stored)


@pytest.fixture(scope="module", params=FIXTURES)
def golden(request, parity):
    """(version, what the graphs made of each frame)."""
    with np.load(parity(f"{request.param}.npz")) as stored:
        values = {name: torch.from_numpy(array) for name, array in stored.items() if array.dtype.kind in "fiu"}
    frames = [
        {name.removesuffix(f"_{t}"): array for name, array in values.items() if name.endswith(f"_{t}")}
        for t in range(len(values["im_info"]))
    ]
    return request.param.split("/")[0], values["im_info"], frames


def some_boxes(count, seed=0, size=200):
    corners = torch.rand(count, 2, 2, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * size
    return corners.sort(1).values.flatten(1)


# --- boxes ----------------------------------------------------------------------------------------------------


def test_both_corners_lie_within_a_box():
    boxes = torch.tensor([[0.0, 0, 9, 9], [5, 0, 14, 9], [10, 0, 19, 9], [3, 3, 3, 3]])
    expected = torch.tensor([1.0, 50 / 150, 0, 1 / 100])
    torch.testing.assert_close(overlaps(boxes[:1], boxes)[0], expected)


def test_encoding_is_the_way_back_from_decoding():
    boxes, targets = some_boxes(50), some_boxes(50, seed=1)
    torch.testing.assert_close(decoded(boxes, encoded(boxes, targets)), targets)
    torch.testing.assert_close(decoded(boxes, torch.zeros_like(boxes)), boxes)


def test_clipped_boxes_end_at_the_outermost_pixels():
    boxes = torch.tensor([[-3.0, 2, 40, 50], [5, -1, 6, 7]])
    assert clipped(boxes, (30, 20)).tolist() == [[0, 2, 19, 29], [5, 0, 6, 7]]


def test_anchors_are_the_published_ones(operators):
    of_cell = torch.from_numpy(operators["anchors"])
    made = anchors((3, 5)).view(3, 5, 9, 4)
    assert torch.equal(made[0, 0], of_cell)
    assert torch.equal(made[2, 4], of_cell + torch.tensor([64, 32, 64, 32]))


# --- suppression ----------------------------------------------------------------------------------------------


def greedy(boxes, scores, most_overlap):
    """As the published code has it: kept indices, best first."""
    order, kept = np.argsort(-scores.numpy(), kind="stable"), []
    while len(order):
        kept.append(int(order[0]))
        over = overlaps(boxes[order[0]][None], boxes[order[1:]])[0].numpy()
        order = order[1:][over <= most_overlap]
    return kept


@pytest.mark.parametrize("most_overlap", [0.0, 0.3, 0.7, 1.0])
def test_suppression_is_the_greedy_one(most_overlap):
    boxes = some_boxes(1300)
    expected = greedy(boxes, torch.linspace(1, 0, len(boxes)), most_overlap)
    assert best_of(boxes, most_overlap, len(boxes)).tolist() == expected
    assert best_of(boxes, most_overlap, 20).tolist() == expected[:20]


def test_an_overlap_of_just_the_limit_stays():
    boxes = torch.tensor([[0.0, 0, 9, 9], [0, 0, 9, 4]])
    assert best_of(boxes, 0.5, 9).tolist() == [0, 1]
    assert best_of(boxes, 0.4999, 9).tolist() == [0]


def test_classes_are_suppressed_on_their_own():
    boxes = some_boxes(120)
    scores = torch.rand(5, 120, generator=torch.Generator().manual_seed(3)).mul(20).round() / 20  # with equal ones
    candidates = scores > 0.3
    kept = best_of_each_class(boxes, scores, candidates, 0.3)
    for k in range(5):
        chosen = candidates[k].nonzero()[:, 0]
        expected = chosen[greedy(boxes[chosen], scores[k, chosen], 0.3)]
        assert kept[k].nonzero()[:, 0].tolist() == sorted(expected.tolist())


# --- proposals ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", CASES)
def test_proposals_are_mxnets(operators, case):
    of = {
        name: operators[f"{case}_{name}"] for name in ("probability", "deltas", "im_info", "rois", "scores", "settings")
    }
    before, count, most_overlap, smallest = of["settings"]
    for image, (height, width, scale) in enumerate(of["im_info"]):
        scores = torch.from_numpy(of["probability"][image : image + 1, 9:])
        deltas = torch.from_numpy(of["deltas"][image : image + 1])
        proposing = Proposing(int(before), int(count), float(most_overlap), float(smallest * scale))
        rois, chosen = propose(scores, deltas, (int(height), int(width)), proposing)
        own = of["rois"][:, 0] == image
        np.testing.assert_allclose(rois[0], of["rois"][own, 1:], rtol=0, atol=1e-3)
        np.testing.assert_allclose(chosen[0], of["scores"][own], rtol=0, atol=1e-6)
        distinct = operators[f"{case}_distinct"][image]
        assert len(torch.unique(rois[0], dim=0)) == distinct


def test_proposals_are_those_of_the_published_maps(golden):
    _, im_info, frames = golden
    for (height, width, _), frame in zip(im_info, frames, strict=True):
        rois, scores = propose(frame["rpn_scores"][None], frame["rpn_deltas"][None], (int(height), int(width)))
        torch.testing.assert_close(rois[0], frame["rois"], rtol=0, atol=5e-3)
        torch.testing.assert_close(scores[0], frame["roi_scores"], rtol=0, atol=2e-5)


def test_images_of_a_batch_have_their_own_proposals():
    made = torch.Generator().manual_seed(0)
    scores, deltas = torch.rand(3, 9, 4, 5, generator=made), 0.2 * torch.randn(3, 36, 4, 5, generator=made)
    together = propose(scores, deltas, (60, 70))
    for image in range(3):
        alone = propose(scores[image : image + 1], deltas[image : image + 1], (60, 70))
        assert all(torch.equal(a[image], b[0]) for a, b in zip(together, alone, strict=True))


# --- detections -----------------------------------------------------------------------------------------------


def rows(boxes: Boxes, frame=0):
    """(class, score, x1, y1, x2, y2) by class, best first, as the fixtures have them."""
    count = int(boxes.count[frame])
    found = torch.column_stack([boxes.classes[frame] + 1, boxes.scores[frame], boxes.boxes[frame]])[:count]
    return found[found[:, 0].sort(stable=True).indices]


def test_detections_are_those_of_the_published_outputs(golden):
    version, im_info, frames = golden
    for (height, width, scale), frame in zip(im_info.double(), frames, strict=True):
        size = int(height), int(width)
        said = Detections(
            frame["rois"][None],
            frame["cls_prob"][None],
            frame["bbox_pred"][None, :, 4:],
            size,
            Selection(threshold=THRESHOLDS[version]),
        )
        at = tuple(round(float(side / scale)) for side in (height, width))
        found, expected = rows(said.at(at)), frame["detections"]
        assert torch.equal(found[:, 0], expected[:, 0])
        torch.testing.assert_close(found[:, 1], expected[:, 1], rtol=0, atol=1e-6)
        torch.testing.assert_close(found[:, 2:], expected[:, 2:], rtol=0, atol=1e-2)
        counts = said.kept(at)[2][0].sum(1)
        assert torch.equal(counts, frame["count_before_limit"][1:])


def some_detections(batch=2, regions=40, classes=3, threshold=0.3, **selection):
    made = torch.Generator().manual_seed(1)
    boxes = torch.stack([some_boxes(regions, seed) for seed in range(batch)]).float()
    probabilities = torch.rand(batch, regions, 1 + classes, generator=made)
    deltas = 0.1 * torch.randn(batch, regions, 4, generator=made)
    return Detections(boxes, probabilities, deltas, (200, 200), Selection(threshold, **selection))


def test_boxes_have_a_fixed_shape_and_come_best_first():
    for threshold, most in ((0.3, 300), (0.3, 7), (2.0, 5)):
        said = some_detections(threshold=threshold, most=most).at((200, 200))
        assert [tuple(tensor.shape) for tensor in said] == [(2, most, 4), (2, most), (2, most), (2,)]
        assert [tensor.dtype for tensor in said] == [torch.float32, torch.float32, torch.int64, torch.int64]
        for frame, count in enumerate(said.count.tolist()):
            assert (said.scores[frame, :count] > threshold).all() and not said.boxes[frame, count:].any()
            assert torch.equal(said.scores[frame], said.scores[frame].sort(descending=True).values)
            assert count == (min(most, count) if threshold < 1 else 0)
            assert set(said.classes[frame, :count].tolist()) <= {0, 1, 2}


def test_boxes_come_in_pixels_of_the_frame():
    said = some_detections(most_overlap=1.0)
    boxes, larger = said.at((200, 200)), said.at((400, 100))
    torch.testing.assert_close(larger.boxes, boxes.boxes * torch.tensor([0.5, 2, 0.5, 2]))
    assert torch.equal(larger.scores, boxes.scores)
