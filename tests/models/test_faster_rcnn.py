"""Faster R-CNN and Deep Feature Flow on it against mmtracking's own code: stage by stage, and as a whole."""

import cv2
import numpy as np
import pytest
import torch
from mmtracking_weights import FOLDER, MADE_WITH, mmtracking_model, shapes_of
from small_detectors import small_faster_detector
from small_models import clip_of
from torch import nn

from accel.models import build_published
from accel.models.backbones.dc5_resnets import DC5ResNet
from accel.models.detection.boxes import EDGES, clipped, decoded, encoded, overlaps
from accel.models.detection.detections import ClassDetections, Selection
from accel.models.detection.faster_rcnn import BOX_DEVIATIONS, FasterRCNN
from accel.models.detection.proposals import EdgeProposing, propose_edges
from accel.models.detection.resizing import OpenCvResizing
from accel.models.images import subtract_mean
from accel.models.propagation.flow_warp import ShrinkingFlowWarp
from accel.models.propagation.flownet_s import FLOW_SCALE
from accel.models.propagation.flownet_simple import FlowNetSimple
from accel.weights.mmtracking_names import their_name

SELECTION = Selection(1e-4, 0.5, 100)


@pytest.fixture(scope="module")
def golden(parity):
    with np.load(parity(f"{FOLDER}/golden-r50.npz")) as stored:
        return dict(stored)


def stored(golden, name):
    return torch.from_numpy(golden[name])[None]


def image_of(frame):
    return torch.from_numpy(np.ascontiguousarray(frame)).permute(2, 0, 1)[None]


def assert_near(ours, theirs, tolerance, what=""):
    difference = np.abs(np.asarray(ours, np.float64) - np.asarray(theirs)).max()
    assert difference <= tolerance, f"{what}: {difference:.2g} apart"


def first_background(logits):
    """Theirs is the last one."""
    return logits.roll(1, -1)


# --- stages, each from what the one before left ---------------------------------------------------------------


@pytest.mark.parametrize("prefix", ["a_", "b_"])
def test_networks_see_what_mmtrackings_see(golden, prefix):
    """Frames of `b_` are no whole cells: zeros are added, after the mean is subtracted."""
    current, key = (subtract_mean(image_of(golden[f"{prefix}frames"][t])) for t in (1, 0))
    seen = DC5ResNet((1, 1, 1, 1), width=4).normalised(current)
    assert_near(seen[0, :, ::4, ::4], golden[f"{prefix}input_1"], 1e-5)
    assert_near(FlowNetSimple(1 / 16)._halved(current, key)[0, :, ::4, ::4], golden[f"{prefix}flow_input_1"], 1e-6)


@pytest.mark.parametrize("prefix", ["a_", "b_", "full_"])
def test_flow_becomes_that_of_cells_and_features_follow_it(golden, prefix):
    flow = FlowNetSimple(1 / 16)
    flow.predict["2"] = nn.Identity()
    cells = FLOW_SCALE * flow._last(stored(golden, f"{prefix}flow_low_1"))[1]
    assert_near(cells[0], golden[f"{prefix}flow_cells_1"], 1e-5)
    moved = ShrinkingFlowWarp.move(stored(golden, f"{prefix}features_0"), stored(golden, f"{prefix}flow_cells_1"))
    assert_near(moved[0], golden[f"{prefix}features_1"], 1e-5)


def test_flow_of_zero_shrinks_a_map():
    """By a share of a cell towards the first one, as published."""
    ramp = torch.arange(10.0).expand(1, 1, 8, 10)
    moved = ShrinkingFlowWarp.move(ramp, torch.zeros(1, 2, 8, 10))
    torch.testing.assert_close(moved, ramp * 0.9)
    beyond = ShrinkingFlowWarp.move(ramp, torch.full((1, 2, 8, 10), 99.0))
    torch.testing.assert_close(beyond, torch.full_like(ramp, 9))


@pytest.mark.parametrize(("prefix", "frame"), [("a_", 0), ("b_", 1)])
def test_regions_are_proposed_as_mmdetection_does(golden, prefix, frame):
    objects, moves = stored(golden, f"{prefix}objectness_{frame}"), stored(golden, f"{prefix}deltas_{frame}")
    size = tuple(map(int, golden[f"{prefix}sizes"][1]))
    regions, scores, count = propose_edges(objects.sigmoid(), moves, size)
    assert count.tolist() == [300]
    assert_near(regions[0], golden[f"{prefix}proposals_{frame}"][:, :4], 1e-3)
    assert_near(scores[0], golden[f"{prefix}proposals_{frame}"][:, 4], 1e-6)


def test_regions_are_pooled_as_mmcv_does(golden):
    regions = stored(golden, "b_proposals_1")[:, ::16, :4]
    pooled = FasterRCNN.pooled(None, stored(golden, "b_features_1")[:, ::4], regions)
    assert_near(pooled, golden["b_roi_features_1"], 1e-5)


def test_detections_are_chosen_as_mmdetection_does(golden):
    """Where the threshold of scores decides, and not how many there are."""
    height, width = map(int, golden["post_image_size"])
    x, y = golden["post_scale_factor"]
    moves = stored(golden, "post_box_deltas").unflatten(2, (-1, 4)) * torch.tensor(BOX_DEVIATIONS)
    scores = first_background(stored(golden, "post_class_scores")).softmax(-1)
    said = ClassDetections(stored(golden, "post_rois"), scores, moves, (height, width), SELECTION)
    original = round(height / y), round(width / x)
    assert original == (height / y, width / x)
    found = said.at(original)
    assert found.count.tolist() == [91] and found.boxes.shape == (1, 100, 4)
    assert_near(found.boxes[0, :91], golden["post_boxes"], 1e-2)
    assert_near(found.scores[0, :91], golden["post_scores"], 1e-5)
    assert np.array_equal(found.classes[0, :91], golden["post_labels"])
    assert not found.boxes[0, 91:].any() and not found.scores[0, 91:].any()


@pytest.mark.parametrize("size", [(37, 61), (360, 480), (80, 140), (411, 99), (3, 5)])
def test_resizing_is_opencvs(size):
    frame = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    for resizing in (OpenCvResizing(), OpenCvResizing(40, 70)):
        height, width = resizing.size(size)
        expected = cv2.resize(frame, (width, height), interpolation=cv2.INTER_LINEAR)
        assert torch.equal(resizing(image_of(frame)), image_of(expected).to(resizing(image_of(frame)).dtype))
        assert torch.equal(resizing(image_of(frame).float()), image_of(expected).float())


def test_sizes_are_rounded_as_mmcv_rounds_them():
    assert OpenCvResizing().size((360, 480)) == (600, 800)
    assert OpenCvResizing().size((720, 1280)) == (563, 1000)
    assert OpenCvResizing().size((1080, 1920)) == (563, 1000)


# --- boxes whose corners are edges ----------------------------------------------------------------------------


def test_corners_can_be_the_edges_of_boxes():
    boxes = torch.tensor([[0.0, 0, 10, 10], [5, 0, 15, 10], [10, 0, 20, 10]])
    assert overlaps(boxes[:1], boxes, EDGES)[0].tolist() == pytest.approx([1, 1 / 3, 0])
    deltas = encoded(boxes, boxes.flip(0), EDGES)
    torch.testing.assert_close(decoded(boxes, deltas, EDGES), boxes.flip(0))
    assert clipped(torch.tensor([[-3.0, 2, 40, 50]]), (30, 20), EDGES).tolist() == [[0, 2, 20, 30]]
    grown = decoded(boxes[:1], torch.tensor([[0.0, 0, 9, -9]]), EDGES)[0]
    torch.testing.assert_close(grown, torch.tensor([5 - 312.5, 5 - 0.08, 5 + 312.5, 5 + 0.08]))


def test_regions_without_sides_are_left_out():
    """All anchors of a cell beyond the image are clipped to nothing. What there is, is repeated."""
    proposing = EdgeProposing(count=6, scales=(1.0,), ratios=(1.0,))
    scores = torch.linspace(0.1, 0.9, 9).view(1, 1, 1, 9)
    regions, _, count = propose_edges(scores, torch.zeros(1, 4, 1, 9), (16, 40), proposing)
    assert count.tolist() == [3]  # of 9: one at each of x = 0, 16 and 32; those from 48 on lie outside
    assert regions[0].tolist() == 2 * [[24, 0, 40, 8], [8, 0, 24, 8], [0, 0, 8, 8]]


def test_a_region_that_is_repeated_is_one():
    region = torch.tensor([[[0.0, 0, 8, 8], [0, 0, 8, 8]]])
    scores = torch.tensor([0.1, 0.9]).expand(1, 2, 2)
    nothing = torch.zeros(1, 2, 1, 4)  # a region of no size would otherwise stay twice
    said = ClassDetections(0 * region, scores, nothing, (9, 9), SELECTION, count=torch.tensor([1]))
    assert said.at((9, 9)).count.tolist() == [1]


# --- whole models ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", ["r50", "r101", "x101"])
def test_parameters_have_mmtrackings_names_and_shapes(version, parity):
    with torch.device("meta"):
        model = build_published(f"dff-faster-rcnn-{version}")
    assert {their_name(n): tuple(t.shape) for n, t in model.state_dict().items()} == shapes_of(parity, version)


@torch.no_grad()
def test_images_of_a_batch_have_their_own_detections():
    model, clips = small_faster_detector(), clip_of((50, 70), 4)[0]
    together, state = model.key_frame(clips[:2])
    later, _ = model.next_frame(clips[2:], state)
    for n in range(2):
        alone, state = model.key_frame(clips[n : n + 1])
        after, _ = model.next_frame(clips[2 + n : 3 + n], state)
        for a, b in ((together, alone), (later, after)):
            for ours, theirs in zip(a.at((50, 70)), b.at((50, 70)), strict=True):
                torch.testing.assert_close(ours[n], theirs[0], rtol=1e-4, atol=1e-3)


@pytest.fixture(scope="module", params=list(MADE_WITH))
def network(request, parity):
    """(stored outputs, model)."""
    with np.load(parity(f"{FOLDER}/{MADE_WITH[request.param]}")) as stored:
        return dict(stored), mmtracking_model(parity, request.param)


def frames_of(expected, prefix, camvid_root):
    if f"{prefix}frames" in expected:
        return expected[f"{prefix}frames"]
    return np.stack([cv2.imread(str(camvid_root / "val" / name))[..., ::-1] for name in expected[f"{prefix}names"]])


def assert_same_rows(ours, theirs, tolerance, ties, what):
    """Each of theirs is one of ours, but for `ties`: slivers beyond the outermost samples are pooled alike. Their
    scores are equal to the last digit, and which of them comes first is up to the sorting."""
    ours, theirs = np.asarray(ours, np.float64), np.asarray(theirs, np.float64)
    distances = np.abs(ours[:, None] - theirs[None]).max(2).min(0)
    assert (distances > tolerance).sum() <= ties, f"{what}: {np.sort(distances)[-5:]}"


@pytest.mark.slow
@pytest.mark.parametrize("prefix", ["a_", "b_", "full_", "clip_"])
@torch.no_grad()
def test_every_stage_agrees_with_mmtracking(network, prefix, camvid_root):
    expected, model = network
    if f"{prefix}names" not in expected:
        pytest.skip("not stored")
    reference = model.reference
    reference.resizing = OpenCvResizing() if prefix == "full_" else None
    frames, state = frames_of(expected, prefix, camvid_root), None
    brief = 4 if prefix == "full_" else 1
    for t, frame in enumerate(frames):
        image = image_of(frame)
        seen = reference.seen(image)
        of = {n[len(prefix) :].removesuffix(f"_{t}"): a for n, a in expected.items() if n.startswith(prefix)
              and n.endswith(f"_{t}")}  # fmt: skip
        if t % 10 == 0:
            said, state = model.key_frame(image)
            features = state.anchor.features
        else:
            flow = model.propagation.motion(seen, state.anchor.image)
            assert_near(flow[0], of["flow_cells"], 1e-5, "flow")
            features = model.propagation.move(state.anchor.features, flow)
            said, state = model.next_frame(image, state)
        if "backbone" in of:
            step = 64 if brief == 1 else 128
            assert_near(reference.backbone.network(seen)[0, ::step], of["backbone"], 2e-5, "backbone")
        if "features" in of:
            assert_near(features[0, :: 8 * brief], of["features"], 3e-5, "features")
            maps = reference.maps(features)
            assert_near(maps.objects[0], of["objectness"], 3e-4, "objectness")
            if "deltas" in of:
                assert_near(maps.moves[0], of["deltas"], 3e-4, "moves")
            assert said.count.tolist() == [300]
            assert_same_rows(said.regions[0], of["proposals"][:, :4], 5e-3, 2, "proposals")
            judged, boxes = reference.judge(maps, torch.from_numpy(of["proposals"][None, :, :4]))
            assert_near(first_background(torch.from_numpy(of["class_scores"])), judged[0], 1e-3, "class scores")
            if "box_deltas" in of:
                assert_near(boxes[0].flatten(1), of["box_deltas"], 1e-3, "box deltas")
        found = said.at(frame.shape[:2])
        assert found.count.tolist() == [100]
        ours = np.column_stack([found.boxes[0], 100 * found.scores[0], found.classes[0]])
        theirs = np.column_stack([of["boxes"], 100 * of["scores"], of["labels"]])
        if prefix == "clip_":
            assert_same_rows(ours, theirs, 1e-2, 4, f"detections of frame {t}")
        else:
            assert_near(ours, theirs, 1e-2, f"detections of frame {t}")
