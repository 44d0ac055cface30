"""A key frame and the frames after it in one batch: the same predictions as one by one."""

import json

import numpy as np
import pytest
import torch
from small_detectors import small_detector, small_sampling_detector
from small_models import small

from accel.inference.batches import BatchSegmenter
from accel.inference.segmenter import Segmenter
from accel.playing.schedules import FixedInterval

MODELS = {
    "frame by frame": lambda: small_detector("frame_by_frame"),
    "deep feature flow": lambda: small_detector("deep_feature_flow"),
    "learned sampling, which remembers": small_sampling_detector,
}
NARROW = (48, 64)


def frames(count, size=NARROW, seed=0):
    return list(np.random.default_rng(seed).integers(0, 256, (count, *size, 3), np.uint8))


@pytest.mark.parametrize("make", MODELS.values(), ids=MODELS)
def test_detections_are_those_of_single_frames(make):
    model, video = make(), [*frames(7), *frames(2, (64, 48))]
    expected = list(Segmenter(model, FixedInterval(3)).stream(video))
    found = list(BatchSegmenter(model, 3).stream(video))
    assert [each.is_key for each in found] == [True, False, False, True, False, False, True, True, False]
    for one, other in zip(expected, found, strict=True):
        assert (one.index, one.is_key) == (other.index, other.is_key) and np.array_equal(one.frame, other.frame)
        assert one.prediction.count == other.prediction.count > 0 and other.seconds > 0
        for name in ("boxes", "scores", "classes"):
            a, b = (getattr(each.prediction, name) for each in (one, other))
            np.testing.assert_allclose(a, b, rtol=1e-3, atol=0.02)


@torch.no_grad()
def test_a_batch_is_key_frame_and_next_frames():
    model = small_detector("deep_feature_flow")
    images = torch.from_numpy(np.stack(frames(3))).permute(0, 3, 1, 2)
    batch, after = model.key_and_next_frames(images)
    said, state = model.key_frame(images[:1])
    singles = [said.at(NARROW)]
    for image in images[1:].split(1):
        said, state = model.next_frame(image, state)
        singles.append(said.at(NARROW))
    for one, other in zip(singles, batch.of_frames(3), strict=True):
        torch.testing.assert_close(one.scores, other.at(NARROW).scores, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(after.image, state.image)
    torch.testing.assert_close(after.anchor.features, state.anchor.features)


def test_what_takes_no_batches_is_told():
    with pytest.raises(ValueError, match="Accel takes frames one by one: in a batch, each frame needs to follow"):
        BatchSegmenter(small("accel"), 3)
    model = small_detector("deep_feature_flow")
    model.is_optimized = True
    with pytest.raises(ValueError, match="an optimised model is made for single frames"):
        BatchSegmenter(model, 3)
    model.is_optimized = False
    with pytest.raises(ValueError, match="a live input does not have them yet"):
        list(BatchSegmenter(model, 3).stream(frames(3), live=True))


# --- the demo --------------------------------------------------------------------------------------------------


@pytest.fixture
def made(tmp_path):
    from box_videos import write_detector, write_videos

    return write_videos(tmp_path / "data/imagenet_vid"), write_detector(tmp_path, tmp_path / "data/imagenet_vid")


def lines(folder):
    return {path.name: [json.loads(line) for line in path.read_text().splitlines()] for path in folder.rglob("*.jsonl")}


def test_the_demo_shows_a_detector(tool, made, tmp_path, capsys):
    root, detector = made
    run = "--checkpoint", detector[3], "--task", "detection", "--device", "cpu"
    assert tool("demo", *run, "--interval", 3, "--output", "snippets") == 0
    out = capsys.readouterr().out
    assert "mAP so far" in out and "the data have only 2 such snippets" in out
    assert {*lines(tmp_path / "snippets")} == {"000013.jsonl", "000008.jsonl"}
    summary = json.loads((tmp_path / "snippets/summary.json").read_text())
    assert summary["num_ex"] == 2 and summary["boxes"] == 2 and "map" in summary and "miou" not in summary
    found = []
    for way in ((), ("--batch",)):
        video = root / "Data/VID/val/a"
        assert tool("demo", *run, "--interval", 5, "--input", video, "--output", "video", *way) == 0
        found.append(lines(tmp_path / "video/labels"))
    assert len(found[0]) == 14 and found[0].keys() == found[1].keys()
    for one, other in zip(*(each.values() for each in found), strict=True):
        assert len(one) == len(other) > 0
        assert [line["score"] for line in one] == pytest.approx([line["score"] for line in other], abs=2e-4)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ((), "no ImageNet VID at data/imagenet_vid: expected it there, or --input VIDEO"),
        (
            ("--input", "VIDEO"),
            "no weights of a detector come with the program: expected the published model/rfcn_dff_",
        ),
        (("--input", "VIDEO", "--version", "18"), "--version 18: is of models for segmentation"),
        (
            ("--input", "VIDEO", "--batch", "--optimize"),
            "--batch takes a key frame and those after it at once: leave out",
        ),
    ],
)
def test_what_the_demo_lacks_is_told(tool, tmp_path, capsys, arguments, told):
    import cv2

    (tmp_path / "frames").mkdir()
    cv2.imwrite(str(tmp_path / "frames/000.png"), np.zeros((8, 8, 3), np.uint8))
    arguments = [tmp_path / "frames" if each == "VIDEO" else each for each in arguments]
    assert tool("demo", "--task", "detection", *arguments, "--device", "cpu") == 2
    assert told in capsys.readouterr().err


def test_a_model_of_another_task_is_told(tool, made, capsys):
    _, detector = made
    assert (
        tool("demo", "--task", "segmentation", "--checkpoint", detector[3], "--input", made[0] / "Data/VID/val/a") == 2
    )
    assert f"--task segmentation: {detector[3]} is a model for detection" in capsys.readouterr().err
