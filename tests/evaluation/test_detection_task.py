"""The detection task: what trainer, streaming, recording and evaluation ask of it."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from box_films import NAMES, PALETTE_OF_THREE, BoxFilms
from small_detectors import small_detector

from accel.config.sections import CrossEntropyConfig, RfcnLossConfig
from accel.datasets.clips import Clip, collate
from accel.datasets.imagenet_vid import CLASS_NAMES, PALETTE
from accel.datasets.simulation.motion import SimulatedMotion
from accel.datasets.transforms import ClipTransform
from accel.evaluation.running.sweep import sweep
from accel.inference.segmenter import Segmenter
from accel.models.detection.detections import Boxes
from accel.output_folder import OutputFolder
from accel.playing.schedules import FixedInterval
from accel.progress import Bar
from accel.recording import Recording
from accel.tasks import as_tensors, build_task
from accel.video.opening import open_video
from accel.video.writer import VideoWriter

SIZE = (48, 64)


@pytest.fixture
def task():
    return build_task("detection", NAMES, PALETTE_OF_THREE)


def said(*rows, most=4):
    """Arrays of `Boxes` of one frame, from rows (class, score, x1, y1, x2, y2)."""
    table = np.zeros((most, 6), np.float32)
    table[: len(rows)] = np.reshape(rows, (-1, 6))
    return Boxes(table[:, 2:], table[:, 1], table[:, 0].astype(np.int64), np.int64(len(rows)))


def frames(count, seed=0):
    return list(np.random.default_rng(seed).integers(0, 256, (count, *SIZE, 3), np.uint8))


# --- seeing and writing ---------------------------------------------------------------------------------------


def test_boxes_are_written_as_json_lines(task, tmp_path):
    path = tmp_path / "labels" / "000003.jsonl"
    task.save(path, said((1, 0.91237, 1, 2.004, 30, 40), (0, 0.2, 5, 6, 7, 8)))
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert lines == [
        {"class": "person", "score": 0.9124, "box": [1, 2, 30, 40]},
        {"class": "car", "score": 0.2, "box": [5, 6, 7, 8]},
    ]
    task.save(path, said())
    assert path.read_text() == ""


def test_boxes_of_high_scores_are_drawn(task):
    frame = np.full((120, 160, 3), 100, np.uint8)
    found = said((2, 0.9, 20, 40, 60, 100), (0, 0.3, 100, 40, 140, 100))
    drawn = task.picture(frame, found, "key frame", "overlay")
    assert drawn.shape == frame.shape and not np.array_equal(drawn, frame)
    assert drawn[70, 20].tolist() == [0, 0, 255] and drawn[70, 60].tolist() == [0, 0, 255]
    assert (drawn[60:, 90:] == 100).all()  # the other one's score is low
    assert (task.picture(frame, found, "key frame", "labels")[100:, 90:] == 0).all()
    assert task.picture(frame, found, "key frame", "panels").shape[1] > 2 * frame.shape[1]
    assert np.array_equal(frame, np.full_like(frame, 100))
    beyond = said((1, 0.99, -5, -5, 400, 300))
    assert task.picture(frame, beyond, "key frame", "overlay").shape == frame.shape


def test_a_stream_is_recorded(task, tmp_path):
    model = small_detector("deep_feature_flow")
    folder = OutputFolder(tmp_path / "out", ["video.mp4"], ["labels"])
    folder.clear()
    with VideoWriter(folder.file("video.mp4"), 10) as video:
        recording = Recording(folder, video, task, Bar("", None, None))
        Segmenter(model, FixedInterval(2)).run(frames(3), recording.write)
    folder.close()
    files = sorted((tmp_path / "out" / "labels").iterdir())
    assert [path.name for path in files] == [f"{number:06d}.jsonl" for number in range(3)]
    lines = [json.loads(line) for line in files[0].read_text().splitlines()]
    assert lines and {line["class"] for line in lines} <= set(NAMES)
    with open_video(tmp_path / "out" / "video.mp4") as reader:
        assert len(list(reader)) == 3


def test_vid_has_30_classes_in_the_order_of_the_alphabet():
    assert len(CLASS_NAMES) == 30 == len(np.unique(PALETTE, axis=0))
    assert [name.removeprefix("domestic_") for name in CLASS_NAMES[:9]] == sorted(CLASS_NAMES[:9])
    assert (CLASS_NAMES[0], CLASS_NAMES[9], CLASS_NAMES[-1]) == ("airplane", "domestic_cat", "zebra")


# --- scoring --------------------------------------------------------------------------------------------------


def test_scores_are_counted_and_add_up(task):
    true = np.array([[10.0, 10, 59, 59, 1]])
    scores = []
    for found in (said((1, 0.9, 10, 10, 59, 59)), said((1, 0.8, 90, 90, 99, 99)), said()):
        score = task.score()
        truth = task.truth(Clip(np.zeros((1, 4, 4, 3)), None, None, "a", true))
        score.update(Boxes(*map(torch.as_tensor, found)), as_tensors(truth))
        scores.append(score.on_host())
    assert [score.value() for score in scores] == [1, 0, 0]
    total = sum(scores[1:], scores[0])
    assert total.value() == pytest.approx(1 / 3)
    figures = total.accuracy(NAMES).figures()
    assert figures["ap"] == {"car": None, "person": pytest.approx(1 / 3), "bicycle": None}
    assert figures["classes_scored"] == 1 and figures["classes_not_in_boxes"] == ("car", "bicycle")
    assert total.caveats(NAMES) == "mean of 1 of 3 classes; no box of car, bicycle"
    assert json.dumps(task.score().accuracy(NAMES).figures()) and np.isnan(task.score().value())


def test_the_evaluation_scores_it():
    dataset = BoxFilms(range(0, 9, 2))
    models = {"frames": small_detector("frame_by_frame"), "flow": small_detector("deep_feature_flow")}
    tallies = sweep(models, dataset, (1, 3), workers=0, quiet=True)
    for tally in tallies.values():
        score = tally.score(2, 3)
        assert score.counts.frames == 4 and 0 <= score.value() <= 1  # of frames 0, 2, 4, 6, 8 four have two before them


def test_clips_without_boxes_are_told(task):
    with pytest.raises(ValueError, match="a: has no boxes to compare detections with"):
        task.truth(Clip(np.zeros((1, 4, 4, 3)), None, None, "a"))
    with pytest.raises(ValueError, match="models for detection give no labels"):
        task.labels(said())


# --- training -------------------------------------------------------------------------------------------------


def clip_with(boxes, size=(64, 80), seed=0):
    shown = np.random.default_rng(seed).integers(0, 256, (2, *size, 3), np.uint8)
    return Clip(shown, None, None, f"clip {seed}", np.array(boxes, np.float32).reshape(-1, 5))


def test_boxes_of_a_batch_are_filled_up():
    batch = collate([clip_with([[1, 2, 30, 40, 2]]), clip_with([]), clip_with([[0, 0, 9, 9, 0], [5, 5, 9, 9, 1]])])
    assert batch.labels.shape == (3, 2, 5) and batch.labels.dtype == torch.float32
    assert batch.labels[..., 4].tolist() == [[2, -1], [-1, -1], [0, 1]]
    assert collate([clip_with([]), clip_with([])]).labels.shape == (2, 0, 5)
    assert collate([clip_with([]), replace(clip_with([]), boxes=None)]).labels is None


def test_boxes_follow_the_view():
    image = np.zeros((60, 100, 3), np.uint8)
    image[10:30, 20:50] = 255
    clip = Clip(image[None], None, None, "a", np.array([[20, 10, 49, 29, 1], [90, 50, 99, 59, 0]], np.float32))
    for seed in range(20):
        rng = np.random.default_rng(seed)
        view = ClipTransform(crop=(50, 70), scale=(0.7, 1.5), flip=0.5)(clip, rng)
        bright = view.frames[0].min(2) > 127
        seen = view.boxes[view.boxes[:, 4] == 1]
        if not len(seen):
            assert bright.mean() < 0.25
            continue
        rows, columns = np.flatnonzero(bright.any(1)), np.flatnonzero(bright.any(0))
        np.testing.assert_allclose(seen[0, :4], [columns[0], rows[0], columns[-1], rows[-1]], atol=1.01)
    mirrored = ClipTransform(flip=1.0)(clip, np.random.default_rng(0)).boxes
    assert mirrored.tolist() == [[50, 10, 79, 29, 1], [0, 50, 9, 59, 0]]  # as published: width - x2 - 1


def test_boxes_stay_where_they_are_when_motion_is_simulated():
    clip = clip_with([[10, 8, 60, 50, 2]])
    moved = SimulatedMotion(NAMES)(clip, 3, np.random.default_rng(0))
    assert len(moved.frames) == 3 and np.array_equal(moved.boxes, clip.boxes)


@pytest.mark.parametrize("name", ["frame_by_frame", "deep_feature_flow"])
def test_losses_fall_when_trained_on(task, name):
    model = small_detector(name).requires_grad_(True)
    objective = task.objective(model, RfcnLossConfig(name="rfcn", hardest=20))
    batch = collate([clip_with([[10, 8, 60, 50, 2]]), clip_with([], seed=1)])
    optimizer = torch.optim.SGD(model.parameters(), 1e-3)
    losses = []
    for _ in range(8):
        torch.manual_seed(0)
        loss = objective(batch.frames, batch.labels, batch.flow)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 5.0)
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] and np.isfinite(losses).all()
    parts = objective.losses(batch.frames, batch.labels)
    assert len(parts) == 4 and all(part.dim() == 0 for part in parts)


def test_the_loss_of_a_batch_is_the_mean_of_its_images(task):
    objective = task.objective(small_detector("frame_by_frame"), RfcnLossConfig(name="rfcn", anchors=2000))
    clips = [clip_with([[10, 8, 60, 50, 2]]), clip_with([[0, 0, 30, 30, 1], [40, 20, 70, 60, 0]], seed=1)]

    def loss(*clips):
        batch = collate(list(clips))
        return objective(batch.frames, batch.labels, None)

    torch.testing.assert_close(loss(*clips), (loss(clips[0]) + loss(clips[1])) / 2, rtol=1e-4, atol=1e-4)


def test_what_does_not_go_together_is_told(task):
    detector = small_detector("frame_by_frame")
    with pytest.raises(ValueError, match=r"train\.loss cross_entropy: is none of a detector; expected {name: rfcn}"):
        task.objective(detector, CrossEntropyConfig())
    with pytest.raises(ValueError, match=r"train\.loss rfcn: is none of segmentation"):
        build_task("segmentation", NAMES, PALETTE_OF_THREE).objective(detector, RfcnLossConfig(name="rfcn"))
    with pytest.raises(ValueError, match="expected a model whose reference is an R-FCN"):
        task.objective(torch.nn.Identity(), RfcnLossConfig(name="rfcn"))
    with pytest.raises(ValueError, match="these clips have no boxes to train on"):
        task.objective(detector, RfcnLossConfig(name="rfcn"))(torch.zeros(1, 1, 3, 64, 64), None, None)
