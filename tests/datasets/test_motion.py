"""Simulated camera motion: pictures and flow are of one scene, and what is hidden is known."""

import cv2
import numpy as np
import pytest

from accel.datasets.clips import Clip
from accel.datasets.simulation.motion import SimulatedMotion
from accel.labels import IGNORED

NAMES = ("sky", "building", "road", "car", "pole")
SKY, BUILDING, ROAD, CAR, POLE = range(5)
QUIET = {"lighting": 0.0, "noise": 0.0, "blur": 0.0}
STILL = {**QUIET, "forward": 0.0, "pan": 0.0, "shake": 0.0, "roll": 0.0, "objects": 0.0}


def street(height: int = 120, width: int = 160) -> Clip:
    """A smooth picture that says where each pixel comes from, and labels with a sky, a car and a pole."""
    y, x = np.mgrid[:height, :width].astype(np.float32)
    waves = np.dstack([np.sin(x / 7), np.sin(y / 7), np.cos((x + y) / 9)])
    labels = np.full((height, width), BUILDING, np.uint8)
    labels[: height // 4, width // 3 : 2 * width // 3] = SKY
    labels[height // 2 :] = ROAD
    labels[height // 2 - 12 : height // 2 + 16, width // 2 + 5 : width // 2 + 40] = CAR
    labels[height // 4 : height // 2 + 20, 20:24] = POLE
    return Clip((127 + 100 * waves).astype(np.uint8)[None], labels, None, "street")


def warped(frame: np.ndarray, flow: np.ndarray) -> np.ndarray:
    """The older frame (H, W, 3) brought to the newer one by its flow; anything where that is NaN."""
    y, x = np.mgrid[: len(frame), : frame.shape[1]].astype(np.float32)
    ends = np.nan_to_num(flow) + np.dstack([x, y])
    return cv2.remap(frame, ends, None, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)


def errors(clip: Clip) -> tuple[float, float]:
    """Mean absolute difference of neighbouring frames where flow is known: warped, and as they are."""
    known = ~np.isnan(clip.flow[..., 0])
    older, newer = clip.frames[:-1], clip.frames[1:].astype(float)
    brought = np.stack([warped(frame, flow) for frame, flow in zip(older, clip.flow, strict=True)])
    return np.abs(brought - newer)[known].mean(), np.abs(older - newer)[known].mean()


@pytest.mark.parametrize("length", [1, 2, 5])
@pytest.mark.parametrize("size", [(120, 160), (97, 131)])
def test_the_clip_ends_in_the_still_with_its_label(size, length):
    clip = street(*size)
    moved = SimulatedMotion(NAMES, **QUIET)(clip, length, np.random.default_rng(0))
    assert moved.frames.shape == (length, *size, 3) and moved.frames.dtype == np.uint8
    assert moved.flow.shape == (length - 1, *size, 2) and moved.flow.dtype == np.float32
    np.testing.assert_array_equal(moved.frames[-1], clip.frames[0])
    np.testing.assert_array_equal(moved.labels, street(*size).labels)
    assert moved.name == clip.name


@pytest.mark.parametrize("names", [NAMES, ()], ids=["named", "unnamed"])
@pytest.mark.parametrize("seed", range(5))
def test_the_flow_brings_each_frame_onto_the_next(seed, names):
    moved = SimulatedMotion(names, **QUIET)(street(), 5, np.random.default_rng(seed))
    brought, unmoved = errors(moved)
    assert brought < max(2.0, 0.1 * unmoved)
    assert np.isnan(moved.flow[..., 0]).mean() < 0.25
    np.testing.assert_array_equal(np.isnan(moved.flow[..., 0]), np.isnan(moved.flow[..., 1]))


def test_the_flow_is_right_to_a_tenth_of_a_pixel_almost_everywhere():
    moved = SimulatedMotion((), **QUIET, forward=0.5, objects=0)(
        Clip(street(240, 320).frames, None, None, "road"), 4, np.random.default_rng(3)
    )
    known = ~np.isnan(moved.flow[..., 0])
    # Where a frame comes from can be read off a picture of coordinates, filmed by the same camera.
    y, x = np.mgrid[:240, :320].astype(np.float32)
    for axis, ramp in ((0, x / 320), (1, y / 240)):
        picture = np.repeat((20 + 215 * ramp)[None, ..., None], 3, -1)
        filmed = SimulatedMotion((), **QUIET, forward=0.5, objects=0)(
            Clip(picture.astype(np.uint8), None, None, "ramp"), 4, np.random.default_rng(3)
        )
        np.testing.assert_array_equal(filmed.flow, moved.flow)
        pixels_a_level = (320, 240)[axis] / 215
        brought = np.stack([warped(f, g) for f, g in zip(filmed.frames, filmed.flow, strict=False)])
        wrong = (brought.astype(float) - filmed.frames[1:])[known] * pixels_a_level
        assert abs(wrong.mean()) < 0.1
        assert np.percentile(np.abs(wrong), 99) <= 1.01 * pixels_a_level  # one grey level: rounding


def test_a_clip_is_a_function_of_the_still_and_the_generator():
    motion = SimulatedMotion(NAMES, blur=1.0)
    first, again, other = (motion(street(), 4, np.random.default_rng(seed)) for seed in (7, 7, 8))
    np.testing.assert_array_equal(first.frames, again.frames)
    np.testing.assert_array_equal(first.flow, again.flow)
    assert not np.array_equal(first.frames, other.frames)


def test_the_still_is_left_as_it_was():
    clip = street()
    frames, labels = clip.frames.copy(), clip.labels.copy()
    SimulatedMotion(NAMES, blur=1.0, noise=5.0, lighting=0.1)(clip, 3, np.random.default_rng(0))
    np.testing.assert_array_equal(clip.frames, frames)
    np.testing.assert_array_equal(clip.labels, labels)


@pytest.mark.parametrize("names", [NAMES, ()], ids=["named", "unnamed"])
def test_without_motion_all_frames_are_the_still(names):
    clip = street(97, 131)
    moved = SimulatedMotion(names, **STILL)(clip, 3, np.random.default_rng(0))
    for frame in moved.frames:
        np.testing.assert_array_equal(frame, clip.frames[0])
    np.testing.assert_allclose(moved.flow, 0, atol=1e-3)


def test_driving_at_a_flat_wall_expands_the_picture_about_one_point():
    motion = SimulatedMotion((), **{**STILL, "forward": 0.6, "relief": 0.0})
    flow = motion(street(), 2, np.random.default_rng(1)).flow[0].astype(np.float64)
    y, x = np.mgrid[:120, :160]
    slope_x, at_x = np.polyfit(x.ravel(), flow[..., 0].ravel(), 1)
    slope_y, at_y = np.polyfit(y.ravel(), flow[..., 1].ravel(), 1)
    assert slope_x < -0.01 and slope_x == pytest.approx(slope_y, rel=0.01)  # backwards in time: towards the focus
    focus = -at_x / slope_x, -at_y / slope_y
    assert 30 < focus[0] < 130 and 20 < focus[1] < 100
    np.testing.assert_allclose(flow[..., 0], slope_x * (x - focus[0]), atol=0.02)
    np.testing.assert_allclose(flow[..., 1], slope_y * (y - focus[1]), atol=0.02)


def test_near_ground_moves_more_than_far_walls_and_the_sky_not_at_all():
    flow = SimulatedMotion(NAMES, **{**STILL, "forward": 0.6})(street(), 2, np.random.default_rng(1)).flow[0]
    length = np.linalg.norm(flow, axis=-1)
    labels = street().labels
    assert np.nanmedian(length[-15:]) > 2 * np.nanmedian(length[labels == BUILDING])
    assert np.nanmin(length[labels == SKY]) < 0.01


def test_what_a_moving_thing_uncovers_is_unknown_and_the_thing_itself_is_not():
    clip = street()
    motion = SimulatedMotion(NAMES, **{**STILL, "objects": 1.0, "speed": 4.0})
    for seed in range(20):  # one that moves sideways well enough
        flow = motion(clip, 2, np.random.default_rng(seed)).flow[0]
        car = clip.labels == CAR
        sideways = np.nanmedian(flow[car][:, 0])
        if abs(sideways) > 4:
            break
    else:
        pytest.fail("no car moved sideways")
    assert not np.isnan(flow[car]).any()
    rows, columns = np.nonzero(car)
    row = (rows.min() + rows.max()) // 2
    beside = columns.max() + 1 if sideways > 0 else columns.min() - 1  # where the car was
    unknown = np.isnan(flow[row, :, 0])
    assert unknown[beside] and not unknown[2 * columns.min() - columns.max() if sideways > 0 else 159]
    assert unknown.sum() == pytest.approx(abs(flow[row, beside - int(np.sign(sideways)), 0]), abs=2)


@pytest.mark.parametrize("labels", [np.full((97, 131), IGNORED, np.uint8), None], ids=["all 255", "None"])
@pytest.mark.parametrize("names", [NAMES, ()], ids=["named", "unnamed"])
def test_a_still_without_labels_is_a_street_too(labels, names):
    clip = Clip(street(97, 131).frames, labels, None, "unlabelled")
    moved = SimulatedMotion(names, **QUIET)(clip, 3, np.random.default_rng(0))
    brought, unmoved = errors(moved)
    assert brought < 0.2 * unmoved
    assert moved.labels is labels


@pytest.mark.parametrize("label", [SKY, ROAD, CAR, POLE])
def test_a_still_of_one_class_is_no_exception(label):
    clip = Clip(street().frames, np.full((120, 160), label, np.uint8), None, "one class")
    brought, unmoved = errors(SimulatedMotion(NAMES, **QUIET)(clip, 3, np.random.default_rng(0)))
    assert brought < 0.2 * unmoved


@pytest.mark.parametrize("size", [(1, 1), (2, 9), (17, 5)])
def test_tiny_stills_work(size):
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 5, size).astype(np.uint8)
    clip = Clip(rng.integers(0, 256, (1, *size, 3)).astype(np.uint8), labels, None, "tiny")
    for names in (NAMES, ()):
        assert SimulatedMotion(names, blur=1.0)(clip, 3, rng).frames.shape == (3, *size, 3)


def test_light_drifts_and_noise_differs_from_frame_to_frame():
    grey = Clip(np.full((1, 60, 80, 3), 128, np.uint8), None, None, "grey")
    lit = SimulatedMotion(**{**STILL, "lighting": 0.1})(grey, 4, np.random.default_rng(0)).frames
    assert (lit[-1] == 128).all() and len({int(f.mean() * 100) for f in lit}) == 4
    noisy = SimulatedMotion(**{**STILL, "noise": 8.0})(grey, 3, np.random.default_rng(0)).frames.astype(float)
    assert 0.5 < noisy.std() < 8.5
    assert abs(np.corrcoef(noisy[0].ravel(), noisy[1].ravel())[0, 1]) < 0.1


def test_motion_blur_softens_and_leaves_the_flow():
    sharp = SimulatedMotion(NAMES, **QUIET)(street(), 3, np.random.default_rng(2))
    soft = SimulatedMotion(NAMES, **{**QUIET, "blur": 1.0})(street(), 3, np.random.default_rng(2))
    np.testing.assert_array_equal(sharp.flow, soft.flow)
    contrast = [cv2.Laplacian(c.frames[-1], cv2.CV_32F).var() for c in (sharp, soft)]
    assert contrast[1] < contrast[0]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [({"forward": -1}, "forward"), ({"noise": float("nan")}, "noise"), ({"objects": 2}, "objects")],
)
def test_wrong_arguments_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        SimulatedMotion(**arguments)


def test_a_clip_without_frames_and_labels_of_another_size_are_refused():
    with pytest.raises(ValueError, match="at least one frame"):
        SimulatedMotion()(street(), 0, np.random.default_rng(0))
    with pytest.raises(ValueError, match="the same size"):
        SimulatedMotion()(Clip(street().frames, np.zeros((3, 4), np.uint8), None, "x"), 2, np.random.default_rng(0))


@pytest.mark.parametrize("index", [0, 150, 300])
def test_real_stills_move_as_their_flow_says(index, camvid_root):
    from accel.datasets.camvid import CamVid

    stills = CamVid(camvid_root, "train")
    clip = stills.clip(index, 1)
    motion = SimulatedMotion(stills.class_names, **QUIET)
    moved = [motion(clip, 4, np.random.default_rng(seed)) for seed in range(3)]
    brought, unmoved = np.mean([errors(m) for m in moved], axis=0)
    assert brought < 0.35 * unmoved  # what is left is resampled texture
    hidden = np.mean([np.isnan(m.flow[..., 0]).mean() for m in moved])
    assert 0.0001 < hidden < 0.15
    assert 0.3 < np.mean([np.nanmedian(np.linalg.norm(m.flow, axis=-1)) for m in moved]) < 20
