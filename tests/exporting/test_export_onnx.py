"""Models exported to ONNX, run by ONNX Runtime, against PyTorch."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys

import cv2
import numpy as np
import pytest
import torch
from export_models import described, of_every_layer, tiny
from small_models import ALL, small

import accel
from accel import runtime
from accel.config import parse_model, without_pretrained
from accel.exporting import checking, export_model
from accel.exporting.exporter import Settings
from accel.exporting.graphs import Graphs
from accel.files.digests import sha256_of
from accel.inference.exported import ExportedModel
from accel.inference.loading import check_classes, classes_of, load_model
from accel.runtime.__main__ import png, run
from accel.weights import load_published

onnx = pytest.importorskip("onnx", reason="needs the extra [onnx]")
pytest.importorskip("onnxruntime", reason="needs the extra [onnx]")

SIZE = (57, 83)


@pytest.fixture(scope="module")
def model():
    return tiny()


@pytest.fixture(scope="module")
def folder(model, tmp_path_factory):
    """A small Accel, exported. To be looked at, not changed."""
    return export_model(model, tmp_path_factory.mktemp("exported") / "accel", Settings(size=SIZE, interval=4))


@pytest.fixture
def copied(folder, tmp_path):
    shutil.copytree(folder, tmp_path / "copied")
    return tmp_path / "copied"


def changed(folder, **keys):
    """The folder, whose model.json says something else."""
    path = folder / "model.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | keys))
    return folder


def clip(size=SIZE, frames=6, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (frames, *size, 3), dtype=np.uint8)


def labels_of(model, frames, interval):
    """PyTorch's labels."""
    player = accel.Player(model, accel.FixedInterval(interval))
    with torch.inference_mode():
        steps = [player.step(torch.from_numpy(frame).permute(2, 0, 1)[None]) for frame in frames]
    return np.stack([step.prediction.at(frames[0].shape[:2]).labels[0].numpy() for step in steps])


def test_the_folder_says_what_is_in_it(folder):
    about = json.loads((folder / "model.json").read_text())
    assert about["classes"] == ["c0", "c1", "c2", "c3", "c4"] and about["interval"] == 4
    assert [t["name"] for t in about["graphs"]["key"]["inputs"]] == ["frame"]
    assert [t["name"] for t in about["graphs"]["next"]["inputs"]] == ["frame", "image", "features"]
    assert [t["name"] for t in about["graphs"]["next"]["outputs"]] == ["labels", "scores", "new_image", "new_features"]
    assert about["graphs"]["key"]["inputs"][0] == {"name": "frame", "type": "uint8", "shape": [*SIZE, 3]}
    (check,) = about["checks"]
    assert check["equal_labels"] >= 0.999 and check["largest_difference"] < 1e-5 and check["frames"] == 10
    assert len(list((folder / "check").glob("frame_*.png"))) == len(list((folder / "check").glob("labels_*.png"))) == 10


def test_the_files_hold_standard_operators_alone(folder):
    for name in ("key", "next"):
        made = onnx.load(folder / f"{name}.onnx")
        onnx.checker.check_model(made)
        assert {node.domain for node in made.graph.node} == {""} and made.opset_import[0].version == 18
    assert "GridSample" in {node.op_type for node in made.graph.node}


def test_labels_are_those_of_pytorch(folder, model):
    loaded = runtime.load(folder, threads=1)
    results = list(runtime.label(loaded, clip()))
    assert [r.is_key for r in results] == [True, False, False, False, True, False]
    expected = labels_of(model, clip(), 4)
    assert (np.stack([r.labels for r in results]) == expected).mean() > 0.999
    assert len(np.unique(expected)) > 1  # or it would show nothing


def test_everything_that_plays_models_plays_it(folder, model):
    loaded = accel.load_model(folder)
    frames = list(clip())
    results = list(accel.Segmenter(loaded, accel.FixedInterval(3), confidence=True).stream(frames))
    assert (np.stack([r.labels for r in results]) == labels_of(model, frames, 3)).mean() > 0.999
    expected = list(accel.Segmenter(model, accel.FixedInterval(3), confidence=True).stream(frames))
    np.testing.assert_allclose(results[4].confidence, expected[4].confidence, atol=1e-5)
    assert loaded.optimized(SIZE) is loaded and loaded.moves_on and not loaded.remembers
    with pytest.raises(ValueError, match="cannot spread a key frame's work"):
        accel.Segmenter(loaded, accel.FixedInterval(3), flat_latency=True)


def test_it_knows_its_classes(folder, tiny_camvid):
    assert classes_of(folder).names == ("c0", "c1", "c2", "c3", "c4")
    data = accel.build_dataset(
        accel.load_config("experiments/camvid/accel18.yaml", [f"data.root={tiny_camvid}"]).data, "val"
    )
    with pytest.raises(ValueError, match="knows 5 classes"):
        check_classes(folder, data)
    config = accel.load_config("experiments/camvid/accel18.yaml").model
    with pytest.raises(ValueError, match="weights of another architecture"):
        load_model(folder, config)


def test_the_runtime_needs_neither_pytorch_nor_opencv(folder, tmp_path):
    """It labels with numpy and ONNX Runtime, and reads a video with PyAV."""
    with accel.VideoWriter(tmp_path / "drive.mp4", 10) as video:
        for frame in clip((64, 96), 2):
            video.write(frame)
    code = (
        "import sys\n"
        "for name in ('torch', 'cv2', 'torchvision', 'accel_ops'): sys.modules[name] = None\n"
        "from accel import runtime\n"
        "folder, video = sys.argv[1:]\n"
        "frames = [frame[:57, :83] for frame in runtime.read_video(video)]\n"
        "print([r.labels.shape for r in runtime.label(runtime.load(folder), frames)])\n"
    )
    command = [sys.executable, "-c", code, str(folder), str(tmp_path / "drive.mp4")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.stdout == "[(57, 83), (57, 83)]\n", done.stderr


def test_a_video_is_labelled_from_the_command_line(folder, tmp_path, monkeypatch):
    monkeypatch.setattr("accel.runtime.__main__.read_video", lambda path: iter(clip()))
    said = run(folder, "drive.mp4", tmp_path / "out", 3)
    assert said.startswith("6 frames, 2 of them key frames") and len(list((tmp_path / "out").iterdir())) == 6


def test_a_png_of_labels_holds_indices_and_colours():
    labels = np.arange(12, dtype=np.uint8).reshape(3, 4) % 3
    palette = ((1, 2, 3), (40, 50, 60), (7, 8, 9))
    shown = cv2.imdecode(np.frombuffer(png(labels, palette), np.uint8), cv2.IMREAD_COLOR)[..., ::-1]
    assert np.array_equal(shown, np.array(palette, np.uint8)[labels])


# --- mistakes: one line each ----------------------------------------------------------------------------------


def told(folder, kind=ValueError):
    """The error of loading a folder: one line."""
    with pytest.raises(kind) as error:
        accel.load_model(folder)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_a_folder_without_a_model_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="no exported model at .*there is no model.json"):
        runtime.load(tmp_path)


def test_a_foreign_folder_is_refused(tmp_path):
    (tmp_path / "model.json").write_text("{}")
    assert "not of this program" in told(tmp_path)
    (tmp_path / "model.json").write_text("no")
    assert "damaged: it is no JSON" in told(tmp_path)


def test_another_version_of_the_format_is_refused(copied):
    assert "version 9 of the format; this program reads 1" in told(changed(copied, version=9))


def test_a_missing_key_is_named(copied):
    about = json.loads((copied / "model.json").read_text())
    del about["palette"]
    (copied / "model.json").write_text(json.dumps(about))
    assert "damaged: there is no key 'palette'" in told(copied)


def test_a_missing_graph_is_named(copied):
    about = json.loads((copied / "model.json").read_text())
    del about["graphs"]["next"]
    (copied / "model.json").write_text(json.dumps(about))
    assert "there is no graph 'next'" in told(copied)


def test_a_missing_file_is_named(copied):
    (copied / "next.onnx").unlink()
    assert "next.onnx: missing" in told(copied, FileNotFoundError)


def test_a_damaged_file_is_named(copied):
    data = bytearray((copied / "key.onnx").read_bytes())
    data[len(data) // 2] ^= 1
    (copied / "key.onnx").write_bytes(data)
    assert "key.onnx: damaged" in told(copied)


def replaced(folder, file, model):
    """The folder with another file, whose checksum is right."""
    onnx.save(model, folder / file)
    about = json.loads((folder / "model.json").read_text())
    about["graphs"][file.removesuffix(".onnx")]["sha256"] = sha256_of(folder / file)
    (folder / "model.json").write_text(json.dumps(about))
    return folder


def test_another_operator_set_is_refused(copied):
    made = onnx.load(copied / "key.onnx")
    made.opset_import[0].version = 99
    assert "key.onnx: ONNX Runtime" in told(replaced(copied, "key.onnx", made))


def test_a_file_with_other_tensors_is_refused(copied):
    made = onnx.load(copied / "key.onnx")
    assert "next.onnx: takes frame and gives labels" in told(replaced(copied, "next.onnx", made))


def test_a_frame_of_another_size_or_type_is_refused(folder):
    loaded = runtime.load(folder)
    with pytest.raises(ValueError, match="frames of 64x96; this model was exported for 57x83"):
        loaded.key_frame(clip((64, 96))[0])
    with pytest.raises(ValueError, match="frame: float64 .*; expected uint8"):
        loaded.key_frame(clip()[0] / 2)
    with pytest.raises(ValueError, match="interval 0"):
        next(runtime.label(loaded, clip(), 0))


def test_a_provider_that_is_not_there_is_refused(folder):
    with pytest.raises(ValueError, match="this ONNX Runtime has no NoSuchProvider; it has"):
        runtime.load(folder, providers=["NoSuchProvider"])


def test_an_export_that_says_something_else_fails(model, tmp_path, monkeypatch):
    monkeypatch.setattr("accel.exporting.exporter.graphs_of", lambda *_: Graphs((), None, ()))
    monkeypatch.setattr("accel.exporting.exporter._check", lambda *_: checking.require(agreement, "fp32"))
    agreement = checking.Agreement(SIZE, 0.9, 0.1, 1.0)
    with pytest.raises(ValueError, match="labels 90.00% of the pixels as PyTorch does, at 57x83"):
        export_model(model, tmp_path / "out", Settings(size=SIZE))
    assert not (tmp_path / "out/model.json").exists()


def test_what_cannot_be_exported_is_told(model, folder, tmp_path):
    with pytest.raises(ValueError, match="already optimised"):
        export_model(accel.load_model(folder), tmp_path / "a", Settings(size=SIZE))
    (tmp_path / "mine.txt").touch()
    with pytest.raises(FileExistsError, match="holds mine.txt"):
        export_model(model, tmp_path, Settings(size=SIZE))
    for settings, words in (
        (Settings("tflite"), "export to 'tflite': expected onnx or aoti"),
        (Settings(precision="int4"), "precision 'int4'"),
        (Settings(interval=0), "interval 0"),
        (Settings(size=(0, 9)), "size must be"),
    ):
        with pytest.raises(ValueError, match=words):
            settings.check()


# --- every kind of model --------------------------------------------------------------------------------------


def agreement_of(model, folder, settings, size, frames=30, interval=15):
    """Exports a model, and plays it through 30 frames with two key frames."""
    exported = ExportedModel(runtime.load(export_model(model, folder, settings)))
    return checking.compare(model, exported, checking.scene(size, frames), interval)[0]


@pytest.mark.slow
@pytest.mark.parametrize("size", [(64, 96), (57, 83)])
@pytest.mark.parametrize("name", ALL)
def test_every_kind_of_model_can_be_exported(name, size, tmp_path):
    found = agreement_of(of_every_layer(name), tmp_path / "out", Settings(size=size), size)
    assert found.equal_labels >= 0.999 and found.largest_difference < 1e-4 * found.spread


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["accel", "accel_pyramid", "deep_feature_flow", "accel_learned_sampling", "published_accel"]
)
def test_models_for_frames_of_any_size(name, tmp_path):
    model = of_every_layer(name)
    agreement_of(model, tmp_path / "out", Settings(), (64, 96))
    exported = ExportedModel(runtime.load(tmp_path / "out"))
    for size in ((64, 96), (121, 250)):
        found = checking.compare(model, exported, checking.scene(size, 30), 15)[0]
        assert found.equal_labels >= 0.999


@pytest.mark.slow
@pytest.mark.parametrize("name", ["accel", "deep_feature_flow"])
def test_classical_flow_is_computed_beside_the_graph(name, tmp_path):
    model = tiny(name, dis=True)
    found = agreement_of(model, tmp_path / "out", Settings(size=SIZE), SIZE)
    assert found.equal_labels >= 0.999
    about = json.loads((tmp_path / "out/model.json").read_text())
    assert about["flow"] == {"name": "dis", "preset": "ultrafast"}
    assert {"name": "flow", "type": "float32", "shape": [*SIZE, 2]} in about["graphs"]["next"]["inputs"]
    assert "image" not in [t["name"] for t in about["graphs"]["next"]["inputs"]]


@pytest.mark.slow
def test_without_grid_sample_there_is_none_in_the_file(tmp_path):
    found = agreement_of(tiny(), tmp_path / "out", Settings(size=SIZE, grid_sample=False), SIZE)
    assert found.equal_labels >= 0.999
    assert "GridSample" not in {node.op_type for node in onnx.load(tmp_path / "out/next.onnx").graph.node}


@pytest.mark.slow
def test_half_precision_halves_the_file(tmp_path):
    model = of_every_layer("accel")
    full, half = (export_model(model, tmp_path / p, Settings(size=SIZE, precision=p)) for p in ("fp32", "fp16"))
    assert (half / "key.onnx").stat().st_size < 0.6 * (full / "key.onnx").stat().st_size


def test_a_model_of_objects_is_refused(tmp_path):
    model = described(small("accel"))
    model.task = "detection"
    with pytest.raises(ValueError, match="only models that label pixels can be exported"):
        export_model(model, tmp_path / "out", Settings(size=SIZE))


@pytest.mark.slow
@pytest.mark.parametrize("size", [(96, 160), (121, 250)])
@pytest.mark.parametrize("version", ["accel-18", "accel-101"])
def test_published_networks_can_be_exported(version, size, published_params, tmp_path):
    config = parse_model({"name": "published", "version": version, "num_classes": 19}, "test")
    model = described(load_published(version, published_params(version)).eval(), config)
    found = agreement_of(model, tmp_path / "out", Settings(size=size), size)
    assert found.equal_labels >= 0.999


@pytest.mark.slow
@pytest.mark.parametrize("settings", [Settings(size=(96, 128)), Settings()])
def test_the_recipe_of_the_small_model_can_be_exported(settings, tmp_path):
    """EfficientNet-Lite, pyramids at stride 4, and flow by OpenCV."""
    config = without_pretrained(accel.load_config("experiments/camvid_lite/accel.yaml").model)
    model = described(accel.build_model(config).eval(), config)
    found = agreement_of(model, tmp_path / "out", settings, (96, 128))
    assert found.equal_labels >= 0.999
