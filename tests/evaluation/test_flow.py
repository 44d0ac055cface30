"""What flow carries, by videos whose flow is known."""

import json

import cv2
import numpy as np
import pytest
import torch
from films import Films
from torch import nn

from accel.datasets.clips import Clip, ClipDataset
from accel.evaluation.running.flow_accuracy import (
    at_every_pixel,
    can_carry,
    carry_along,
    end_point_error,
    follow,
    of_network,
    score_flow,
    unmoved,
)
from accel.evaluation.tables import flow_table
from accel.labels import IGNORED
from accel.models import DenseInverseSearch

SIZE = (32, 48)


class Shifting(ClipDataset):
    """A picture that moves `dx` pixels to the right a frame, with labels and exact flow: `videos` of `frames` each."""

    class_names = ("a", "b", "c")
    palette = np.zeros((3, 3), np.uint8)
    knows_flow = True

    def __init__(self, dx, frames=4, videos=1, unlabelled=False):
        rng = np.random.default_rng(0)
        self.dx, self.frames = dx, frames
        self.pictures = rng.integers(0, 256, (videos, *SIZE, 3), np.uint8)
        self.labels = rng.integers(0, 3, (videos, *SIZE), np.uint8)
        if unlabelled:
            self.labels[:, :5] = IGNORED

    def __len__(self):
        return len(self.pictures) * self.frames

    def place(self, index):
        video, number = divmod(index, self.frames)
        return str(video), number

    def history(self, index):
        return self.place(index)[1]

    def clip(self, index, length):
        video, number = divmod(index, self.frames)
        times = range(number - length + 1, number + 1)
        frames = np.stack([np.roll(self.pictures[video], t * self.dx, 1) for t in times])
        flow = np.zeros((length - 1, *SIZE, 2), np.float32)
        flow[..., 0] = -self.dx
        flow[:, :, : max(self.dx, 0)] = np.nan  # came in from the other side
        return Clip(frames, np.roll(self.labels[video], number * self.dx, 1), flow, str(index))


def shift(dx):
    def flow(now, before):
        found = unmoved(now, before)
        found[..., 0] = -dx
        return found

    return flow


def test_the_end_point_error_is_the_length_of_the_difference():
    clips = Shifting(3)
    assert end_point_error(shift(3), clips) == 0
    assert end_point_error(unmoved, clips) == pytest.approx(3)

    def diagonal(now, before):
        return np.float32([-3 + 3, 4]) + unmoved(now, before)

    assert end_point_error(diagonal, clips) == pytest.approx(5)


def test_clips_without_exact_flow_are_refused():
    films = Films([3])
    with pytest.raises(ValueError, match="exact flow is not known"):
        end_point_error(unmoved, films)


def iou_in_the_overlap(labels, dx, steps):
    """mIoU of labels carried along exact flow: all are right but what came in, which takes the border's label."""
    carried = labels
    for _ in range(steps):
        columns = np.clip(np.arange(labels.shape[1]) - dx, 0, None)
        carried = carried[:, columns]
    truth = np.roll(labels, steps * dx, 1)
    return [((carried == k) & (truth == k)).sum() / ((carried == k) | (truth == k)).sum() for k in range(3)]


def carried_mious(flow, video, steps):
    """The photometric error and the mIoU of labels carried so many steps."""
    difference, matrices = carry_along(flow, video, steps)
    return difference, {step: matrix.miou() for step, matrix in matrices.items()}


@pytest.mark.parametrize("steps", [1, 2, 3])
def test_exact_flow_carries_all_that_stays_in_the_frame(steps):
    video = Shifting(2)
    photometric, carried = carried_mious(shift(2), Shifting(2, frames=steps + 1), [steps])
    assert carried[steps] == pytest.approx(np.mean(iou_in_the_overlap(video.labels[0], 2, steps)))
    still, left_behind = carried_mious(unmoved, video, [steps])
    assert left_behind[steps] < 0.3 < 0.8 < carried[steps]
    assert photometric < 0.1 * still


def test_labels_do_not_leave_their_video():
    one, two = Shifting(2, frames=3, videos=1), Shifting(2, frames=3, videos=2)
    two.pictures[:], two.labels[:] = one.pictures, one.labels
    (alone, carried), (together, both) = (carried_mious(shift(2), video, [1, 2]) for video in (one, two))
    assert together == pytest.approx(alone) and both == pytest.approx(carried)


def test_what_is_not_labelled_counts_neither_here_nor_there():
    _, carried = carried_mious(unmoved, Shifting(0, unlabelled=True), [1, 3])
    assert carried == {1: 1.0, 3: 1.0}


def test_the_table_of_flows_says_what_an_miou_is_the_mean_of():
    video = Shifting(0, frames=3)
    assert score_flow("none", unmoved, video=video, steps=(1,)).caveats == ""
    video.labels[video.labels == 2] = 1
    score = score_flow("none", unmoved, video=video, steps=(1,))
    assert flow_table([score, score]).caption == "mIoU: mean of 2 of 3 classes; no label has 'c'"


def test_stills_carry_nothing():
    with pytest.raises(ValueError, match="no two labelled frames"):
        carry_along(unmoved, Shifting(1, frames=1, videos=3), [1])


@pytest.mark.parametrize(
    ("videos", "carries"),
    [([(0, 1)], True), ([(3,), (5, 8, 9)], True), ([(0, 2), (3,)], False), ([(4,), (5,)], False), ([()], False)],
)
def test_it_is_known_beforehand_whether_anything_can_be_carried(videos, carries):
    films = Films(*videos)
    assert can_carry(films) == carries and not films.reads
    if not carries:
        with pytest.raises(ValueError, match="no two labelled frames"):
            carry_along(unmoved, films, [1])


def test_more_steps_than_a_video_has_frames_are_not_measured():
    score = score_flow("none", unmoved, video=Shifting(1, frames=3), steps=(2, 3))
    assert score.carried[2] > 0 and score.carried[3] is None
    assert json.loads(json.dumps(score.as_dict(), allow_nan=False))["carried"]["3"] is None
    assert [*flow_table([score]).columns[-1].cells] == ["-"]


def test_clips_of_one_frame_have_no_end_point_error():
    assert score_flow("none", unmoved, Shifting(1, frames=1)).end_point_error is None


def test_dis_at_every_pixel_sees_what_cells_are_too_coarse_for():
    """Two halves of the picture that move apart: exact on both sides of the edge, where cells mix them."""
    noise = cv2.GaussianBlur(np.random.default_rng(0).integers(0, 256, (136, 200, 3)).astype(np.uint8), (0, 0), 2)
    noise = cv2.normalize(noise, None, 0, 255, cv2.NORM_MINMAX)
    before = noise[:, 4:-4]
    now = np.concatenate([noise[:72, 2:-6], noise[72:, 6:-2]])  # 2 pixels to the right, 2 to the left
    errors = []
    for flow in (at_every_pixel(), of_network(DenseInverseSearch())):
        found = flow(now, before)
        assert found.shape == (136, 192, 2)
        errors.append(
            [np.abs(found[rows, 16:-16, 0] - dx).mean() for rows, dx in ((np.s_[60:71], -2), (np.s_[73:84], 2))]
        )
    (above, below), (mixed_above, mixed_below) = errors
    assert above + below < 0.7 * (mixed_above + mixed_below)


def test_following_takes_each_pixel_from_where_it_was():
    image = np.arange(12, dtype=np.uint8).reshape(3, 4)
    flow = np.zeros((3, 4, 2), np.float32)
    flow[..., 0] = 1
    assert follow(image, flow, 0).tolist() == [[1, 2, 3, 3], [5, 6, 7, 7], [9, 10, 11, 11]]


def test_a_networks_cells_become_pixels():
    class OneCellLeft(nn.Module):
        def forward(self, current, previous):
            assert current.dtype == torch.float32 and current.shape == (1, 3, *SIZE)
            return torch.tensor([-1.0, 0.5]).view(1, 2, 1, 1).expand(1, 2, 2, 3)

    frame = np.zeros((*SIZE, 3), np.uint8)
    flow = of_network(OneCellLeft())(frame, frame)
    assert flow.shape == (*SIZE, 2)
    assert np.allclose(flow, [-16, 8])


def test_a_score_holds_what_its_data_allow():
    seen = []
    score = score_flow("exact", shift(2), Shifting(2), Shifting(2), (1, 2), lambda done, of: seen.append((done, of)))
    assert score.end_point_error == 0 and set(score.carried) == {1, 2}
    assert seen == [(n, 8) for n in range(1, 9)]
    assert score_flow("exact", shift(2), video=Shifting(2)).end_point_error is None
