"""The command lines: the road from training to the demo, and one clear line for every mistake."""

import json
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
import torch
from PIL import Image
from processes import TOOLS, Program

from accel.commands import COMMANDS
from accel.datasets.camvid import PALETTE as CAMVID_PALETTE
from accel.datasets.cityscapes import PALETTE, Cityscapes
from accel.datasets.clips import frames_to_tensor, long_enough
from accel.inference.loading import load_model
from accel.machine import commit
from accel.playing.player import Player
from accel.video.writer import VideoWriter


@pytest.fixture
def trained(tool, tiny_run, trained_run, tmp_path):
    """The `--cfg FILE --checkpoint RUN` of a trained Accel, in the test's folder."""
    shutil.copytree(trained_run, tmp_path / "run")
    return [*tiny_run("accel"), "--checkpoint", str(tmp_path / "run")]


@pytest.fixture
def refused(tool, capfd):
    """refused(name, ...): runs the tool, which must fail as a user's mistake does; the line it says."""

    def run(name, *arguments):
        capfd.readouterr()
        assert tool(name, *arguments) == 2
        return only_line(capfd.readouterr().err)

    return run


def only_line(stderr):
    lines = stderr.splitlines()
    assert len(lines) == 1 and lines[0].startswith("error: "), stderr
    return lines[0]


# --- pictures of learned sampling ------------------------------------------------------------------------------

SAMPLING = (
    "model={name: deep_feature_flow, num_classes: 19, reference: {encoder: tu-test_resnet, head_channels: 8}, "
    "propagation: {name: learned_sampling, embedding: 8, radius: 1}}"
)


def test_learned_sampling_goes_from_training_to_pictures(tool, tiny_run, tmp_path, capsys):
    arguments = tiny_run("frame_by_frame", SAMPLING, "train.steps=2")
    assert tool("train", *arguments, "--device", "cpu") == 0
    run, frames = ["--checkpoint", tmp_path / "run"], write_frames(tmp_path / "frames", 2)
    pair = ["--key", frames / "frame0.png", "--current", frames / "frame1.png", "--at", 40, 20]
    assert tool("show_sampling", *run, "--offsets", "o.png", "--attention", "a.png", *pair, "--device", "cpu") == 0
    said = capsys.readouterr().out
    assert "o.png: steps 0 to 2, spread 0.82 to" in said and "a.png: most from" in said
    assert Image.open("o.png").size == (640, 640) and Image.open("a.png").width > 140
    summary = ["--summary", "s.json", *arguments[:2], "--distance", 1]
    assert tool("show_sampling", *run, *summary, "--device", "cpu") == 0
    assert "the strongest offset has" in " ".join(capsys.readouterr().out.split())
    assert json.loads(Path("s.json").read_text())["distance"] == 1
    assert tool("evaluate", *arguments, *run, "--interval", 2, "--device", "cpu", "--workers", 0) == 0
    demo = ["--input", frames, "--interval", 1, "--output", "out"]
    assert tool("demo", *run, *demo, "--device", "cpu") == 0
    assert (tmp_path / "out").is_dir()


def test_pictures_of_nothing_are_refused(refused, trained, tmp_path):
    run = ["--checkpoint", tmp_path / "run"]
    assert "nothing to draw" in refused("show_sampling", *run)
    assert "--summary needs --cfg FILE" in refused("show_sampling", *run, "--summary", "s.json")
    assert "--attention needs --key IMAGE" in refused("show_sampling", *run, "--attention", "a.png")
    assert "only training with learned sampling records" in refused("show_sampling", *run, "--offsets", "o.png")
    alone = ["--checkpoint", tmp_path / "run" / "weights.safetensors"]
    assert "is a file; expected the folder of a run" in refused("show_sampling", *alone, "--offsets", "o.png")
    frame = write_frames(tmp_path / "frames", 1) / "frame0.png"
    pair = ["--key", frame, "--current", frame, "--at", 4, 4, "--device", "cpu"]
    assert "has no learned sampling" in refused("show_sampling", *run, "--attention", "a.png", *pair)


# --- the road -------------------------------------------------------------------------------------------------


def write_frames(folder, count=7, size=(50, 70), suffix=".png"):
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for i in range(count):
        cv2.imwrite(str(folder / f"frame{i}{suffix}"), rng.integers(0, 256, (*size, 3), np.uint8))
    return folder


def write_video(path, count=7, size=(50, 70)):
    with VideoWriter(path, 12) as video:
        for i in range(count):
            video.write(np.full((*size, 3), 30 * i % 256, np.uint8))
    return path


def frames_of(path):
    with av.open(str(path)) as container:
        assert container.streams.video[0].codec_context.name == "h264"
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]


def assert_is_palette_image(path, size):
    with Image.open(path) as image:
        assert image.mode == "P" and image.size == size[::-1]
        assert np.array(image).max() < 19  # class indices
        assert image.getpalette()[: 3 * 19] == PALETTE.flatten().tolist()


def test_train_prints_where_the_weights_are(tool, tiny_run, capsys, tmp_path):
    assert tool("train", *tiny_run("frame_by_frame", "train.steps=2", "data.clip_length=1"), "--device", "cpu") == 0
    out = capsys.readouterr().out
    assert f"weights: {tmp_path}/run/weights.safetensors" in out and "loss" in out and "lr" in out


def test_train_runs_the_stages_of_a_recipe(tool, tiny_run, tmp_path, capsys):
    _, single = tiny_run("frame_by_frame")
    _, accel = tiny_run("accel")
    for path, extra in ((single, "output: runs/one\n"), (accel, "output: runs/two\ninit: {reference: runs/one}\n")):
        text = re.sub("^output: .*\n", "", Path(path).read_text(), flags=re.MULTILINE)
        Path(path).write_text(text + extra)
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(f"stages: [{Path(single).name}, {Path(accel).name}]")
    assert tool("train", "--cfg", recipe, "train.steps=1", "--device", "cpu") == 0
    out = capsys.readouterr().out
    assert "stage 1 of 2: runs/one" in out and "stage 2 of 2: runs/two" in out
    assert (tmp_path / "runs/two/weights.safetensors").is_file()
    assert tool("train", "--cfg", recipe, "train.steps=1", "--device", "cpu") == 0  # again: nothing to do
    assert capsys.readouterr().out.count("done before") == 2
    moved = ("train.steps=2", f"output={tmp_path}/longer", "--device", "cpu")
    assert tool("train", "--cfg", recipe, *moved) == 0
    assert capsys.readouterr().out.count("weights: ") == 2 and (tmp_path / "longer/two/weights.safetensors").is_file()


def test_settings_may_stand_anywhere_among_the_options():
    from accel.cli import Parser

    parser = Parser("a tool")
    parser.add_argument("--cfg")
    parser.add_argument("overrides", nargs="*")
    assert parser.parse_args(["a=1", "--cfg", "x", "b=2"]).overrides == ["a=1", "b=2"]
    assert parser.parse_args(["--cfg", "x"]).overrides == []


def test_own_images_and_videos_are_trained_on_and_scored(tool, tiny_run, tmp_path, capsys):
    """Through the commands: stills to clips by simulated motion, then video in classes that nobody has heard of."""
    root, rng = tmp_path / "mine", np.random.default_rng(0)
    for name in ("train/{}/a.png", "train/{}/b.png", *(f"val/{{}}/drive/{n}.png" for n in range(4))):
        for kind, picture in (("images", rng.integers(0, 256, (64, 96, 3))), ("labels", rng.integers(0, 3, (64, 96)))):
            path = root / name.format(kind)
            path.parent.mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(path), picture.astype(np.uint8))
    (root / "classes.txt").write_text("weld\nseam\n0 0 255 crack\n")
    data = f"data={{name: folder, root: {root}, clip_length: 3, motion: {{}}, augmentation: {{crop: [32, 64]}}}}"
    run = [*tiny_run("accel"), data, "model.num_classes=3", "--device", "cpu"]
    assert tool("train", *run, "--check-data") == 0
    assert tool("train", *run, "train.steps=1") == 0
    assert tool("evaluate", *run, "--checkpoint", tmp_path / "run", "--interval", 3, "--json", tmp_path / "r.json") == 0
    assert set(json.loads((tmp_path / "r.json").read_text())["iou"]) == {"weld", "seam", "crack"}
    assert "over 2 frames at interval 3" in capsys.readouterr().out


def test_a_recipe_whose_links_lead_nowhere_does_not_begin(tool, tiny_run, tmp_path, capsys):
    _, accel = tiny_run("accel")
    recipe, base = tmp_path / "recipe.yaml", Path(accel).name
    second = f"{{base: {base}, output: {tmp_path}/b, init: {{reference: {tmp_path}/c}}}}"
    recipe.write_text(f"stages: [{{base: {base}, output: {tmp_path}/a}}, {second}]")
    assert tool("train", "--cfg", recipe, "--device", "cpu") == 2
    mistake = f"{tmp_path}/b: init.reference: no run at {tmp_path}/c, and no earlier stage makes it"
    assert capsys.readouterr().err.strip() == f"error: {mistake}"
    assert not (tmp_path / "a").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--devices", "0"), "error: --devices 0: expected 1 or more"),
        (("--resume", "--overwrite"), "error: --resume continues a run, --overwrite begins it again: choose one"),
    ],
)
def test_arguments_of_training_that_make_no_sense_are_told(tool, tiny_run, capsys, arguments, message):
    assert tool("train", *tiny_run("frame_by_frame"), *arguments) == 2
    assert capsys.readouterr().err.startswith(message)


def test_check_data_lists_what_training_could_not_read_and_trains_nothing(
    tool, tiny_run, tiny_cityscapes, tmp_path, capsys
):
    assert tool("train", *tiny_run("accel"), "--check-data") == 0
    assert "16 files of 4 labelled frames read, all are fit for training" in capsys.readouterr().out
    first, second = sorted((tiny_cityscapes / "leftImg8bit_sequence/train").rglob("*_000002_leftImg8bit.png"))
    damage(first)
    second.unlink()
    assert tool("train", *tiny_run("accel"), "--check-data") == 2
    out = capsys.readouterr().out
    assert f"{first}: the PNG is cut off" in out and f"{second}: no such file" in out
    assert not (tmp_path / "run").exists()


def iou_by_hand(checkpoint, root, distances):
    """IoU by class name over the labelled frames of val: at each of these distances, from the sets of pixels."""
    from accel.inference.loading import load_model

    model, dataset = load_model(checkpoint, device="cpu"), Cityscapes(root, "val")
    predicted, truth = [], []
    for clip in (dataset.clip(index, 3) for index in range(len(dataset))):
        frames = torch.from_numpy(clip.frames).permute(0, 3, 1, 2)
        for distance in distances:
            with torch.no_grad():
                scores, state = model.key_frame(frames[None, -1 - distance])
                for later in range(-distance, 0):
                    scores, state = model.next_frame(frames[None, later], state)
            predicted.append(scores.upsample(clip.labels.shape)[0].argmax(0).numpy())
            truth.append(clip.labels)
    predicted, truth = np.stack(predicted), np.stack(truth)
    found = {}
    for index, name in enumerate(dataset.class_names):
        said, true = (predicted == index) & (truth != 255), truth == index
        found[name] = (said & true).sum() / (said | true).sum() if (said | true).any() else None
    return found


def clock_of_frames(monkeypatch):
    """A key frame takes four seconds, all others take one."""
    clock, step = 0.0, Player.step

    def costly(*arguments, **options):
        nonlocal clock
        done = step(*arguments, **options)
        clock += 4 if done.is_key else 1
        return done

    monkeypatch.setattr(Player, "step", costly)
    monkeypatch.setattr("accel.inference.timing.now", lambda device: clock)


@pytest.mark.parametrize("average", [False, True])
def test_evaluate_prints_and_writes_its_result(tool, trained, tiny_cityscapes, tmp_path, capsys, monkeypatch, average):
    clock_of_frames(monkeypatch)
    arguments = ["--interval", 3, "--json", tmp_path / "new/out.json", "--device", "cpu", "--workers", 0]
    assert tool("evaluate", *trained, *arguments, *(["--avg"] if average else [])) == 0
    result = json.loads((tmp_path / "new/out.json").read_text())
    assert result.keys() >= {"miou", "iou", "interval", "frames_scored", "seconds_key", "seconds_current", "fps"}
    assert result["interval"] == 3 and result["frames_scored"] == 4
    expected = iou_by_hand(trained[-1], tiny_cityscapes, (0, 1, 2) if average else (2,))
    assert result["iou"] == pytest.approx(expected, abs=1e-3) and expected["road"] is not None
    assert result["miou"] == pytest.approx(np.mean([iou for iou in expected.values() if iou is not None]), abs=1e-3)
    assert (result["seconds_key"], result["seconds_current"], result["fps"]) == (4, 1, 0.5)
    origin = result["origin"]
    assert "cores" in origin["machine"] and "--interval 3" in origin["command"] and origin["processes"] == 1
    assert origin["commit"] == commit() and list(origin["checkpoints"].values()) == [str(trained[-1])]
    out = capsys.readouterr().out
    assert f"mIoU {100 * result['miou']:.2f}% over 4 frames at interval 3" in out and "traffic light" in out


def test_evaluate_measures_borders_and_steadiness_where_asked(tool, trained, tmp_path, capsys):
    arguments = ["--interval", 2, "--avg", "--boundary", "--widths", "2,6", "--temporal", "--flow", "model"]
    files = ["--json", tmp_path / "out.json", "--csv", tmp_path / "out.csv"]
    assert tool("evaluate", *trained, *arguments, *files, "--device", "cpu", "--workers", 0) == 0
    result = json.loads((tmp_path / "out.json").read_text())
    assert [*result["by_distance"]] == ["0", "1"] and [*result["trimap"]] == ["2", "6"]
    assert result["mean"] == pytest.approx(np.mean([a["miou"] for a in result["by_distance"].values()]))
    assert result["temporal"]["flow"] == "model" and 0 <= result["temporal"]["consistency"] <= 1
    out = capsys.readouterr().out
    assert "within 6 px" in out and "temporal consistency" in out and "flicker" in out
    assert len((tmp_path / "out.csv").read_text().splitlines()) == 1 + 2 + 1


def test_evaluate_sweeps_models_and_intervals(tool, trained, deeplab_weights, tiny_run, tmp_path, capsys):
    models = [*trained, *tiny_run("frame_by_frame"), "--checkpoint", deeplab_weights, "--name", "new", "--name", "old"]
    files = ["--json", tmp_path / "new/out.json", "--csv", tmp_path / "new/out.csv"]
    assert (
        tool("evaluate", "--sweep", "3,1", *models, *files, "--device", "cpu", "--workers", 0, "--split", "train") == 0
    )
    found = json.loads((tmp_path / "new/out.json").read_text())
    assert [*found["models"]] == ["new", "old"] and found["intervals"] == [1, 3] and found["split"] == "train"
    assert [len(result["by_distance"]) for result in found["models"]["new"]] == [1, 3]
    assert len((tmp_path / "new/out.csv").read_text().splitlines()) == 1 + 2 * (2 + 4)
    out = capsys.readouterr().out
    assert "cityscapes train: mIoU %" in out and "new: mIoU % by distance" in out and "interval 3" in out


def official_lines(out):
    """The mIoU of our own and the official one that `evaluate --official` prints."""
    own = re.search(r"^mIoU ([\d.]+)% (?:\([^)]*\) )?over (\d+) frames", out, re.MULTILINE)
    official = re.search(
        r"^official mIoU ([\d.]+)% over (\d+) frames, equal to our own within 1e-06$", out, re.MULTILINE
    )
    return own.groups(), official.groups()


def test_evaluate_agrees_with_the_official_scorer_and_keeps_the_predictions(tool, trained, tmp_path, capsys):
    arguments = ["--interval", 3, "--official", "--predictions", tmp_path / "pred", "--json", tmp_path / "out.json"]
    assert tool("evaluate", *trained, *arguments, "--device", "cpu", "--workers", 0) == 0
    out = capsys.readouterr().out
    own, official = official_lines(out)
    assert own == official and own[1] == "4"
    assert "cityscapesscripts, 4 frames" in out and "mean of categories" in out and "iIoU %" in out
    result = json.loads((tmp_path / "out.json").read_text())
    assert result["official"]["classes"]["mean"] == pytest.approx(result["miou"], abs=1e-9)
    assert result["official"]["classes"]["each"] == pytest.approx(result["iou"], abs=1e-9)
    assert len(result["official"]["instance_classes"]["each"]) == 8
    names = ["aachen_000000_000003", "aachen_000001_000003", "ulm_000000_000098", "ulm_000000_000203"]
    assert sorted(p.name for p in (tmp_path / "pred").iterdir()) == [f"{name}_pred_labelIds.png" for name in names]


def test_damaged_frames_are_left_out_of_the_official_score_too(tool, trained, tiny_cityscapes, capsys):
    damage(tiny_cityscapes / "leftImg8bit_sequence/val/ulm/ulm_000000_000097_leftImg8bit.png")
    assert tool("evaluate", *trained, "--interval", 2, "--official", "--device", "cpu", "--workers", 0) == 0
    own, official = official_lines(capsys.readouterr().out)
    assert own == official and own[1] == "3"


def test_labels_that_contradict_each_other_end_the_official_score(refused, trained, tiny_cityscapes):
    path = tiny_cityscapes / "gtFine/val/ulm/ulm_000000_000098_gtFine_labelTrainIds.png"
    cv2.imwrite(str(path), (cv2.imread(str(path), cv2.IMREAD_UNCHANGED) + 3) % 19)
    line = refused("evaluate", *trained, "--official", "--device", "cpu", "--workers", 0)
    assert "own mIoU" in line and "were the labelTrainIds of these data made from their labelIds?" in line


def test_labels_that_the_official_scorer_cannot_read_are_refused_before_the_model_runs(
    refused, trained, tiny_cityscapes, monkeypatch
):
    path = tiny_cityscapes / "gtFine/val/ulm/ulm_000000_000098_gtFine_labelIds.png"
    path.unlink()  # its labelTrainIds are there
    monkeypatch.setattr("accel.evaluation.command.run_comparison", lambda *_, **__: pytest.fail("the model ran"))
    line = refused("evaluate", *trained, "--official", "--device", "cpu", "--workers", 0)
    assert str(path) in line and "compares with labelIds, which 1 of 4 labelled frames do not have" in line


def test_a_submission_that_failed_can_be_tried_again(tool, trained, tiny_cityscapes, tmp_path, capsys):
    image = tiny_cityscapes / "leftImg8bit_sequence/val/ulm/ulm_000000_000203_leftImg8bit.png"
    whole = image.read_bytes()
    damage(image)
    options = ["--submission", tmp_path / "sent", "--split", "val", "--device", "cpu", "--workers", 0]
    assert tool("evaluate", *trained, *options) == 2 and not list((tmp_path / "sent").iterdir())
    image.write_bytes(whole)
    assert tool("evaluate", *trained, *options) == 0 and len(list((tmp_path / "sent").iterdir())) == 4


def test_own_and_official_score_agree_on_generated_scenes(tool, trained, scenes_made_here, tmp_path, capsys):
    options = ["data.name=streetscape", f"data.root={tmp_path}/scenes", "data.snippets={val: 2}", "data.size=[64, 128]"]
    assert tool("evaluate", *trained, *options, "--interval", 5, "--official", "--device", "cpu", "--workers", 0) == 0
    out = capsys.readouterr().out
    own, official = official_lines(out)
    assert own == official and own[1] == "2" and "iIoU %" in out  # generated scenes have instanceIds


def test_optimised_models_score_nearly_the_same(tool, trained, tmp_path, monkeypatch):
    """TorchInductor, which takes a minute, has tests of its own."""
    monkeypatch.setattr("accel.fast.compilation._compile", lambda part, *_: part)
    results = []
    for option in ([], ["--optimize"]):
        arguments = ["--interval", 2, "--official", "--temporal", "--flow", "model", "--json", tmp_path / "out.json"]
        assert tool("evaluate", *trained, *arguments, *option, "--device", "cpu", "--workers", 0) == 0
        results.append(json.loads((tmp_path / "out.json").read_text()))
    plain, fast = (np.array(result["confusion"]) for result in results)
    assert np.abs(plain - fast).sum() < 0.02 * plain.sum()


def test_models_of_two_data_sets_are_compared_in_one_sweep(tool, trained, tiny_run, tiny_camvid, tmp_path, capsys):
    """On either of the two; a model is scored in the same classes whatever it was trained on."""
    _, cfg = tiny_run("frame_by_frame")
    text = (
        Path(cfg).read_text().replace("name: cityscapes", "name: camvid").replace("num_classes: 19", "num_classes: 11")
    )
    Path(cfg).write_text(re.sub("root: .*", f"root: {tiny_camvid}", text))
    options = [
        "train.steps=1",
        "data.clip_length=1",
        f"output={tmp_path}/camvid_run",
        "data.augmentation.crop=[32, 32]",
    ]
    assert tool("train", "--cfg", cfg, *options, "--device", "cpu") == 0
    sweep = [
        "--sweep",
        "1,2",
        *trained,
        "--cfg",
        cfg,
        "--checkpoint",
        tmp_path / "camvid_run",
        "--name",
        "a",
        "--name",
        "b",
    ]
    places = {"cityscapes": tmp_path / "cityscapes", "camvid": tiny_camvid}
    for data, mapped in (("cityscapes", ["a", "b"]), ("camvid", ["a"])):
        where = [f"data.name={data}", f"data.root={places[data]}", "--temporal", "--json", tmp_path / "out.json"]
        assert tool("evaluate", *sweep, *where, "--split", "val", "--device", "cpu", "--workers", 0) == 0
        out = capsys.readouterr().out
        found = json.loads((tmp_path / "out.json").read_text())
        assert len(found["class_names"]) == 11 and [*found["class_maps"]] == mapped
        for name in "ab":
            assert (f"{name}: classes mapped: the model knows" in out) == (name in mapped)
            assert [*found["models"][name][1]["iou"]] == found["class_names"]
            assert found["models"][name][1]["temporal"]["pairs"] > 0


def test_a_submission_has_every_frame_of_the_test_split(tool, trained, tiny_cityscapes, tmp_path, capsys):
    sequences = tiny_cityscapes / "leftImg8bit_sequence"
    shutil.copytree(sequences / "val", sequences / "test")
    for path in (tiny_cityscapes / "gtFine/val").glob("*/*_labelIds.png"):  # it has no labels: stills say which frames
        name = path.name.replace("gtFine_labelIds", "leftImg8bit")
        still = tiny_cityscapes / "leftImg8bit/test" / path.parent.name / name
        still.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(sequences / "val" / path.parent.name / name, still)
    options = ["--submission", tmp_path / "sent", "--interval", 4, "--device", "cpu", "--workers", 0]
    assert tool("evaluate", *trained, *options) == 0
    assert f"4 frames of test as labelIds in {tmp_path}/sent" in capsys.readouterr().out
    kept = ["--official", "--predictions", tmp_path / "kept", "--interval", 4, "--device", "cpu", "--workers", 0]
    assert tool("evaluate", *trained, *kept) == 0
    sent, scored = ({p.name: p.read_bytes() for p in (tmp_path / name).iterdir()} for name in ("sent", "kept"))
    assert sent == scored and len(sent) == 4


def test_a_cityscapes_model_is_scored_on_camvid_in_its_original_form(tool, trained, tiny_camvid, tmp_path, capsys):
    """Across data sets and across their forms: the same score from index labels and from colours."""
    root = tmp_path / "original"
    for split in ("train", "val", "test"):
        (root / split).mkdir(parents=True)
        for path in (tiny_camvid / split).iterdir():
            shutil.copy(path, root / split)
            labels = cv2.imread(str(tiny_camvid / f"{split}annot" / path.name), cv2.IMREAD_UNCHANGED)
            colours = np.concatenate([CAMVID_PALETTE, np.zeros((1, 3), np.uint8)])[labels]
            cv2.imwrite(str(root / split / f"{path.stem}_L.png"), colours[..., ::-1])
    results = []
    for place in (tiny_camvid, root):
        options = ["data.name=camvid", f"data.root={place}", "--interval", 3, "--json", tmp_path / "out.json"]
        assert tool("evaluate", *trained, *options, "--device", "cpu", "--workers", 0) == 0
        out = capsys.readouterr().out
        assert "classes mapped: the model knows 19, the data have 11, scored in 11 (sky" in out
        results.append(json.loads((tmp_path / "out.json").read_text()))
        assert list(results[-1]["iou"])[:3] == ["sky", "building", "pole"] and results[-1]["frames_scored"] == 4
        assert results[-1]["class_map"]["predictions"]["truck"] == "car"
    assert results[0]["miou"] == results[1]["miou"] and results[0]["iou"] == results[1]["iou"]


def test_evaluate_makes_a_report_of_one_model_and_of_several(
    tool, trained, deeplab_weights, tiny_run, tmp_path, capsys
):
    models = [*trained, *tiny_run("frame_by_frame"), "--checkpoint", deeplab_weights, "--name", "new", "--name", "old"]
    common = "--device", "cpu", "--workers", 0, "--report", tmp_path / "report"
    assert tool("evaluate", "--sweep", "1,3", *models, "--temporal", *common) == 0
    page = (tmp_path / "report/index.html").read_text()
    assert page.count('class="group"') == 1 + 2 and '"shown":[["new",3],["old",1]]' in page
    assert "--sweep 1,3" in page and str(deeplab_weights) in page and '"distance":2' in page
    assert f"report: {tmp_path / 'report/index.html'}" in capsys.readouterr().out
    # Another one in its place, with a clip of its own choice and without the figures that this one has.
    last = json.loads(re.search(r'id="clips">(.*?)</script>', page, re.S)[1])[1]["name"]
    assert tool("evaluate", *trained, "--interval", 3, "--clip", last, *common) == 0
    page = (tmp_path / "report/index.html").read_text()
    (clip,) = json.loads(re.search(r'id="clips">(.*?)</script>', page, re.S)[1])
    assert clip["name"] == last and clip["shown"] == [["accel", 3]] and len(clip["frames"]) > 1
    assert not (tmp_path / "report/temporal.png").exists() and "Steadiness" not in page
    read = json.loads((tmp_path / "report/results.json").read_text())
    assert read["models"]["accel"][0]["interval"] == 3


@pytest.mark.parametrize("kind", ["folder", "mp4"])
def test_demo_labels_a_video(tool, trained, tmp_path, kind):
    source = write_frames(tmp_path / "drive") if kind == "folder" else write_video(tmp_path / "drive.mp4")
    options = ["--input", source, "--interval", 3, "--output", tmp_path / "out", "--device", "cpu"]
    assert tool("demo", *trained[2:], *options) == 0

    labels = sorted((tmp_path / "out/labels").iterdir())
    names = [f"frame{i}.png" if kind == "folder" else f"{i:06d}.png" for i in range(7)]
    assert [path.name for path in labels] == names
    for path in labels:
        assert_is_palette_image(path, (50, 70))
    frames = frames_of(tmp_path / "out/video.mp4")
    assert len(frames) == 7
    assert frames[0].shape[1] in range(3 * 70, 3 * 70 + 16) and frames[0].shape[0] >= 50  # input, labels, overlay
    summary = json.loads((tmp_path / "out/summary.json").read_text())
    assert (summary["interval"], summary["frames"], summary["damaged"]) == (3, 7, 0)
    assert summary["seconds_key"] > 0 and summary["seconds_current"] > 0 and summary["fps"] > 0
    assert summary["origin"]["checkpoints"] == {"model": str(trained[-1])}


def test_demo_labels_each_video_of_a_folder_in_its_own(tool, trained, tmp_path):
    """Names that differ only in what looks like a suffix, too."""
    for name in ("ride.1", "ride.2"):
        write_frames(tmp_path / "videos" / name, 2)
    write_video(tmp_path / "videos/ride.mp4", 3)
    options = ["--input", tmp_path / "videos", "--output", tmp_path / "out", "--device", "cpu"]
    assert tool("demo", *trained[2:], *options) == 0
    found = {path.parent.name: json.loads(path.read_text())["frames"] for path in tmp_path.glob("out/*/summary.json")}
    assert found == {"ride.1": 2, "ride.2": 2, "ride.mp4": 3}


def test_demo_touches_no_file_that_it_did_not_write(tool, refused, trained, tmp_path):
    """Labels of the user's own, of the same names or of others, stay as they are."""
    images, own = write_frames(tmp_path / "gt/images", 2), tmp_path / "gt/labels"
    own.mkdir()
    (own / "frame0.png").write_bytes(b"mine")
    (own / "notes.txt").write_text("mine")
    line = refused("demo", *trained[2:], "--input", images, "--output", tmp_path / "gt", "--device", "cpu")
    assert f"{tmp_path / 'gt'}: holds files" in line and "labels/frame0.png" in line and "choose another folder" in line
    assert (own / "frame0.png").read_bytes() == b"mine" and len(list(own.iterdir())) == 2


def test_demo_replaces_its_own_results_but_not_for_a_mistake(tool, refused, trained, tmp_path):
    output, two = tmp_path / "out", write_frames(tmp_path / "two", 2)
    three, options = write_frames(tmp_path / "three", 3), ["--output", output, "--device", "cpu"]
    assert tool("demo", *trained[2:], "--input", three, *options) == 0
    before = {path: path.read_bytes() for path in output.rglob("*.*") if path.is_file()}
    assert "nosuch.mp4" in refused("demo", *trained[2:], "--input", "nosuch.mp4", *options)
    assert {path: path.read_bytes() for path in output.rglob("*.*") if path.is_file()} == before
    (output / "summary.json").unlink()  # as an interrupted run leaves the folder
    assert tool("demo", *trained[2:], "--input", two, *options) == 0
    assert sorted(path.name for path in (output / "labels").iterdir()) == ["frame0.png", "frame1.png"]


def test_demo_labels_a_live_stream_and_keeps_its_pace(tool, trained, tmp_path, stream_server, capsys):
    """The video shows each frame when it came, however many were dropped before it."""
    url = stream_server("mpegts", pieces=25)
    assert tool("demo", *trained[2:], "--input", url, "--interval", 3, "--device", "cpu") == 0
    (output,) = (tmp_path / "output").iterdir()
    assert output.name == re.sub(r"[:/]+", "_", url.removeprefix("http://"))
    summary = json.loads((output / "summary.json").read_text())
    assert summary["live"] and summary["frames"] + summary["dropped"] == 50 and summary["latency"] > 0
    assert f"{summary['frames']} frames ({summary['dropped']} more dropped, latency " in capsys.readouterr().out
    numbers = [int(path.stem) for path in sorted((output / "labels").iterdir())]
    assert len(numbers) == summary["frames"] and numbers[-1] == 49
    with av.open(str(output / "video.mp4")) as container:
        shown = [frame.time for frame in container.decode(video=0)]
    assert len(shown) == summary["frames"] and shown == sorted(set(shown))


@pytest.mark.parametrize("live", ["--live", "--no-live"])
def test_demo_takes_any_video_as_live_or_not_as_told(tool, trained, tmp_path, live):
    """Seven frames at 12 a second: as live, they come in their own time."""
    source = write_video(tmp_path / "drive.mp4")
    options = ["--input", source, "--output", tmp_path / "out", "--device", "cpu", live]
    assert tool("demo", *trained[2:], *options) == 0
    summary = json.loads((tmp_path / "out/summary.json").read_text())
    assert summary["live"] == (live == "--live") and summary["frames"] + summary["dropped"] == 7
    if live == "--no-live":
        assert summary["dropped"] == 0
    with av.open(str(tmp_path / "out/video.mp4")) as container:
        *_, last = container.decode(video=0)
    assert last.time >= 0.4  # 0.5, had the first one come at once


def test_demo_does_not_drop_frames_of_a_live_stream_when_told_not_to(tool, trained, tmp_path, stream_server):
    url = stream_server("mpegts", pieces=2)
    options = ["--input", url, "--output", tmp_path / "out", "--device", "cpu", "--no-live"]
    assert tool("demo", *trained[2:], *options) == 0
    summary = json.loads((tmp_path / "out/summary.json").read_text())
    assert (summary["live"], summary["frames"], summary["dropped"]) == (False, 50, 0)


def test_a_live_stream_that_breaks_off_is_kept_up_to_there(tool, trained, tmp_path, stream_server, capsys):
    url = stream_server("mpegts", clean_end=False)
    options = ["--input", url, "--output", tmp_path / "out", "--device", "cpu"]
    assert tool("demo", *trained[2:], *options) == 0
    summary = json.loads((tmp_path / "out/summary.json").read_text())
    assert summary["damaged"] == 1 and summary["frames"] == len(frames_of(tmp_path / "out/video.mp4")) > 0
    assert f"{url}: it ended or its connection was lost" in capsys.readouterr().out


SLOWLY = f"""
import runpy, time
from accel.playing.player import Player

step = Player.step

def slowly(*arguments, **options):
    time.sleep(0.05)
    return step(*arguments, **options)

Player.step = slowly
runpy.run_path({str(TOOLS / "demo.py")!r}, run_name="__main__")
"""


def interrupted_demo(folder, *arguments, silent=0.0, again_and_again=False):
    """Sends the demo Ctrl-C once it has labelled a frame, when there is much more to label; its code and output.

    silent: not before no frame was labelled for so many seconds.
    """
    script = folder / "slowly.py"
    script.write_text(SLOWLY)
    outputs = folder / "stdout.txt", folder / "stderr.txt"
    demo = Program(script, [*arguments, "--output", "out", "--device", "cpu"], outputs, folder=folder)
    labelled, last = 0, time.monotonic()
    while demo.process.is_alive() and not (labelled and time.monotonic() - last >= silent):
        time.sleep(0.02)
        if (count := len(list(folder.glob("out/**/*.png")))) > labelled:
            labelled, last = count, time.monotonic()
    demo.interrupt()
    while again_and_again and demo.process.is_alive():
        time.sleep(0.2)
        demo.interrupt()
    return demo.wait(), demo.said, demo.errors


def test_ctrl_c_ends_a_live_stream_and_keeps_what_was_labelled(trained, tmp_path, stream_server):
    url = stream_server("mpegts", frames=1000, pieces=1000)  # 20 s
    code, out, err = interrupted_demo(tmp_path, *trained[2:], "--input", url)
    assert (code, err) == (0, "")
    summary = json.loads((tmp_path / "out/summary.json").read_text())
    labels = list((tmp_path / "out/labels").iterdir())
    assert summary["frames"] == len(labels) == len(frames_of(tmp_path / "out/video.mp4")) > 0
    assert summary["interrupted"] is True and "written: out/" in out


@pytest.mark.parametrize("kind", ["folder", "mp4", "snippets"])
def test_ctrl_c_keeps_what_was_labelled_of_any_input(trained, tiny_cityscapes, tmp_path, kind):
    """The code says that it did not come to its end. `--interval` 1: a snippet of one frame after another."""
    if kind == "folder":
        source = ["--input", write_frames(tmp_path / "drive", 600)]
    elif kind == "mp4":
        source = ["--input", write_video(tmp_path / "drive.mp4", 600)]
    else:
        more_snippets(tiny_cityscapes, 300)
        source = ["--num_ex", 400, "--interval", 1]
    code, out, err = interrupted_demo(tmp_path, *trained, *source)
    assert (code, err.splitlines()) == (130, ["interrupted"]), err
    summary = json.loads((tmp_path / "out/summary.json").read_text())
    count = summary["num_ex" if kind == "snippets" else "frames"]
    labels = list((tmp_path / "out/labels").iterdir())
    assert summary["interrupted"] is True and summary["error"] is None and 0 < count == len(labels) < 300
    filmed = len(frames_of(tmp_path / "out/video.mp4"))
    assert filmed >= count if kind == "snippets" else filmed == count
    assert "written: out/" in out and f"ended early, after {count} " in out
    assert not list((tmp_path / "out").glob(".*.part"))


def more_snippets(root, count):
    """`count` further snippets of Cityscapes' val split, each a copy of one of them."""
    for folder in (root / "leftImg8bit_sequence/val/aachen", root / "gtFine/val/aachen"):
        for path in list(folder.glob("aachen_000001_*")):
            for number in range(2, count + 2):
                os.link(path, folder / path.name.replace("aachen_000001", f"aachen_{number:06d}"))


def test_ctrl_c_in_a_folder_of_videos_keeps_those_that_are_done_and_begins_no_other(trained, tmp_path):
    (tmp_path / "videos").mkdir()
    for name in ("a.mp4", "b.mp4"):
        write_video(tmp_path / "videos" / name, 600)
    code, *_ = interrupted_demo(tmp_path, *trained[2:], "--input", tmp_path / "videos")
    assert code == 130 and (tmp_path / "out/a.mp4/summary.json").is_file() and not (tmp_path / "out/b.mp4").exists()


def test_a_second_ctrl_c_does_not_wait_for_a_silent_stream(trained, tmp_path, stream_server):
    """The first waits for the source to give its next frame, at most for the ten seconds that a stream is given."""
    url = stream_server("mpegts", stalls=True)
    code, _, err = interrupted_demo(tmp_path, *trained[2:], "--input", url, silent=2, again_and_again=True)
    assert (code, err) == (130, "interrupted\n")


def test_an_error_midway_keeps_what_was_labelled(tool, refused, trained, tmp_path, monkeypatch):
    from accel.inference.segmenter import Segmenter

    label = Segmenter._label

    def fails_at_five(self, source):
        for segmented in label(self, source):
            if segmented.index == 5:
                raise OSError("the model's disk has gone")
            yield segmented

    monkeypatch.setattr(Segmenter, "_label", fails_at_five)
    options = ["--input", write_frames(tmp_path / "drive"), "--output", tmp_path / "out", "--device", "cpu"]
    assert refused("demo", *trained[2:], *options) == "error: the model's disk has gone"
    summary = json.loads((tmp_path / "out/summary.json").read_text())
    assert (summary["frames"], summary["interrupted"]) == (5, False) and "disk has gone" in summary["error"]
    assert len(list((tmp_path / "out/labels").iterdir())) == len(frames_of(tmp_path / "out/video.mp4")) == 5


@pytest.mark.slow
def test_demo_with_flat_latency_on_an_optimised_model(tool, trained, tmp_path):
    source, output = write_frames(tmp_path / "drive"), tmp_path / "out"
    options = [*trained, "--input", source, "--device", "cpu", "--output", output, "--interval", 3]
    assert tool("demo", *options, "--flat-latency", "--optimize") == 0
    assert json.loads((output / "summary.json").read_text())["flat_latency"] is True


@pytest.mark.slow
def test_demo_with_flat_latency_scores_features_as_old_as_they_get(tool, trained, tiny_cityscapes, tmp_path):
    options = [*trained, "--interval", 2, "--num_ex", 2, "--output", tmp_path / "out", "--device", "cpu"]
    assert tool("demo", *options, "--flat-latency") == 0
    model = load_model(tmp_path / "run", device="cpu").optimized(dtype=torch.float32, compile=False, parts=2)
    dataset = Cityscapes(tiny_cityscapes, "val")
    index = long_enough(dataset, 4)[0]
    clip = dataset.clip(index, 4)
    frames = frames_to_tensor(clip.frames)
    with torch.inference_mode():
        _, state = model.key_frame(frames[:1])
        _, state = model.next_frame(frames[1:2], state)
        _, state = model.next_frame(frames[2:3], state)
        said, _ = model.next_frame(frames[3:], model.renew(state, 2))
    expected = said.at(tuple(frames.shape[2:])).labels[0].numpy()
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / f"out/labels/{clip.name}.png")), expected)


def test_demo_refuses_to_average_what_flat_latency_never_has(refused, trained):
    assert "--avg scores every distance" in refused("demo", *trained, "--avg", "--flat-latency", "--interval", 2)


@pytest.mark.parametrize("average", [False, True])
def test_demo_labels_snippets_of_the_data(tool, trained, tmp_path, average, capsys):
    options = ["--interval", 2, "--num_ex", 3, "--output", tmp_path / "out", "--device", "cpu"]
    assert tool("demo", *trained, *options, *(["--avg"] if average else [])) == 0
    out = capsys.readouterr().out
    assert len(re.findall(r"^\d/3 \w+: [\d.]+ s a frame, mIoU so far [\d.]+%$", out, re.MULTILINE)) == 3
    summary = json.loads((tmp_path / "out/summary.json").read_text())
    assert (summary["num_ex"], summary["damaged"], summary["average_over_distances"]) == (3, 0, average)
    assert 0 <= summary["miou"] <= 1 and len(summary["iou"]) == 19
    names = ["aachen_000000_000003.png", "aachen_000001_000003.png", "ulm_000000_000098.png"]
    assert sorted(path.name for path in (tmp_path / "out/labels").iterdir()) == names
    assert_is_palette_image(tmp_path / "out/labels" / names[0], (64, 96))
    assert len(frames_of(tmp_path / "out/video.mp4")) == 3 * 4  # each clip has 4 frames, two whole intervals


@pytest.mark.parametrize("average", [False, True])
def test_demo_and_evaluation_agree(tool, trained, tmp_path, average):
    """Snippets whose frames are all within one interval: both see the same key frame."""
    flags = ["--interval", 4, "--device", "cpu", *(["--avg"] if average else [])]
    assert tool("evaluate", *trained, *flags, "--json", tmp_path / "out.json", "--workers", 0) == 0
    assert tool("demo", *trained, *flags, "--output", tmp_path / "demo") == 0
    a, b = (json.loads((tmp_path / name).read_text()) for name in ("out.json", "demo/summary.json"))
    assert a["miou"] == pytest.approx(b["miou"], abs=1e-3)


def test_damaged_frames_are_skipped_and_counted_by_the_demo(tool, trained, tiny_cityscapes, tmp_path, capsys):
    damage(tiny_cityscapes / "leftImg8bit_sequence/val/ulm/ulm_000000_000097_leftImg8bit.png")
    folder = write_frames(tmp_path / "drive")
    damage(folder / "frame3.png")
    common = ["--interval", 2, "--device", "cpu"]
    assert tool("demo", *trained, *common, "--output", tmp_path / "a") == 0
    assert tool("demo", *trained[2:], *common, "--input", folder, "--output", tmp_path / "b") == 0
    snippets, video = (json.loads((tmp_path / name / "summary.json").read_text()) for name in "ab")
    assert (snippets["num_ex"], snippets["damaged"]) == (3, 1)
    assert (video["frames"], video["damaged"]) == (6, 1)
    out = capsys.readouterr().out
    assert "left out: " in out and "ulm_000000_000097" in out and "frame3.png" in out


@pytest.mark.slow
def test_the_demo_as_typed_uses_cityscapes_when_it_is_there(tool, trained, tiny_cityscapes, tmp_path, capsys):
    (tmp_path / "data").mkdir()
    (tmp_path / "data/cityscapes").symlink_to(tiny_cityscapes)
    assert tool("demo", "--checkpoint", trained[-1], "--interval", 2) == 0
    assert "generated" not in capsys.readouterr().out
    assert json.loads((tmp_path / "output/demo/summary.json").read_text())["num_ex"] == 4


def test_without_cityscapes_the_demo_generates_scenes(tool, trained, scenes_made_here, tmp_path, capsys, monkeypatch):
    """Of the demo's size, but few."""
    from accel import demo_models

    recipe = demo_models.EXPERIMENTS / "demo/demo18.yaml"
    stages = demo_models.load_stages(recipe, ["data.snippets={val: 1}", "data.size=[64, 128]"])
    monkeypatch.setattr(demo_models, "load_stages", lambda _: stages)
    options = ["--interval", 5, "--num_ex", 2, "--device", "cpu"]
    assert tool("demo", "--checkpoint", trained[-1], *options) == 0
    assert "no Cityscapes at data/cityscapes: using generated street scenes" in capsys.readouterr().out
    assert len(list((tmp_path / "output/demo/labels").iterdir())) == 2
    assert (tmp_path / "data/streetscape/gtFine/val").is_dir()


def test_a_table_of_the_users_own_is_told_before_anything_is_labelled(refused, trained, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out/table.json").write_text("mine")
    source = ["--input", write_frames(tmp_path / "drive", 2), "--output", tmp_path / "out", "--device", "cpu"]
    assert "table.json" in refused("demo", *trained[2:], *source, "--compare")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["table.json"]


# --- flow, seeds, side by side --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def flow_weights(tmp_path_factory):
    """The weights file of an untrained Deep Feature Flow, as `tiny_run` describes it."""
    return untrained_weights(tmp_path_factory.mktemp("weights"), "deep_feature_flow", flow={"width": 1 / 16})


@pytest.fixture
def camvid_data(tiny_run, tiny_camvid):
    """The `--cfg FILE key=value ...` of the tiny CamVid, on the CPU."""
    _, cfg = tiny_run("frame_by_frame")
    return ["--cfg", cfg, "--device", "cpu", "data.name=camvid", f"data.root={tiny_camvid}"]


def test_flow_is_scored_on_simulated_clips_and_along_video(tool, camvid_data, flow_weights, tmp_path, capsys):
    options = [
        "--checkpoint",
        flow_weights,
        "--stills",
        "train",
        "--steps",
        "1,5,6",
        "--json",
        tmp_path / "new/flow.json",
    ]
    assert tool("evaluate_flow", *camvid_data, *options) == 0
    assert "NaN" not in (tmp_path / "new/flow.json").read_text()
    written = json.loads((tmp_path / "new/flow.json").read_text())
    scores = written["flows"]
    assert written["origin"]["checkpoints"] == {str(flow_weights): str(flow_weights)}
    assert [score["name"] for score in scores] == ["none", "DIS, every pixel", "DIS, cells", str(flow_weights)]
    for score in scores:
        assert score["end_point_error"] > 0 and score["photometric_error"] > 0
        assert 0 < score["carried"]["1"] < 1 and 0 < score["carried"]["5"] < 1
        assert score["carried"]["6"] is None  # the video has 6 frames
    assert len({score["end_point_error"] for score in scores}) == 4
    assert "DIS, every" in capsys.readouterr().out


def test_flow_on_stills_alone_is_scored_by_its_end_point_error(tool, tiny_run, tmp_path, capsys):
    """Cityscapes has one labelled frame in a video; the clips are as long as the configuration says."""
    _, cfg = tiny_run("frame_by_frame")
    options = ["--stills", "train", "--json", "flow.json", "--device", "cpu", "data.motion={relief: 0, objects: 0}"]
    found = []
    for frames in ([], ["data.simulated_test_frames=3"], ["data.simulated_test_frames=2"]):
        assert tool("evaluate_flow", "--cfg", cfg, *options, *frames) == 0
        assert "cityscapes val: no two labelled frames directly follow one another" in capsys.readouterr().out
        found.append(json.loads((tmp_path / "flow.json").read_text())["flows"])
    assert found[0] == found[1] != found[2]
    assert all(score["carried"] == {} and score["photometric_error"] is None for score in found[0])


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--split", "train"], ["camvid train: no two labelled frames", "choose another --split, or --stills"]),
        (["--split", "none"], ["no CamVid none split"]),
        (["--stills", "none"], ["no CamVid none split"]),
        (["--checkpoint", "DEEPLAB"], ["weights.safetensors: FrameByFrame has no flow of its own"]),
        (["--checkpoint", "/nowhere"], ["no weights at /nowhere"]),
        (["--steps", "0"], ["--steps 0: expected whole numbers from 1"]),
        (
            ["data.simulated_test_frames=1", "--stills", "train"],
            ["data.simulated_test_frames=1: flow needs clips of 2"],
        ),
        (["--json", "."], ["--json .: is a folder"]),
    ],
)
def test_a_mistake_in_scoring_flow_is_one_line_before_anything_is_scored(
    refused, camvid_data, deeplab_weights, monkeypatch, arguments, words
):
    monkeypatch.setattr(
        "accel.evaluation.running.flow_accuracy.score_flow", lambda *_: pytest.fail("something was scored")
    )
    line = refused("evaluate_flow", *camvid_data, *(deeplab_weights if a == "DEEPLAB" else a for a in arguments))
    assert all(word in line for word in words) and "choose auto" not in line, line


def test_seeds_are_summarised_from_what_evaluation_wrote(tool, refused, deeplab_weights, tiny_run, capfd):
    model = [*tiny_run("frame_by_frame"), "--checkpoint", deeplab_weights]
    sweep = "evaluate", "--device", "cpu", "--workers", 0
    assert tool(*sweep, "--sweep", "1,2", *model, *model, "--name", "A #0", "--name", "A #1", "--json", "a.json") == 0
    for name, more in (("b", ["--split", "train"]), ("c", []), ("d", ["--name", "A #2"])):
        assert tool(*sweep, "--sweep", 1, *model, *more, "--json", f"{name}.json") == 0
    mean = json.loads(Path("a.json").read_text())["models"]["A #0"][1]["mean"]
    capfd.readouterr()
    assert tool("summarize", "a.json", "c.json") == 0
    lines = capfd.readouterr().out.splitlines()
    assert f"| A | 2 | {100 * mean:.1f} ± 0.0 | {100 * mean:.1f} ± 0.0 |" in lines
    assert f"| frame_by_frame | 1 | {100 * mean:.1f} |  |" in lines
    assert "b.json has split train, a.json val" in refused("summarize", "a.json", "b.json")
    assert "d.json has 'A #2' at the intervals 1, a.json 'A #0' at 1, 2" in refused("summarize", "a.json", "d.json")
    assert "'A #0' is also in a.json" in refused("summarize", "a.json", "a.json")
    assert "no result file nowhere.json" in refused("summarize", "nowhere.json")
    assert tool(*sweep, *model, "--json", "one.json") == 0
    assert "one.json: not the result of accel evaluate --sweep" in refused("summarize", "one.json")


@pytest.fixture
def side_by_side(tiny_run, deeplab_weights, flow_weights):
    """The arguments for two models."""
    models = [*tiny_run("frame_by_frame"), "--checkpoint", deeplab_weights]
    return [*models, *tiny_run("deep_feature_flow"), "--checkpoint", flow_weights, "--device", "cpu", "--workers", 0]


def test_models_are_shown_side_by_side(tool, side_by_side, tmp_path, capsys):
    options = ["--interval", 2, "--split", "train", "--output", tmp_path / "both.mp4"]
    assert tool("show_side_by_side", *side_by_side, *options) == 0
    assert f"{tmp_path}/both.mp4: 4 frames" in capsys.readouterr().out
    frames = frames_of(tmp_path / "both.mp4")
    assert (
        len(frames) == 4 and frames[0].shape[0] > 2 * 64 and frames[0].shape[1] >= 2 * 96
    )  # two rows of two, and more


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--interval", "0"], ["interval 0: expected 1"]),
        (["--video", "nowhere"], ["no video nowhere in this data set; it has 3, such as aachen_000000"]),
        (["--checkpoint", "third"], ["2 --cfg and 3 --checkpoint"]),
        (["--name", "a"], ["1 --name for 2 models"]),
        (["--split", "none"], ["no Cityscapes none split"]),
        (["--output", "/dev/null/a.mp4"], ["/dev/null"]),
        (["--fps", "0"], ["both.mp4: frame rate 0"]),
    ],
)
def test_a_mistake_in_showing_models_side_by_side_is_one_line(refused, side_by_side, arguments, words):
    line = refused("show_side_by_side", *side_by_side, "--output", "both.mp4", *arguments)
    assert all(word in line for word in words), line


# --- mistakes -------------------------------------------------------------------------------------------------


def damage(path):
    path.write_bytes(path.read_bytes()[:800])


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["train.stepz=3"], ["unknown key 'stepz'", "did you mean 'steps'?"]),
        (["data.root=/nowhere"], ["/nowhere", "expected leftImg8bit_sequence/train/CITY/CITY_SEQ_FRAME"]),
        (["data.name=camvid", "data.root=/nowhere"], ["/nowhere", "expected train/NAME.png, trainannot/NAME.png"]),
        (["model.reference.encoder=resnet19"], ["unknown encoder 'resnet19'", "resnet18"]),
        (["model.num_classes=11"], ["model.num_classes is 11", "cityscapes has 19"]),
        (["train.steps"], ["'train.steps'", "expected key=value"]),
        (["train.steps=-1"], ["train.steps", "got -1"]),
        (["model={name: published, version: accel-19, num_classes: 19}"], ["accel-19", "accel-18"]),
        (["init={reference: /nowhere}"], ["init.reference", "/nowhere"]),
        (["init={referense: /nowhere}"], ["no part 'referense'"]),
        (["train.freeze=[referense]"], ["no part 'referense'"]),
        (["data.clip_length=20"], ["no clip of 20 frames"]),
        (["--device", "cuda:99"], ["'cuda:99'", "CUDA devices"]),
        (["--device", "toaster"], ["'toaster'", "expected auto, cpu, cuda"]),
        (["output=/dev/null/run"], ["/dev/null"]),
        (["--cfgg", "x"], ["--cfgg"]),
    ],
)
def test_a_mistake_in_training_is_one_line(refused, tiny_run, overrides, words):
    line = refused("train", *tiny_run("accel", *overrides))
    assert all(word in line for word in words), line


@pytest.mark.parametrize("name", ["train", "evaluate"])
def test_a_configuration_that_is_none_is_one_line(refused, tmp_path, name):
    rest = [] if name == "train" else ["--checkpoint", "x"]
    assert "no configuration file nowhere.yaml" in refused(name, "--cfg", "nowhere.yaml", *rest)
    (tmp_path / "bad.yaml").write_text("train: {steps: 1\ndata: 3")
    assert "bad.yaml line 2: not valid YAML" in refused(name, "--cfg", "bad.yaml", *rest)
    assert "--cfg" in refused(name)


@pytest.mark.parametrize("what", ["image", "labels", "label size"])
def test_damaged_training_data_stop_training_with_one_line(refused, tiny_run, tiny_cityscapes, what):
    image = tiny_cityscapes / "leftImg8bit_sequence/train/ulm/ulm_000000_000098_leftImg8bit.png"
    labels = tiny_cityscapes / "gtFine/train/ulm/ulm_000000_000098_gtFine_labelTrainIds.png"
    if what == "label size":
        cv2.imwrite(str(labels), np.zeros((32, 48), np.uint8))
    else:
        damage(image if what == "image" else labels)
    line = refused("train", *tiny_run("frame_by_frame", "data.clip_length=1", "train.batch_size=4"), "--device", "cpu")
    if what == "label size":
        assert image.name in line and labels.name in line and "48 x 32" in line and "96 x 64" in line
    else:
        assert (image if what == "image" else labels).name in line and "cut off after 800 bytes" in line


@pytest.fixture(scope="module")
def deeplab_weights(tmp_path_factory):
    """The weights file of an untrained frame-by-frame model of Cityscapes' classes."""
    return untrained_weights(tmp_path_factory.mktemp("weights"), "frame_by_frame")


def untrained_weights(folder, name, **parts):
    from accel.config import parse_model
    from accel.datasets.cityscapes import CLASS_NAMES
    from accel.models import build_model
    from accel.weights.checkpoints import Description, save_weights

    branch = {"encoder": "tu-test_resnet", "head_channels": 16}
    config = parse_model({"name": name, "num_classes": 19, "reference": branch, **parts}, "test")
    path = folder / "weights.safetensors"
    palette = tuple(tuple(colour) for colour in PALETTE.tolist())
    save_weights(path, build_model(config), Description(config, CLASS_NAMES, palette, 0))
    return path


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--interval", "0"], ["interval 0: expected 1"]),
        (["--interval", "-5"], ["interval -5: expected 1"]),
        (["--interval", "two"], ["--interval", "'two'"]),
        (["--interval", "9"], ["interval 9 needs 8 frames", "longest clip in this data set has 4"]),
        (["--split", "none"], ["no Cityscapes none split"]),
        (["--device", "cuda:99"], ["'cuda:99'"]),
        (["--checkpoint", "/nowhere"], ["no weights at /nowhere"]),
        (["--checkpoint", "GARBAGE"], ["garbage.safetensors", "not a safetensors file"]),
        (["--json", "/dev/null/out.json"], ["/dev/null"]),
        (["--workers", "-1"], ["num_workers"]),
        (["model.reference.head_channels=8"], ["another architecture", "model.reference.head_channels is 16"]),
        (["model.num_classes=11"], ["another architecture", "model.num_classes is 19 in the checkpoint, 11"]),
        (["--checkpoint", "a", "--checkpoint", "b"], ["1 --cfg and 2 --checkpoint"]),
        (["--cfg", "CFG", "--checkpoint", "a", "--checkpoint", "b"], ["to compare 2 models, use --sweep"]),
        (["--name", "a", "--name", "b"], ["2 --name for 1 models"]),
        (["--sweep", "1,x"], ["--sweep 1,x: expected whole numbers from 1"]),
        (["--sweep", ""], ["--sweep", "expected whole numbers from 1"]),
        (["--sweep", "1,1"], ["--sweep 1,1: 1 occurs twice"]),
        (["--sweep", "1,9"], ["interval 9 needs 8 frames", "longest clip in this data set has 4"]),
        (["--sweep", "1", "--interval", "2"], ["leave out --interval and --avg"]),
        (["--sweep", "1", "--avg"], ["leave out --interval and --avg"]),
        (["--boundary", "--widths", "0"], ["--widths 0: expected whole numbers from 1"]),
        (["--temporal", "--flow", "raft"], ["flow 'raft'", "expected auto, exact, dis or model"]),
        (["--temporal", "--flow", "exact"], ["flow exact", "have no exact flow"]),
        (["--temporal", "--flow", "model"], ["FrameByFrame has no flow of its own"]),
        (["--csv", "/dev/null/out.csv"], ["/dev/null"]),
        (["--official", "--avg"], ["--official", "--sweep and --avg make several"]),
        (["--official", "--sweep", "1,2"], ["--official", "--sweep and --avg make several"]),
        (["--predictions", "p"], ["--predictions needs --official"]),
        (["--official", "--predictions", "/dev/null"], ["/dev/null: not a folder"]),
        (["--official", "--predictions", "."], ["holds", "need a new or an empty folder"]),
        (
            ["--submission", ".", "--json", "x", "--temporal"],
            ["--submission only writes", "leave out --temporal, --json"],
        ),
        (["--submission", "."], ["no Cityscapes test split"]),
        (["--submission", ".", "--split", "val"], ["holds", "need a new or an empty folder"]),
        (["--submission", "s", "--split", "val", "--interval", "5"], ["3 frames come directly before it", "needs 4"]),
        (["--official", "data.name=camvid", "data.root=CAMVID"], ["Cityscapes' layout only, not CamVid"]),
        (["--submission", "s", "--split", "val", "data.name=camvid", "data.root=CAMVID"], ["layout only, not CamVid"]),
        (["--report", "CAMVID"], ["--report", "holds", "which no report wrote", "choose a new"]),
        (["--report", "out", "--clip", "x"], ["--clip x: no labelled frame of that name", "such as"]),
        (["--clip", "x"], ["--clip chooses what --report shows: add --report DIR"]),
        (["--flow", "dis"], ["--flow needs --temporal"]),
        (["--widths", "1,2"], ["--widths needs --boundary"]),
        (["--json", "."], ["--json", "is a folder; expected the name of a file"]),
        (["--json", "a", "--csv", "./a"], ["--json and --csv name the same file"]),
        (["--report", "r", "--json", "r/all.json"], ["--json", "lies in the folder of --report"]),
        (["--report", "r", "--official", "--predictions", "r"], ["--predictions", "lies in the folder of --report"]),
    ],
)
def test_a_mistake_in_evaluation_is_one_line(
    refused, tiny_run, deeplab_weights, tiny_camvid, tmp_path, arguments, words
):
    garbage = tmp_path / "garbage.safetensors"
    garbage.write_bytes(b"garbage" * 99)
    arguments = [a.replace("GARBAGE", str(garbage)).replace("CAMVID", str(tiny_camvid)) for a in arguments]
    if "--checkpoint" not in arguments:
        arguments = ["--checkpoint", deeplab_weights, *arguments]
    _, cfg = tiny_run("frame_by_frame")
    line = refused("evaluate", "--cfg", cfg, *(cfg if a == "CFG" else a for a in arguments))
    assert all(word in line for word in words), line


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--interval", "0"], ["interval 0: expected 1"]),
        (["--num_ex", "0"], ["num_ex 0: expected 1"]),
        (["--version", "19"], ["--version", "'19'"]),
        (["--input", "/nowhere.mp4"], ["/nowhere.mp4: no such video file or folder"]),
        (["--input", "NO_VIDEO"], ["no_video.mp4"]),
        (["--input", "EMPTY"], ["empty", "no video found"]),
        (["--input", "TEXT"], ["text", "no video found"]),
        (["--input", "97"], ["camera 97: cannot be opened"]),
        (["--input", "http://127.0.0.1:1/live"], ["http://127.0.0.1:1/live: cannot be opened: connection refused"]),
        (["--input", "telepathy://you"], ["no protocol 'telepathy'"]),
        (["--checkpoint", "/nowhere"], ["no weights at /nowhere"]),
        (["--checkpoint", "NO_VIDEO"], ["no_video.mp4", "not a safetensors file"]),
        (["--device", "cuda:99", "--input", "FRAMES"], ["'cuda:99'"]),
        (["--output", "/dev/null/demo", "--input", "FRAMES"], ["/dev/null"]),
        (["--cfg", "nowhere.yaml"], ["no configuration file nowhere.yaml"]),
    ],
)
def test_a_mistake_in_the_demo_is_one_line(refused, deeplab_weights, tmp_path, arguments, words):
    (tmp_path / "no_video.mp4").write_bytes(b"this is no video" * 99)
    (tmp_path / "empty").mkdir()
    (tmp_path / "text").mkdir()
    (tmp_path / "text/a.txt").write_text("text")
    write_frames(tmp_path / "frames", 2)
    places = {name: str(tmp_path / name.lower()) for name in ("EMPTY", "TEXT", "FRAMES")}
    places["NO_VIDEO"] = str(tmp_path / "no_video.mp4")
    (tmp_path / "data/cityscapes").mkdir(parents=True)  # there, but empty: told before anything is trained
    if "--checkpoint" in arguments and "--input" not in arguments:
        arguments = [*arguments, "--input", "FRAMES"]
    chosen = [] if "--checkpoint" in arguments else ["--checkpoint", deeplab_weights]
    line = refused("demo", *chosen, *(places.get(a, a) for a in arguments))
    assert all(word in line for word in words), line


def test_the_demo_misses_data_before_it_trains(refused, tmp_path):
    (tmp_path / "data/cityscapes").mkdir(parents=True)
    assert "no Cityscapes val split at data/cityscapes: expected leftImg8bit_sequence" in refused("demo")


def test_the_demo_refuses_weights_for_other_classes(refused, deeplab_weights, tiny_run, tiny_camvid):
    _, cfg = tiny_run("frame_by_frame")
    text = Path(cfg).read_text().replace("name: cityscapes", "name: camvid")
    Path(cfg).write_text(re.sub("root: .*", f"root: {tiny_camvid}", text))
    line = refused("demo", "--cfg", cfg, "--checkpoint", deeplab_weights, "--device", "cpu")
    assert "knows 19 classes" in line and "data have 11" in line


def test_a_folder_of_damaged_frames_only_is_one_line(refused, deeplab_weights, tmp_path):
    folder = write_frames(tmp_path / "frames", 2)
    for path in folder.iterdir():
        damage(path)
    line = refused("demo", "--input", folder, "--checkpoint", deeplab_weights, "--device", "cpu")
    assert "frames" in line


@pytest.mark.parametrize(
    ("name", "arguments", "word"),
    [
        ("train", ["train.precision=bf16", "data.root=/nowhere"], "no Cityscapes train split at /nowhere"),
        ("demo", ["--interval", "0"], "interval 0"),
    ],
)
def test_a_mistake_is_one_line_in_a_process_of_its_own(tiny_run, tmp_path, name, arguments, word):
    """Nothing else, no library's warning, reaches the user."""
    _, cfg = tiny_run("accel")
    command = [sys.executable, str(TOOLS / f"{name}.py"), "--cfg", cfg, *arguments]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 2
    assert word in only_line(done.stderr)


@pytest.mark.parametrize("name", ["train", "evaluate", "demo", "evaluate_flow", "summarize", "show_side_by_side"])
def test_help_shows_an_example(tool, name, capsys):
    assert tool(name, "--help") == 0
    command = f"accel {name}" if name in COMMANDS else f"python tools/{name}.py"
    assert f"\n{command} " in capsys.readouterr().out
