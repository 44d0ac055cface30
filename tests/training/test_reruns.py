"""When a finished run counts as done, and when it must not."""

import os
import shutil

import pytest
import torch
from torch import nn

from accel.devices import has_bfloat16
from accel.inference.timing import time_interleaved
from accel.models.prediction import Labels
from accel.models.video import VideoModel
from accel.training.run_folder import is_done
from accel.training.trainer import train
from accel.weights.checkpoints import WEIGHTS


def test_the_weights_a_run_started_from_decide_whether_it_is_done(tiny_config, tmp_path):
    """Not the times of their files, which copies do not have."""
    first = tiny_config("frame_by_frame", f"output={tmp_path / 'first'}", "train.steps=1")
    train(first, "cpu")
    second = tiny_config(
        "frame_by_frame", f"output={tmp_path / 'second'}", "train.steps=1", f"init={{all: {tmp_path / 'first'}}}"
    )
    train(second, "cpu")
    for time in (0, 2e9):
        os.utime(first.output / WEIGHTS, (time, time))
        assert is_done(second)
    for run in ("second", "first"):  # the start is the newer one of the copies
        shutil.copytree(tmp_path / run, tmp_path / "copies" / run, copy_function=shutil.copyfile)
    start = f"init={{all: {tmp_path / 'copies/first'}}}"
    assert is_done(tiny_config("frame_by_frame", f"output={tmp_path / 'copies/second'}", "train.steps=1", start))

    train(
        tiny_config("frame_by_frame", f"output={tmp_path / 'first'}", "train.steps=1", "seed=1"), "cpu", overwrite=True
    )
    os.utime(first.output / WEIGHTS, (0, 0))
    assert not is_done(second)
    with pytest.raises(FileExistsError, match="started from other weights than .*first holds now"):
        train(second, "cpu")
    train(second, "cpu", overwrite=True)
    assert is_done(second)


def test_batch_norm_statistics_stay_when_frozen(tiny_config, tmp_path):
    def statistics(*overrides):
        config = tiny_config("frame_by_frame", f"output={tmp_path / str(len(overrides))}", "train.steps=2", *overrides)
        train(config, "cpu")
        from accel.inference.loading import load_model

        norms = [m for m in load_model(config.output).modules() if isinstance(m, nn.BatchNorm2d)]
        return torch.cat([m.running_mean for m in norms])

    assert not statistics("train.freeze_norm=true").any()
    assert statistics().any()


def test_bfloat16_support_is_what_onednn_says(monkeypatch):
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: False)
    assert not has_bfloat16(torch.device("cpu"))


def test_models_take_turns_when_timed():
    calls = []

    class Watched(VideoModel):
        def __init__(self, name):
            super().__init__()
            self.name, self.weight = name, nn.Parameter(torch.zeros(1))

        def key_frame(self, image, state=None):
            calls.append(self.name)
            return self, None

        def next_frame(self, image, state):
            return self, None

        def at(self, size):
            return Labels(torch.zeros(1, *size, dtype=torch.uint8))

    times = time_interleaved({"a": Watched("a"), "b": Watched("b")}, torch.zeros(2, 3, 8, 8), rounds=3)
    assert calls == ["a", "b"] * 4 and all(t >= 0 for pair in times.values() for t in pair)
