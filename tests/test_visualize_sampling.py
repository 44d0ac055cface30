"""Pictures of learned sampling: what is drawn lies where it should."""

import numpy as np
import pytest
import torch
from small_models import make

from accel.models.images import subtract_mean
from accel.models.propagation.learned_sampling import grid_offsets
from accel.visualize_sampling import attention_at, draw_attention, draw_offsets, save_png


@pytest.fixture(scope="module")
def model():
    return make("learned_sampling").eval()


def frames():
    return np.random.default_rng(0).integers(0, 256, (2, 50, 70, 3), np.uint8)


def test_offsets_are_drawn_where_they_are_in_the_colour_of_their_way():
    ways = np.array([[[0.0, 0.0], [3, 3]], [[2.0, 0.0], [3, 3]]])  # one goes right, one stays
    image = draw_offsets(ways, 401, reach=4)
    assert image.shape == (401, 401, 3)
    right, still = image[200, 300], image[350, 350]  # 50 pixels a cell
    assert (still == 255).all() and right[0] > right[1] and right[0] > right[2]  # the wheel is red to the right
    assert tuple(image[200, 203]) != tuple(draw_offsets(ways[-1:], 401, reach=4)[200, 203])  # the way itself
    assert (image[170:190, 180:190] == 24).all()  # nothing beside it


@pytest.mark.parametrize("offsets", [np.zeros((0, 4, 2)), np.zeros((3, 2)), np.full((1, 1, 2), np.nan)])
def test_offsets_of_another_shape_are_refused(offsets):
    with pytest.raises(ValueError, match=r"expected finite \(T, K, 2\)"):
        draw_offsets(offsets)


def test_attention_at_a_position_is_that_of_its_cell(model):
    key, current = frames()
    weights = attention_at(model, key, current, (37, 20))  # pixels; cell 2, 1
    sampling = model.propagation
    older, newer = (subtract_mean(torch.from_numpy(f).permute(2, 0, 1)[None]) for f in (key, current))
    with torch.no_grad():
        expected = sampling.key_to_current.attention(
            model.reference.features(older), sampling.motion(newer, older), sampling.offsets
        )
    assert weights.shape == (25,) and weights.sum() == pytest.approx(1, abs=1e-5)
    np.testing.assert_allclose(weights, expected[0, :, 1, 2], atol=1e-6)


def test_what_counts_most_is_drawn_largest_in_the_key_frame():
    frame = np.zeros((160, 320, 3), np.uint8)
    offsets = np.array([[3.0, 0.0], [-3.0, 0.0]])
    sheet = draw_attention(frame, frame, (168, 88), offsets, np.array([0.9, 0.1]))
    bar = sheet.shape[0] - 160
    sampled = sheet[bar:, -320:].astype(int)
    red = (sampled[..., 0] > 2 * sampled[..., 1]) & (sampled[..., 0] > 100)
    y, x = np.nonzero(red)
    assert abs(x.mean() - (168 + 48)) < 2 and abs(y.mean() - 88) < 2  # three cells to the right
    assert sampled[88, 168 - 48].min() > 200  # the other: small and nearly white
    assert (sheet[bar + 80, 160:176] == 255).all()  # the cell asked for, in the current frame


def test_mistakes_are_named(model):
    key, current = frames()
    with pytest.raises(ValueError, match=r"position 70,3 lies outside the frame of 70x50 pixels"):
        attention_at(model, key, current, (70, 3))
    with pytest.raises(ValueError, match="expected one size"):
        attention_at(model, key, current[1:], (7, 3))
    with pytest.raises(ValueError, match="this model has no learned sampling"):
        attention_at(make("accel"), key, current, (7, 3))


def test_a_picture_is_written_with_its_folders(tmp_path):
    from accel.files.images import read_image

    image = draw_offsets(grid_offsets(1).numpy()[None], 32)
    save_png(tmp_path / "a" / "b.png", image)
    np.testing.assert_array_equal(read_image(tmp_path / "a" / "b.png"), image)
