"""Detections written for other programs: COCO results and MOTChallenge detections, by `accel label --boxes`."""

import json

import cv2
import numpy as np
import pytest
from small_detectors import small_detector

from accel.commands.label import BOXES
from accel.commands.label import main as label
from accel.models.detection.detections import Boxes
from accel.tasks import build_task
from accel.tasks.box_files import OUTPUTS, CocoResults, MotDetections

NAMES = ("car", "person", "traffic/sign")
PALETTE = np.array([(0, 0, 255), (255, 0, 0), (0, 255, 0)], np.uint8)


def said(*rows, most=4):
    """Arrays of `Boxes` of one frame, from rows (class, score, x1, y1, x2, y2)."""
    table = np.zeros((most, 6), np.float32)
    table[: len(rows)] = np.reshape(rows, (-1, 6))
    return Boxes(table[:, 2:], table[:, 1], table[:, 0].astype(np.int64), np.int64(len(rows)))


FRAMES = {  # by number
    0: said((1, 0.91237, 0, 2.004, 29, 41), (0, 0.2, 5, 6, 5, 6)),
    1: said(),
    4: said((0, 0.5, 10.25, 20, 19.25, 39)),
}


def test_coco_results_are_whole_after_every_frame(tmp_path):
    files = CocoResults(lambda name: tmp_path / name, NAMES)
    expected = []
    assert json.loads((tmp_path / "detections.json").read_text()) == expected
    boxes = {0: [(2, 0.9124, [0, 2, 30, 40]), (1, 0.2, [5, 6, 1, 1])], 1: [], 4: [(1, 0.5, [10.25, 20, 10, 20])]}
    for index, found in FRAMES.items():
        files.add(index, found)
        expected += [
            {"image_id": index, "category_id": k, "bbox": box, "score": score} for k, score, box in boxes[index]
        ]
        assert json.loads((tmp_path / "detections.json").read_text()) == expected
    files.close()
    assert json.loads((tmp_path / "detections.json").read_text()) == expected
    assert files.figures() == {"categories": {1: "car", 2: "person", 3: "traffic/sign"}}


def test_mot_detections_have_a_file_for_each_class(tmp_path):
    files = MotDetections(lambda name: tmp_path / name, NAMES)
    for index, found in FRAMES.items():
        files.add(index, found)
    assert {path.name: path.read_text().splitlines() for path in (tmp_path / "mot").iterdir()} == {
        "car.txt": ["1,-1,6.00,7.00,1.00,1.00,0.2000,-1,-1,-1", "5,-1,11.25,21.00,10.00,20.00,0.5000,-1,-1,-1"],
        "person.txt": ["1,-1,1.00,3.00,30.00,40.00,0.9124,-1,-1,-1"],
        "traffic_sign.txt": [],
    }
    table = np.loadtxt(tmp_path / "mot/car.txt", delimiter=",")  # as trackers read it
    assert table.shape == (2, 10)


def test_classes_that_differ_in_little_keep_files_of_their_own(tmp_path):
    MotDetections(lambda name: tmp_path / name, ("Car", "car", "..", "a b"))
    names = sorted(path.name for path in (tmp_path / "mot").iterdir())
    assert names == ["Car_0.txt", "a_b.txt", "car_1.txt", "class_2.txt"]


def test_only_detectors_have_them(tmp_path):
    task = build_task("segmentation", NAMES, PALETTE)
    with pytest.raises(ValueError, match="expected a model that finds boxes; this one is for segmentation"):
        task.result_files("coco", tmp_path.joinpath)
    with pytest.raises(ValueError, match="--boxes csv: there are jsonl, coco, mot"):
        build_task("detection", NAMES, PALETTE).result_files("csv", tmp_path.joinpath)
    assert tuple(OUTPUTS) == BOXES


@pytest.fixture(scope="module")
def film(tmp_path_factory):
    """A folder of frames with something to find, and a model that finds something."""
    folder = tmp_path_factory.mktemp("film")
    for number, frame in enumerate(np.random.default_rng(0).integers(0, 256, (4, 48, 64, 3), np.uint8)):
        cv2.imwrite(str(folder / f"{number}.png"), frame)
    return folder


@pytest.mark.parametrize("kind", BOXES)
def test_videos_and_live_inputs_are_labelled(film, kind, tmp_path, monkeypatch):
    from accel import demo

    model = small_detector("deep_feature_flow").eval()
    task = build_task("detection", NAMES, PALETTE)
    monkeypatch.setattr(demo, "_load", lambda options, data: demo.Loaded(model, task, "small"))
    monkeypatch.setattr(demo.Origin, "of", lambda *_: type("Origin", (), {"as_dict": dict})())
    out = tmp_path / "out"
    for way in ([], ["--live", "--fps", "1000"]):  # the second run replaces what the first one wrote
        label([str(film), "--output", str(out), "--interval", "2", "--boxes", kind, "--device", "cpu", *way])
        summary = json.loads((out / "summary.json").read_text())
        seen = summary["frames"]
        assert seen == 4 if not way else 1 <= seen <= 4
        if kind == "jsonl":
            assert len(list((out / "labels").glob("*.jsonl"))) == seen
            continue
        assert not list((out / "labels").glob("*"))
        if kind == "coco":
            entries = json.loads((out / "detections.json").read_text())
            assert summary["categories"] == {"1": "car", "2": "person", "3": "traffic/sign"}
            assert entries and {entry["image_id"] for entry in entries} <= set(range(4))
            assert all(min(entry["bbox"][2:]) >= 0 for entry in entries)  # sides are rounded
        else:
            files = sorted((out / "mot").iterdir())
            assert [file.name for file in files] == ["car.txt", "person.txt", "traffic_sign.txt"]
            assert any(file.read_text() for file in files)


def test_the_demo_has_the_same_choice(monkeypatch, film):
    from accel import demo
    from accel.commands.demo import main

    asked = []
    with monkeypatch.context() as patch:
        patch.setattr(demo, "run_demo", asked.append)
        main(["--input", str(film), "--boxes", "mot"])
        main([])
    assert [options.boxes for options in asked] == ["mot", "jsonl"]
    with pytest.raises(ValueError, match="--boxes mot: expected with --input"):
        main(["--boxes", "mot"])


def test_files_of_others_are_not_replaced(film, tmp_path):
    (tmp_path / "detections.json").write_text("mine")
    with pytest.raises(ValueError, match=r"holds files that no run .*detections\.json"):
        label([str(film), "--output", str(tmp_path), "--boxes", "coco", "--model", "none"])
    assert (tmp_path / "detections.json").read_text() == "mine"
