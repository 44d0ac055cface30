"""Targets, losses and gradients of Faster R-CNN against a step of mmtracking's own training, and on small cases."""

import numpy as np
import pytest
import torch
from mmtracking_weights import FOLDER, mmtracking_model
from small_detectors import CLASSES, small_faster_detector
from small_models import clip_of

from accel.models.detection.boxes import EDGES, overlaps
from accel.models.detection.detections import Unjudged
from accel.models.detection.faster_rcnn_losses import FasterRcnnLosses, matched, region_targets
from accel.models.detection.losses import RfcnLosses
from accel.models.detection.proposals import EdgeProposing
from accel.models.detection.targets import IGNORED, some_of
from accel.models.video import DeepFeatureFlow
from accel.tasks.detection import DetectionObjective
from accel.weights.mmtracking_names import their_name

SIZE = (192, 320)


@pytest.fixture(scope="module")
def step(parity):
    with np.load(parity(f"{FOLDER}/train-r50.npz")) as stored:
        return {name.removeprefix("train_"): array for name, array in stored.items()}


@pytest.fixture
def first_ones(monkeypatch):
    """Instead of drawn ones: the stored step took the first, too."""
    monkeypatch.setattr(torch, "randperm", torch.arange)


def truth_of(step):
    return torch.from_numpy(step["gt_boxes"]), torch.from_numpy(step["gt_labels"])


def assert_rows(ours, theirs, tolerance=1e-3):
    """The same boxes, in any order."""
    assert len(ours) == len(theirs)
    distances = np.abs(np.asarray(ours)[:, None] - theirs[None]).max(2)
    assert distances.min(0).max() <= tolerance and distances.min(1).max() <= tolerance


# --- targets --------------------------------------------------------------------------------------------------


def test_anchors_are_drawn_as_mmdetection_draws_them(step, first_ones):
    boxes, _ = truth_of(step)
    every = EdgeProposing().anchors((12, 20))
    every = every[(every[:, :2] >= 0).all(1) & (every[:, 2] < SIZE[1]) & (every[:, 3] < SIZE[0])]
    labels, index = matched(every, boxes, 0.7, 0.3, 0.3)
    labels = some_of(labels)
    np.testing.assert_allclose(every[labels == 1], step["video_rpn_positive_boxes"], atol=1e-4)
    np.testing.assert_allclose(every[labels == 0], step["video_rpn_negative_boxes"], atol=1e-4)
    assert np.array_equal(index[labels == 1], step["video_rpn_positive_gt"])


@pytest.mark.parametrize("kind", ["video", "still"])
def test_regions_are_drawn_as_mmdetection_draws_them(step, first_ones, kind):
    boxes, classes = truth_of(step)
    targets = region_targets(torch.from_numpy(step[f"{kind}_proposals"][:, :4]), boxes, classes)
    drawn = some_of((targets.labels > 0).long(), 512, 0.25) != IGNORED
    is_object = targets.labels > 0
    np.testing.assert_allclose(targets.regions[drawn & is_object], step[f"{kind}_rcnn_positive_boxes"], atol=1e-4)
    np.testing.assert_allclose(targets.regions[drawn & ~is_object], step[f"{kind}_rcnn_negative_boxes"], atol=1e-4)
    assert np.array_equal(targets.labels[drawn & is_object] - 1, classes[step[f"{kind}_rcnn_positive_gt"]])


def test_the_best_of_a_box_is_its_own():
    """Even though it overlaps another more; the last box has it that says so; and not if it overlaps it little."""
    boxes = torch.tensor([[0.0, 0, 10, 10], [50, 0, 60, 10], [80, 80, 90, 90]])
    truth = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 5], [0, 0, 10, 4], [50, 0, 60, 1]])
    labels, index = matched(boxes, truth, 0.7, 0.3, 0.3)
    assert labels.tolist() == [1, 0, 0] and index[0] == 2
    labels, _ = matched(boxes, truth, 0.7, 0.05, 0.3)
    assert labels.tolist() == [1, IGNORED, 0]
    labels, _ = matched(boxes, truth[:0], 0.7, 0.3, 0.3)
    assert labels.tolist() == [0, 0, 0]


# --- losses ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [0, 2])
def test_losses_train_all_layers_where_there_are_objects(count):
    model = small_faster_detector().train().requires_grad_(True)
    model.reference.proposing = EdgeProposing(scales=(1.0, 2.0, 3.0, 4.0))
    boxes = torch.tensor([[[8.0, 8, 40, 30, 1], [30, 20, 62, 44, 2]]])[:, :count]
    objective = DetectionObjective(model, FasterRcnnLosses(anchors=16, regions=32))
    losses = objective.losses(clip_of((48, 64), 2), boxes)
    assert all(torch.isfinite(loss) for loss in losses)
    assert (losses.proposal_box > 0) == (losses.region_box > 0) == (count > 0)
    losses.total().backward()
    still = {name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()}
    expected = {"reference.region_head.boxes", "reference.proposal_head.moves"} if count == 0 else set()
    assert {name.rpartition(".")[0] for name in still} == expected


def test_a_detector_in_training_judges_nothing_and_says_so():
    model = small_faster_detector().train()
    said = model(clip_of((48, 64), 2))
    assert isinstance(said, Unjudged) and said.regions.shape == (1, 60, 4)
    with pytest.raises(ValueError, match=r"call eval\(\) first"):
        said.at((48, 64))
    assert isinstance(model, DeepFeatureFlow) and model.reference.num_classes == CLASSES
    with pytest.raises(ValueError, match="train.loss rfcn: expected a model whose reference is an R-FCN"):
        DetectionObjective(model, RfcnLosses())


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["video", "still"])
def test_a_step_is_that_of_mmtrackings_training(step, first_ones, parity, kind):
    model = mmtracking_model(parity, "r50").train().requires_grad_(True)
    frames = torch.from_numpy(step["frames"].copy()).permute(0, 3, 1, 2)[None]
    frames = frames.flip(1) if kind == "video" else frames[:, :1]  # the key frame first; a picture alone
    boxes, classes = truth_of(step)
    network = model.reference.backbone.network
    for part in (network.conv1, network.bn1, network.stages[0]):
        part.requires_grad_(False)
    said = model(frames)
    np.testing.assert_allclose(said.maps.objects[0].detach(), step[f"{kind}_objectness"], rtol=0, atol=3e-4)
    count = int(said.count[0])
    assert count == len(step[f"{kind}_proposals"])
    assert_rows(said.regions[0, :count], step[f"{kind}_proposals"][:, :4], 5e-3)

    losses = FasterRcnnLosses().of_image(model.reference, said, 0, boxes, classes)
    expected = [float(step[f"{kind}_loss_{name}"]) for name in ("rpn_cls", "rpn_bbox", "cls", "bbox")]
    assert [loss.item() for loss in losses] == pytest.approx(expected, rel=1e-4)
    losses.total().backward()
    norms = {their_name(n): float(p.grad.double().norm()) for n, p in model.named_parameters() if p.grad is not None}
    for name, norm in zip(step[f"{kind}_gradient_names"], step[f"{kind}_gradient_norms"], strict=True):
        # A picture alone does without the flow network, whose gradients are zero there.
        assert norms.pop(str(name), 0.0) == pytest.approx(norm, rel=2e-3, abs=1e-9), name
    assert not norms
    assert overlaps(boxes, boxes, EDGES).diagonal().eq(1).all()
