"""A trained model starts the training on other classes."""

import re
from pathlib import Path

import pytest
import torch
from run_files import weights_of

from accel.config import load_config
from accel.training.trainer import train
from accel.weights.checkpoints import describe_weights

CLASSES = "road\ncrack\nsky\nother\n"


@pytest.fixture
def mine(tiny_folder):
    """Own data with four classes; `tiny_folder` has Cityscapes' labels."""
    lines = [f"{k} = {name}" for k, name in enumerate([*CLASSES.split(), *["ignored"] * 15])]
    (tiny_folder / "classes.txt").write_text("\n".join(lines))
    return tiny_folder


@pytest.fixture
def tuned(tiny_run, mine, tmp_path):
    """tuned(...): the configuration of a training on own data, whose classes are counted."""

    def load(model, *overrides):
        _, path, *_ = tiny_run(model)
        text = re.sub(r"num_classes: 19", "num_classes: 0", Path(path).read_text())
        (tmp_path / "tuned.yaml").write_text(text)
        data = (
            f"data={{name: folder, root: {mine}, clip_length: 3, augmentation: {{crop: [32, 64]}}, label_check: warn}}"
        )
        settings = (data, "train.steps=1", "train.optimizer={name: sgd, lr: 1e-9, momentum: 0, weight_decay: 0}")
        return load_config(tmp_path / "tuned.yaml", [*settings, f"output={tmp_path / 'tuned'}", *overrides])

    return load


def test_only_the_layers_that_make_scores_start_at_random(trained_run, tuned, capsys):
    config = tuned("accel", f"init={{all: {trained_run}}}", "init_mismatch=keep")
    train(config, "cpu")
    description = describe_weights(config.output)
    assert description.model.num_classes == 4 and description.class_names == tuple(CLASSES.split())
    before = weights_of(load_config(trained_run / "config.yaml", [f"output={trained_run}"]))
    after = weights_of(load_config(config.output / "config.yaml"))
    assert before.keys() == after.keys()
    other = {name for name in before if before[name].shape != after[name].shape}
    told = capsys.readouterr().out
    assert other and all(name in told or "more" in told for name in other)
    assert all("score" in name or "fusion" in name for name in other), other
    kept = [name for name in before if name not in other and before[name].is_floating_point()]
    assert all(torch.allclose(before[name], after[name], atol=1e-5) for name in kept if "running" not in name)


def test_without_the_key_other_classes_are_an_error_that_names_it(trained_run, tuned):
    with pytest.raises(ValueError, match="of another shape.*for 19 classes, here are 4: with `init_mismatch: keep`"):
        train(tuned("accel", f"init={{all: {trained_run}}}"), "cpu")


def test_another_architecture_is_none_of_classes(trained_run, tuned):
    wide = "model.reference.head_channels=24"
    with pytest.raises(ValueError, match="another architecture"):
        train(tuned("accel", f"init={{all: {trained_run}}}", "init_mismatch=keep", wide), "cpu")


def test_a_number_of_classes_that_is_given_must_be_that_of_the_data(tuned):
    with pytest.raises(ValueError, match=r"model\.num_classes is 5, but folder has 4 classes"):
        train(tuned("frame_by_frame", "model.num_classes=5"), "cpu")
    weights = "train.loss={name: cross_entropy, class_weights: [1, 2]}"
    with pytest.raises(ValueError, match=r"train\.loss\.class_weights: 2 weights, but model\.num_classes is 4"):
        train(tuned("frame_by_frame", weights), "cpu")
