"""A detector trained by the same loop, on a tiny ImageNet VID: losses, validation by mAP, weights that load."""

import csv
import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
import yaml
from run_files import log_of
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from accel.commands.label import main as label
from accel.config import load_config, parse_model
from accel.inference.loading import load_model
from accel.models import DeepFeatureFlow, LearnedSampling, build_model
from accel.models.detection.boxes import overlaps
from accel.models.detection.faster_rcnn import FasterRCNN
from accel.models.detection.faster_rcnn_losses import FasterRcnnLosses
from accel.models.detection.losses import RfcnLosses
from accel.models.detection.proposals import Proposing
from accel.models.detection.rfcn import RFCN
from accel.models.propagation.flow_warp import ScaledFlowWarp
from accel.models.propagation.routes import KeyToCurrent
from accel.tasks.detection import DetectionObjective, MeanAveragePrecision
from accel.training.loop import Loop
from accel.training.trainer import train
from accel.video.opening import open_video
from accel.weights.checkpoints import describe_weights

EXPERIMENTS = Path(__file__).parents[2] / "experiments"
REFERENCE = {"name": "rfcn", "encoder": "tu-test_resnet", "channels": 8, "sides": [64, 96], "regions": 20}
CAR = "n02958343"


def write_vid(root):
    """One video of 6 frames for training, one picture, one video of 2 frames to score; a bright car in each."""
    rng = np.random.default_rng(0)
    lists = {
        "VID_train_15frames": "train/a 1 0 6\ntrain/a 1 5 6\n",
        "DET_train_30classes": "train/p 1\n",
        "VID_val_videos": "val/b 1 0 2\n",
    }
    (root / "ImageSets").mkdir(parents=True)
    for name, lines in lists.items():
        (root / "ImageSets" / f"{name}.txt").write_text(lines)
    names = [*(("VID", f"train/a/{n:06d}") for n in range(6)), ("DET", "train/p")]
    names += [("VID", f"val/b/{n:06d}") for n in range(2)]
    for kind, name in names:
        image = rng.integers(0, 80, (48, 72, 3), np.uint8)
        left = int(rng.integers(0, 30))
        image[10:35, left : left + 35] += 150
        path = root / "Data" / kind / f"{name}.JPEG"
        path.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(path), image)
        boxes = root / "Annotations" / kind / f"{name}.xml"
        boxes.parent.mkdir(parents=True, exist_ok=True)
        corners = f"<xmin>{left}</xmin><ymin>10</ymin><xmax>{left + 34}</xmax><ymax>34</ymax>"
        boxes.write_text(f"<annotation><object><name>{CAR}</name><bndbox>{corners}</bndbox></object></annotation>")
    return root


FASTER = {"name": "faster_rcnn", "encoder": "tu-test_resnet", "channels": 8, "width": 16, "sides": [64, 96]}
FASTER |= {"scales": [1, 2], "regions": 20, "training_regions": 40}


def small_run(tmp_path, reference=REFERENCE, **train):
    """The configuration of a run of 3 steps, in the folder `run`. train: other settings of its training."""
    root = write_vid(tmp_path / "vid")
    values = {
        "output": str(tmp_path / "run"),
        "model": {"name": "deep_feature_flow", "num_classes": 30, "reference": reference, "flow": {"width": 1 / 16}},
        "data": {
            "name": "imagenet_vid",
            "root": str(root),
            "train_split": "DET_train_30classes+VID_train_15frames",
            "test_split": "VID_val_videos",
            "clip_length": 4,
        },
        "train": {
            "steps": 3,
            "batch_size": 1,
            "optimizer": {"name": "sgd", "lr": 0.001},
            "loss": {"name": reference["name"]},
            "workers": 0,
            "log_every": 1,
            "validation": {"split": "VID_val_videos", "every": 3, "interval": 2},
            **train,
        },
    }
    path = tmp_path / "run.yaml"
    path.write_text(yaml.safe_dump(values))
    return load_config(path)


@pytest.mark.parametrize(("reference", "told"), [(REFERENCE, 300), pytest.param(FASTER, 100, marks=pytest.mark.slow)])
def test_it_is_trained_validated_and_labels_videos(tmp_path, reference, told):
    config = small_run(tmp_path, reference)
    root = config.data.root
    train(config)
    lines = [json.loads(line) for line in (tmp_path / "run/log.jsonl").read_text().splitlines()]
    assert all(np.isfinite(line["loss"]) for line in lines if "loss" in line)
    assert any("validation_map" in line for line in lines), lines
    model = load_model(tmp_path / "run", device="cpu")
    assert model.task == "detection" and isinstance(model, DeepFeatureFlow)
    with torch.no_grad():
        said = model.key_frame(torch.zeros(1, 3, 48, 72))[0].at((48, 72))
    assert said.boxes.shape == (1, told, 4)

    label([str(root / "Data/VID/train/a"), "--model", str(tmp_path / "run"), "--output", str(tmp_path / "out")])
    files = sorted((tmp_path / "out/labels").iterdir())
    assert [file.name for file in files] == [f"{number:06d}.jsonl" for number in range(6)]
    lines = [json.loads(line) for line in files[0].read_text().splitlines()]
    assert all(line.keys() == {"class", "score", "box"} for line in lines)
    with open_video(tmp_path / "out/video.mp4") as video:
        assert len(list(video)) == 6


LOSSES = "loss_rpn_class", "loss_rpn_box", "loss_rfcn_class", "loss_rfcn_box"


def test_the_four_losses_are_logged_singly_and_survive_a_stop(tmp_path, monkeypatch, capsys):
    config = small_run(tmp_path, steps=4, log_every=4, save_every=2, validation=None)
    shown = []
    monkeypatch.setattr("accel.progress.Bar.update", lambda bar, done, note="": shown.append(note))
    train(config)
    (line,) = log_of(config)
    assert [key for key in line if key.startswith("loss_")] == [*LOSSES]
    assert line["loss_rfcn_class"] > 0 <= min(line[key] for key in LOSSES)  # no anchor lies within so small a frame
    assert sum(line[key] for key in LOSSES) == pytest.approx(line["loss"], rel=1e-5)
    told = ", ".join(f"{key.removeprefix('loss_')} {line[key]:.3f}" for key in LOSSES)
    assert f"loss {line['loss']:.3f} ({told})  lr" in shown[-1] + "  lr", shown
    events = EventAccumulator(str(config.output / "tensorboard")).Reload()
    assert [events.Scalars(key)[0].value for key in LOSSES] == pytest.approx([line[key] for key in LOSSES])

    again = small_run(tmp_path / "again", steps=4, log_every=4, save_every=2, validation=None)
    taken = Loop.step

    def stop_after_the_third(loop, *arguments):
        if loop.progress.step == 3:
            raise KeyboardInterrupt
        return taken(loop, *arguments)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Loop, "step", stop_after_the_third)
        train(again)
    train(again, resume=True)
    (resumed,) = log_of(again)
    assert [resumed[key] for key in LOSSES] == [line[key] for key in LOSSES]


def test_the_best_weights_are_those_of_the_highest_map(tmp_path, monkeypatch, capsys):
    values = iter([0.2, 0.6, 0.4])
    monkeypatch.setattr(MeanAveragePrecision, "value", lambda score: next(values))
    config = small_run(tmp_path, validation={"split": "VID_val_videos", "every": 1, "interval": 2})
    train(config)
    assert [line["validation_map"] for line in log_of(config) if "validation_map" in line] == [0.2, 0.6, 0.4]
    assert describe_weights(config.output / "checkpoints/best").step == 2
    assert "step 2: mAP 0.6000 (mean of 1 of 30 classes; no box of airplane" in " ".join(
        capsys.readouterr().out.split()
    )


def test_a_validation_without_boxes_is_told(tmp_path):
    config = small_run(tmp_path, validation={"split": "VID_val_videos", "every": 1})
    for path in (config.data.root / "Annotations/VID/val/b").iterdir():
        path.write_text("<annotation></annotation>")
    with pytest.raises(
        ValueError, match="train.validation: nothing to score on VID_val_videos: none of these frames has"
    ):
        train(config)


def test_detectors_are_built_from_configurations():
    values = {"name": "deep_feature_flow", "num_classes": 4, "reference": REFERENCE}
    model = build_model(parse_model(values | {"flow": {"width": 1 / 16}}, "test"))
    assert isinstance(model.reference, RFCN) and isinstance(model.propagation, ScaledFlowWarp)
    assert isinstance(model.propagation.route, KeyToCurrent) and model.seen_size((48, 72)) == (64, 96)
    sampling = {"name": "learned_sampling", "embedding": 8, "radius": 1}
    model = build_model(parse_model(values | {"propagation": sampling}, "test"))
    assert isinstance(model.propagation, LearnedSampling)
    model.eval()
    with torch.no_grad():
        _, state = model.key_frame(torch.zeros(1, 3, 48, 72))
        said, _ = model.next_frame(torch.zeros(1, 3, 48, 72), state)
    assert said.probabilities.shape == (1, 20, 5)
    alone = {"name": "frame_by_frame", "num_classes": 4, "reference": REFERENCE | {"sides": None}}
    alone = build_model(parse_model(alone, "test"))
    assert alone.seen_size((48, 72)) == (48, 72)
    accel = values | {"name": "accel", "update": REFERENCE, "flow": {"name": "dis"}}
    with pytest.raises(ValueError, match="Accel fuses class scores; RFCN is for detection"):
        build_model(parse_model(accel, "test"))


SMALL = {"channels": 12, "dilation": 1, "sides": None, "scales": [1, 2], "ratios": [0.5, 2.0], "regions": 10}
WAYS = {
    "frame_by_frame": {},
    "flow": {"flow": {"width": 1 / 16}},
    "dis": {"flow": {"name": "dis", "preset": "ultrafast"}},
    "learned_sampling": {"propagation": {"name": "learned_sampling", "embedding": 8, "radius": 1}},
}


ENCODERS = [*((way, "tu-test_resnet") for way in WAYS), ("learned_sampling", "tu-test_efficientnet")]


@pytest.mark.parametrize(("way", "encoder"), ENCODERS)
def test_small_detectors_learn_with_anchors_of_their_own(way, encoder):
    name = "frame_by_frame" if way == "frame_by_frame" else "deep_feature_flow"
    reference = SMALL | {"name": "rfcn", "encoder": encoder}
    torch.manual_seed(0)
    model = build_model(parse_model({"name": name, "num_classes": 2, "reference": reference} | WAYS[way], "test"))
    assert model.reference.backbone.out_channels == 12 and model.reference.heads.objects.out_channels == 2 * 4
    frames = torch.randint(0, 256, (1, 2, 3, 64, 80), dtype=torch.uint8)
    boxes = torch.tensor([[[8.0, 8, 30, 19, 1]]])
    losses = DetectionObjective(model, RfcnLosses(anchors=16, hardest=32)).losses(frames, boxes)
    losses.total().backward()
    assert all(loss > 0 for loss in losses)
    for layer in (model.reference.heads.moves, model.reference.heads.boxes, model.reference.backbone.last):
        assert layer.weight.grad.abs().sum() > 0
    model.eval()
    with torch.no_grad():
        said, state = model.key_frame(frames[:, 0])
        said, _ = model.next_frame(frames[:, 1], state)
        fast = model.optimized((64, 80), dtype=torch.float32, compile=False)
        again, state = fast.key_frame(frames[:, 0])
        again, _ = fast.next_frame(frames[:, 1], state)
    assert said.probabilities.shape == (1, 10, 3)
    torch.testing.assert_close(again.regions, said.regions, rtol=1e-3, atol=1e-2)
    torch.testing.assert_close(again.probabilities, said.probabilities, rtol=1e-3, atol=1e-4)


def test_small_anchors_meet_small_objects():
    """What the published anchors, from 128 pixels on, cannot."""
    box = torch.tensor([[30.0, 34, 52, 46]])
    small = Proposing(scales=(1, 2), ratios=(0.5, 2))
    assert small.anchors((3, 4)).shape == (3 * 4 * 4, 4)
    assert overlaps(small.anchors((6, 8)), box).max() > 0.6
    assert overlaps(Proposing().anchors((6, 8)), box).max() < 0.1


@pytest.mark.parametrize("values", [{"scales": []}, {"scales": [0]}, {"ratios": [-1]}, {"dilation": 0}])
def test_anchors_that_cannot_be_are_refused(values):
    reference = REFERENCE | values
    with pytest.raises(ValueError, match=f"reference.*{next(iter(values))}"):
        parse_model({"name": "frame_by_frame", "num_classes": 2, "reference": reference}, "test")


@pytest.mark.parametrize("name", ["rfcn/rfcn", "dff_rfcn/dff_rfcn", "lsts_rfcn/lsts_rfcn"])
def test_published_trainings_fit_their_models(name):
    from accel.training.freezing import freeze
    from accel.training.optimizers import build_optimizer, learning_rate

    config = load_config(EXPERIMENTS / f"{name}.yaml")
    with torch.device("meta"):
        model = build_model(config.model)
    freeze(model, config.train.freeze)
    kept = {n for n, p in model.named_parameters() if not p.requires_grad}
    network = "reference.backbone.network."
    starts = tuple(network + part for part in ("conv1.", "bn1.", "stages.0."))
    assert kept == {n for n, _ in model.named_parameters() if n.startswith(starts)}
    build_optimizer(model, config.train)
    rates = [learning_rate(step, config.train) for step in (0, config.train.steps // 2, config.train.steps - 1)]
    assert rates[0] == rates[1] == pytest.approx(10 * rates[2])
    assert rates[0] / config.train.batch_size == pytest.approx(2.5e-4)  # as published, where gradients are summed


# --- Faster R-CNN ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("way", WAYS)
def test_faster_rcnn_learns_on_any_encoder(way):
    name = "frame_by_frame" if way == "frame_by_frame" else "deep_feature_flow"
    torch.manual_seed(0)
    values = {"name": name, "num_classes": 2, "reference": FASTER | {"sides": None}} | WAYS[way]
    model = build_model(parse_model(values, "test"))
    assert isinstance(model.reference, FasterRCNN)
    if way == "flow":
        assert isinstance(model.propagation, ScaledFlowWarp) and isinstance(model.propagation.route, KeyToCurrent)
    frames = torch.randint(0, 256, (1, 2, 3, 64, 80), dtype=torch.uint8)
    losses = DetectionObjective(model, FasterRcnnLosses(16, 32)).losses(frames, torch.tensor([[[8.0, 8, 30, 19, 1]]]))
    losses.total().backward()
    assert all(loss > 0 for loss in losses)
    assert model.reference.backbone.last.weight.grad.any() and model.reference.region_head.boxes.weight.grad.any()
    model.eval()
    with torch.no_grad():
        _, state = model.key_frame(frames[:, 0])
        said, _ = model.next_frame(frames[:, 1], state)
    assert said.at((64, 80)).boxes.shape == (1, 100, 4) and said.probabilities.shape == (1, 20, 3)


def test_a_detector_is_trained_on_its_own_losses():
    reference = {"name": "frame_by_frame", "num_classes": 2, "reference": FASTER}
    with pytest.raises(ValueError, match="train.loss rfcn: expected a model whose reference is an R-FCN"):
        DetectionObjective(build_model(parse_model(reference, "test")), RfcnLosses())


@pytest.mark.parametrize("kind", ["r50", "r101", "x101"])
def test_mmtrackings_trainings_fit_their_models(kind, parity):
    """What they keep and what decays is what the published parameters say."""
    from mmtracking_weights import FOLDER

    from accel.training.freezing import freeze
    from accel.training.optimizers import build_optimizer, learning_rate
    from accel.weights.mmtracking_names import their_name

    config = load_config(EXPERIMENTS / f"dff_faster_rcnn/{kind}.yaml")
    with torch.device("meta"):
        model = build_model(config.model)
    freeze(model, config.train.freeze)
    with parity(f"{FOLDER}/params-{kind}.csv").open() as file:
        trained = {row["name"] for row in csv.DictReader(file) if row["trained"] == "1"}
    assert {their_name(name) for name, p in model.named_parameters() if p.requires_grad} == trained
    (group,) = build_optimizer(model, config.train).param_groups
    assert group["weight_decay"] == 1e-4
    epoch = (53639 + 57834) / 8
    steps = [0, 100, 250, 499, 2 * epoch - 1, 2 * epoch + 1, 5 * epoch - 1, 5 * epoch + 1, 7 * epoch - 1]
    expected = [0.0033333, 0.0046693, 0.0066733, 0.01, 0.01, 1e-3, 1e-3, 1e-4, 1e-4]
    assert [learning_rate(int(step), config.train) for step in steps] == pytest.approx(expected, rel=1e-4)
