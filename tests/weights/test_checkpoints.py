"""Weights files: what they say of themselves, and what is said about those that do not fit."""

import hashlib
import json
import os

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn

from accel.config import parse_model
from accel.models import build_model
from accel.weights.checkpoints import (
    Description,
    describe_weights,
    load_parts,
    load_state,
    load_weights,
    save_state,
    save_weights,
    weights_path,
)

BRANCH = {"encoder": "mobilenet_v2", "head_channels": 4}
DESCRIPTION = Description(
    parse_model({"name": "frame_by_frame", "num_classes": 3, "reference": BRANCH}, "test"),
    class_names=("road", "sky", "tree"),
    palette=((1, 2, 3), (4, 5, 6), (7, 8, 9)),
    step=7,
)


def branch(seed=0, channels=4):
    torch.manual_seed(seed)
    model = nn.Module()
    model.backbone = nn.Sequential(nn.Conv2d(3, channels, 3), nn.BatchNorm2d(channels))
    return model


def video_model(seed=0, **parts):
    """Branches of these names and widths; if none are given, a reference and an update branch."""
    model = nn.Module()
    for i, (name, channels) in enumerate((parts or {"reference": 4, "update": 4}).items()):
        model.add_module(name, branch(seed + i, channels))
    return model


def equal(a, b):
    return all(torch.equal(x, b.state_dict()[name]) for name, x in a.state_dict().items())


@pytest.fixture
def run(tmp_path):
    """A run's folder with the weights of `video_model(5)`."""
    save_weights(tmp_path / "run" / "weights.safetensors", video_model(5), DESCRIPTION)
    return tmp_path / "run"


def test_weights_come_back(run):
    model = video_model(99)
    load_weights(model, run)
    assert equal(model, video_model(5))


def test_a_weights_file_describes_its_model(run):
    description = describe_weights(run)
    assert description == DESCRIPTION
    assert build_model(description.model).reference.score_layer.out_channels == 3
    with safe_open(run / "weights.safetensors", "pt") as file:  # readable without this program
        metadata = file.metadata()
    assert metadata["format"] == "accel"
    assert json.loads(metadata["class_names"]) == ["road", "sky", "tree"]
    assert json.loads(metadata["model"])["reference"]["encoder"] == "mobilenet_v2"


def test_channels_last_weights_are_stored(tmp_path):
    model = branch().to(memory_format=torch.channels_last)
    save_weights(tmp_path / "w.safetensors", model, DESCRIPTION)
    again = branch(1)
    load_weights(again, tmp_path / "w.safetensors")
    assert equal(again, model)


@pytest.mark.skipif(os.name != "posix", reason="needs rights as POSIX has them")
@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o077, 0o600)])
def test_who_may_read_weights_is_as_for_any_file(tmp_path, umask, mode):
    before = os.umask(umask)
    try:
        digest = save_weights(tmp_path / "weights.safetensors", branch(), DESCRIPTION)
    finally:
        os.umask(before)
    (path,) = tmp_path.iterdir()  # and nothing else is left
    assert path.stat().st_mode & 0o777 == mode
    assert digest == hashlib.sha256(path.read_bytes()).hexdigest()


def test_a_run_is_found_by_folder_or_file(run):
    assert weights_path(run) == weights_path(run / "weights.safetensors") == run / "weights.safetensors"
    assert [p.name for p in run.iterdir()] == ["weights.safetensors"]  # nothing temporary is left


@pytest.mark.parametrize("init", ["reference", "reference#reference", "reference#update", "update#reference"])
def test_a_part_starts_from_a_run(run, init):
    part, _, source = init.partition("#")
    source = source or part
    model, stored = video_model(99), video_model(5)
    load_parts(model, {part: f"{run}#{source}" if "#" in init else str(run)})
    assert equal(model.get_submodule(part), stored.get_submodule(source))
    other = "update" if part == "reference" else "reference"
    assert equal(model.get_submodule(other), video_model(99).get_submodule(other))


def test_all_means_the_whole_model(run):
    model = video_model(99)
    load_parts(model, {"all": str(run)})
    assert equal(model, video_model(5))


def test_a_part_of_a_part_can_be_named(run):
    model = video_model(99)
    load_parts(model, {"update.backbone": f"{run}#reference.backbone"})
    assert equal(model.update.backbone, video_model(5).reference.backbone)


def test_a_part_whose_name_begins_another_is_not_mistaken_for_it(tmp_path):
    stored = video_model(5, reference=4, reference2=4)
    save_weights(tmp_path / "w.safetensors", stored, DESCRIPTION)
    model = video_model(99, reference=4, update=4)
    load_parts(model, {"reference": str(tmp_path / "w.safetensors")})
    assert equal(model.reference, stored.reference)


def test_what_a_shallower_network_lacks_can_keep_its_start(tmp_path):
    stored = video_model(5, reference=4)
    save_weights(tmp_path / "w.safetensors", stored, DESCRIPTION)

    def deeper():
        model = video_model(99, reference=4)
        model.reference.backbone.append(nn.Conv2d(4, 4, 1))
        return model

    with pytest.raises(ValueError, match=r"2 missing: backbone\.2"):
        load_parts(deeper(), {"reference": str(tmp_path / "w.safetensors")})
    model, start = deeper(), deeper().reference.backbone[2].weight.clone()
    model.reference.backbone[2].weight.data.copy_(start)
    load_parts(model, {"reference": str(tmp_path / "w.safetensors")}, keep_missing=True)
    assert equal(model.reference.backbone[:2], stored.reference.backbone)
    assert torch.equal(model.reference.backbone[2].weight, start)


@pytest.mark.parametrize(("shallow", "deep"), [("resnet18", "resnet34"), ("resnet50", "resnet101")])
def test_a_deeper_resnet_starts_as_the_shallower_one(tmp_path, shallow, deep):
    def network(encoder, seed):
        torch.manual_seed(seed)
        branch = {"encoder": encoder, "head_channels": 4, "zero_init_residual": seed > 0}
        return build_model(
            parse_model({"name": "frame_by_frame", "num_classes": 3, "reference": branch}, "test")
        ).eval()

    stored, grown, image = network(shallow, 0), network(deep, 1), torch.rand(1, 3, 40, 50) * 255
    for module in stored.modules():  # as after training
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_mean, -0.1, 0.1)
            nn.init.uniform_(module.running_var, 0.8, 1.2)
    save_weights(tmp_path / "w.safetensors", stored, DESCRIPTION)
    with torch.no_grad():
        different = grown.key_frame(image)[0].scores
        load_parts(grown, {"reference": str(tmp_path / "w.safetensors")}, keep_missing=True)
        same, expected = grown.key_frame(image)[0].scores, stored.key_frame(image)[0].scores
    assert torch.equal(same, expected) and not torch.equal(different, expected)


@pytest.mark.parametrize(
    ("init", "words"),
    [
        ({"refrence": "RUN"}, ["init", "no part 'refrence'", "reference, update"]),
        ({"reference": "RUN#fusion"}, ["weights.safetensors", "no part called 'fusion'"]),
        ({"all": "RUN#reference"}, ["another architecture", "missing", "left over"]),
    ],
)
def test_a_part_that_is_not_there_is_named(run, init, words):
    with pytest.raises(ValueError) as error:
        load_parts(video_model(), {part: source.replace("RUN", str(run)) for part, source in init.items()})
    assert all(word in str(error.value) for word in words), error.value


@pytest.mark.parametrize(
    ("model", "words"),
    [
        (video_model(reference=4), ["7 left over: update.backbone.0.bias", "and 4 more"]),
        (video_model(reference=4, update=4, third=4), ["missing: third.backbone"]),
        (
            video_model(reference=8, update=4),
            ["of another shape: reference.backbone.0.weight [4, 3, 3, 3] instead of [8, 3, 3, 3]"],
        ),
    ],
)
def test_weights_of_another_architecture_are_refused_with_names(run, model, words):
    with pytest.raises(ValueError, match="weights of another architecture") as error:
        load_weights(model, run)
    message = str(error.value)
    assert str(run) in message and len(message) < 600
    assert all(word in message for word in words), message


@pytest.mark.parametrize("read", [describe_weights, lambda path: load_weights(branch(), path)])
@pytest.mark.parametrize("content", [b"", b"garbage", b"\x10" + b"\0" * 7 + b"{}", b"\xff" * 64])
def test_garbage_is_refused(tmp_path, read, content):
    path = tmp_path / "w.safetensors"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"w\.safetensors: (not a safetensors file|holds no part|not weights of)"):
        read(path)


def test_a_file_cut_off_is_refused(run):
    path = run / "weights.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ValueError, match="not a safetensors file"):
        load_weights(video_model(), run)


@pytest.mark.parametrize(
    "change",
    [
        {"format": "other"},
        {"model": "{"},
        {"model": '{"name": "nothing"}'},
        {"class_names": "3"},
        {"palette": "[3]"},
        {"step": "many"},
        {"step": None},
    ],
)
def test_damaged_metadata_are_refused(run, change):
    path = run / "weights.safetensors"
    with safe_open(path, "pt") as file:
        metadata = {k: v for k, v in (file.metadata() | change).items() if v is not None}
    save_file({"x": torch.zeros(1)}, path, metadata)
    with pytest.raises(ValueError, match=r"weights\.safetensors: .*(damaged metadata|not weights of this program)"):
        describe_weights(run)


def test_missing_weights_are_named(tmp_path):
    for path in (tmp_path, tmp_path / "none.safetensors"):
        with pytest.raises(FileNotFoundError, match=r"no weights at .*expected a run's folder"):
            load_weights(branch(), path)


def test_a_failed_write_leaves_the_old_file(run, monkeypatch):
    before = (run / "weights.safetensors").read_bytes()

    def fail(*_):
        raise OSError("disk is full")

    monkeypatch.setattr("accel.files.whole_files.os.fsync", fail)
    with pytest.raises(OSError, match="disk is full"):
        save_weights(run / "weights.safetensors", video_model(), DESCRIPTION)
    assert (run / "weights.safetensors").read_bytes() == before
    assert len(list(run.iterdir())) == 1


def test_a_state_comes_back(tmp_path):
    save_state(tmp_path / "state.pt", {"step": 3, "model": {"x": torch.ones(2)}})
    state = load_state(tmp_path / "state.pt")
    assert state["step"] == 3 and torch.equal(state["model"]["x"], torch.ones(2))


@pytest.mark.parametrize("content", [b"", b"garbage", b"cos\nsystem\n(S'true'\ntR."])
def test_what_is_no_state_is_refused(tmp_path, content):
    (tmp_path / "state.pt").write_bytes(content)
    with pytest.raises(ValueError, match=r"state\.pt: not the state of a run"):
        load_state(tmp_path / "state.pt")
