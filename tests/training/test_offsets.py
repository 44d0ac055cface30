"""Offsets of learned sampling, as training leaves them in a run's folder."""

import errno
import os

import numpy as np
import pytest
import torch
from torch import nn

from accel.config import load_config
from accel.models.propagation.learned_sampling import LearnedSampling, grid_offsets
from accel.training.offsets import read_offsets, record_offsets, start_offsets
from accel.training.trainer import train
from accel.weights.checkpoints import load_weights

MODEL = (
    "model={name: deep_feature_flow, num_classes: 19, reference: {encoder: resnet18, head_channels: 8}, "
    "propagation: {name: learned_sampling, embedding: 8, radius: 1, blocks: 1}}"
)


@pytest.fixture
def model():
    return nn.ModuleDict({"propagation": LearnedSampling(nn.Identity(), 3, 4, grid_offsets(1), embedding=2)})


def move(model, dx):
    model["propagation"].offsets.data[:, 0] += dx


def test_offsets_are_read_as_they_were_recorded(model, tmp_path):
    for step, dx in ((0, 0), (10, 0.25), (20, 0.5)):
        move(model, dx)
        record_offsets(tmp_path, model, step)
    steps, offsets = read_offsets(tmp_path)
    assert steps == [0, 10, 20] and offsets.shape == (3, 9, 2)
    np.testing.assert_allclose(offsets[:, :, 0] - offsets[0, :, 0], [[0.0] * 9, [0.25] * 9, [0.75] * 9])
    np.testing.assert_array_equal(offsets[0], grid_offsets(1))


def test_a_run_that_goes_on_takes_the_place_of_what_was_after(model, tmp_path):
    for step in (0, 10, 20, 30):
        record_offsets(tmp_path, model, step)
    move(model, 1)
    start_offsets(tmp_path, model, 20)
    steps, offsets = read_offsets(tmp_path)
    assert steps == [0, 10, 20] and (offsets[:, 0, 0] == -1).all()


def test_a_run_that_goes_on_leaves_the_lines_of_an_undisturbed_one(model, tmp_path):
    """Steps 0, 10, 20, 30 are logged; the run goes on from a checkpoint of step 15, then from one of step 20."""
    path = tmp_path / "offsets.jsonl"
    start_offsets(tmp_path, model, 0)
    for step in (10, 20, 30):
        record_offsets(tmp_path, model, step)
    undisturbed = path.read_bytes()
    for goes_on_from, logged in ((15, (20, 30)), (20, (30,))):
        start_offsets(tmp_path, model, goes_on_from)
        for step in logged:
            record_offsets(tmp_path, model, step)
        assert path.read_bytes() == undisturbed


def test_a_line_that_the_disk_takes_a_part_of_is_left_out(model, tmp_path, monkeypatch):
    pwrite = os.pwrite

    def full(file, data, offset):
        pwrite(file, data[:5], offset)  # a part gets through
        raise OSError(errno.ENOSPC, "No space left on device")

    record_offsets(tmp_path, model, 0)
    before = (tmp_path / "offsets.jsonl").stat().st_size
    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", full)
        record_offsets(tmp_path, model, 10)
    assert (tmp_path / "offsets.jsonl").stat().st_size == before
    record_offsets(tmp_path, model, 20)
    assert read_offsets(tmp_path)[0] == [0, 20]


def test_a_run_that_was_killed_while_it_wrote_goes_on(model, tmp_path):
    path = tmp_path / "offsets.jsonl"
    for step in (0, 10):
        record_offsets(tmp_path, model, step)
    path.write_text(path.read_text() + '{"step": 20, "off')
    start_offsets(tmp_path, model, 15)
    record_offsets(tmp_path, model, 20)
    assert read_offsets(tmp_path)[0] == [0, 10, 20]
    assert [file.name for file in tmp_path.iterdir()] == ["offsets.jsonl"]


def test_a_new_run_without_offsets_leaves_none_of_the_old_ones(model, tmp_path):
    record_offsets(tmp_path, model, 0)
    start_offsets(tmp_path, nn.Linear(2, 2), 0)
    assert list(tmp_path.iterdir()) == []


def test_another_number_of_offsets_is_another_run(model, tmp_path):
    record_offsets(tmp_path, model, 5)
    record_offsets(tmp_path, nn.Sequential(LearnedSampling(nn.Identity(), 3, 4, grid_offsets(2), embedding=2)), 9)
    assert read_offsets(tmp_path)[0] == [9]


def test_models_without_offsets_leave_nothing(tmp_path):
    record_offsets(tmp_path, nn.Linear(2, 2), 0)
    assert list(tmp_path.iterdir()) == []


def test_a_line_that_is_being_written_does_not_count(model, tmp_path):
    record_offsets(tmp_path, model, 0)
    with (tmp_path / "offsets.jsonl").open("a") as file:
        file.write('{"step": 10, "off')
    assert read_offsets(tmp_path)[0] == [0]


@pytest.mark.parametrize("line", ["nonsense\n", '{"step": 1}\n', '{"step": 1, "offsets": [[1, 2, 3]]}\n', "[]\n"])
def test_a_damaged_line_is_named(tmp_path, line):
    (tmp_path / "offsets.jsonl").write_text('{"step": 0, "offsets": [[0, 0]]}\n' + line)
    with pytest.raises(ValueError, match=r"offsets.jsonl, line 2: not a step"):
        read_offsets(tmp_path)


def test_a_folder_without_offsets_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="only training with learned sampling records offsets"):
        read_offsets(tmp_path)


def test_weights_alone_have_no_offsets_of_before(tmp_path):
    (tmp_path / "weights.safetensors").write_bytes(b"")
    with pytest.raises(ValueError, match=r"weights\.safetensors is a file; expected the folder of a run"):
        read_offsets(tmp_path / "weights.safetensors")


def test_training_records_where_they_start_and_what_becomes_of_them(tiny_run):
    rate = "train.lr_multipliers={propagation.offsets: 1000}"
    _, path, *rest = tiny_run("frame_by_frame", MODEL, "train.steps=3", rate)
    config = load_config(path, rest)
    train(config, "cpu")
    steps, offsets = read_offsets(config.output)
    assert steps == [0, 1, 2, 3]
    np.testing.assert_array_equal(offsets[0], grid_offsets(1))
    from accel.models import build_model

    model = build_model(config.model)
    load_weights(model, config.output)
    assert not np.array_equal(offsets[0], offsets[-1])
    torch.testing.assert_close(model.propagation.offsets.data, torch.from_numpy(offsets[-1]), rtol=0, atol=1e-4)
