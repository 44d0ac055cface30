"""mmtracking's checkpoints: read in all their layouts, written, converted, and refused where they are not what they
should be."""

import csv
import io
import json
import os
import pickle
import sys
import zipfile
from collections import OrderedDict

import cv2
import numpy as np
import pytest
import torch
from mmtracking_weights import FOLDER, shapes_of, their_weights

from accel.commands.convert import main as convert
from accel.commands.label import main as label
from accel.config import parse_model
from accel.datasets.imagenet_vid import CLASS_NAMES
from accel.models.published_models import MMTRACKING
from accel.weights import load_mmtracking, load_published, read_mmtracking
from accel.weights.checkpoints import describe_weights
from accel.weights.conversion import find_published
from accel.weights.mmtracking import map_mmtracking, write_mmtracking
from accel.weights.mmtracking_names import to_ours, to_theirs
from accel.weights.names import find_weights

SAMPLES = ("published", "zip", "mmengine")
FC_CLS = "detector.roi_head.bbox_head.fc_cls"
PUBLISHED = "dff_faster_rcnn_r50_dc5_1x_imagenetvid_20201227_213250.pth"


def thin(shapes):
    """Tensors of these shapes that take no room: each is one number, seen many times."""
    return {name: torch.tensor(float(n)).expand(shape) for n, (name, shape) in enumerate(shapes.items())}


def save(state, path, **also):
    torch.save({"meta": {"epoch": 7}, "state_dict": OrderedDict(state), **also}, path)
    return path


@pytest.mark.parametrize("layout", SAMPLES)
def test_every_layout_gives_the_same_parameters(layout, parity):
    """mmengine's, too, which is not there; and the objects of it in the file are left out."""
    found = read_mmtracking(parity(f"{FOLDER}/sample-{layout}.pth"))
    with np.load(parity(f"{FOLDER}/sample.npz")) as stored:
        assert found.keys() == set(stored)
        assert all(np.array_equal(found[name], stored[name]) for name in stored)
    assert "mmengine" not in sys.modules and "mmcv" not in sys.modules


@pytest.mark.parametrize("version", ["r50", "r101", "x101"])
def test_a_checkpoint_says_itself_which_model_it_is_of(version, parity, tmp_path):
    path = save(thin(shapes_of(parity, version)), tmp_path / "any.pth")
    found, model = map_mmtracking(path)
    assert found == f"dff-faster-rcnn-{version}" and found in MMTRACKING
    assert model.reference.num_classes == 30 and not model.training


def test_what_does_not_fit_is_named(parity, tmp_path):
    with pytest.raises(ValueError, match=r"sample-zip\.pth: these .* of dff-faster-rcnn-r50: 3.. missing: detector\."):
        load_mmtracking(parity(f"{FOLDER}/sample-zip.pth"))
    shapes = shapes_of(parity, "r50")
    few_classes = shapes | {f"{FC_CLS}.weight": (5, 1024), f"{FC_CLS}.bias": (5,)}
    path = save(thin(few_classes), tmp_path / "four.pth")
    with pytest.raises(ValueError, match=r"2 misshapen: .*fc_reg\.weight \(120, 1024\) instead of \(16, 1024\)"):
        load_mmtracking(path)
    reg = FC_CLS.replace("fc_cls", "fc_reg")
    path = save(thin(few_classes | {f"{reg}.weight": (16, 1024), f"{reg}.bias": (16,)}), tmp_path / "four.pth")
    assert load_mmtracking(path).reference.num_classes == 4
    path = save(thin(shapes | {"ema_step": ()}), tmp_path / "more.pth")
    with pytest.raises(ValueError, match="1 left over: ema_step"):
        load_mmtracking(path)
    with pytest.raises(ValueError, match=r"accel\.weights\.load_mmtracking reads them"):
        load_published("dff-faster-rcnn-r50", {})


def test_weights_go_there_and_back(parity, tmp_path):
    theirs = thin(shapes_of(parity, "r50"))
    theirs |= {f"{FC_CLS}.{part}": torch.randn(theirs[f"{FC_CLS}.{part}"].shape) for part in ("weight", "bias")}
    model = load_mmtracking(save(theirs, tmp_path / "there.pth"))
    classes = model.reference.region_head.classes
    assert torch.equal(classes.bias[0], theirs[f"{FC_CLS}.bias"][30])  # the background comes first here
    count = write_mmtracking(model, tmp_path / "back.pth", CLASS_NAMES)
    back = read_mmtracking(tmp_path / "back.pth")
    assert count == len(back) == 367 and back.keys() == theirs.keys()
    assert all(torch.equal(back[name], theirs[name].to(back[name].dtype)) for name in back)
    ours = to_ours(theirs, model.state_dict())
    assert to_theirs(ours).keys() == theirs.keys()


# --- files that are not what they should be -------------------------------------------------------------------


class Hostile:
    def __init__(self, call, *arguments):
        self.call, self.arguments = call, arguments

    def __reduce__(self):
        return self.call, self.arguments


def zipped(obj, path):
    """As `torch.save` would write it."""
    buffer = io.BytesIO()
    torch.save({"state_dict": {}}, buffer)
    with zipfile.ZipFile(buffer) as given, zipfile.ZipFile(path, "w") as made:
        for name in given.namelist():
            made.writestr(name, pickle.dumps(obj, 2) if name.endswith("data.pkl") else given.read(name))


@pytest.mark.parametrize("layout", ["bare", "zip"])
@pytest.mark.parametrize("call", [os.system, eval, exec])
def test_a_hostile_file_is_refused_in_a_line_and_runs_nothing(layout, call, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    command = "touch ran" if call is os.system else "open('ran', 'w')"
    content = {"state_dict": OrderedDict(a=Hostile(call, command))}
    path = tmp_path / "hostile.pth"
    if layout == "bare":
        torch.save(content, path, _use_new_zipfile_serialization=False)
    else:
        zipped(content, path)
    with pytest.raises(ValueError, match=r"^.*hostile\.pth: not a checkpoint of mmtracking \(it asks for '") as told:
        load_mmtracking(path)
    assert "\n" not in str(told.value) and not (tmp_path / "ran").exists()


def test_what_stands_for_left_out_objects_does_nothing(tmp_path, monkeypatch):
    """Checkpoints of mmengine ask for `getattr`: what is given in its place gives nothing away."""
    monkeypatch.chdir(tmp_path)
    stolen = Hostile(Hostile, "x")
    stolen.call, stolen.arguments = getattr, (OrderedDict, "update")
    torch.save({"state_dict": {"a": torch.ones(2)}, "hub": stolen}, "kept.pth")
    assert read_mmtracking("kept.pth").keys() == {"a"}
    torch.save({"state_dict": {"a": stolen}}, "stolen.pth")
    with pytest.raises(ValueError, match="expected a `state_dict` of named tensors"):
        read_mmtracking("stolen.pth")


@pytest.mark.parametrize("content", [b"", b"no checkpoint", b"PK\x03\x04 no archive", b"\x80\x02."])
def test_other_files_are_refused_in_a_line(content, tmp_path):
    path = tmp_path / "other.pth"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"other\.pth: not a checkpoint of mmtracking") as told:
        read_mmtracking(path)
    assert "\n" not in str(told.value) and "weights_only" not in str(told.value)
    torch.save([torch.ones(1)], path)
    with pytest.raises(ValueError, match="expected a `state_dict` of named tensors"):
        read_mmtracking(path)
    with pytest.raises(FileNotFoundError, match=r"none\.pth: no such file"):
        read_mmtracking(tmp_path / "none.pth")


@pytest.mark.parametrize("layout", SAMPLES)
def test_damaged_files_are_read_or_refused_in_a_line(layout, parity, tmp_path):
    """Cut anywhere, or with a byte changed anywhere."""
    content = parity(f"{FOLDER}/sample-{layout}.pth").read_bytes()
    rng, path = np.random.default_rng(0), tmp_path / "damaged.pth"
    for number in range(60):
        damaged = bytearray(content)
        place = int(rng.integers(len(content)))
        if number % 4 == 0:
            damaged = damaged[:place]
        else:
            damaged[place] ^= 1 << int(rng.integers(8))
        path.write_bytes(damaged)
        try:
            found = read_mmtracking(path)
        except ValueError as error:
            assert "damaged.pth: not a checkpoint" in str(error) and "\n" not in str(error)
        else:
            assert all(isinstance(tensor, torch.Tensor) for tensor in found.values())


def test_a_file_is_what_its_name_says(parity, tmp_path):
    content = parity(f"{FOLDER}/sample-published.pth").read_bytes()
    path = tmp_path / PUBLISHED.replace(".pth", "-548911a4.pth")
    path.write_bytes(content)
    with pytest.raises(ValueError, match="its SHA-256 does not begin with 548911a4"):
        read_mmtracking(path)


# --- finding and converting -----------------------------------------------------------------------------------


def test_published_files_are_found_by_their_names(tmp_path, monkeypatch):
    made = []
    monkeypatch.setattr("accel.weights.conversion.from_mmtracking", lambda *given: made.append(given))
    for version in MMTRACKING:
        kind = version.rpartition("-")[2]
        assert find_published(version, tmp_path) is None
        file = tmp_path / f"dff_faster_rcnn_{kind}_dc5_1x_imagenetvid_20201227_213250-548911a4.pth"
        file.touch()
        assert find_published(version, tmp_path) == tmp_path / f"{version}.safetensors"
        assert made.pop() == (version, file, tmp_path / f"{version}.safetensors")
    (tmp_path / "dff_faster_rcnn_r50_dc5_other.pth").touch()
    with pytest.raises(ValueError, match="2 files of dff-faster-rcnn-r50: .*; keep one"):
        find_published("dff-faster-rcnn-r50", tmp_path)
    (tmp_path / "dff-faster-rcnn-r50.safetensors").touch()
    assert find_published("dff-faster-rcnn-r50", tmp_path) and not made


def test_a_configuration_has_vids_classes_unless_it_says_otherwise():
    for version in MMTRACKING:
        assert parse_model({"name": "published", "version": version}, "test").num_classes == 30


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["dff-faster-rcnn-r50", "--to-mxnet"], "written by --to-mmtracking"),
        (["dff-rfcn", "--to-mmtracking"], "written by --to-mxnet"),
        (["dff-faster-rcnn-r50"], "--params takes one checkpoint"),
    ],
)
def test_conversion_refuses_what_it_cannot_do(arguments, told):
    with pytest.raises((ValueError, SystemExit), match=told):
        convert([*arguments, "--params", "a", "b", "--out", "c"])


@pytest.mark.slow
def test_a_published_file_labels_videos_as_mmtracking_did(parity, camvid_root, tmp_path, monkeypatch):
    """By its name in `model/`; and the conversion of it, there and back."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "model").mkdir()
    theirs = their_weights(parity, "r50")
    state = OrderedDict(theirs)
    state._metadata = OrderedDict({"": {"version": 1}})
    torch.save({"meta": {}, "state_dict": state}, f"model/{PUBLISHED}", _use_new_zipfile_serialization=False)
    with np.load(parity(f"{FOLDER}/golden-r50.npz")) as stored:
        expected = {name: stored[name] for name in stored if name.startswith("full_")}
    (tmp_path / "video").mkdir()
    for name in expected["full_names"]:
        cv2.imwrite(f"video/{name}".replace(".jpg", ".png"), cv2.imread(str(camvid_root / "val" / name)))
    label(["video", "--model", "dff-faster-rcnn-r50", "--interval", "10", "--output", "out"])
    for t, file in enumerate(sorted((tmp_path / "out/labels").iterdir())):
        lines = [json.loads(line) for line in file.read_text().splitlines()]
        assert [line["class"] for line in lines] == [CLASS_NAMES[k] for k in expected[f"full_labels_{t}"]]
        np.testing.assert_allclose([line["box"] for line in lines], expected[f"full_boxes_{t}"], rtol=0, atol=0.02)
        np.testing.assert_allclose([line["score"] for line in lines], expected[f"full_scores_{t}"], rtol=0, atol=2e-4)

    assert find_weights("dff-faster-rcnn-r50").samefile("model/dff-faster-rcnn-r50.safetensors")
    assert describe_weights("model/dff-faster-rcnn-r50.safetensors").class_names == CLASS_NAMES
    convert(["dff-faster-rcnn-r50", "--to-mmtracking", "--params", "model/dff-faster-rcnn-r50.safetensors",
             "--out", "back.pth"])  # fmt: skip
    back = read_mmtracking("back.pth")
    assert back.keys() == theirs.keys() and all(torch.equal(back[name], theirs[name]) for name in theirs)


def test_classes_are_in_mmtrackings_order(parity):
    with parity(f"{FOLDER}/classes.csv").open() as file:
        assert tuple(row["name"] for row in csv.DictReader(file)) == CLASS_NAMES
