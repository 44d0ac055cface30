"""Targets, losses and gradients of R-FCN against the published training graphs, and against plain loops."""

import numpy as np
import pytest
import torch
from small_detectors import small_detector

from accel.models.detection.anchors import anchors
from accel.models.detection.boxes import overlaps
from accel.models.detection.losses import Losses, hardest_of, losses_of, proposal_losses, region_losses
from accel.models.detection.maps import BOX_DEVIATIONS, PROPOSAL_DEVIATIONS
from accel.models.detection.targets import (
    AnchorTargets,
    RegionTargets,
    anchor_targets,
    region_targets,
    some_of,
)
from accel.weights import load_published
from accel.weights.published_params import namings

LOSSES = {"rfcn": (1.362221, 0.206437, 7.229716, 0.229873), "dff-rfcn": (1.403386, 0.212323, 8.117011, 0.193640)}
SIZE = (360, 480)
CELLS = (23, 30)


def by_anchor(array, last):
    """(1, A * last, h, w) or (1, A * h * w) of the graphs to (h * w * A, last), as anchors are ordered here."""
    return torch.from_numpy(array).reshape(9, last, *CELLS).permute(2, 3, 0, 1).reshape(-1, last)


@pytest.fixture(scope="module")
def published_targets(parity):
    with np.load(parity("rfcn/anchor-targets.npz")) as stored:
        return dict(stored)


# --- targets --------------------------------------------------------------------------------------------------


def test_anchors_should_say_what_the_published_ones_should(published_targets):
    truth = torch.from_numpy(published_targets["gt_boxes"])
    targets = anchor_targets(anchors(CELLS), truth[:, :4], SIZE, PROPOSAL_DEVIATIONS)
    assert torch.equal(targets.labels, by_anchor(published_targets["label"], 1)[:, 0].long())
    weights = by_anchor(published_targets["bbox_weight"], 4)
    assert torch.equal(targets.labels == 1, weights.any(1))
    expected = by_anchor(published_targets["bbox_target"], 4) * weights
    torch.testing.assert_close(targets.moves, expected, rtol=1e-5, atol=1e-5)


def test_anchors_of_an_image_without_objects_are_background_where_they_lie_inside():
    every = anchors(CELLS)
    targets = anchor_targets(every, torch.zeros(0, 4), SIZE, PROPOSAL_DEVIATIONS)
    inside = (every[:, 0] >= 0) & (every[:, 1] >= 0) & (every[:, 2] < SIZE[1]) & (every[:, 3] < SIZE[0])
    assert torch.equal(targets.labels, torch.where(inside, 0, -1)) and not targets.moves.any()


def test_a_box_that_no_anchor_touches_makes_objects_of_all_others():
    """As published."""
    every = torch.tensor([[0.0, 0, 9, 9], [20, 20, 39, 39]])
    targets = anchor_targets(every, torch.tensor([[90.0, 90, 99, 99]]), (100, 100), PROPOSAL_DEVIATIONS)
    assert targets.labels.tolist() == [1, 1]


def test_some_anchors_are_drawn_the_same_for_a_seed():
    labels = torch.cat([torch.full((400,), k) for k in (-1, 0, 1)])
    torch.manual_seed(3)
    drawn = some_of(labels)
    assert [(drawn == k).sum().item() for k in (0, 1)] == [128, 128]
    assert torch.equal(labels[drawn >= 0], drawn[drawn >= 0])
    torch.manual_seed(3)
    assert torch.equal(some_of(labels), drawn)
    assert not torch.equal(some_of(labels), drawn)
    few = labels.clone()
    few[830:] = -1
    drawn = some_of(few)
    assert [(drawn == k).sum().item() for k in (0, 1)] == [226, 30]


def test_regions_without_objects_are_background():
    regions = torch.tensor([[0.0, 0, 9, 9], [5, 5, 30, 30]])
    targets = region_targets(regions, torch.zeros(0, 4), torch.zeros(0, dtype=torch.long), BOX_DEVIATIONS)
    assert torch.equal(targets.regions, regions) and targets.labels.tolist() == [0, 0] and not targets.moves.any()


def test_objects_come_first_and_boxes_are_regions_too():
    regions = torch.tensor([[0.0, 0, 9, 9], [50, 50, 69, 69], [51, 50, 69, 69]])
    boxes = torch.tensor([[50.0, 50, 69, 69]])
    targets = region_targets(regions, boxes, torch.tensor([4]), BOX_DEVIATIONS)
    assert targets.labels.tolist() == [5, 5, 5, 0]
    assert torch.equal(targets.regions, torch.cat([regions[1:], boxes, regions[:1]]))
    assert not targets.moves[[0, 2, 3]].any() and targets.moves[1, 0] == pytest.approx(-0.5 / 19 / 0.1)


# --- losses ---------------------------------------------------------------------------------------------------


def test_the_hardest_are_the_highest_and_of_equal_ones_the_last():
    """As numpy's sort, backwards, has them."""
    losses = torch.tensor([0.5, 2, 1, 2, float("nan"), 0.1])
    assert hardest_of(losses, 4).tolist() == [4, 3, 1, 2]
    assert hardest_of(losses, 99).tolist() == [4, 3, 1, 2, 0, 5]


def test_losses_are_what_they_are_said_to_be():
    made = torch.Generator().manual_seed(0)
    objects, moves = torch.randn(30, 2, generator=made), torch.randn(30, 4, generator=made)
    labels = torch.tensor([1, 0, -1] * 10)
    wanted = torch.randn(30, 4, generator=made) * (labels == 1)[:, None]
    entropy, distance = proposal_losses(objects, moves, AnchorTargets(labels, wanted), 16)
    chances = objects.double().softmax(1)
    expected = -sum(chances[n, labels[n]].log() for n in range(30) if labels[n] >= 0) / 20
    torch.testing.assert_close(entropy.double(), expected)

    def smooth(x):
        return float(0.5 * x**2 if abs(x) < 1 else abs(x) - 0.5)

    off = [smooth(x) for n in range(30) if labels[n] == 1 for x in (moves - wanted)[n].double()]
    assert distance.item() == pytest.approx(sum(off) / 16, rel=1e-5)

    logits = torch.randn(30, 5, generator=made)
    labels = torch.arange(30) % 5
    wanted = torch.randn(30, 4, generator=made) * (labels > 0)[:, None]
    entropies = [-logits[n].double().log_softmax(0)[labels[n]].item() for n in range(30)]
    offs = [sum(smooth(x) for x in (moves - wanted)[n].double()) * bool(labels[n]) for n in range(30)]
    hard = sorted(range(30), key=lambda n: entropies[n] + offs[n])[-12:]
    entropy, distance = region_losses(logits, moves, RegionTargets(moves, labels, wanted), 12)
    assert entropy.item() == pytest.approx(sum(entropies[n] for n in hard) / 12, rel=1e-5)
    assert distance.item() == pytest.approx(sum(offs[n] for n in hard) / 12, rel=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("version", ["rfcn", "dff-rfcn"])
def test_a_step_is_that_of_the_published_training(version, parity, published_params):
    with np.load(parity(f"{version}/train-golden.npz")) as stored:
        expected = dict(stored)
    model = load_published(version, published_params(version)).requires_grad_(True)
    model.reference.resizing = None  # frames come as the graphs got them
    frames = torch.from_numpy(expected["frames"]).permute(0, 3, 1, 2).flip(0)[None]  # the key frame first
    truth = torch.from_numpy(expected["in_gt_boxes"][0])
    boxes, classes = truth[:, :4], truth[:, 4].long() - 1

    said = model(frames)
    np.testing.assert_allclose(said.regions[0], expected["out_rois"][:, 1:], rtol=0, atol=5e-3)
    weights = by_anchor(expected["in_bbox_weight"], 4)
    of_anchors = AnchorTargets(
        by_anchor(expected["in_label"], 1)[:, 0].long(), by_anchor(expected["in_bbox_target"], 4) * weights
    )
    of_regions = region_targets(said.regions[0], boxes, classes, BOX_DEVIATIONS)
    np.testing.assert_allclose(of_regions.regions, expected["out_sampled_rois"][:, 1:], rtol=0, atol=5e-3)
    np.testing.assert_allclose(of_regions.moves, expected["out_box_targets"][:, 4:], rtol=0, atol=1e-3)
    assert torch.equal(of_regions.labels > 0, torch.from_numpy(expected["out_labels"] > 0))
    assert torch.equal(of_regions.labels, torch.from_numpy(expected["out_labels"]).long())

    losses = losses_of(model.reference, said, 0, of_anchors, of_regions)
    assert [loss.item() for loss in losses] == pytest.approx(LOSSES[version], rel=1e-4, abs=1e-5)
    losses.total().backward()
    names = namings(version)[0].parameters
    gradients = {names[key]: parameter.grad for key, parameter in model.named_parameters()}
    for name, norm in zip(expected["gradient_names"], expected["gradient_norms"], strict=True):
        ours = gradients[str(name)].double().norm().item()
        assert ours == pytest.approx(norm, rel=2e-3, abs=1e-6), name
    parts = {
        "rfcn_cls_weight": np.s_[::16, ::16],
        "rfcn_bbox_weight": np.s_[::4, ::16],
        "rpn_cls_score_weight": np.s_[:],
        "rpn_bbox_pred_weight": np.s_[:],
        "feat_conv_3x3_weight": np.s_[::64, ::64],
        "res4b22_branch2b_weight": np.s_[::16, ::16],
        "bn4b22_branch2b_gamma": np.s_[:],
        "res3a_branch1_weight": np.s_[::16, ::16],
        "flow_conv1_weight": np.s_[::8],
        "Convolution5_weight": np.s_[:],
        "Convolution5_scale_weight": np.s_[::32],
        "upsample_flow3to2_weight": np.s_[:],
    }
    for name, part in parts.items():
        if f"grad_{name}" in expected:
            wanted = expected[f"grad_{name}"]
            spread = np.abs(wanted).max()
            np.testing.assert_allclose(gradients[name].numpy()[part], wanted, rtol=0, atol=2e-3 * spread, err_msg=name)


def test_the_gradient_of_all_losses_is_the_numerical_one():
    """In float64, through both frames of a clip: a step along the gradient changes the loss by its length."""
    model = small_detector("deep_feature_flow").double().requires_grad_(True)
    clip = torch.randint(0, 256, (1, 2, 3, 64, 80), generator=torch.Generator().manual_seed(2)).double()
    boxes, classes = torch.tensor([[5.0, 8, 50, 60], [30, 2, 70, 40]]), torch.tensor([0, 2])
    every = anchors((4, 5)).double()
    labels = (overlaps(every, boxes.double()).max(1).values > 0.3).long()
    with torch.no_grad():
        regions = model(clip).regions[0]
    made = torch.Generator().manual_seed(1)
    of_anchors = AnchorTargets(labels, torch.randn(len(every), 4, dtype=torch.float64, generator=made))
    of_regions = region_targets(regions, boxes, classes, BOX_DEVIATIONS)
    of_regions = of_regions._replace(moves=of_regions.moves.double())

    def loss() -> Losses:
        return losses_of(model.reference, model(clip), 0, of_anchors, of_regions).total()

    parameters = [p for p in model.parameters() if p.requires_grad]
    gradients = torch.autograd.grad(loss(), parameters)
    directions = [torch.randn(p.shape, generator=made, dtype=torch.float64) for p in parameters]
    slope = sum((g * d).sum() for g, d in zip(gradients, directions, strict=True))
    step = 1e-7
    values = []
    with torch.no_grad():
        for sign in (1, -2):
            for parameter, direction in zip(parameters, directions, strict=True):
                parameter += sign * step * direction
            values.append(loss())
    assert ((values[0] - values[1]) / (2 * step)).item() == pytest.approx(slope.item(), rel=1e-4)
