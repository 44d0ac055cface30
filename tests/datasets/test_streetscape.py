"""Streetscape: the scenes are what their labels and flow say, and lie on disk as Cityscapes does."""

import json
import re
import time

import cv2
import numpy as np
import pytest
from cityscapesscripts.helpers.labels import id2label, name2label

from accel.datasets.streetscape import StreetScene, generate_streetscape, scene_of, streetscape_flow
from accel.datasets.streetscape.files import snippet_files

SMALL = (64, 128)
SCENES = range(4)


def all_files(root):
    return {p.relative_to(root).as_posix(): p.read_bytes() for p in root.rglob("*") if p.is_file()}


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return generate_streetscape(tmp_path_factory.mktemp("streetscape"), {"train": 1, "val": 1}, SMALL, 5, workers=0)


def warp(image, flow, interpolation):
    """What the frame before shows at the places the flow points to."""
    h, w = flow.shape[:2]
    grid = np.stack(np.meshgrid(np.arange(w), np.arange(h)), -1).astype(np.float32)
    at = np.nan_to_num(grid + flow, nan=-9)
    return cv2.remap(image, at[..., 0], at[..., 1], interpolation, borderMode=cv2.BORDER_REPLICATE)


# --- scenes


def test_a_scene_follows_from_its_numbers_whatever_was_asked_before():
    first, second = StreetScene(1, "train", 2, SMALL), StreetScene(1, "train", 2, SMALL)
    second.flow(25), second.render(3)
    for frame in (7, 8):
        a, b = first.render(frame), second.render(frame)
        assert (a.image == b.image).all() and (a.instance_ids == b.instance_ids).all()
    np.testing.assert_array_equal(first.flow(8), second.flow(8))


@pytest.mark.parametrize("other", [(2, "train", 2), (1, "val", 2), (1, "train", 3)])
def test_other_numbers_give_another_scene(other):
    a, b = StreetScene(1, "train", 2, SMALL).render(0), StreetScene(*other, SMALL).render(0)
    assert (a.label_ids != b.label_ids).mean() > 0.05


def test_every_label_is_cityscapes_and_the_instances_agree():
    seen = set()
    for i in range(8):
        rendering = StreetScene(0, "train", i, SMALL).render(19)
        labels, instances = rendering.label_ids, rendering.instance_ids
        assert labels.dtype == np.uint8 and instances.max() < 2**16
        for number in np.unique(labels):
            label = id2label[int(number)]
            own = np.unique(instances[labels == number])
            assert (own // 1000 == number).all() if label.hasInstances else (own == number).all()
            seen.add(label.name)
    assert {"road", "sidewalk", "building", "vegetation", "sky", "person", "car", "pole"} <= seen


@pytest.mark.parametrize("index", SCENES)
def test_flow_carries_the_frame_before_onto_the_frame(index):
    scene = StreetScene(0, "train", index)
    before, now, flow = scene.render(9), scene.render(10), scene.flow(10)
    shown = ~np.isnan(flow[..., 0])
    assert 0.8 < shown.mean() < 1
    difference = now.image.astype(int) - warp(before.image, flow, cv2.INTER_LINEAR)
    still = now.image.astype(int) - before.image
    interior = cv2.erode(shown.astype(np.uint8), np.ones((3, 3))) > 0
    assert np.abs(difference[interior]).mean() < 0.6 * np.abs(still[interior]).mean()
    assert np.median(np.abs(difference[interior])) <= 3
    agree = warp(before.label_ids, flow, cv2.INTER_NEAREST) == now.label_ids
    assert agree[shown].mean() > 0.99


def test_flow_is_that_of_the_points_in_space():
    """Independent of homographies: lift pixels with the depth map, move their bodies, project."""
    scene = StreetScene(0, "val", 3)
    flow, now = scene.flow(12), scene._view(12)
    ys, xs = np.nonzero(~np.isnan(flow[..., 0]) & (now.inverse_depth > 0))
    pick = np.random.default_rng(0).choice(len(ys), 500, replace=False)
    for y, x in zip(ys[pick], xs[pick], strict=True):
        depth = 1 / float(now.inverse_depth[y, x])
        camera, body = scene._cameras[12], scene._surfaces.body[now.ids[y, x]]
        point = np.linalg.solve(camera[:, :3], depth * np.array([x, y, 1]) - camera[:, 3])
        move = scene._poses[11, body] @ np.linalg.inv(scene._poses[12, body])
        u, v, w = scene._cameras[11] @ move @ np.append(point, 1)
        np.testing.assert_allclose(flow[y, x], (u / w - x, v / w - y), atol=5e-3)


def test_flow_leads_to_places_that_showed_the_same_surface():
    scene = StreetScene(0, "train", 1)
    flow, now, before = scene.flow(10), scene._view(10), scene._view(9)
    ys, xs = np.nonzero(~np.isnan(flow[..., 0]))
    to = np.rint(np.stack([ys, xs], 1) + flow[ys, xs][:, ::-1]).astype(int)
    assert (to >= 0).all() and (to < flow.shape[:2]).all()
    patch = scene._surfaces.patch
    assert (patch[now.ids[ys, xs]] == patch[before.ids[to[:, 0], to[:, 1]]]).all()


def test_the_sides_move_several_pixels_and_the_scenes_own_movers_move_otherwise():
    speed, uncovered = [], []
    for i in SCENES:
        flow = StreetScene(0, "train", i).flow(10)
        speed.append(np.nanmedian(np.linalg.norm(flow[128:, [*range(40), *range(472, 512)]], axis=-1)))
        uncovered.append(np.isnan(flow[..., 0]).mean())
    assert np.median(speed) > 3
    assert 0.005 < np.mean(uncovered) < 0.2


@pytest.mark.parametrize("size", [(64, 64), (70, 201), (128, 64)])
def test_any_size_shows_the_same_scene(size):
    scene = StreetScene(3, "test", 0, size)
    assert scene.render(29).image.shape == (*size, 3)
    assert scene.flow(29).shape == (*size, 2)


def test_mistakes_in_a_scenes_numbers_are_named():
    with pytest.raises(ValueError, match="split must be one of train, val, test"):
        StreetScene(0, "training", 0)
    with pytest.raises(ValueError, match="64 x 64"):
        StreetScene(0, "train", 0, (32, 128))
    scene = StreetScene(0, "train", 0, SMALL)
    with pytest.raises(ValueError, match="frame must be in 0"):
        scene.render(30)
    with pytest.raises(ValueError, match="frame before"):
        scene.flow(0)


# --- files


def test_the_files_lie_as_in_cityscapes(root):
    names = set(all_files(root))
    assert "streetscape.json" in names and len(names) == 1 + 2 * 23
    for split, city in (("train", "northgate"), ("val", "eastbrook")):
        frames = {f"leftImg8bit_sequence/{split}/{city}/{city}_000000_{f:06d}_leftImg8bit.png" for f in range(20)}
        assert frames < names
        truth = root / "gtFine" / split / city
        read = {
            kind: cv2.imread(str(truth / f"{city}_000000_000019_gtFine_{kind}.png"), cv2.IMREAD_UNCHANGED)
            for kind in ("labelIds", "instanceIds", "color")
        }
        assert read["labelIds"].dtype == np.uint8 and read["instanceIds"].dtype == np.uint16
        assert read["labelIds"].shape == SMALL
        road = read["color"][read["labelIds"] == name2label["road"].id]
        assert (road[:, ::-1] == name2label["road"].color).all()


def test_files_show_what_the_scene_of_their_name_renders(root):
    path = root / "leftImg8bit_sequence/val/eastbrook/eastbrook_000000_000019_leftImg8bit.png"
    scene, frame = scene_of(root, path)
    rendering = scene.render(frame)
    np.testing.assert_array_equal(cv2.imread(str(path))[..., ::-1], rendering.image)
    truth = root / "gtFine/val/eastbrook/eastbrook_000000_000019_gtFine_labelIds.png"
    np.testing.assert_array_equal(cv2.imread(str(truth), cv2.IMREAD_UNCHANGED), rendering.label_ids)
    np.testing.assert_array_equal(streetscape_flow(root, "val", "eastbrook", "000000", 19), scene.flow(19))


def test_worker_processes_write_the_same_bytes(root, tmp_path):
    calls = []
    settings = {"workers": 2, "progress": lambda *x: calls.append(x)}
    generate_streetscape(tmp_path, {"train": 1, "val": 1}, SMALL, 5, **settings)
    assert calls == [(1, 2), (2, 2)]
    assert all_files(tmp_path) == all_files(root)


def test_growing_writes_only_what_is_missing_and_repairs_what_was_interrupted(tmp_path):
    generate_streetscape(tmp_path, {"train": 2}, SMALL, workers=0)
    whole = all_files(tmp_path)
    *images, _, _, label_ids = snippet_files(tmp_path, "train", 1)
    label_ids.unlink()  # as if stopped before the end, in the middle of a frame
    images[4].write_bytes(b"half")
    times = {p: p.stat().st_mtime_ns for p in tmp_path.rglob("northgate_000000_*.png")}
    time.sleep(0.02)
    calls = []
    generate_streetscape(tmp_path, {"train": 3}, SMALL, workers=0, progress=lambda *x: calls.append(x))
    assert calls == [(1, 2), (2, 2)]
    assert {p: p.stat().st_mtime_ns for p in times} == times
    grown = all_files(tmp_path)
    assert {name: grown[name] for name in whole} == whole and len(grown) == 1 + 3 * 23
    generate_streetscape(tmp_path, {"train": 1}, SMALL, workers=0, progress=lambda *x: calls.append(x))
    assert len(calls) == 2


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"size": (64, 160)}, "found size [64, 128], expected [64, 160]"),
        ({"seed": 6}, "found seed 5, expected 6"),
    ],
)
def test_another_kind_of_scene_in_the_same_root_is_refused(root, settings, message):
    with pytest.raises(ValueError, match="streetscape.json: " + re.escape(message)):
        generate_streetscape(root, {"train": 1}, **{"size": SMALL, "seed": 5, **settings})


def test_another_version_or_data_set_or_split_is_refused(tmp_path):
    (tmp_path / "streetscape.json").write_text(json.dumps({"version": 0, "seed": 0, "size": [64, 128]}))
    with pytest.raises(ValueError, match=r"streetscape\.json: found"):
        generate_streetscape(tmp_path, {"train": 1}, SMALL)
    with pytest.raises(ValueError, match="found version 0, expected 1"):
        scene_of(tmp_path, "northgate_000000_000019_leftImg8bit.png")
    real = tmp_path / "cityscapes"
    (real / "gtFine").mkdir(parents=True)
    with pytest.raises(ValueError, match="not Streetscape"):
        generate_streetscape(real, {"train": 1}, SMALL)
    with pytest.raises(ValueError, match="unknown split trian"):
        generate_streetscape(tmp_path / "new", {"trian": 1}, SMALL)


def test_only_streetscapes_own_files_have_a_scene(root, tmp_path):
    with pytest.raises(ValueError, match="not a Streetscape root"):
        scene_of(tmp_path, "northgate_000000_000019_leftImg8bit.png")
    for name in ("aachen_000000_000019_leftImg8bit.png", "northgate_000000_000030_leftImg8bit.png", "x.png"):
        with pytest.raises(ValueError, match="not a Streetscape file name"):
            scene_of(root, name)
    with pytest.raises(ValueError, match="train/eastbrook"):
        streetscape_flow(root, "train", "eastbrook", 0, 19)
