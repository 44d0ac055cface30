"""Published weights: MXNet's names, merging and checking of files, and conversion both ways."""

import csv
import logging
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch
from processes import TOOLS, Program

from accel.inference.loading import load_model
from accel.models import build_published
from accel.models.published_models import MXNET_VERSIONS
from accel.weights import load_published, mxnet_params, read_mxnet_params, write_mxnet_params
from accel.weights.checkpoints import MAX_NAMED, describe_weights
from accel.weights.conversion import find_published, from_mxnet, to_mxnet
from accel.weights.published_params import namings, upsampling_kernel

TOOL = TOOLS / "convert_weights.py"


def shapes(version, naming):
    with torch.device("meta"):
        state = build_published(version).state_dict()
    named = {name: tuple(state[key].shape) for key, name in naming.parameters.items()}
    return named | dict.fromkeys(naming.kernels, (19, 1, 32, 32))


def made_up(version, naming=0):
    """Parameters of a version: every array constant, but each another number."""
    naming = namings(version)[naming]
    params = {
        name: np.full(shape, 0.01 * i, np.float32) for i, (name, shape) in enumerate(shapes(version, naming).items())
    }
    return params | {name: upsampling_kernel(19) for name in naming.kernels}


@pytest.fixture(scope="module")
def deeplab18():
    return made_up("deeplab-18")


@pytest.mark.parametrize("version", ["accel-18", "accel-34", "accel-50", "accel-101"])
def test_names_and_shapes_are_those_of_the_graphs(version, parity):
    with parity(f"{version}/params.csv").open() as file:
        rows = list(csv.DictReader(file))
    expected = {row["name"]: tuple(map(int, row["shape"].split("x"))) for row in rows}
    assert shapes(version, namings(version)[0]) == expected
    auxiliary = {row["name"] for row in rows if row["kind"] == "aux"}
    assert auxiliary == {name for name in expected if name.endswith(("moving_mean", "moving_var"))}


@pytest.mark.parametrize("version", MXNET_VERSIONS)
def test_every_parameter_has_one_name(version):
    with torch.device("meta"):
        state = {key for key in build_published(version).state_dict() if not key.endswith("num_batches_tracked")}
    for naming in namings(version):
        assert naming.parameters.keys() == state
        assert len(set(naming.all())) == len(naming.all())


def test_the_upsampling_kernel_is_the_one_in_the_graphs(parity, published_params):
    assert np.array_equal(published_params("accel-101")["arg:upsampling_weight"], upsampling_kernel(19))


def test_weights_go_in_and_come_out_equal(deeplab18):
    model = load_published("deeplab-18", deeplab18)
    assert not model.training
    back = mxnet_params("deeplab-18", model)
    assert {name.partition(":")[2] for name in back} == deeplab18.keys()
    assert all(np.array_equal(array, deeplab18[name.partition(":")[2]]) for name, array in back.items())
    with torch.no_grad():  # the weights are the model's own
        model.reference.fc6.weight.zero_()
    assert deeplab18["fc6_weight"].all()


@pytest.mark.parametrize(("version", "naming"), [("deeplab-18", 1), ("deeplab-34", 1), ("deeplab-50", 2)])
def test_a_branch_loads_under_the_names_it_has_within_accel(version, naming):
    prefixed = made_up(version, naming)
    back = mxnet_params(version, load_published(version, prefixed))
    plain, within = namings(version)[0], namings(version)[naming]
    for key, name in plain.parameters.items():
        kind = "aux" if "moving" in name else "arg"
        assert np.array_equal(back[f"{kind}:{name}"], prefixed[within.parameters[key]])


def test_later_files_win_and_marks_on_names_do_not_count(deeplab18, tmp_path):
    other = {name: array + 1 for name, array in deeplab18.items() if name not in ("upsampling_weight",)}
    base = {f"arg:{name}": array for name, array in other.items()}
    write_mxnet_params(tmp_path / "base.params", base)
    later = dict(deeplab18)
    tested = later.pop("fc6_bias")
    later |= {"arg:fc6_bias_test": tested, "arg:fc6_bias": tested + 5}
    model = load_published("deeplab-18", tmp_path / "base.params", later)
    back = mxnet_params("deeplab-18", model)
    assert all(np.array_equal(array, deeplab18[name.partition(":")[2]]) for name, array in back.items())


def test_all_that_is_wrong_is_listed_by_name(deeplab18):
    params = dict(deeplab18)
    del params["conv0_weight"], params["bn0_moving_var"]
    params |= {"res9_weight": np.zeros(1), "bn0_gamma": np.zeros(3), "fc6_weight": np.zeros((4, 4))}
    with pytest.raises(ValueError) as caught:
        load_published("deeplab-18", params)
    message = str(caught.value)
    assert "not those of deeplab-18" in message
    assert "2 missing: bn0_moving_var, conv0_weight" in message
    assert "1 left over: res9_weight" in message
    assert "2 misshapen" in message
    assert "bn0_gamma (3,) instead of (64,)" in message
    assert "fc6_weight (4, 4) instead of (1024, 2048, 1, 1)" in message


def names_only(version, naming=0):
    """Parameters that have the names of a version, and no content to speak of."""
    return dict.fromkeys(namings(version)[naming].all(), np.zeros(1))


def refused(version, *params):
    with pytest.raises(ValueError) as caught:
        load_published(version, *params)
    assert len(str(caught.value)) < 1200
    return str(caught.value)


def test_a_forgotten_base_file_is_asked_for(tmp_path):
    """It has the flow network and a ResNet-101: hundreds of names."""
    accel = names_only("accel-18")
    flow = {name for key, name in namings("accel-18")[0].parameters.items() if key.startswith("propagation.")}
    base = {
        *flow,
        *(name for key, name in namings("accel-18")[0].parameters.items() if key.startswith("reference.backbone.")),
    }
    update = {name: array for name, array in accel.items() if name not in base}
    message = refused("accel-18", update)
    missing = len(accel.keys() - update.keys())
    assert missing > 500 and f"{missing} missing: " in message and f" and {missing - MAX_NAMED} more" in message
    assert message.endswith("is the base file (rfcn_dff_flownet_vid-0000.params) missing?")
    without_flow = {name: array for name, array in accel.items() if name not in flow}
    assert message[-40:] == refused("accel-18", without_flow)[-40:]
    write_mxnet_params(tmp_path / "accel.params", update)
    files = "--params", tmp_path / "accel.params", "--out", tmp_path / "out"
    code, errors = converted_in_short("accel-18", *files, folder=tmp_path)
    assert code == 2 and len(errors) < 1200 and errors.endswith("missing?\n")
    assert refused("accel-18", {n: a for n, a in accel.items() if n in base}).endswith("file of accel-18 missing?")


@pytest.mark.parametrize(
    ("version", "given"), [("accel-34", "accel-18"), ("deeplab-50", "deeplab-34"), ("dff", "accel-101")]
)
def test_weights_of_another_version_are_known(version, given):
    assert refused(version, names_only(given)).endswith(f"; they are those of {given}")


def test_one_fault_is_no_other_version(deeplab18):
    message = refused("deeplab-18", deeplab18 | {"bn0_gamma": np.zeros(3)})
    assert message.endswith("1 misshapen: bn0_gamma (3,) instead of (64,)")


def test_a_trained_upsampling_is_refused(deeplab18):
    with pytest.raises(ValueError, match="not the fixed bilinear kernel: upsampling_weight"):
        load_published("deeplab-18", deeplab18 | {"upsampling_weight": 2 * upsampling_kernel(19)})


def test_left_over_detector_parameters_are_only_counted(deeplab18, caplog):
    detector = ["rpn_cls_score_weight", "rfcn_bbox_bias_test", "feat_conv_3x3_bias", "Convolution5_scale_bias"]
    with caplog.at_level(logging.INFO):
        load_published("deeplab-18", {f"arg:{name}": np.zeros(3) for name in detector}, deeplab18)
    assert "4 parameters of the R-FCN detector" in caplog.text


def test_a_whole_accel_file_is_no_deeplab(deeplab18):
    """Its unprefixed head is the reference branch's: taking it in silence would be wrong."""
    both = made_up("deeplab-18", 1) | {"fc6_weight": np.zeros((1024, 2048, 1, 1), np.float32)}
    with pytest.raises(ValueError, match="1 left over: fc6_weight"):
        load_published("deeplab-18", both)


def test_half_precision_files_and_other_class_counts_load(deeplab18):
    params = {name: array.astype(np.float16) for name, array in deeplab18.items()}
    params |= {"score_weight": np.ones((11, 1024, 1, 1)), "score_bias": np.ones(11, np.float32)}
    model = load_published("deeplab-18", params | {"upsampling_weight": upsampling_kernel(11)})
    assert model.reference.score_layer.out_channels == 11
    assert all(p.dtype == torch.float32 for p in model.parameters())


def test_conversion_there_and_back(deeplab18, tmp_path):
    from_mxnet("deeplab-18", [deeplab18], tmp_path / "ours.safetensors")
    model, description = load_model(tmp_path / "ours.safetensors"), describe_weights(tmp_path / "ours.safetensors")
    expected = load_published("deeplab-18", deeplab18).state_dict()
    assert all(torch.equal(value, expected[key]) for key, value in model.state_dict().items())
    assert description.class_names[0] == "road" and len(description.palette) == 19

    to_mxnet("deeplab-18", tmp_path / "ours.safetensors", tmp_path / "back.params")
    back = read_mxnet_params(tmp_path / "back.params")
    assert all(np.array_equal(array, deeplab18[name.partition(":")[2]]) for name, array in back.items())

    with pytest.raises(ValueError, match="expected the published deeplab-34, found deeplab-18"):
        to_mxnet("deeplab-34", tmp_path / "ours.safetensors", tmp_path / "no.params")


def test_nothing_is_converted_onto_itself_or_onto_what_is_there(deeplab18, tmp_path):
    given, out = tmp_path / "deeplab-18-0000.params", tmp_path / "ours.safetensors"
    write_mxnet_params(given, deeplab18)
    before = given.read_bytes()
    with pytest.raises(ValueError, match="is the file to convert"):
        from_mxnet("deeplab-18", [given], tmp_path / "x" / ".." / given.name, overwrite=True)
    from_mxnet("deeplab-18", [given], out)
    with pytest.raises(FileExistsError, match=r"deeplab-18-0000\.params exists"):
        to_mxnet("deeplab-18", out, given)
    assert given.read_bytes() == before
    to_mxnet("deeplab-18", out, given, overwrite=True)


def test_published_files_are_found_by_their_names(tmp_path, monkeypatch):
    base, accel = tmp_path / "rfcn_dff_flownet_vid-0000.params", tmp_path / "accel-18-0000.params"
    assert find_published("accel-18", tmp_path) is None
    base.touch()
    assert find_published("accel-18", tmp_path) is None
    accel.touch()
    calls = []
    monkeypatch.setattr("accel.weights.conversion.from_mxnet", lambda *given: calls.append(given))
    assert find_published("accel-18", tmp_path) == tmp_path / "accel-18.safetensors"
    (tmp_path / "accel-18.safetensors").touch()
    assert find_published("accel-18", tmp_path) == tmp_path / "accel-18.safetensors"
    assert calls == [("accel-18", [base, accel], tmp_path / "accel-18.safetensors")]


def test_a_missing_base_file_is_named(deeplab18, tmp_path):
    write_mxnet_params(tmp_path / "accel-18-0000.params", deeplab18)
    with pytest.raises(ValueError, match=r"no .*rfcn_dff_flownet_vid-0000\.params, which .*accel-18-0000\.params"):
        find_published("accel-18", tmp_path)


def test_an_absurd_number_of_classes_is_a_wrong_shape(deeplab18):
    count = np.broadcast_to(np.zeros((1, 1, 1, 1), np.uint8), (4_000_000, 1, 1, 1))
    with pytest.raises(ValueError, match=r"1 misshapen: \S*score_weight \(4000000, 1, 1, 1\)"):
        load_published("deeplab-18", deeplab18 | {next(n for n in deeplab18 if n.endswith("score_weight")): count})


def test_one_name_with_two_prefixes_is_told():
    with pytest.raises(ValueError, match=r"x.* occurs twice"):
        load_published("deeplab-18", {"arg:x": np.ones(1), "aux:x": np.ones(1)})


def test_names_cannot_write_to_the_terminal(deeplab18):
    with pytest.raises(ValueError) as told:
        load_published("deeplab-18", deeplab18 | {"\x1b[2Jbad": np.ones(1)})
    assert "\x1b" not in str(told.value) and "bad" in str(told.value)


def test_an_unknown_version_is_told():
    with pytest.raises(ValueError, match="no published network 'deeplab-19'"):
        load_published("deeplab-19", {})


# --- the command line -----------------------------------------------------------------------------------------


def convert(*arguments, before=()):
    return subprocess.run([sys.executable, *before, TOOL, *map(str, arguments)], capture_output=True, text=True)


def converted_in_short(*arguments, folder):
    """The exit code, and what was said on standard error."""
    tool = Program(TOOL, arguments, (folder / "stdout.txt", folder / "stderr.txt"))
    return tool.wait(), tool.errors


# Runs a script and prints its seconds of computing and its peak memory in kB. (What `getrusage` says of children counts
# their parent's memory. What a clock says counts what else the machine did.)
MEASURE = """
import atexit, runpy, sys, time
atexit.register(lambda: print(time.process_time(), open("/proc/self/status").read().split("VmHWM:")[1].split()[0]))
del sys.argv[0]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


@pytest.mark.parametrize(
    ("option", "problem"), [((), "byte 16: truncated"), (("--to-mxnet",), "not a safetensors file")]
)
def test_a_damaged_file_is_told_in_one_line(option, problem, tmp_path):
    (tmp_path / "damaged.params").write_bytes(b"\x12\x01" + bytes(20))
    files = "--params", tmp_path / "damaged.params", "--out", tmp_path / "out"
    code, errors = converted_in_short("accel-18", *option, *files, folder=tmp_path)
    assert code == 2 and len(errors.splitlines()) == 1
    assert problem in errors and "Traceback" not in errors
    assert not (tmp_path / "out").exists()


@pytest.fixture(scope="module", params=["accel-18", "accel-34", "accel-50"])
def converted(request, published_params, tmp_path_factory):
    """A `.params` file of over 400 MB, what the tool made of it, with the seconds of computing and bytes that took."""
    folder = tmp_path_factory.mktemp(request.param)
    write_mxnet_params(folder / "given.params", published_params(request.param))
    files = ("--params", folder / "given.params", "--out", folder / "ours.safetensors")
    done = convert(request.param, *files, before=("-c", MEASURE))
    assert done.returncode == 0, done.stderr
    seconds, peak = done.stdout.split()[-2:]
    yield request.param, folder, float(seconds), int(peak) * 1024
    shutil.rmtree(folder)


@pytest.mark.slow
def test_a_file_of_400_mb_converts_quickly_in_little_memory(converted):
    _, folder, seconds, peak = converted
    assert (folder / "given.params").stat().st_size > 400e6
    assert seconds < 20 and peak < 1.5e9


@pytest.mark.slow
def test_converting_back_gives_every_bit(converted, published_params):
    version, folder, *_ = converted
    arguments = ("--to-mxnet", "--params", folder / "ours.safetensors", "--out", folder / "back.params", "--overwrite")
    done = convert(version, *arguments)
    assert done.returncode == 0, done.stderr
    given, back = published_params(version), read_mxnet_params(folder / "back.params")
    assert back.keys() == given.keys() and all(np.array_equal(back[name], given[name]) for name in given)

    mxnet = os.environ.get("ACCEL_MXNET")
    if mxnet is None:
        pytest.skip("all but MXNet's own reading passed; set ACCEL_MXNET to a Python that has MXNet for that")
    script = "import mxnet, numpy, sys; a, b = map(mxnet.nd.load, sys.argv[1:]); assert a.keys() == b.keys(); "
    script += "assert all(numpy.array_equal(a[k].asnumpy(), b[k].asnumpy()) for k in a)"
    subprocess.run([mxnet, "-c", script, folder / "given.params", folder / "back.params"], check=True)


@pytest.mark.slow
def test_what_the_tool_converted_labels_as_mxnet_does(converted, parity):
    version, folder, *_ = converted
    with np.load(parity(f"{version}/golden.npz")) as stored:
        image = torch.from_numpy(stored["frames"][0]).permute(2, 0, 1)[None]
        labels = stored["labels_0"]
    with torch.no_grad():
        found = load_model(folder / "ours.safetensors", device="cpu").key_frame(image)[0].labels(labels.shape)[0]
    assert (found.numpy() == labels).mean() >= 0.9995
