"""Checkpoints of a run: which are believed, and what happens when the disk takes no more."""

import errno
import json
import os
import shutil
import subprocess

import pytest
import torch
from torch import nn
from train_processes import Job, course, logged, same_weights, wait_for_step, waiting_at

from accel.config import parse_model
from accel.training.checkpoints import Checkpoints, Progress
from accel.training.run_log import RunLog
from accel.training.trainer import train
from accel.weights.checkpoints import Description, describe_weights

BRANCH = {"encoder": "mobilenet_v2", "head_channels": 4}
DESCRIPTION = Description(
    parse_model({"name": "frame_by_frame", "num_classes": 2, "reference": BRANCH}, "test"),
    ("road", "sky"),
    ((1, 2, 3), (4, 5, 6)),
    7,
)
ONE_FRAME = ("data.clip_length=1", "data.augmentation={crop: [32, 32]}")


def make(seed=0):
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)).to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    model(torch.randn(2, 3, 5, 5)).sum().backward()
    optimizer.step()
    return model, optimizer


@pytest.fixture
def three(tmp_path):
    """Checkpoints of the steps 2, 4 and 6."""
    checkpoints = Checkpoints(tmp_path, keep=3)
    for step in (2, 4, 6):
        checkpoints.save(Progress(step, [1 / 3, 0.1], skipped=step), *make(step), DESCRIPTION)
    return checkpoints


def test_a_checkpoint_brings_everything_back(three):
    model, optimizer = make(99)
    assert three.load(three.newest(), model, optimizer) == Progress(6, [1 / 3, 0.1], skipped=6)
    other_model, other_optimizer = make(6)
    assert all(torch.equal(model.state_dict()[name], value) for name, value in other_model.state_dict().items())
    for key, state in other_optimizer.state_dict()["state"].items():
        for name, value in state.items():
            assert torch.equal(optimizer.state_dict()["state"][key][name], value)


def test_checksums_are_those_of_sha256sum(three):
    if shutil.which("sha256sum") is None:
        pytest.skip("needs sha256sum")
    subprocess.run(["sha256sum", "--check", "--strict", "SHA256SUMS"], cwd=three.path(4), check=True)


def test_a_checkpoint_is_a_model_to_use(three):
    assert describe_weights(three.path(4)) == DESCRIPTION


def test_the_last_ones_are_kept(three):
    three.keep = 2
    three.save(Progress(8), *make(), DESCRIPTION)
    assert three.steps() == [6, 8]


def test_the_state_of_another_optimizer_is_refused_with_its_path(three):
    model, _ = make(99)
    other = torch.optim.AdamW([{"params": [p]} for p in model.parameters()], lr=0.1)
    with pytest.raises(ValueError, match=r"optimizer\.pt: not the state of this run's optimizer"):
        three.load(three.newest(), model, other)


@pytest.mark.parametrize("name", ["weights.safetensors", "optimizer.pt", "progress.json", "SHA256SUMS"])
@pytest.mark.parametrize("damage", ["cut", "flipped", "missing", "empty"])
def test_a_damaged_checkpoint_is_recognised_and_the_one_before_taken(three, name, damage, capsys):
    file = three.path(6) / name
    data = bytearray(file.read_bytes())
    if damage == "missing":
        file.unlink()
    else:
        data[len(data) // 2] ^= 1
        file.write_bytes({"cut": data[:-1], "flipped": data, "empty": b""}[damage])
    assert three.newest() == 4
    assert f"step-00000006 is damaged ({name if name != 'SHA256SUMS' else ''}" in capsys.readouterr().out.replace(
        "\n", ""
    )


def test_no_whole_checkpoint_is_an_error_and_not_a_new_beginning(three):
    for step in three.steps():
        (three.path(step) / "optimizer.pt").write_bytes(b"")
    with pytest.raises(ValueError, match="all checkpoints are damaged; --overwrite"):
        three.newest()


def test_none_at_all_is_no_error(tmp_path):
    assert Checkpoints(tmp_path).newest() is None


def test_what_a_killed_process_left_half_written_is_swept_away(three):
    (three.folder / ".step-00000008").mkdir()
    (three.folder / ".step-00000008" / "weights.safetensors").write_bytes(b"half")
    three.save(Progress(10), *make(), DESCRIPTION)
    assert three.steps() == [4, 6, 10] and not list(three.folder.glob(".*"))


def test_a_damaged_checkpoint_is_replaced_when_the_run_comes_there_again(three):
    (three.path(6) / "optimizer.pt").write_bytes(b"")
    three.save(Progress(6), *make(6), DESCRIPTION)
    assert three.newest() == 6


@pytest.mark.parametrize("progress", ['{"step": 6, "colour": 1}', "[6]", "6", "six"])
def test_a_checkpoint_of_another_version_is_named(three, progress):
    (three.path(6) / "progress.json").write_text(progress)
    with pytest.raises(ValueError, match=r"step-00000006/progress\.json: not the progress of a run of this version"):
        three.load(6, *make())


def test_a_checkpoint_reaches_the_disk_before_its_name_does(tmp_path, monkeypatch):
    """Every file, then the folder they are in, then the name of the checkpoint, then the folder that holds it."""
    order = []
    fsync, rename, replace = os.fsync, os.rename, os.replace

    def traced(name, call):
        def traced_call(*paths):
            order.append((name, os.readlink(f"/proc/self/fd/{paths[0]}") if name == "fsync" else str(paths[1])))
            return call(*paths)

        return traced_call

    for name, call in (("fsync", fsync), ("rename", rename), ("replace", replace)):
        monkeypatch.setattr(os, name, traced(name, call))
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(Progress(2), *make(), DESCRIPTION)
    final = str(checkpoints.path(2))
    named = order.index(("rename", final))
    assert order[named + 1] == ("fsync", str(checkpoints.folder))
    made = str(checkpoints.folder / ".step-00000002")
    for name in ("weights.safetensors", "optimizer.pt", "progress.json", "SHA256SUMS"):
        replaced = order.index(("replace", f"{made}/{name}"))
        assert order[replaced - 1][0] == "fsync" and name in order[replaced - 1][1]
        assert order[replaced + 1] == ("fsync", made) and replaced + 1 < named


# --- a disk that is full --------------------------------------------------------------------------------------


def test_a_failed_save_leaves_what_was_there(three, monkeypatch):
    """Whichever of the files the disk has no room for."""
    fsync = os.fsync
    for allowed in range(9):
        calls = iter(range(100))

        def full(descriptor, allowed=allowed, calls=calls):
            if next(calls) >= allowed:
                raise OSError(errno.ENOSPC, "No space left on device")
            return fsync(descriptor)

        monkeypatch.setattr(os, "fsync", full)
        with pytest.raises(OSError, match="No space left"):
            three.save(Progress(8), *make(), DESCRIPTION)
        monkeypatch.setattr(os, "fsync", fsync)
        assert three.newest() in (6, 8) and three.steps()[:3] == [2, 4, 6]
        assert not list(three.folder.glob(".*"))


@pytest.fixture
def small_disk(tmp_path):
    """A tmpfs of 16 MB, for two checkpoints of 3 MB; skips where one cannot be mounted."""
    disk = tmp_path / "disk"
    disk.mkdir()
    try:
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", disk], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("cannot mount a tmpfs here")
    yield disk
    subprocess.run(["umount", "-l", disk], check=True)


def test_training_goes_on_with_a_full_disk_and_leaves_a_loadable_checkpoint(tiny_run, tmp_path, small_disk):
    """The disk fills up before the second checkpoint; with room again, the run ends as one that had it all along."""
    arguments = tiny_run("frame_by_frame", *ONE_FRAME, "train.steps=9", "train.save_every=2", "train.keep=1")
    whole, run = tmp_path / "whole", small_disk / "run"
    assert Job([*arguments, f"output={whole}"], tmp_path / "a").wait() == [0]

    script, go_on = waiting_at(3, tmp_path)
    job = Job([*arguments, f"output={run}"], tmp_path / "b", script=script)
    wait_for_step(run, 3, job)
    with (small_disk / "filler").open("wb", buffering=0) as filler, pytest.raises(OSError):
        while True:
            filler.write(b"x" * 4096)
    go_on.touch()
    assert job.wait() == [2], job.output()
    said = job.output()
    assert "warning:" in said and "No space left on device" in said and "training goes on" in said
    assert "the weights could not be written" in said and "--resume goes on from step 2" in said.replace("\n", " ")
    assert Checkpoints(run).newest() is not None

    (small_disk / "filler").unlink()
    assert Job(["--resume", *arguments, f"output={run}"], tmp_path / "c").wait() == [0]
    assert same_weights(run, whole) and course(run) == course(whole)


def test_a_read_only_folder_is_told(tiny_config, small_disk):
    subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
    config = tiny_config("frame_by_frame", *ONE_FRAME, f"output={small_disk}/run")
    with pytest.raises(OSError, match="Read-only file system"):
        train(config, "cpu")


def test_a_log_that_cannot_be_written_is_made_up_for(tmp_path, monkeypatch, capsys):
    pwrite = os.pwrite

    def full(file, data, offset):
        pwrite(file, data[:5], offset)  # a part gets through
        raise OSError(errno.ENOSPC, "No space left on device")

    with RunLog(tmp_path, 0) as log:
        log.write(1, loss=3.0)
        with monkeypatch.context() as patch:
            patch.setattr(os, "pwrite", full)
            log.write(2, loss=2.0)
            log.write(3, loss=1.5)
            assert [line["step"] for line in logged(tmp_path)] == [1]
        log.write(4, loss=1.0)
    assert [(line["step"], line["loss"]) for line in logged(tmp_path)] == [(1, 3.0), (2, 2.0), (3, 1.5), (4, 1.0)]
    assert capsys.readouterr().out.count("warning") == 1


def test_a_log_goes_on_where_the_run_does(tmp_path):
    with RunLog(tmp_path, 0) as log:
        for step in (2, 4, 6):
            log.write(step, loss=1.0)
    with (tmp_path / "log.jsonl").open("a") as file:
        file.write(json.dumps({"step": 8})[:-2])  # killed while writing
    with RunLog(tmp_path, 4) as log:
        log.write(5, loss=2.0)
    assert [line["step"] for line in logged(tmp_path)] == [2, 4, 5]


@pytest.mark.parametrize(
    "line",
    [
        "nonsense",
        "\0\0\0",
        "[]",
        "7",
        '{"loss": 1.0}',
        '{"step": "4"}',
        '{"step": 4, "loss": "0.5"}',
        '{"step": 4, "loss": [1]}',
    ],
)
def test_a_damaged_log_is_kept_up_to_the_damage(tmp_path, capsys, line):
    path = tmp_path / "log.jsonl"
    path.write_text(f'{{"step": 2, "loss": null}}\n{line}\n{{"step": 6, "loss": 1.0}}\n')
    with RunLog(tmp_path, 6) as log:
        log.write(8, loss=1.0)
    assert [line["step"] for line in logged(tmp_path)] == [2, 8]
    assert f"warning: {path}, line 2: not a step" in capsys.readouterr().out


def test_a_validation_that_no_checkpoint_knows_of_is_not_logged_twice(tmp_path):
    """A run that stopped before the validation of step 4, made it when it went on, and was killed then."""
    with RunLog(tmp_path, 0) as log:
        for step in (2, 4):
            log.write(step, loss=1.0)
            if step == 2:
                log.write(step, validation_miou=0.5)
    for _ in range(2):
        with RunLog(tmp_path, 4, validated=2) as log:
            log.write(4, validation_miou=0.6)
            log.write(6, loss=1.0)
    with RunLog(tmp_path, 4, validated=4):
        pass
    assert logged(tmp_path) == [
        {"step": 2, "loss": 1.0},
        {"step": 2, "validation_miou": 0.5},
        {"step": 4, "loss": 1.0},
        {"step": 4, "validation_miou": 0.6},
    ]
