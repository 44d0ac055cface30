"""From a weights file to a model that is ready to run."""

import numpy as np
import pytest
import torch

from accel.config import parse_model
from accel.datasets import ClipDataset
from accel.inference.loading import check_classes, choose_device, load_model
from accel.models import build_model
from accel.weights.checkpoints import Description, save_weights

BRANCH = {"encoder": "resnet18", "head_channels": 8}
VALUES = {"name": "accel", "num_classes": 3, "reference": BRANCH, "update": BRANCH, "flow": {"width": 1 / 16}}
CONFIG = parse_model(VALUES, "test")


@pytest.fixture(scope="module")
def stored():
    torch.manual_seed(0)
    return build_model(CONFIG)


@pytest.fixture
def weights(stored, tmp_path):
    path = tmp_path / "weights.safetensors"
    save_weights(path, stored, Description(CONFIG, ("a", "b", "c"), ((0, 0, 0),) * 3, 1))
    return path


@pytest.mark.parametrize("expected", [None, CONFIG])
def test_a_model_comes_back_ready_to_run(stored, weights, expected):
    model = load_model(weights, expected)
    assert not any(module.training for module in model.modules())
    clip = torch.randint(0, 256, (1, 2, 3, 40, 50), dtype=torch.uint8)
    with torch.no_grad():
        torch.testing.assert_close(model(clip).scores, stored.eval()(clip).scores, atol=1e-4, rtol=1e-4)


def test_weights_that_were_pretrained_need_no_download(stored, tmp_path, monkeypatch):
    pretrained = parse_model(VALUES | {"reference": BRANCH | {"pretrained": True}}, "test")
    save_weights(tmp_path / "w.safetensors", stored, Description(pretrained, ("a", "b", "c"), ((0, 0, 0),) * 3, 1))
    monkeypatch.setattr("segmentation_models_pytorch.encoders.hf_hub_download", None)
    load_model(tmp_path / "w.safetensors", pretrained)
    load_model(tmp_path / "w.safetensors", CONFIG)  # where the weights came from does not matter


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"name": "accel_shared", "update": None}, "model.name is accel in the checkpoint, accel_shared in the conf"),
        ({"num_classes": 19}, "model.num_classes is 3 in the checkpoint, 19 in the configuration"),
        ({"reference": BRANCH | {"encoder": "resnet34"}}, "model.reference.encoder is resnet18 in the checkpoint"),
        ({"update": BRANCH | {"head_channels": 9}}, "model.update.head_channels is 8 in the checkpoint, 9 in the"),
        (
            {"flow": None, "propagation": {"name": "learned_sampling"}},
            "model.propagation.name is None in the checkpoint, learned_sampling in the configuration",
        ),
        ({"flow": {"width": 0.5}}, "model.flow.width is 0.0625 in the checkpoint, 0.5 in the configuration"),
    ],
)
def test_weights_of_another_architecture_are_refused(weights, change, words):
    values = {key: value for key, value in (VALUES | change).items() if value is not None}
    with pytest.raises(ValueError, match="weights of another architecture") as error:
        load_model(weights, parse_model(values, "test"))
    assert words in str(error.value) and str(weights) in str(error.value)


def test_missing_weights_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=str(tmp_path)):
        load_model(tmp_path)


class Other(ClipDataset):
    def __init__(self, names):
        self.class_names, self.palette = names, np.zeros((len(names), 3), np.uint8)

    def __len__(self):
        return 0

    def history(self, index): ...

    def clip(self, index, length): ...


@pytest.mark.parametrize("names", [("a", "b"), ("a", "c", "b"), ("a", "b", "x")])
def test_weights_for_other_classes_than_the_data_have_are_refused(weights, names):
    check_classes(weights, Other(("a", "b", "c")))
    with pytest.raises(ValueError, match=r"knows 3 classes \(a, b, c\), but the data have " + str(len(names))):
        check_classes(weights, Other(names))


def test_auto_takes_what_there_is(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert choose_device("auto") == torch.device("cpu") == choose_device("cpu:0")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert choose_device("auto").type == "cuda" and choose_device("cuda:1") == torch.device("cuda:1")


@pytest.mark.parametrize("name", ["cuda", "cuda:0", "cuda:7"])
def test_a_gpu_that_is_not_there_is_refused(monkeypatch, name):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    with pytest.raises(ValueError, match=f"device '{name}': this machine has 0 CUDA devices"):
        choose_device(name)


@pytest.mark.parametrize("name", ["gpu", "", "tpu:1", "meta", "mps", "cuda:x", "cuda:-1", "7"])
def test_what_is_no_device_is_refused(name):
    with pytest.raises(ValueError, match=f"device '{name}': expected auto, cpu, cuda or cuda:N"):
        choose_device(name)
