"""Losses, against values worked out by hand and PyTorch's own."""

import math

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import nn

from accel.models import FlowNetS, FlowWarp
from accel.models.segmentation.score_map import ScoreMap
from accel.tasks.segmentation import (
    CrossEntropy,
    OnlineHardExamples,
    SegmentationObjective,
    WithOverlap,
    lovasz_softmax,
    soft_dice,
)
from accel.training.class_weights import balanced_weights
from accel.training.objectives import FlowObjective, end_point_error, flow_in_cells


def logits_of(probabilities):
    """Logits (1, 2, 1, N) whose softmax gives class 0 these probabilities."""
    p = torch.tensor(probabilities, dtype=torch.float64)
    return torch.stack([p, 1 - p]).log()[None, :, None]


def test_cross_entropy_is_the_mean_over_labelled_pixels():
    logits = logits_of([0.9, 0.5, 0.2, 0.1])
    labels = torch.tensor([[[0, 0, 1, 255]]], dtype=torch.uint8)
    expected = -(math.log(0.9) + math.log(0.5) + math.log(0.8)) / 3
    assert float(CrossEntropy()(logits, labels)) == pytest.approx(expected)


def test_cross_entropy_agrees_with_pytorch():
    torch.manual_seed(0)
    logits = torch.randn(2, 7, 9, 11, dtype=torch.float64)
    labels = torch.randint(0, 7, (2, 9, 11))
    labels[torch.rand(2, 9, 11) < 0.3] = 255
    torch.testing.assert_close(
        CrossEntropy()(logits, labels.to(torch.uint8)), F.cross_entropy(logits, labels, ignore_index=255)
    )


def test_class_weights_agree_with_pytorch():
    torch.manual_seed(0)
    logits, weights = torch.randn(2, 4, 9, 11, dtype=torch.float64), [0.5, 2.0, 1.0, 0.0]
    labels = torch.randint(0, 4, (2, 9, 11))
    labels[torch.rand(2, 9, 11) < 0.3] = 255
    expected = F.cross_entropy(logits, labels, torch.tensor(weights, dtype=torch.float64), ignore_index=255)
    torch.testing.assert_close(CrossEntropy(weights)(logits, labels.to(torch.uint8)), expected)


def test_class_weights_are_no_part_of_what_is_trained_or_saved():
    loss = CrossEntropy([1.0, 2.0])
    assert not loss.state_dict() and not list(loss.parameters())


@pytest.mark.parametrize("loss", [CrossEntropy(), CrossEntropy([1.0, 2.0, 3.0]), OnlineHardExamples(0.7, 0.1)])
def test_nothing_labelled_is_no_loss_and_no_gradient(loss):
    logits = torch.randn(1, 3, 4, 4, requires_grad=True)
    value = loss(logits, torch.full((1, 4, 4), 255, dtype=torch.uint8))
    value.backward()
    assert value.item() == 0 and not logits.grad.any()


@pytest.mark.parametrize(
    ("threshold", "min_kept", "kept"),
    [
        (0.7, 0.1, [0.6, 0.5, 0.2]),  # those less sure than the threshold
        (0.55, 0.1, [0.5, 0.2]),
        (0.1, 0.5, [0.5, 0.2]),  # none is under the threshold: the hardest half of five, rounded down
        (0.1, 0.01, [0.2]),  # at least one
        (0.7, 1.0, [0.95, 0.8, 0.6, 0.5, 0.2]),
    ],
)
def test_hard_examples_are_those_under_the_threshold_and_at_least_a_share(threshold, min_kept, kept):
    logits = logits_of([0.95, 0.6, 0.5, 0.2, 0.8, 0.01])
    labels = torch.tensor([[[0, 0, 0, 0, 0, 255]]], dtype=torch.uint8)
    expected = -sum(math.log(p) for p in kept) / len(kept)
    assert float(OnlineHardExamples(threshold, min_kept)(logits, labels)) == pytest.approx(expected)


def test_hard_examples_are_found_by_the_true_class():
    logits = logits_of([0.9, 0.9])
    labels = torch.tensor([[[0, 1]]], dtype=torch.uint8)
    assert float(OnlineHardExamples(0.5, 0.01)(logits, labels)) == pytest.approx(-math.log(0.1))


class FixedScores(nn.Module):
    """Notes which frames were key frames, the first aside."""

    def __init__(self, scores):
        super().__init__()
        self.scores = nn.Parameter(scores)

    def forward(self, clip, refreshed=()):
        self.refreshed = refreshed
        return ScoreMap(self.scores)


def test_segmentation_is_judged_at_full_size():
    scores = torch.randn(2, 3, 2, 3)
    labels = torch.randint(0, 3, (2, 20, 40), dtype=torch.uint8)
    loss = SegmentationObjective(FixedScores(scores), CrossEntropy())(torch.zeros(2, 1, 3, 20, 40), labels, None)
    full = F.interpolate(scores, scale_factor=16, mode="bilinear")[..., :20, :40]
    torch.testing.assert_close(loss, F.cross_entropy(full, labels.long()))


def test_the_model_is_told_its_key_frames():
    model = FixedScores(torch.zeros(1, 3, 1, 1))
    objective = SegmentationObjective(model, CrossEntropy())
    clip, labels = torch.zeros(1, 4, 3, 16, 16), torch.zeros(1, 16, 16, dtype=torch.uint8)
    for given, expected in (((), ()), (((2,),), (2,))):
        objective(clip, labels, None, *given)
        assert model.refreshed == expected


def test_clips_without_labels_are_refused():
    objective = SegmentationObjective(FixedScores(torch.zeros(1, 2, 1, 1)), CrossEntropy())
    with pytest.raises(ValueError, match="no labels"):
        objective(torch.zeros(1, 1, 3, 16, 16), None, None)


# --- flow -----------------------------------------------------------------------------------------------------


class GivenFlow(nn.Module):
    """Predicts the same flow in cells everywhere, at all five levels of a frame's size; notes its inputs."""

    def __init__(self, dx, dy):
        super().__init__()
        self.displacement = dx, dy

    def pyramid(self, current, previous):
        self.current, self.previous = current, previous
        h, w = current.shape[-2:]
        return [self.at(len(current), -(-h // step), -(-w // step)) for step in (128, 64, 32, 16, 16)]

    def at(self, batch, h, w):
        return torch.tensor(self.displacement).view(1, 2, 1, 1).expand(batch, 2, h, w)


class WithFlow(nn.Module):
    def __init__(self, flow):
        super().__init__()
        self.propagation = FlowWarp(flow)


def pixel_flow(dx, dy, size, batch=2, steps=1):
    return torch.tensor([dx, dy]).view(1, 1, 2, 1, 1).expand(batch, steps, 2, *size).clone()


@pytest.mark.parametrize("size", [(128, 256), (50, 70), (17, 33)])
def test_the_exact_flow_costs_nothing(size):
    objective = FlowObjective(WithFlow(GivenFlow(0.5, -1.0)))
    loss = objective(torch.zeros(2, 3, 3, *size), None, pixel_flow(8.0, -16.0, size, steps=2))
    assert float(loss) < 1e-4


def test_a_wrong_flow_costs_its_error_in_cells_at_each_level():
    objective = FlowObjective(WithFlow(GivenFlow(0.0, 0.0)))
    loss = objective(torch.zeros(2, 2, 3, 64, 64), None, pixel_flow(3 * 16.0, 4 * 16.0, (64, 64)))
    assert float(loss) == pytest.approx(5 * (1 / 16 + 1 / 8 + 1 / 4 + 1 / 2 + 1), rel=1e-5)


def test_unknown_flow_does_not_count():
    flow = pixel_flow(16.0, 0.0, (64, 64))
    flow[..., :32] = float("nan")
    objective = FlowObjective(WithFlow(GivenFlow(1.0, 0.0)))
    assert float(objective(torch.zeros(2, 2, 3, 64, 64), None, flow)) < 1e-4
    assert float(objective(torch.zeros(2, 2, 3, 64, 64), None, flow * float("nan"))) == 0


def test_neighbouring_frames_are_compared_the_later_one_first():
    given = GivenFlow(0.0, 0.0)
    frames = torch.arange(3.0).view(1, 3, 1, 1, 1).expand(2, 3, 3, 32, 32)
    FlowObjective(WithFlow(given))(frames, None, pixel_flow(0.0, 0.0, (32, 32), steps=2))
    assert torch.equal(given.current - given.previous, torch.ones(4, 3, 32, 32))


@pytest.mark.parametrize(("known", "expected"), [(1.0, 1.0), (0.5, 1.0), (0.49, math.nan)])
def test_a_cells_flow_is_the_mean_of_what_is_known_if_that_is_half(known, expected):
    flow = torch.full((1, 2, 16, 16), math.nan)
    count = round(known * 256)
    flow.view(1, 2, -1)[..., :count] = 16.0
    cells = flow_in_cells(flow)
    assert cells.shape == (1, 2, 1, 1)
    assert cells[0, 0, 0, 0].item() == pytest.approx(expected, nan_ok=True)


def test_a_cell_that_the_frame_cuts_counts_what_is_inside():
    flow = torch.full((1, 2, 17, 16), 8.0)
    flow[:, :, 16] = 32.0
    assert flow_in_cells(flow)[0, 0, :, 0].tolist() == [0.5, 2.0]


def test_end_point_error_is_the_length_of_the_difference():
    target = torch.tensor([[[[3.0, 0.0, math.nan]], [[4.0, 0.0, 1.0]]]])
    assert float(end_point_error(torch.zeros(1, 2, 1, 3), target)) == pytest.approx(2.5, abs=1e-5)


def test_the_gradient_at_the_exact_flow_is_finite():
    flow = torch.ones(1, 2, 2, 2, requires_grad=True)
    end_point_error(flow, torch.ones(1, 2, 2, 2)).backward()
    assert torch.isfinite(flow.grad).all()


def test_unknown_flow_has_no_gradient():
    flow = torch.zeros(1, 2, 1, 2, requires_grad=True)
    target = torch.tensor([[[[1.0, math.nan]], [[0.0, math.nan]]]])
    end_point_error(flow, target).backward()
    assert torch.equal(flow.grad[..., 1], torch.zeros(1, 2, 1)) and flow.grad[0, 0, 0, 0] == -1


def test_the_loss_teaches_a_flow_network():
    torch.manual_seed(0)
    flownet = FlowNetS(1 / 16)
    objective = FlowObjective(WithFlow(flownet))
    optimizer = torch.optim.Adam(flownet.parameters(), 1e-3)
    frames = torch.randint(0, 256, (1, 2, 3, 64, 64), dtype=torch.uint8)
    losses = []
    for _ in range(40):
        loss = objective(frames, None, pixel_flow(16.0, -16.0, (64, 64), batch=1))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.3 * losses[0]


@pytest.mark.parametrize("model", [nn.Identity(), WithFlow(nn.Identity())])
def test_a_model_without_flow_network_is_refused(model):
    with pytest.raises(ValueError, match=r"train\.loss flow needs a model with a trainable flow network"):
        FlowObjective(model)


def test_clips_without_flow_are_refused():
    with pytest.raises(ValueError, match="no exact flow"):
        FlowObjective(WithFlow(GivenFlow(0.0, 0.0)))(torch.zeros(1, 2, 3, 16, 16), None, None)


# --- several processes ------------------------------------------------------------------------------------------


def _loss_worker(rank: int, file: str, results: dict) -> None:
    dist.init_process_group("gloo", init_method=f"file://{file}", rank=rank, world_size=2)
    logits, labels = _uneven()
    share = slice(0, 1) if rank == 0 else slice(1, 3)
    for name, loss in WEIGHTED.items():
        own = logits[share].clone().requires_grad_()
        value = loss(own, labels[share]) / 2  # as the mean over two processes counts it
        value.backward()
        results[name, rank] = value.item(), own.grad.numpy()
    dist.destroy_process_group()


def _uneven():
    """Three images, the first one with hardly a label."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(3, 4, 6, 5, generator=generator)
    labels = torch.randint(0, 4, (3, 6, 5), generator=generator).to(torch.uint8)
    labels[0].fill_(255)[2, 3] = 3
    return logits, labels


WEIGHTED = {"even": CrossEntropy(), "weighted": CrossEntropy([0.01, 0.02, 0.03, 0.5])}


def test_the_loss_of_two_processes_is_that_of_their_batches_together(tmp_path):
    with torch.multiprocessing.Manager() as manager:
        results = manager.dict()
        arguments = (str(tmp_path / "store"), results)
        torch.multiprocessing.start_processes(_loss_worker, arguments, nprocs=2, start_method="forkserver")
        found = dict(results)
    logits, labels = _uneven()
    for name, loss in WEIGHTED.items():
        whole = logits.clone().requires_grad_()
        value = loss(whole, labels)
        value.backward()
        assert found[name, 0][0] + found[name, 1][0] == pytest.approx(value.item(), rel=1e-5)
        gradient = np.concatenate([found[name, 0][1], found[name, 1][1]])
        np.testing.assert_allclose(gradient, whole.grad.numpy(), rtol=1e-4, atol=1e-8)


# --- overlap --------------------------------------------------------------------------------------------------


def scored(seed=0, classes=4, size=(2, 6, 7)):
    """Logits and labels of which some are ignored and the last class has none."""
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(size[0], classes, *size[1:], generator=generator, dtype=torch.float64)
    labels = torch.randint(0, classes - 1, size, generator=generator, dtype=torch.uint8)
    labels[torch.rand(size, generator=generator) < 0.2] = 255
    return logits, labels


def sure(instead):
    """Labels, a prediction, and logits that are sure of it. It has class `instead` where its draw has none."""
    _, labels = scored()
    _, predicted = scored(1)
    predicted[predicted == 255] = instead
    return labels, predicted, 100 * torch.nn.functional.one_hot(predicted.long(), 4).permute(0, 3, 1, 2).float()


def test_dice_is_that_of_sets_where_the_model_is_sure():
    labels, predicted, logits = sure(3)
    loss = WithOverlap(soft_dice, 0.0)(logits, labels)
    seen = labels != 255
    dice = [
        2 * ((labels == k) & (predicted == k)).sum() / ((labels == k).sum() + ((predicted == k) & seen).sum())
        for k in range(3)
    ]
    assert loss.item() == pytest.approx(1 - np.mean(dice), abs=1e-5)


def test_lovasz_is_one_minus_iou_where_the_model_is_sure():
    labels, predicted, logits = sure(0)
    loss = WithOverlap(lovasz_softmax, 0.0)(logits, labels)
    seen = labels != 255
    iou = [
        ((labels == k) & (predicted == k)).sum() / (((labels == k) | (predicted == k)) & seen).sum() for k in range(3)
    ]
    assert loss.item() == pytest.approx(1 - np.mean(iou), abs=1e-5)


@pytest.mark.parametrize("overlap", [soft_dice, lovasz_softmax])
def test_losses_on_overlap_fall_along_their_gradient_and_add_cross_entropy(overlap):
    logits, labels = scored()
    logits.requires_grad_()
    alone, both = WithOverlap(overlap, 0.0), WithOverlap(overlap, 0.5)
    expected = alone(logits, labels) + 0.5 * CrossEntropy()(logits, labels)
    assert both(logits, labels).item() == pytest.approx(expected.item())
    (gradient,) = torch.autograd.grad(alone(logits, labels), logits)
    assert gradient.isfinite().all() and not gradient.movedim(1, -1)[labels == 255].any()
    assert alone(logits - 0.5 * gradient, labels) < alone(logits, labels)
    ignored = torch.full_like(labels, 255)
    assert not torch.autograd.grad(alone(logits, ignored), logits)[0].any()


def test_balanced_weights_are_those_of_enet():
    class Stored:
        class_names = ("a", "b")

        def only_labels(self, index):
            return np.array([[0] * 9, [1] + [255] * 8], np.uint8)

    a, b = balanced_weights(Stored(), range(3))
    assert 0.9 * a + 0.1 * b == pytest.approx(1, abs=1e-3)
    assert a / b == pytest.approx(np.log(1.05 + 0.1) / np.log(1.05 + 0.9), rel=1e-3)
