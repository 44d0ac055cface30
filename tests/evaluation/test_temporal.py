"""Temporal consistency and flicker, by hand and by moving pictures whose flow is known."""

import cv2
import numpy as np
import pytest
import torch
from films import Films
from torch import nn

from accel.measures.temporal import (
    NOWHERE,
    TemporalTally,
    choose_flow,
    consistent,
    dis_matches,
    flickers,
    matches_of,
    model_matches,
)
from accel.models import DeepFeatureFlow, FlowWarp, FrameByFrame

NAN = float("nan")


class Unasked(nn.Identity):
    """In the place of a branch that nobody runs."""

    task = "segmentation"


def labels(*rows):
    return torch.tensor(rows, dtype=torch.uint8)


def flow_of(dx, dy=0.0, size=(4, 5)):
    return np.stack([np.full(size, dx, np.float32), np.full(size, dy, np.float32)], -1)


def tally_of(*frames, matches=None, classes=4):
    tally = TemporalTally(classes)
    for frame in frames:
        still = torch.arange(frame.numel(), dtype=torch.int32).view(frame.shape)
        tally.update(frame, still if matches is None else matches)
    return tally


# --- matches --------------------------------------------------------------------------------------------------


def test_a_match_is_the_nearest_pixel_that_the_flow_leads_to():
    flow = np.zeros((2, 3, 2), np.float32)
    flow[0, 0] = 1.4, 0.6  # to (x 1.4, y 0.6): pixel (1, 1)
    flow[0, 1] = -1, 0
    flow[0, 2] = 0.6, 0  # to x 2.6: outside
    flow[1, 0] = NAN, NAN
    flow[1, 1] = 0, -1.6  # above the frame
    assert matches_of(flow).tolist() == [[4, 0, NOWHERE], [NOWHERE, NOWHERE, 5]]


def test_flow_that_does_not_lead_back_is_left_out():
    backward, forward = flow_of(-1), flow_of(1)
    forward[2, 1] = 3, 0  # of the pixel that (2, 2) comes from
    kept = consistent(backward, forward)
    known = np.ones((4, 5), bool)
    known[2, 2] = False
    assert np.array_equal(np.isfinite(kept).all(2), known)
    assert (kept[known] == (-1, 0)).all()


def test_the_bound_on_inconsistency_grows_with_the_motion():
    """|b + f|^2 <= 0.01 (|b|^2 + |f|^2) + 0.5."""
    for motion, gap in ((0, 0.70), (10, 1.6), (10, -1.4)):
        assert np.isfinite(consistent(flow_of(-motion, size=(4, 40)), flow_of(motion + gap, size=(4, 40)))).all()
    for motion, gap in ((0, 0.72), (10, 1.8), (10, -1.6)):
        assert np.isnan(consistent(flow_of(-motion, size=(4, 40)), flow_of(motion + gap, size=(4, 40)))).all()


def moving_texture(dx, dy, size=(96, 128)):
    """Two frames (2, H, W, 3), the second showing what the first does, moved by (dx, dy) pixels."""
    noise = np.random.default_rng(0).integers(0, 256, (size[0] + 40, size[1] + 40, 3)).astype(np.uint8)
    noise = cv2.GaussianBlur(noise, (0, 0), 2)
    noise = cv2.normalize(noise, None, 0, 255, cv2.NORM_MINMAX)
    return np.stack([noise[20 - y : 20 - y + size[0], 20 - x : 20 - x + size[1]] for x, y in ((0, 0), (dx, dy))])


@pytest.mark.parametrize(("dx", "dy"), [(0, 0), (3, 0), (-4, 2), (0, -5)])
def test_dis_flow_finds_what_moved_where(dx, dy):
    (matches,) = dis_matches(moving_texture(dx, dy))
    y, x = np.mgrid[0:96, 0:128]
    inner = np.s_[12:-12, 12:-12]
    found = matches[inner] != NOWHERE
    assert found.mean() > 0.95
    assert ((matches == (y - dy) * 128 + x - dx)[inner][found]).mean() > 0.99


def test_the_models_own_flow_is_in_cells_of_16_pixels():
    class Shift(nn.Module):
        def forward(self, now, before):
            """What is seen now is 8 pixels further right than before, or the other way round."""
            sign = 1 if now.mean() > before.mean() else -1
            return torch.stack([torch.full((2, 3), -0.5 * sign), torch.zeros(2, 3)])[None]

    model = DeepFeatureFlow(Unasked(), FlowWarp(Shift()))
    now, before = torch.full((3, 20, 40), 200, dtype=torch.uint8), torch.zeros(3, 20, 40, dtype=torch.uint8)
    matches = model_matches(model, now, before)
    expected = torch.arange(800, dtype=torch.int32).view(20, 40) - 8
    expected[:, :8] = NOWHERE
    assert torch.equal(matches, expected)


# --- consistency ----------------------------------------------------------------------------------------------


def test_consistency_by_hand():
    tally = tally_of(labels([0, 0, 1, 1]), labels([0, 1, 1, 2]))
    # class 0: 1 of 2; class 1: 1 of 3; class 2: 0 of 1; class 3 nowhere
    assert tally.consistency == pytest.approx((1 / 2 + 1 / 3 + 0) / 3)
    assert (tally.pairs, tally.compared) == (1, 1.0)


def test_pixels_without_a_match_are_left_out():
    matches = torch.tensor([[0, NOWHERE, 2, NOWHERE]], dtype=torch.int32)
    tally = tally_of(labels([0, 0, 1, 1]), labels([0, 3, 1, 3]), matches=matches)
    assert tally.consistency == 1 and tally.compared == 0.5


def test_labels_that_move_with_the_flow_are_consistent():
    frames = [labels([0, 0, 1, 2, 3]), labels([3, 0, 0, 1, 2]), labels([2, 3, 0, 0, 1])]
    matches = torch.from_numpy(matches_of(flow_of(-1, size=(1, 5))))
    tally = tally_of(*frames, matches=matches)
    assert (tally.consistency, tally.compared, tally.pairs) == (1, pytest.approx(0.8), 2)
    assert tally_of(*frames).consistency < 1  # in their places they are not


def test_one_matrix_collects_all_pairs():
    a, b, c = labels([0, 0, 1, 1]), labels([0, 0, 0, 1]), labels([0, 0, 0, 1])
    # pairs (a, b), (b, c): class 0: 2 + 3 of 3 + 3; class 1: 1 + 1 of 2 + 1
    assert tally_of(a, b, c).consistency == pytest.approx((5 / 6 + 2 / 3) / 2)


@pytest.mark.parametrize("seed", range(3))
def test_permuting_classes_flipping_and_time_reversal_change_nothing(seed):
    rng = np.random.default_rng(seed)
    film = [torch.from_numpy(frame) for frame in rng.integers(0, 4, (5, 6, 7)).astype(np.uint8)]
    before = tally_of(*film)
    order = torch.from_numpy(rng.permutation(4).astype(np.uint8))
    for changed in ([order[f.long()] for f in film], [f.flip(1).contiguous() for f in film], film[::-1]):
        after = tally_of(*changed)
        assert after.consistency == pytest.approx(before.consistency)
        assert after.flicker == before.flicker


def test_another_video_is_not_compared_with_the_last_one():
    tally = tally_of(labels([0, 0]), labels([1, 1]))
    tally.start()
    tally.update(labels([2, 2]), None)
    tally.update(labels([2, 2]), torch.tensor([[0, 1]], dtype=torch.int32))
    assert (tally.frames, tally.pairs, tally.triples) == (4, 2, 0)


def test_a_single_frame_has_no_consistency():
    tally = tally_of(labels([0, 1]))
    assert all(np.isnan(x) for x in (tally.consistency, tally.compared, tally.flicker))


# --- flicker --------------------------------------------------------------------------------------------------


def test_a_pixel_flickers_that_changes_and_changes_back():
    before, now, after = labels([0, 0, 0, 0, 1]), labels([0, 1, 1, 0, 2]), labels([0, 0, 1, 1, 3])
    assert flickers(before, now, after).tolist() == [[False, True, False, False, False]]
    assert tally_of(before, now, after).flicker == pytest.approx(1 / 5)


def test_flicker_is_the_share_over_all_triples():
    frames = [labels([0, 0]), labels([1, 0]), labels([0, 0]), labels([1, 0])]  # the first pixel, at every step
    tally = tally_of(*frames)
    assert (tally.triples, tally.flicker) == (2, 0.5)


def test_videos_add_up():
    film = [torch.randint(0, 4, (5, 6), dtype=torch.uint8) for _ in range(7)]
    together = tally_of(*film[:3])
    together.start()
    still = torch.arange(30, dtype=torch.int32).view(5, 6)
    for frame in film[3:]:
        together.update(frame, still)
    total = tally_of(*film[:3]) + tally_of(*film[3:])
    for figure in ("consistency", "compared", "flicker", "frames", "pairs", "triples"):
        assert getattr(total, figure) == getattr(together, figure)


# --- which flow -----------------------------------------------------------------------------------------------


def test_the_exact_flow_is_taken_where_it_is_known_and_dis_elsewhere():
    assert choose_flow(Films((3,), flows={})) == "exact"
    assert choose_flow(Films((3,))) == choose_flow(Films((3,), flows={}), flow="dis") == "dis"


@pytest.mark.parametrize(
    ("dataset", "flow", "message"),
    [
        (Films((0,), (0,)), "auto", "temporal consistency needs video"),
        (Films((3,)), "exact", "flow exact: these data have no exact flow"),
        (Films((3,)), "raft", "flow 'raft': expected auto, exact, dis or model"),
        (Films((3,)), "model", "flow model: FrameByFrame has no flow of its own; choose auto, dis or exact"),
    ],
)
def test_flow_that_is_not_there_is_refused(dataset, flow, message):
    with pytest.raises(ValueError, match=message):
        choose_flow(dataset, [FrameByFrame(Unasked())], flow)
