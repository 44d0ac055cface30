"""`accel evaluate` for detectors: VID's mAP by class and by distance, at intervals, against a count of its own."""

import csv
import json

import numpy as np
import pytest
import torch
from box_videos import LENGTHS, OBJECTS, box, write_detector, write_videos

from accel.config import DataConfig
from accel.datasets import build_dataset
from accel.datasets.imagenet_vid import CLASS_NAMES
from accel.inference.loading import load_model
from accel.measures.average_precision import AveragePrecision

COMMON = ("--device", "cpu", "--workers", 0)
PLOTS = "accuracy_speed", "distance", "classes", "motion"


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """The folder with the videos in `vid`, and the arguments of the two detectors."""
    folder = tmp_path_factory.mktemp("detection")
    root = write_videos(folder / "vid")
    return folder, *(write_detector(folder, root, name) for name in ("deep_feature_flow", "frame_by_frame"))


@torch.inference_mode()
def by_hand(checkpoint, root, interval):
    """The counts of each distance when every video is played once."""
    model = load_model(checkpoint, device="cpu")
    dataset = build_dataset(DataConfig(name="imagenet_vid", root=root), "VID_val_videos")
    counts = {distance: AveragePrecision(30) for distance in range(interval)}
    index = 0
    for video, length in LENGTHS.items():
        for number in range(length):
            image = torch.from_numpy(dataset.clip(index, 1).frames).permute(0, 3, 1, 2)
            if number % interval == 0:
                said, state = model.key_frame(image)
            else:
                said, state = model.next_frame(image, state)
            boxes, scores, classes, count = (tensor[0].numpy() for tensor in said.at(tuple(image.shape[2:])))
            true = [(box(*o[1:4], number), CLASS_NAMES.index(o[0])) for o in OBJECTS[video] if number in o[4]]
            corners = np.array([corners for corners, _ in true], np.float32).reshape(-1, 4).clip(0, [71, 47, 71, 47])
            of = np.array([k for _, k in true], np.int64)
            found = boxes[:count], scores[:count], classes[:count]
            counts[number % interval].update(*found, corners, of, f"{video}/{number:06d}")
            index += 1
    return counts


def test_a_detector_is_scored_on_whole_videos(tool, made, tmp_path, capsys):
    folder, detector, _ = made
    files = "--json", tmp_path / "r.json", "--csv", tmp_path / "r.csv"
    assert tool("evaluate", *detector, "--interval", 3, *files, *COMMON) == 0
    out = capsys.readouterr().out
    result = json.loads((tmp_path / "r.json").read_text())
    counts = by_hand(detector[3], folder / "vid", 3)
    total = counts[0] + counts[1] + counts[2]
    assert result["map"] == pytest.approx(total.mean(), abs=1e-12) and 0 < result["map"] < 1
    assert result["frames_scored"] == total.frames == 23 and result["boxes"] == total.true.sum() == 41
    for distance, count in counts.items():
        found = result["by_distance"][str(distance)]
        assert found["map"] == pytest.approx(count.mean(), abs=1e-12) and found["boxes"] == count.true.sum()
    assert [name for name, ap in result["ap"].items() if ap is not None] == ["car", "dog"]
    assert result["classes_scored"] == 2 and result["seconds_current"] > 0
    assert f"mAP {100 * result['map']:.2f}% (mean of 2 of 30 classes; no box of airplane" in " ".join(out.split())
    assert "mean of 2 of 30" in out and "AP %" in out and "each video is played once" in out and "mIoU" not in out
    with (tmp_path / "r.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["distance"] for row in rows] == ["0", "1", "2", "all"] and float(rows[3]["map"]) == result["map"]
    assert float(rows[1]["ap car"]) == result["by_distance"]["1"]["ap"]["car"] and rows[3]["boxes"] == "41"


def test_detectors_are_compared_with_each_other_and_with_copying(tool, made, tmp_path, capsys):
    _, flow, frames = made
    assert tool("evaluate", "--sweep", "1,3", *flow, *frames, "--copying", "--json", "s.json", *COMMON) == 0
    out = capsys.readouterr().out
    assert json.loads((tmp_path / "s.json").read_text())["protocol"] == "videos"
    found = json.loads((tmp_path / "s.json").read_text())["models"]
    assert [*found] == ["deep_feature_flow", "frame_by_frame", "copying"]
    assert (
        "mAP % over the distances from the key frame" in " ".join(out.split()) and "copying: mAP % by distance" in out
    )
    for results in found.values():
        assert [*results[1]["by_distance"]] == ["0", "1", "2"] and results[0]["frames_scored"] == 23
    first, alone, copied = found.values()
    assert first[0]["map"] == pytest.approx(copied[0]["map"], abs=1e-12)  # each of these looks at every frame
    assert alone[0]["map"] == pytest.approx(alone[1]["map"], abs=1e-12)
    assert copied[1]["by_distance"]["0"]["map"] == pytest.approx(first[1]["by_distance"]["0"]["map"], abs=1e-12)
    assert copied[1]["seconds_current"] < copied[1]["seconds_key"]
    tool("summarize", "s.json")
    assert "| mAP %, mean over distances, at interval | runs | 1 | 3 |" in capsys.readouterr().out


def test_each_frame_can_be_scored_at_each_distance(tool, made, tmp_path, capsys):
    _, detector, _ = made
    for how in (("--avg",), ("--protocol", "distances", "data.test_split=VID_val_some")):
        assert tool("evaluate", *detector, "--interval", 2, *how, "--json", "r.json", *COMMON) == 0
        result = json.loads((tmp_path / "r.json").read_text())
        assert result["frames_scored"] == (21 if how == ("--avg",) else 3)
        assert len(result["by_distance"]) == (2 if how == ("--avg",) else 1)
    assert "played once" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (
            ("--protocol", "videos", "data.test_split=VID_val_some"),
            "--protocol videos: VID/val/a: labelled frames 3 to 9",
        ),
        (("--protocol", "some"), "--protocol some: expected one of distances, videos"),
        (("--protocol", "videos", "--avg"), "leave out --avg"),
        (("--boundary",), "trimap widths: there are none in detection"),
        (("--temporal",), "models for detection give no labels"),
        (("--copying",), "--copying adds a model to compare with: use --sweep"),
    ],
)
def test_what_does_not_fit_is_told_before_the_work(tool, made, capsys, arguments, told):
    _, detector, _ = made
    assert tool("evaluate", *detector, *arguments, *COMMON) == 2
    assert told in capsys.readouterr().err


def test_weights_are_found_by_name(tool, made, tmp_path):
    _, detector, _ = made
    (tmp_path / "model").mkdir()
    (tmp_path / "model/mine.safetensors").symlink_to(detector[3])
    assert tool("evaluate", *detector[:3], "mine", "--interval", 2, "--json", "r.json", *COMMON) == 0
    assert json.loads((tmp_path / "r.json").read_text())["origin"]["checkpoints"] == {"deep_feature_flow": "mine"}


def test_a_report_shows_them(tool, made, tmp_path):
    pytest.importorskip("pycocotools", reason="needs pycocotools (pip install 'accel-vss[coco]')")
    _, flow, frames = made
    asked = "--copying", "--motion", "--coco", "--report", "r"
    assert tool("evaluate", "--sweep", "1,3", *flow, *frames, *asked, *COMMON) == 0
    page = (tmp_path / "r/index.html").read_text()
    for words in (
        "<h1>Video object detection on imagenet_vid", "finds the objects of 30 classes", "AP of each class in per cent",
        "each video was played once",
        "Slow, medium and fast objects", "As COCO counts", "true boxes", "objects found", "mAP by distance",
    ):  # fmt: skip
        assert words in page, words
    assert "mIoU" not in page and "Confusion" not in page and "label" not in page.partition("<style>")[0]
    read = json.loads((tmp_path / "r/results.json").read_text())["models"]["deep_feature_flow"][1]
    assert [*read["motion"]] == ["slow", "medium", "fast"] and sum(read["motion_boxes"].values()) == 41
    assert read["coco"]["AP"] <= read["coco"]["AP50"] and read["by_distance"]["2"]["motion"]["slow"] is not None
    assert {path.name for path in (tmp_path / "r").iterdir()} == {
        "index.html", "results.json", "results.csv", *(f"{n}.png" for n in PLOTS),
    }  # fmt: skip


def test_data_without_boxes_are_told_before_the_work(tool, tmp_path, capsys):
    root = write_videos(tmp_path / "vid")
    arguments = write_detector(tmp_path, root)
    kept, *others = sorted((root / "Annotations").rglob("*.xml"))
    for path in others:
        path.write_text("<annotation></annotation>")
    assert tool("evaluate", *arguments, *COMMON) == 0  # the first frame has a box
    kept.write_text("<annotation></annotation>")
    assert tool("evaluate", *arguments, *COMMON) == 2
    assert "nothing to score: imagenet_vid VID_val_videos at" in (told := capsys.readouterr().err)
    assert "none of the 23 frames that were looked at has anything to find" in told
