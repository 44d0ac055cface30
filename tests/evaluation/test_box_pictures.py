"""The pictures of boxes in a report show which are right, which are wrong and which objects were not found."""

import base64
import re
from xml.etree import ElementTree

import numpy as np
import torch
from box_films import NAMES, PALETTE_OF_THREE, BoxFilms
from small_detectors import small_detector

from accel.datasets.clips import Clip
from accel.evaluation.report.pictured_clips import ClipRecorder, choose_clips
from accel.evaluation.running.videos import Run, run_videos
from accel.models.detection.detections import Boxes
from accel.tasks import build_task, task_of
from accel.tasks.box_pictures import MISSED, RIGHT, WRONG

FRAME = np.zeros((100, 200, 3), np.uint8)


def drawn(uri):
    """The boxes of a picture: (x, y, width, height) by colour, and the texts."""
    root = ElementTree.fromstring(base64.b64decode(uri.removeprefix("data:image/svg+xml;base64,")))
    found = {}
    for each in root.iter("{http://www.w3.org/2000/svg}rect"):
        if each.get("stroke") not in (None, "#000"):
            place = tuple(float(each.get(side)) for side in ("x", "y", "width", "height"))
            found.setdefault(each.get("stroke"), []).append(place)
    return found, [each.text for each in root.iter("{http://www.w3.org/2000/svg}text")]


def said(*rows):
    table = np.array([*rows, [0] * 6], np.float32)  # class, score, corners; and one that does not count
    return Boxes(table[:, 2:], table[:, 1], table[:, 0].astype(np.int64), np.int64(len(rows)))


def test_right_wrong_and_missing_boxes_are_told_apart():
    task = build_task("detection", [*NAMES[:2], "<a>"], PALETTE_OF_THREE)
    true = np.array([[10, 20, 59, 69, 0], [100, 20, 149, 69, 2]], np.float32)
    truth = task.truth(Clip(FRAME[None], None, None, "a", true))
    found = said((0, 0.9, 12, 20, 61, 69), (1, 0.7, 100, 20, 149, 69), (0, 0.3, 0, 0, 30, 30))
    shown = task.shown(FRAME, found, truth, 480)
    assert drawn(shown.prediction) == (
        {"#ff0000": [(12, 20, 50, 50)], "#00ff00": [(100, 20, 50, 50)]},
        ["person 0.70", "car 0.90"],
    )
    boxes, texts = drawn(shown.errors)
    assert boxes == {RIGHT: [(12, 20, 50, 50)], WRONG: [(100, 20, 50, 50)], MISSED: [(100, 20, 50, 50)]}
    assert sorted(texts) == ["<a>", "person 0.70"]
    assert shown.note == "1 of 2 objects found, 1 wrong box"
    assert drawn(task.truth_shown(truth, (100, 200), 480))[1] == ["<a>", "car"]
    assert task.shown(FRAME, found, None, 480).errors is None


def test_a_clip_of_a_detector_has_them():
    dataset = BoxFilms(range(4))
    model = small_detector("deep_feature_flow")
    recorder = ClipRecorder(dataset, choose_clips(dataset), [("m", 2)], task_of(model, dataset))
    run_videos({("m", 2): Run(model, 2)}, dataset, None, watch=recorder, workers=0, quiet=True)
    (clip,) = recorder.clips()
    assert clip.over and [frame.models[0].distance for frame in clip.frames] == [0, 1, 0, 1]
    for number, frame in enumerate(clip.frames):
        assert drawn(frame.truth)[1] == [NAMES[number % 3]]
        assert re.fullmatch(r"[01] of 1 objects found, \d+ wrong box(es)?", frame.models[0].note)
        drawn(frame.models[0].prediction)
    assert torch.is_inference_mode_enabled() is False
