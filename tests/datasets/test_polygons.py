"""Outlines of annotation programs become label images."""

import json

import cv2
import numpy as np
import pytest
from matplotlib.path import Path as Outline

from accel.commands.polygons import main
from accel.config import DataConfig
from accel.datasets import build_dataset
from accel.datasets.polygons import Shape, convert, draw, inside
from accel.datasets.polygons.coco import _decompressed

SIZE = (24, 40)
SQUARE = [4, 2, 20, 2, 20, 12, 4, 12]  # x, y: ten rows of sixteen pixels
SMALL = [8, 4, 12, 4, 12, 8, 8, 8]


@pytest.fixture
def photos(tmp_path):
    (tmp_path / "photos").mkdir()
    for name in "ab":
        cv2.imwrite(str(tmp_path / f"photos/{name}.jpg"), np.full((*SIZE, 3), 90, np.uint8))
    return tmp_path / "photos"


def expected(small=2):
    labels = np.zeros(SIZE, np.uint8)
    labels[2:12, 4:20] = 1
    labels[4:8, 8:12] = small
    return labels


def coco(photos, areas=((2, [SMALL]), (1, [SQUARE])), **more):  # the small one first: it stays on top
    values = {
        "images": [{"id": i, "file_name": f"{n}.jpg", "height": 24, "width": 40} for i, n in enumerate("ab")],
        "categories": [{"id": 1, "name": "road"}, {"id": 2, "name": "crack"}],
        "annotations": [
            {"id": i, "image_id": 0, "category_id": c, "segmentation": s} for i, (c, s) in enumerate(areas)
        ],
    }
    path = photos.parent / "coco.json"
    path.write_text(json.dumps(values | more))
    return path


def labelme(photos):
    for name, shapes in {"a": [("road", SQUARE), ("crack", SMALL)], "b": []}.items():
        values = {
            "imagePath": f"{name}.jpg",
            "imageHeight": 24,
            "imageWidth": 40,
            "shapes": [
                {"label": c, "shape_type": "polygon", "points": np.reshape(p, (-1, 2)).tolist()} for c, p in shapes
            ]
            + [{"label": "road", "shape_type": "line", "points": [[0, 0], [9, 9]]}] * (name == "b"),
        }
        (photos / f"{name}.json").write_text(json.dumps(values))
    return photos


def ultralytics(photos):
    root = photos.parent / "yolo"
    (root / "labels/train").mkdir(parents=True)
    (root / "images").mkdir()
    photos.rename(root / "images/train")
    rows = [" ".join(map(str, (c, *(np.reshape(p, (-1, 2)) / (40, 24)).ravel()))) for c, p in ((1, SMALL), (0, SQUARE))]
    (root / "labels/train/a.txt").write_text("\n".join(rows))
    (root / "data.yaml").write_text("names: {0: road, 1: crack}\n")
    return root / "labels/train"


@pytest.mark.parametrize("form", [coco, labelme, ultralytics])
def test_one_command_makes_a_folder_to_train_on(photos, tmp_path, capsys, form):
    source = form(photos)
    images = ["--images", str(photos)] if form is coco else []
    main([str(source), *images, "--output", str(tmp_path / "mine/train")])
    dataset = build_dataset(DataConfig(name="folder", root=tmp_path / "mine"), "train")
    road, crack = map(dataset.class_names.index, ("road", "crack"))
    assert dataset.class_names[0] == "background" and dataset.name(0) == "a" and len(dataset) == 2
    labels = dataset.labels(0)[1]
    assert np.array_equal(np.array([0, road, crack])[expected()], labels)
    assert not dataset.labels(1)[1].any()
    told = capsys.readouterr().out
    assert "7.50% road" in told and "0.83% crack" in told and "written: 2 images" in told
    assert ("left out: " in told) == (form is labelme)
    if form is labelme:
        assert "b.json: shape 0 of road is a line, no area" in told
    with pytest.raises(FileExistsError, match="mine/train/images exists; nothing in it is replaced"):
        convert(source, tmp_path / "mine/train", images=photos if images else None)


def test_a_pixel_belongs_to_the_area_that_its_centre_is_in():
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:24, :40] + 0.5
    centres = np.stack([x.ravel(), y.ravel()], 1)
    for _ in range(20):
        outlines = [rng.uniform(-5, 45, (rng.integers(3, 7), 2)) for _ in range(2)]
        # The winding rule of matplotlib is another for outlines that cross themselves: triangles do not.
        triangles = [outline[:3] for outline in outlines]
        each = [Outline(t).contains_points(centres).reshape(SIZE) for t in triangles]
        assert np.array_equal(inside(triangles, SIZE), each[0] ^ each[1])


def test_pixels_in_no_area_may_be_ignored(photos, tmp_path):
    convert(coco(photos), tmp_path / "mine/train", photos, rest_is_ignored=True)
    dataset = build_dataset(DataConfig(name="folder", root=tmp_path / "mine"), "train")
    assert dataset.class_names == ("road", "crack")
    assert np.array_equal(np.array([255, 0, 1])[expected()], dataset.labels(0)[1])


def test_a_second_split_takes_the_classes_of_the_first(photos, tmp_path):
    source = coco(photos)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/classes.txt").write_text("9 = crack\n3 = background\n5 = road\n")
    convert(source, tmp_path / "mine/val", photos)
    dataset = build_dataset(DataConfig(name="folder", root=tmp_path / "mine"), "val")
    assert np.array_equal(np.array([1, 2, 0])[expected()], dataset.labels(0)[1])
    (tmp_path / "mine/classes.txt").write_text("background\nroad\n")
    with pytest.raises(ValueError, match=r"classes\.txt: has no class 'crack'; it has background, road"):
        convert(source, tmp_path / "mine/test", photos)
    assert not (tmp_path / "mine/test").exists()


def run_lengths(mask):
    flat = mask.T.ravel()
    changes = np.flatnonzero(np.diff(flat.astype(int), prepend=0))
    return np.diff([0, *changes, len(flat)]).tolist()


def compressed(runs):
    """COCO's maskApi.c, rleToString."""
    text = ""
    for i, x in enumerate(runs):
        x -= runs[i - 2] if i > 2 else 0
        more = True
        while more:
            bits, x = x & 31, x >> 5
            more = x != -1 if bits & 16 else x != 0
            text += chr((bits | 32 if more else bits) + 48)
    return text


def test_run_lengths_of_coco_are_areas(photos, tmp_path):
    mask = inside([np.reshape(SQUARE, (-1, 2))], SIZE)
    source = coco(photos, [(1, {"size": list(SIZE), "counts": run_lengths(mask)})])
    convert(source, tmp_path / "mine/train", photos)
    dataset = build_dataset(DataConfig(name="folder", root=tmp_path / "mine"), "train")
    assert np.array_equal(dataset.labels(0)[1], mask)
    assert _decompressed(compressed([5, 3, 200, 1, 1000, 7])).tolist() == [5, 3, 200, 1, 1000, 7]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"annotations": [], "images": [{"id": 0, "file_name": "../a.jpg"}]},
            r"coco\.json: the image '\.\./a\.jpg' does not lie",
        ),
        ({"images": [{"id": 0, "file_name": "z.jpg"}]}, r"coco\.json: no image .*z\.jpg; --images FOLDER says"),
        ({"images": [{"id": 0, "file_name": "a.jpg", "height": 9, "width": 9}]}, r"40 x 24 pixels, but .* for 9 x 9"),
        ({"categories": [{"id": 1, "name": "road"}]}, r"annotation 0: no category 2"),
        (
            {"annotations": [{"id": 7, "image_id": 0, "category_id": 1, "segmentation": [[1, 2]]}]},
            r"annotation 7: 1 po",
        ),
        ({"annotations": 3}, r"expected COCO's JSON, with lists images, annotations and categories"),
    ],
)
def test_mistakes_are_one_line_and_nothing_is_written(photos, tmp_path, change, message):
    with pytest.raises((ValueError, FileNotFoundError), match=message) as error:
        convert(coco(photos, **change), tmp_path / "mine/train", photos)
    assert "\n" not in str(error.value) and not (tmp_path / "mine").exists()


def test_boxes_are_no_outlines(photos, tmp_path):
    source = ultralytics(photos)
    (source / "a.txt").write_text("0 0.5 0.5 0.1 0.1\n")
    with pytest.raises(ValueError, match=r"a\.txt, line 1: a box; expected an outline"):
        convert(source, tmp_path / "mine/train")


def test_later_areas_cover_earlier_ones():
    outlines = [(np.reshape(SMALL, (-1, 2)),), (np.reshape(SQUARE, (-1, 2)),)]
    shapes = [Shape(name, outline) for name, outline in zip("xy", outlines, strict=True)]
    assert (draw(shapes, {"x": 2, "y": 1}, SIZE, 0) == 2).sum() == 0
    assert np.array_equal(draw(shapes[::-1], {"x": 2, "y": 1}, SIZE, 0), expected())
