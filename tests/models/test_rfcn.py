"""R-FCN and Deep Feature Flow's detector against the published graphs, as MXNet ran them: stage by stage, and as a
whole."""

import cv2
import numpy as np
import pytest
import torch
from small_detectors import small_detector

from accel.models import DeepFeatureFlow, build_published
from accel.models.detection.rfcn import RFCN, FeatureNetwork
from accel.models.images import subtract_mean
from accel.weights import load_published

INTERVALS = {"rfcn": 1, "dff-rfcn": 3}
KEPT = slice(None, None, 32)  # of 1024 channels
ROWS = slice(None, None, 30)  # of 300 regions


# Deep Feature Flow's key frames are R-FCN's: one version is enough for every day, and one size of frames.
@pytest.fixture(scope="module", params=[pytest.param("rfcn", marks=pytest.mark.slow), "dff-rfcn"])
def network(request, published_params):
    """(version, model)."""
    model = load_published(request.param, published_params(request.param))
    model.reference.resizing = None  # frames come as the graphs got them
    return request.param, model


def frames_of(expected, parity):
    """Frames (T, H, W, 3) as the networks saw them, and the size (H, W) that detections are told at."""
    if "frames" in expected:
        return expected["frames"], expected["frames"].shape[1:3]
    folder = parity(".").parent / "camvid/val"
    if not folder.is_dir():
        pytest.skip(f"needs CamVid's frames: no {folder}")
    frames = [cv2.imread(str(folder / name))[..., ::-1] for name in expected["names"]]
    scale = float(expected["im_info"][0, 2])
    resized = [
        cv2.resize(np.ascontiguousarray(f), None, fx=scale, fy=scale, interpolation=cv2.INTER_LINEAR) for f in frames
    ]
    return np.stack(resized), frames[0].shape[:2]


def images_of(frames):
    return [torch.from_numpy(np.ascontiguousarray(frame)).permute(2, 0, 1)[None] for frame in frames]


def assert_near(ours, theirs, tolerance, what):
    difference = np.abs(np.asarray(ours, np.float64) - theirs).max()
    assert difference <= tolerance, f"{what}: {difference:.2g} apart"


def detections_of(prediction, size):
    """(class, score, x1, y1, x2, y2) by class, best first, as the fixtures have them."""
    found = prediction.at(size)
    count = int(found.count[0])
    table = torch.column_stack([found.classes[0] + 1, found.scores[0], found.boxes[0]])[:count]
    return table[table[:, 0].sort(stable=True).indices].numpy()


@pytest.mark.parametrize(
    "golden",
    ["golden-odd.npz", *(pytest.param(f"golden{kind}.npz", marks=pytest.mark.slow) for kind in ("", "-resized"))],
)
def test_every_stage_agrees_with_mxnet(network, golden, parity):
    version, model = network
    with np.load(parity(f"{version}/{golden}")) as stored:
        expected = dict(stored)
    frames, size = frames_of(expected, parity)
    state = None
    for t, image in enumerate(images_of(frames)):
        of = {name.removesuffix(f"_{t}"): array for name, array in expected.items() if name.endswith(f"_{t}")}
        with torch.no_grad():
            if t % INTERVALS[version] == 0:
                prediction, state = model.key_frame(image, state)
                features = model.reference.features(subtract_mean(image)) if state is None else state.anchor.features
            else:
                motion = model.propagation.motion(subtract_mean(image), state.anchor.image)
                assert_near(motion[0][0], of["flow"], 2e-5, "flow")
                assert_near(motion[1][0, KEPT], of["scale"], 1e-4, "scale")
                features = model.propagation.move(state.anchor.features, motion)
                prediction, state = model.next_frame(image, state)
            assert_near(features[0, KEPT], of["features"], 1e-4, "features")
            maps = model.reference.maps(features)
            assert_near(maps.objectness()[0], of["rpn_scores"], 2e-5, "RPN scores")
            assert_near(model.reference._anchor_moves(maps)[0], of["rpn_deltas"], 2e-5, "RPN deltas")
            regions = prediction.regions
            assert_near(regions[0], of["rois"], 5e-3, "regions")
            for name, of_maps in (("pooled_cls", maps.classes), ("pooled_bbox", maps.boxes)):
                import accel_ops

                rois = torch.nn.functional.pad(regions[0, ROWS], (1, 0))
                scale = np.tile(np.repeat([0.1, 0.1, 0.2, 0.2], 49), 2).reshape(8, 7, 7) if name == "pooled_bbox" else 1
                pooled = accel_ops.psroi_pool(of_maps, rois, of_maps.shape[1] // 49).numpy() * scale
                assert_near(pooled, of[name], 5e-4, name)
        assert_near(prediction.probabilities[0], of["cls_prob"], 1e-4, "class probabilities")
        assert_near(prediction.deltas[0], of["bbox_pred"][:, 4:], 1e-5, "box deltas")
        found = detections_of(prediction, size)
        assert np.array_equal(found[:, 0], of["detections"][:, 0])
        assert_near(found[:, 1], of["detections"][:, 1], 1e-4, "scores")
        assert_near(found[:, 2:], of["detections"][:, 2:], 1e-2, "boxes")
        counts = prediction.kept(size)[2][0].sum(1).numpy()
        difference = np.abs(counts - of["count_before_limit"][1:]).sum()
        assert difference <= 0.01 * counts.sum()


def test_published_detectors_have_vids_classes():
    with torch.device("meta"):
        for version in INTERVALS:
            model = build_published(version)
            assert model.task == "detection" and model.reference.num_classes == 30
            assert build_published(version, 4).reference.heads.classes.out_channels == 5 * 49


# --- small ones -----------------------------------------------------------------------------------------------


def some_image(size=(50, 70), seed=0):
    return torch.randint(0, 256, (1, 3, *size), generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)


@torch.no_grad()
def test_images_of_a_batch_have_their_own_detections():
    model = small_detector("deep_feature_flow")
    images = [some_image(seed=seed) for seed in range(2)]
    together, state = model.key_frame(torch.cat(images))
    later, _ = model.next_frame(torch.cat(images[::-1]), state)
    for n in range(2):
        alone, state = model.key_frame(images[n])
        after, _ = model.next_frame(images[1 - n], state)
        for a, b in ((together, alone), (later, after)):
            for ours, theirs in zip(a.at((50, 70)), b.at((50, 70)), strict=True):
                torch.testing.assert_close(ours[n], theirs[0], rtol=1e-4, atol=1e-3)


@torch.no_grad()
def test_regions_end_where_the_frame_does():
    model = small_detector("frame_by_frame")
    for size in ((50, 70), (64, 80), (33, 49)):
        regions = model.key_frame(some_image(size))[0].regions
        assert regions.min() >= 0
        assert regions[..., 0::2].max() == size[1] - 1 and regions[..., 1::2].max() == size[0] - 1


@torch.no_grad()
def test_a_branch_alone_takes_its_cells_for_whole_ones():
    reference = small_detector("frame_by_frame").reference
    features = reference.features(subtract_mean(some_image((64, 80))))
    assert torch.equal(reference.predict(features).regions, reference.predict_within(features, (64, 80)).regions)


def test_features_go_straight_from_the_key_frame():
    """So a frame that nobody looks at leaves no trace."""
    model = small_detector("deep_feature_flow")
    assert isinstance(model, DeepFeatureFlow) and isinstance(model.reference, RFCN)
    assert isinstance(model.reference.backbone, FeatureNetwork)
    with torch.no_grad():
        _, state = model.key_frame(some_image(seed=0))
        straight, _ = model.next_frame(some_image(seed=2), state)
        skipped, _ = model.next_frame(some_image(seed=2), model.advance(some_image(seed=1), state))
    assert torch.equal(straight.probabilities, skipped.probabilities)
