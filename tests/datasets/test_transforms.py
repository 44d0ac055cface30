import pickle

import cv2
import numpy as np
import pytest

from accel.datasets.clips import Clip
from accel.datasets.transforms import MEAN_COLOUR, ClipTransform

HEIGHT, WIDTH = 60, 80
EVERYTHING = {"scale": (0.5, 2.0), "flip": 0.5, "colour": 0.5, "blur": 0.5}


def rng(seed=0):
    return np.random.default_rng(seed)


def noise_clip(frames=3, equal=False):
    """Random frames and labels; flow (1000 * t + 100, 7), NaN in the top left corner."""
    images = rng().integers(0, 256, (1 if equal else frames, HEIGHT, WIDTH, 3), np.uint8)
    labels = rng(1).integers(0, 19, (HEIGHT, WIDTH), np.uint8)
    flow = np.empty((frames - 1, HEIGHT, WIDTH, 2), np.float32)
    flow[..., 0] = 1000 * np.arange(frames - 1)[:, None, None] + 100
    flow[..., 1] = 7
    flow[:, :10, :10] = np.nan
    return Clip(np.repeat(images, frames // len(images), axis=0), labels, flow, "noise")


def coordinate_clip():
    """A clip whose flow at each pixel is affine in its position, and whose frames say the position.

    Red is 3 x, green 4 y in the source; the label is unique in each 5 x 5 block.
    """
    y, x = np.mgrid[:HEIGHT, :WIDTH].astype(np.float32)
    image = np.stack([3 * x, 4 * y, 0 * x], -1).astype(np.uint8)
    labels = (16 * (y // 5) + x // 5).astype(np.uint8)
    return Clip(np.stack([image, image]), labels, affine_flow(x, y)[None], "coordinates")


def affine_flow(x, y):
    return np.stack([0.05 * x - 0.02 * y + 1.5, 0.03 * x + 0.04 * y - 2.0], -1).astype(np.float32)


@pytest.mark.parametrize("seed", range(30))
@pytest.mark.parametrize("crop", [(32, 48), (50, 100), None])
def test_flow_follows_scale_flip_and_crop(seed, crop):
    view = ClipTransform(crop=crop, scale=(0.5, 2.0), flip=0.5)(coordinate_clip(), rng(seed))
    frame = view.frames[1].astype(np.float64)
    inside = view.labels != 255
    rows, columns = np.flatnonzero(inside.any(1)), np.flatnonzero(inside.any(0))
    # The frame itself says where each pixel comes from: fit the view's two affine functions to it, away from
    # the borders, where interpolation clamps.
    edge = 3
    r, c = rows[edge:-edge], columns[edge:-edge]
    x_per_column, x0 = np.polyfit(c, frame[r][:, c, 0].mean(0) / 3, 1)
    y_per_row, y0 = np.polyfit(r, frame[r][:, c, 1].mean(1) / 4, 1)
    assert 0.45 < abs(x_per_column) < 2.2 and 0.45 < y_per_row < 2.2
    y, x = np.meshgrid(y0 + y_per_row * r, x0 + x_per_column * c, indexing="ij")
    # Displacement in the view = displacement in the source through the view's linear part.
    expected = affine_flow(x, y) / [x_per_column, y_per_row]
    found = view.flow[0][np.ix_(r, c)]
    # The nearest source pixel is at most half a pixel off on each axis, times the flow's slope.
    tolerance = (0.5 * 0.07 + 0.02) / min(abs(x_per_column), y_per_row) + 0.02
    assert np.abs(found - expected).max() < tolerance
    assert np.array_equal(np.isnan(view.flow[0]).any(-1), ~inside)


@pytest.mark.parametrize("seed", range(8))
def test_without_scaling_every_pixel_is_carried_exactly(seed):
    clip = coordinate_clip()
    view = ClipTransform(crop=(32, 48), flip=0.5)(clip, rng(seed))
    x, y = view.frames[0, ..., 0] // 3, view.frames[0, ..., 1] // 4
    mirrored = x[0, 0] > x[0, 1]
    sign = np.float32([-1 if mirrored else 1, 1])
    assert np.array_equal(view.labels, clip.labels[y, x])
    assert np.array_equal(view.flow[0], clip.flow[0, y, x] * sign)


def test_mirroring_twice_gives_the_clip_back():
    clip, mirror = noise_clip(), ClipTransform(flip=1.0)
    once = mirror(clip, rng())
    twice = mirror(once, rng())
    assert np.array_equal(once.frames, clip.frames[:, :, ::-1])
    assert np.array_equal(once.flow, clip.flow[:, :, ::-1] * np.float32([-1, 1]), equal_nan=True)
    for name in ("frames", "labels", "flow"):
        assert np.array_equal(getattr(twice, name), getattr(clip, name), equal_nan=name == "flow")


@pytest.mark.parametrize("scale", [0.5, 2.0])
def test_scaling_multiplies_displacements(scale):
    view = ClipTransform(scale=(scale, scale))(noise_clip(), rng())
    assert view.frames.shape == (3, HEIGHT * scale, WIDTH * scale, 3)
    corner = int(10 * scale)
    assert np.isnan(view.flow[:, :corner, :corner]).all()
    assert np.isnan(view.flow).sum() == 2 * 2 * corner**2
    assert np.array_equal(view.flow[1, -1, -1], np.float32([1100 * scale, 7 * scale]))


def test_a_scaled_view_is_a_crop_of_the_scaled_frame():
    """Independent of the order of work: OpenCV resizes the whole frame, the view is found in it."""
    image = cv2.GaussianBlur(rng(5).integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8), (0, 0), 3)
    clip = Clip(image[None], None, None, "a")
    view = ClipTransform(crop=(40, 40), scale=(2.0, 2.0))(clip, rng(3))
    whole = cv2.resize(image, None, fx=2, fy=2, interpolation=cv2.INTER_LINEAR)
    difference = cv2.matchTemplate(whole, view.frames[0], cv2.TM_SQDIFF)
    _, _, (x, y), _ = cv2.minMaxLoc(difference)
    inner = np.s_[1:-1, 1:-1]
    assert np.array_equal(whole[y : y + 40, x : x + 40][inner], view.frames[0][inner])


@pytest.mark.parametrize("seed", range(12))
def test_all_frames_are_changed_alike(seed):
    view = ClipTransform(crop=(40, 64), **EVERYTHING)(noise_clip(5, equal=True), rng(seed))
    assert all(np.array_equal(frame, view.frames[0]) for frame in view.frames)


def test_colours_of_different_frames_are_changed_by_one_function():
    """A dark and a bright frame with a common colour keep a common colour: no frame's own mean enters."""
    frames = np.zeros((2, 20, 20, 3), np.uint8)
    frames[1] = 200
    frames[:, :5] = (90, 120, 60)
    for seed in range(10):
        view = ClipTransform(colour=0.5)(Clip(frames, None, None, "two"), rng(seed))
        assert np.array_equal(view.frames[0, 0, 0], view.frames[1, 0, 0])


def test_noise_differs_from_frame_to_frame():
    view = ClipTransform(noise=1.0)(noise_clip(3, equal=True), rng())
    assert not np.array_equal(view.frames[0], view.frames[1])
    assert np.abs(view.frames[0].astype(int) - view.frames[1]).mean() < 15


@pytest.mark.parametrize("key", ["colour", "blur", "noise"])
def test_colour_steps_change_frames_only(key):
    clip = noise_clip()
    view = ClipTransform(**{key: 1.0})(clip, rng(1))
    assert not np.array_equal(view.frames, clip.frames)
    assert np.array_equal(view.labels, clip.labels)
    assert np.array_equal(view.flow, clip.flow, equal_nan=True)


@pytest.mark.parametrize("seed", range(6))
def test_outside_the_frame_is_mean_colour_ignored_and_unknown(seed):
    clip = noise_clip()
    view = ClipTransform(crop=(100, 100), flip=0.5, colour=0.5)(clip, rng(seed))
    outside = np.ones((100, 100), bool)
    rows, columns = np.nonzero(view.labels != 255)
    outside[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1] = False
    assert (~outside).sum() == HEIGHT * WIDTH
    assert (view.frames[:, outside] == MEAN_COLOUR).all()
    assert (view.labels[outside] == 255).all()
    assert np.isnan(view.flow[:, outside]).all()


@pytest.mark.parametrize("options", [{}, {"flip": 1.0}, EVERYTHING, {**EVERYTHING, "crop": (30, 90)}])
def test_a_view_is_contiguous_and_keeps_its_types(options):
    view = ClipTransform(**options)(noise_clip(), rng(2))
    for array, kind in ((view.frames, np.uint8), (view.labels, np.uint8), (view.flow, np.float32)):
        assert array.flags.c_contiguous and array.dtype == kind
    assert view.name == "noise"
    assert view.labels.shape == view.frames.shape[1:3] == view.flow.shape[1:3]


def test_the_clip_itself_stays_as_it_was():
    clip, untouched = noise_clip(), noise_clip()
    for options in ({}, {"flip": 1.0}, EVERYTHING):
        view = ClipTransform(**options)(clip, rng())
        for array in (view.frames, view.labels, view.flow):
            array[...] = 0
    for name in ("frames", "labels", "flow"):
        assert np.array_equal(getattr(clip, name), getattr(untouched, name), equal_nan=name == "flow")


def test_a_clip_without_labels_and_flow_is_fine():
    view = ClipTransform(crop=(8, 8), **EVERYTHING)(Clip(noise_clip().frames, None, None, "a"), rng())
    assert view.frames.shape == (3, 8, 8, 3) and view.labels is None and view.flow is None


def test_a_view_depends_on_nothing_but_clip_and_generator():
    options = {"crop": (40, 64), "noise": 0.5, **EVERYTHING}
    transform, clip = ClipTransform(**options), noise_clip()
    first = [transform(clip, rng(seed)).frames for seed in range(8)]
    np.random.seed(1)
    again = [transform(clip, rng(seed)).frames for seed in reversed(range(8))][::-1]
    fresh = [pickle.loads(pickle.dumps(transform))(clip, rng(seed)).frames for seed in range(8)]
    for a, b, c in zip(first, again, fresh, strict=True):
        assert np.array_equal(a, b) and np.array_equal(a, c)
    assert not np.array_equal(first[0], first[1])


def test_crops_flips_and_scales_cover_their_ranges():
    transform, clip = ClipTransform(crop=(50, 50), flip=0.5), coordinate_clip()
    views = [transform(clip, rng(seed)).frames[0, 0] for seed in range(200)]
    left = [min(v[0, 0], v[-1, 0]) // 3 for v in views]
    assert min(left) == 0 and max(left) == 30
    assert 70 < sum(int(v[0, 0]) > int(v[1, 0]) for v in views) < 130
    heights = [ClipTransform(scale=(0.5, 2.0))(clip, rng(s)).labels.shape[0] for s in range(200)]
    assert 30 <= min(heights) < 33 and 112 < max(heights) <= 120
    assert 80 < sum(h < 60 for h in heights) < 120  # as often smaller as larger


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"crop": (0, 5)}, "crop"),
        ({"crop": (5,)}, "crop"),
        ({"scale": (2.0, 1.0)}, "scale"),
        ({"scale": (0.0, 1.0)}, "scale"),
        ({"flip": 1.5}, "flip"),
        ({"colour": -0.1}, "colour"),
    ],
)
def test_impossible_options_are_refused(options, named):
    with pytest.raises(ValueError, match=named):
        ClipTransform(**options)
