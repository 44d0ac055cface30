"""Own frames with boxes, as a COCO file or in Pascal VOC's layout: what is read, and a line for each mistake."""

import json
import re

import cv2
import numpy as np
import pytest

from accel.config import Config, DataConfig
from accel.datasets import build_dataset
from accel.datasets.box_counts import BoxCounts
from accel.datasets.checking import check_split
from accel.datasets.coco import Coco
from accel.datasets.label_sample import look_at_boxes
from accel.datasets.sampling import TrainingClips
from accel.datasets.voc import Voc
from accel.training.label_check import check_labels

SIZE = (30, 40)  # of frames
VIDEO = [f"drive/{number}.png" for number in (8, 9, 10, 11)]  # in this order, not in that of the letters


def write_image(path, value=100, size=SIZE):
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), np.full((*size, 3), value, np.uint8))


def coco_content():
    """A still without a box and one with two, and a video whose second and last frame are labelled."""
    names = ["a.png", "b.png", VIDEO[1], VIDEO[3]]
    boxes = [(2, [0, 0, 40, 30]), (5, [10.5, 4, 8, 6.5]), (5, [1, 2, 3, 4]), (2, [30, 20, 10, 10])]
    return {
        "images": [{"id": 10 + n, "file_name": name, "width": 40, "height": 30} for n, name in enumerate(names)],
        "categories": [{"id": 5, "name": "person"}, {"id": 2, "name": "car"}],
        "annotations": [
            {"id": n, "image_id": image, "category_id": category, "bbox": box}
            for n, (image, (category, box)) in enumerate(zip((11, 11, 12, 13), boxes, strict=True), 1)
        ],
    }


def write_coco(root, content):
    for number, name in enumerate(("a.png", "b.png", *VIDEO)):
        write_image(root / "train" / name, 10 * number)
    (root / "annotations").mkdir(exist_ok=True)
    (root / "annotations/instances_train.json").write_text(json.dumps(content))
    return root


def xml(*objects, size=(40, 30), extra=""):
    boxes = "".join(
        f"<object><name>{name}</name>{extra}<bndbox><xmin>{x1}</xmin><ymin>{y1}</ymin><xmax>{x2}</xmax><ymax>{y2}</ymax>"
        "</bndbox></object>"
        for name, x1, y1, x2, y2 in objects
    )
    return f"<annotation><size><width>{size[0]}</width><height>{size[1]}</height></size>{boxes}</annotation>"


VOC_BOXES = {
    "a": [],
    "b": [("car", 1, 1, 40, 30), ("person", 11.5, 5, 18.5, 10.5)],
    "drive/9": [("person", 2, 3, 4, 6)],
    "drive/11": [("car", 31, 21, 40, 30)],
}


def write_voc(root, annotations=None, names=tuple(VOC_BOXES)):
    """The same frames and boxes."""
    for number, name in enumerate(("a.png", "b.png", *VIDEO)):
        write_image(root / "JPEGImages" / name, 10 * number)
    for name, text in ({name: xml(*boxes) for name, boxes in VOC_BOXES.items()} | (annotations or {})).items():
        path = root / f"Annotations/{name}.xml"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    (root / "ImageSets/Main").mkdir(parents=True, exist_ok=True)
    (root / "ImageSets/Main/train.txt").write_text("".join(f"{name}\n" for name in names))
    (root / "classes.txt").write_text("car\nperson\n")
    return root


@pytest.fixture(params=["coco", "voc"])
def data(request, tmp_path):
    """The same frames and boxes in both forms."""
    write_coco(tmp_path, coco_content()) if request.param == "coco" else write_voc(tmp_path)
    return DataConfig(name=request.param, root=tmp_path, clip_length=2)


def test_stills_and_videos_are_read(data):
    dataset = build_dataset(data, "train")
    assert dataset.class_names == ("car", "person") and dataset.palette.shape == (2, 3)
    assert all(colour.sum() > 0 for colour in dataset.palette), "black boxes are hard to see"
    assert [dataset.history(index) for index in range(4)] == [0, 0, 1, 3]
    assert [dataset.clip(index, 1).boxes.tolist() for index in range(4)] == [
        [],
        [[0, 0, 39, 29, 0], [10.5, 4, 17.5, 9.5, 1]],
        [[1, 2, 3, 5, 1]],
        [[30, 20, 39, 29, 0]],
    ]
    clip = dataset.clip(3, 4)
    assert clip.frames[:, 0, 0, 0].tolist() == [20, 30, 40, 50] and clip.boxes.dtype == np.float32
    assert [dataset.place(index)[1] for index in range(4)] == [0, 0, 1, 3]
    assert dataset.place(2)[0] == dataset.place(3)[0] == "drive" and dataset.place(0)[0] != dataset.place(1)[0]
    with pytest.raises(ValueError, match=r"11\.png: 3 frames come before it, a clip of 5 needs more"):
        dataset.clip(3, 5)
    assert len(TrainingClips(dataset, 2)) == 2


def test_nothing_is_wrong_with_them(data):
    found = check_split(data, "train", (1, 2), workers=0, quiet=True)
    assert found.problems == found.warnings == []
    cars, people, none = found.counts.rows()
    assert (cars, people) == (("0 car", "2", "50.00"), ("1 person", "2", "50.00"))
    assert none == ("frames without a box", "", "25.00")
    assert f"{10 if data.name == 'voc' else 6} files of 4 labelled frames read, all are fit" in found.summary()
    assert found.class_table() is not None


# --- mistakes -------------------------------------------------------------------------------------------------


def mistakes_of(kind, root):
    """What `--check-data` lists; and that training says the first of them, or that about a file."""
    data = DataConfig(name=kind, root=root)
    problems = check_split(data, "train", (1,), workers=0, quiet=True).problems
    with pytest.raises((ValueError, FileNotFoundError)) as error:
        dataset = build_dataset(data, "train")
        for index in range(len(dataset)):
            dataset.clip(index, 1)
    assert "\n" not in str(error.value) and problems
    return problems


BOXES = [
    ([5, 5, 0, 4], "an empty box, 0 x 4 pixels"),
    ([20, 5, -3, 4], "an inverted box, -3 x 4 pixels"),
    ([30, 5, 12, 4], "a box outside the frame: x 30 to 42, y 5 to 9 in 40 x 30 pixels"),
    ([-2, 5, 12, 4], "a box outside the frame: x -2 to 10"),
]


NO_BOXES = [
    ([1, 2, 3], "bbox [1, 2, 3]; expected [x, y, width, height]"),
    ([1, 2, 3, "4"], "expected [x, y, width, height]"),
    ([1, 2, 3, 10**400], "expected [x, y, width, height]"),
    ([1, 2, 3, float("inf")], "a corner is no number"),
    (None, "bbox None; expected"),
]


@pytest.mark.parametrize(("box", "line"), [*BOXES, *NO_BOXES])
def test_wrong_boxes_of_coco_are_told(tmp_path, box, line):
    content = coco_content()
    content["annotations"][1]["bbox"] = box
    (problem,) = mistakes_of("coco", write_coco(tmp_path, content))
    assert "instances_train.json: annotation 2 (image b.png): " in problem and line in problem


@pytest.mark.parametrize(("box", "line"), BOXES)
def test_wrong_boxes_of_voc_are_told(tmp_path, box, line):
    x, y, width, height = box
    text = xml(("car", 1, 1, 5, 5), ("car", x + 1, y + 1, x + width, y + height))
    (problem,) = mistakes_of("voc", write_voc(tmp_path, {"b": text}))
    assert "b.xml: object 2 (car): " in problem and line in problem


COCO_MISTAKES = [
    (lambda c: c["annotations"][0].update(category_id=7), r"annotation 1 .*: unknown class, category_id 7; there are"),
    (lambda c: c["annotations"][0].update(image_id=7), r"annotation 1: no image has its image_id 7"),
    (lambda c: c["annotations"][1].update(id=1), r"annotations: id 1 is there more than once"),
    (lambda c: c["images"][1].update(id=10), r"images: id 10 is there more than once"),
    (lambda c: c["images"][1].update(file_name="a.png"), r"images: file_name 'a.png' is there more than once"),
    (lambda c: c["categories"].append({"id": 2, "name": "bus"}), r"categories: id 2 is there more than once"),
    (lambda c: c["categories"].append({"id": 9, "name": "car"}), r"categories: name 'car' is there more than once"),
    (lambda c: c["images"][1].update(file_name="gone.png"), r"gone\.png: no such file"),
    (lambda c: c["images"][1].update(file_name="../train/b.png"), r"image 11: file_name .* leads out of the folder"),
    (lambda c: c["images"][1].update(width=41), r"image 11 \(b\.png\): width and height are 41 x 30, but .* 40 x 30"),
    (lambda c: c["images"][1].update(height="30"), r"image 11 \(b\.png\): width and height are 40 x '30', but"),
    (lambda c: c["images"][1].pop("id"), r"images: expected a whole number as 'id' in \{'file_name': 'b\.png'"),
    (lambda c: c["annotations"].append(3), r"annotations: expected a whole number as 'id' in 3"),
]


@pytest.mark.parametrize(("change", "line"), COCO_MISTAKES)
def test_mistakes_in_a_coco_file_are_told(tmp_path, change, line):
    content = coco_content()
    change(content)
    problems = mistakes_of("coco", write_coco(tmp_path, content))
    assert re.search(line, problems[0]), problems
    assert all("\n" not in problem and str(tmp_path) in problem for problem in problems)


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("no json", r"not JSON"),
        ("[" * 100_000, r"not JSON"),
        ("[]", r"there is no list 'images'"),
        ('{"images": [], "annotations": []}', r"there is no list 'categories'"),
        ('{"images": [], "annotations": [], "categories": []}', r"0 categories; expected 1 to 255"),
        ('{"images": [], "annotations": [], "categories": [{"id": 1, "name": "a"}]}', r"none of its 0 images"),
    ],
)
def test_files_that_are_no_coco_are_refused(tmp_path, text, line):
    (tmp_path / "val.json").write_text(text)
    with pytest.raises(ValueError, match=rf"val\.json: .*{line}"):
        Coco(tmp_path, "val")
    with pytest.raises(FileNotFoundError, match=r"no COCO file for the split 'test' .*instances_test\.json"):
        Coco(tmp_path, "test")


def test_coco_files_lie_where_programs_put_them(tmp_path):
    content = coco_content()
    for file, images in (("val.json", "images"), ("val/_annotations.coco.json", "val"), ("val.json", "images/val")):
        root = tmp_path / file.replace("/", "-") / images
        for name in ("a.png", "b.png", *VIDEO):
            write_image(root / images / name)
        (root / file).parent.mkdir(exist_ok=True)
        (root / file).write_text(json.dumps(content))
        assert Coco(root, "val").clip(1, 1).boxes.shape == (2, 5)


def test_crowds_and_difficult_objects_are_left_out(tmp_path):
    content = coco_content()
    content["annotations"][0]["iscrowd"] = 1
    assert len(Coco(write_coco(tmp_path, content), "train").clip(1, 1).boxes) == 1
    difficult = xml(*VOC_BOXES["b"], extra="<difficult>1</difficult>")
    assert len(Voc(write_voc(tmp_path, {"b": difficult}), "train").clip(1, 1).boxes) == 0


VOC_MISTAKES = [
    (xml(("cra", 1, 1, 5, 5)), r"b\.xml: object 1 \(cra\): unknown class; .*classes\.txt has car, person"),
    (xml(("car", 1, 1, "x", 5)), r"b\.xml: object 1 \(car\): expected a bndbox with xmin, ymin, xmax, ymax"),
    (xml(size=(41, 30)), r"b\.xml: size is 41 x 30, but the image has 40 x 30 pixels"),
    (xml(*VOC_BOXES["b"], extra="<trackid>3</trackid>"), r"b\.xml: trackid 3 is there more than once"),
    ("<annotation>", r"b\.xml: no annotation of boxes"),
]


@pytest.mark.parametrize(("text", "line"), VOC_MISTAKES)
def test_mistakes_in_an_annotation_of_voc_are_told(tmp_path, text, line):
    problems = mistakes_of("voc", write_voc(tmp_path, {"b": text}))
    assert len(problems) == 1 and re.search(line, problems[0]), problems


def test_missing_files_and_double_names_of_voc_are_told(tmp_path):
    root = write_voc(tmp_path, names=("a", "b", "b", "drive/9", "drive/11"))
    (root / "Annotations/a.xml").unlink()
    (root / "JPEGImages/drive/9.png").unlink()
    problems = mistakes_of("voc", root)
    lines = [r"a\.xml: no such file", r"train\.txt: lists b more than once", r"drive/9\.jpg: no such file, nor with"]
    assert all(re.search(line, problem) for line, problem in zip(lines, problems, strict=True)), problems
    (root / "classes.txt").unlink()
    with pytest.raises(FileNotFoundError, match=r"classes\.txt: .*expected the classes.*annotations name car, person"):
        Voc(root, "train")
    with pytest.raises(FileNotFoundError, match=r"no frames with boxes for the split 'val'"):
        Voc(root, "val")
    (root / "ImageSets/Main/train.txt").write_text("../a\n")
    with pytest.raises(ValueError, match=r"train\.txt: '\.\./a' leads out"):
        Voc(root, "train")


def test_a_split_of_voc_may_be_a_folder(tmp_path):
    write_voc(tmp_path / "val")
    (tmp_path / "val/JPEGImages").rename(tmp_path / "val/images")
    (tmp_path / "val/classes.txt").rename(tmp_path / "classes.txt")
    dataset = Voc(tmp_path, "val")
    assert [dataset.name(index) for index in range(4)] == ["a", "b", "drive/9", "drive/11"]


def test_damaged_images_are_told(data):
    dataset = build_dataset(data, "train")
    path = dataset.image_paths(1, 1)[0]
    path.write_bytes(path.read_bytes()[:-20])
    assert [str(path) in problem for problem in mistakes_of(data.name, data.root)] == [True]


def test_a_class_without_a_box_is_told_before_training(data):
    dataset = build_dataset(data, "train")
    assert look_at_boxes(dataset, range(4), "training", strict=True) == look_at_boxes(dataset, [1], "training", True)
    (error,) = look_at_boxes(dataset, [0, 2], "training", strict=True).errors
    assert "class 0 'car' occurs in none of the boxes of the 2 frames" in error and "data.label_check=warn" in error
    assert len(look_at_boxes(dataset, [0, 2], "validation", strict=True).warnings) == 1
    assert "no box in the 1 frames" in look_at_boxes(dataset, [0], "validation", strict=False).errors[0]


def test_boxes_are_counted():
    counts = BoxCounts(("a", "b"))
    counts.add(np.array([1.0, 1.0]))
    counts.add(np.zeros(0))
    assert counts.boxes.tolist() == [0, 2] and counts.frames.tolist() == [0, 1] and counts.empty == 1
    assert not counts.doubts("training", strict=True, whole=False).errors


def test_training_does_not_begin_where_a_class_has_no_box(data, tmp_path):
    model = {"name": "frame_by_frame", "num_classes": 2, "reference": {"name": "rfcn", "encoder": "resnet18"}}
    train = {"steps": 1, "batch_size": 1, "optimizer": {"name": "sgd", "lr": 0.1}, "loss": {"name": "rfcn"}}
    values = {"model": model, "data": data.model_dump(), "train": train, "output": tmp_path / "run"}
    config = Config.model_validate(values | {"data": data.model_dump() | {"clip_length": 4}})
    dataset = build_dataset(data, "train")
    check_labels(Config.model_validate(values | {"data": data.model_dump() | {"clip_length": 1}}), dataset, None)
    with pytest.raises(ValueError, match=rf"{data.name} train at .*class 1 'person' occurs in none of the boxes"):
        check_labels(config, dataset, None)  # one frame has three frames before it
