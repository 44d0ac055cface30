"""`accel accelerate`: from a model and videos to a run, with a report."""

import json

import numpy as np
import pytest
import torch
from small_models import clip_of, small

from accel import acceleration
from accel.acceleration import find_teacher
from accel.commands import main_of
from accel.config import parse_model
from accel.evaluation.agreement import REFERENCE, agreement_table, measure_agreement
from accel.evaluation.key_frames import compare_key_frames, comparison_table
from accel.inference.loading import load_model
from accel.models import DenseInverseSearch, build_model
from accel.models.segmentation.freshness import Freshness
from accel.playing.schedules import FixedInterval
from accel.video.writer import VideoWriter
from accel.weights.checkpoints import Description, save_weights

REFERENCE_YAML = """
classes: [road, car, sky]
reference: {name: smp, architecture: unet, encoder: tu-test_resnet, stride: 4}
"""
UPDATE = {"name": "pyramid", "encoder": "tu-test_resnet", "channels": 8, "stride": 8}


def film(count=8, size=(64, 96)):
    coarse = np.random.default_rng(0).integers(0, 256, (8, 24, 3), dtype=np.uint8)
    picture = np.kron(coarse, np.ones((8, 8, 1), np.uint8))
    return [np.ascontiguousarray(picture[: size[0], 2 * i : 2 * i + size[1]]) for i in range(count)]


@pytest.fixture
def drive(tmp_path):
    with VideoWriter(tmp_path / "drive.mp4", 25) as writer:
        for frame in film():
            writer.write(frame)
    return tmp_path / "drive.mp4"


def test_one_command_makes_a_model_that_label_takes_and_a_report(drive, tmp_path, monkeypatch, capsys):
    update = parse_model({"name": "frame_by_frame", "num_classes": 3, "reference": UPDATE}, "test").reference
    monkeypatch.setattr(acceleration, "light_update", lambda *_, **__: (update, 0.15))
    (tmp_path / "mine.yaml").write_text(REFERENCE_YAML)
    run = tmp_path / "run"
    options = ["--output", str(run), "--steps", "2", "--batch-size", "1", "--device", "cpu", "--frames", "6"]
    main_of("accelerate")([str(tmp_path / "mine.yaml"), str(drive), *options])
    told = " ".join(capsys.readouterr().out.split())
    assert "15% of the reference branch's time" in told and f"accel label VIDEO --model {run}" in told
    results = json.loads((run / "report.json").read_text())["results"]
    assert list(results) == [REFERENCE, *(f"every {n} frames" for n in (2, 5, 10)), "adaptive, 1 in 8"]
    assert results[REFERENCE]["agreement"] == 1 and results["every 2 frames"]["key_share"] == 0.5
    assert "| every 5 frames" in (run / "report.md").read_text()
    model = load_model(run, device="cpu")
    for option in ("--adaptive", "--look-ahead"):
        output = tmp_path / option
        main_of("label")(
            [str(drive), "--model", str(run), "--interval", "3", option, "--output", str(output), "--device", "cpu"]
        )
        summary = json.loads((output / "summary.json").read_text())
        assert summary["frames"] == 8 and summary["adaptive"] is (option == "--adaptive")
    assert model.tells_freshness and model.about.description.class_names == ("road", "car", "sky")


def test_a_frame_by_frame_schedule_agrees_with_the_reference_fully():
    model = small("accel")
    frames = list(clip_of((64, 96), 5)[0].permute(0, 2, 3, 1).numpy())
    results = measure_agreement(model, [frames], {"all": FixedInterval(1), "third": FixedInterval(3)}, 5)
    assert results["all"].agreement == results[REFERENCE].agreement == 1
    assert results["all"].consistency == results[REFERENCE].consistency
    assert results["third"].key_share == 0.4 and results["third"].milliseconds > 0
    table = agreement_table(results).splitlines()
    assert table[2].startswith(f"| {REFERENCE} | 100.0 |") and table[4].startswith("| third (40% of frames) |")
    with pytest.raises(ValueError, match="no frames to compare on"):
        measure_agreement(model, [[]], {}, 5)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ("nothing-there", "no model 'nothing-there'; expected transformers:NAME, torchvision:NAME"),
        ("torchvision:resnet50", "there are deeplabv3_mobilenet_v3_large"),
        ("smp:unet:resnet18", "expected smp:ARCHITECTURE:ENCODER:WEIGHTS"),
        ("smp:unet:resnet18:w.pt", "give --classes N"),
        ("own:mine", "give --classes N"),
    ],
)
def test_a_model_that_is_not_understood_is_told(model, message):
    with pytest.raises(ValueError, match=message):
        find_teacher(model)


def test_models_of_libraries_say_their_classes():
    assert find_teacher("torchvision:deeplabv3_resnet50").class_names[1] == "aeroplane"
    smp = find_teacher("smp:unet:resnet18:w.pt", 4)
    assert smp.num_classes == 4 and smp.reference["weights"] == "w.pt"


def test_a_folder_of_transformers_is_understood(tmp_path):
    transformers = pytest.importorskip("transformers")
    sizes = {"hidden_sizes": [8, 16, 24, 32], "depths": [1] * 4, "decoder_hidden_size": 16}
    config = transformers.SegformerConfig(**sizes, id2label={0: "road", 1: "sky", 2: "car"})
    own = transformers.SegformerForSemanticSegmentation(config)
    own.save_pretrained(tmp_path / "own")
    teacher = find_teacher(f"transformers:{tmp_path / 'own'}")
    assert teacher.class_names == ("road", "sky", "car") and teacher.reference["config"]["hidden_sizes"][0] == 8
    values = {"name": "frame_by_frame", "num_classes": 3, "reference": teacher.reference}
    built = build_model(parse_model(values, "test")).reference.backbone.scores.model
    theirs = own.state_dict()
    assert all(torch.equal(tensor, theirs[name]) for name, tensor in built.state_dict().items())


def test_ways_to_choose_key_frames_are_compared():
    torch.manual_seed(0)
    model = small("accel")
    model.freshness = Freshness()
    videos = [list(clip_of((34, 50), 9, seed=seed)[0].permute(0, 2, 3, 1).numpy()) for seed in (0, 1)]
    results = compare_key_frames(model, videos, 3, seeds=1)
    assert list(results) == ["fixed", "adaptive", "random, seed 0", "oracle"]
    assert results["fixed"]["key_share"] == pytest.approx(1 / 3)
    assert results["oracle"]["key_share"] <= 1 / 3
    assert all(0 <= figure <= 1 for figures in results.values() for figure in figures.values())
    assert len(comparison_table(results).splitlines()) == 6


def test_the_oracle_places_key_frames_where_they_are_needed():
    """Two still scenes with a cut: it needs two key frames, and then agrees everywhere."""
    model = small("accel")
    model.fusion.correction.weight.data.copy_(torch.eye(5, 10)[:, :, None, None])  # only what was carried counts
    model.propagation.flow = DenseInverseSearch()
    first, second = clip_of((64, 96), 2)[0].permute(0, 2, 3, 1).numpy()
    results = compare_key_frames(model, [[first] * 5 + [second] * 5], 5, seeds=0)
    assert results["oracle"]["agreement"] == 1 and results["oracle"]["key_share"] == 0.2


def test_label_says_if_a_model_cannot_tell_when_a_key_frame_is_due(drive, tmp_path):
    values = {"name": "accel", "num_classes": 3, "reference": UPDATE, "update": UPDATE, "flow": {"name": "dis"}}
    config = parse_model(values, "test")
    description = Description(config, ("a", "b", "c"), ((0, 0, 0),) * 3, 0)
    save_weights(tmp_path / "w.safetensors", build_model(config), description)
    with pytest.raises(ValueError, match="does not say when a key frame is due"):
        main_of("label")(
            [str(drive), "--model", str(tmp_path / "w.safetensors"), "--adaptive", "--output", str(tmp_path / "out")]
        )
