"""The published files of R-FCN and of Deep Feature Flow's detector: names, box arrays, conversion both ways."""

import csv

import numpy as np
import pytest
import torch

from accel.config import parse_model
from accel.datasets.imagenet_vid import CLASS_NAMES
from accel.inference.loading import load_model
from accel.models import build_published
from accel.weights import load_published, mxnet_params, read_mxnet_params, write_mxnet_params
from accel.weights.checkpoints import describe_weights
from accel.weights.conversion import find_published, from_mxnet, to_mxnet
from accel.weights.names import find_weights
from accel.weights.published_boxes import with_trained_boxes
from accel.weights.published_params import namings

DETECTORS = ("rfcn", "dff-rfcn")
BOXES = ("rfcn_bbox_weight", "rfcn_bbox_bias")


def shapes(version):
    with torch.device("meta"):
        state = build_published(version).state_dict()
    (naming,) = namings(version)
    return {name: tuple(state[key].shape) for key, name in naming.parameters.items()}


def of_zeros(version):
    """Parameters of the right shapes that take no memory."""
    return {name: np.broadcast_to(np.float32(0), shape) for name, shape in shapes(version).items()}


@pytest.mark.parametrize("version", DETECTORS)
def test_names_and_shapes_are_those_of_the_graphs(version, parity):
    with parity(f"{version}/params.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert shapes(version) == {row["name"]: tuple(map(int, row["shape"].split("x"))) for row in rows}


@pytest.mark.parametrize("version", DETECTORS)
def test_weights_go_in_and_come_out_equal(version, published_params):
    given = published_params(version)
    back = mxnet_params(version, load_published(version, given))
    assert back.keys() == given.keys() and all(np.array_equal(back[name], given[name]) for name in given)


@pytest.mark.parametrize("version", ["lsts-rfcn", "lsts-rfcn-gaussian"])
def test_lsts_files_hold_what_its_facts_say(version):
    named, count = shapes(version), 81 if version == "lsts-rfcn" else 40
    of_rfcn = shapes("rfcn")
    beyond = {name: shape for name, shape in named.items() if name not in of_rfcn}
    assert beyond["init_offset"] == (count, 2)
    assert beyond["embedding_conv_feat_newkey_key2cur_weight"] == (256, 1024, 1, 1)
    assert beyond["quality_conv2_key2key_weight"] == (16, 256, 3, 3)
    assert beyond["low2high_conv3_weight"] == (1024, 256, 3, 3) and len(beyond) == 27
    params = of_zeros(version) | {"offset": np.zeros((40, 2), np.float32)}
    model = load_published(version, params)  # the last one is in files with normally distributed offsets, and unused
    assert model.propagation.offsets.shape == (count, 2)
    back = mxnet_params(version, model)
    assert {name.partition(":")[2] for name in back} == named.keys() | {f"{name}_test" for name in BOXES}


def test_boxes_for_the_test_programs_alone_are_as_good(published_params):
    given = published_params("rfcn")
    trained = load_published("rfcn", given).reference.heads.boxes
    without = {name: array for name, array in given.items() if name.removeprefix("arg:") not in BOXES}
    made = load_published("rfcn", without).reference.heads.boxes
    torch.testing.assert_close(made.weight, trained.weight, rtol=1e-6, atol=0)
    torch.testing.assert_close(made.bias, trained.bias, rtol=1e-6, atol=0)


def test_box_arrays_that_do_not_belong_together_are_told(published_params, tmp_path):
    bias = published_params("rfcn")["arg:rfcn_bbox_bias"]
    wrong = {"arg:rfcn_bbox_bias": bias, "arg:rfcn_bbox_bias_test": bias}
    with pytest.raises(ValueError, match=r"arg:rfcn_bbox_bias_test is not arg:rfcn_bbox_bias times the deviations"):
        with_trained_boxes(wrong)
    write_mxnet_params(tmp_path / "wrong.params", wrong)
    with pytest.raises(ValueError, match=r"wrong\.params: arg:rfcn_bbox_bias_test is not"):
        load_published("rfcn", tmp_path / "wrong.params")


def test_another_number_of_classes_is_that_of_the_weights():
    params = of_zeros("rfcn") | {"rfcn_cls_weight": np.zeros((5 * 49, 512, 1, 1)), "rfcn_cls_bias": np.zeros(5 * 49)}
    assert load_published("rfcn", params).reference.num_classes == 4
    odd = {"rfcn_cls_weight": np.zeros((5 * 49 + 1, 512, 1, 1))}
    with pytest.raises(ValueError, match=r"1 misshapen: rfcn_cls_weight \(246, 512, 1, 1\) instead of \(1519, "):
        load_published("rfcn", of_zeros("rfcn") | odd)


def test_one_detector_is_not_the_other():
    with pytest.raises(ValueError, match=r"left over: .*; they are those of dff-rfcn$"):
        load_published("rfcn", of_zeros("dff-rfcn"))
    with pytest.raises(ValueError, match=r"48 missing: Convolution1_bias, "):
        load_published("dff-rfcn", of_zeros("rfcn"))


def test_the_base_file_alone_is_no_accel():
    """It is a whole detector, but what is missing is the other file."""
    with pytest.raises(ValueError, match=r"is the file of accel-18 missing\?$"):
        load_published("accel-18", of_zeros("dff-rfcn"))


def test_a_configuration_has_vids_classes_unless_it_says_otherwise():
    for version in DETECTORS:
        assert parse_model({"name": "published", "version": version}, "test").num_classes == 30
        assert parse_model({"name": "published", "version": version, "num_classes": 4}, "test").num_classes == 4
    assert parse_model({"name": "published", "version": "dff"}, "test").num_classes == 19


def test_conversion_there_and_back(published_params, tmp_path):
    given = published_params("rfcn")
    from_mxnet("rfcn", [given], tmp_path / "ours.safetensors")
    assert describe_weights(tmp_path / "ours.safetensors").class_names == CLASS_NAMES
    model = load_model(tmp_path / "ours.safetensors", device="cpu")
    assert torch.equal(model.reference.heads.boxes.weight, torch.from_numpy(given["arg:rfcn_bbox_weight"]))
    to_mxnet("rfcn", tmp_path / "ours.safetensors", tmp_path / "back.params")
    back = read_mxnet_params(tmp_path / "back.params")
    assert back.keys() == given.keys() and all(np.array_equal(back[name], given[name]) for name in given)


def test_published_files_are_found_by_their_names(tmp_path, monkeypatch):
    assert find_published("rfcn", tmp_path) is None and find_published("dff-rfcn", tmp_path) is None
    files = {"rfcn": tmp_path / "rfcn_vid-0000.params", "dff-rfcn": tmp_path / "rfcn_dff_flownet_vid-0000.params"}
    calls = []
    monkeypatch.setattr("accel.weights.conversion.from_mxnet", lambda *given: calls.append(given))
    for version, file in files.items():
        file.touch()
        assert find_published(version, tmp_path) == tmp_path / f"{version}.safetensors"
        assert calls[-1] == (version, [file], tmp_path / f"{version}.safetensors")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "model").mkdir()
    files["dff-rfcn"].rename("model/rfcn_dff_flownet_vid-0000.params")
    assert find_weights("dff-rfcn").name == "dff-rfcn.safetensors"
