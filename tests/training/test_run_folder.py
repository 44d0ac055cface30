"""What a run replaces in its folder, and what it leaves alone."""

import os
from pathlib import Path

import pytest

from accel.config import dump_config
from accel.files.whole_files import sweep, write_whole
from accel.training.run_folder import claim, may_go_on
from accel.training.run_log import RunLog


@pytest.fixture
def config(tiny_config, tmp_path):
    config = tiny_config("frame_by_frame", f"output={tmp_path / 'run'}")
    config.output.mkdir()
    return config


# --- files of others ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("by_hand", ["base: ../recipe.yaml\n", "# mine\n{settings}", "- no settings\n", "\xff: ["])
@pytest.mark.parametrize("resume", [False, True])
def test_settings_written_by_hand_are_not_replaced(config, by_hand, resume):
    path = config.output / "config.yaml"
    path.write_text(by_hand.format(settings=dump_config(config)), encoding="latin-1")
    with pytest.raises(FileExistsError, match=r"config\.yaml was not written by a run") as told:
        may_go_on(config, resume, overwrite=False)
    assert "\n" not in str(told.value)
    assert not may_go_on(config, resume, overwrite=True)


def test_settings_of_a_run_that_did_not_get_far_are_replaced(config, tiny_config):
    claim(tiny_config("frame_by_frame", f"output={config.output}", "train.steps=77"), resumed=False)
    assert not may_go_on(config, resume=False, overwrite=False)
    claim(config, resumed=False)
    assert (config.output / "config.yaml").read_text() == dump_config(config)


def test_only_curves_are_removed_from_beside_the_curves(config):
    curves = config.output / "tensorboard"
    (curves / "compared").mkdir(parents=True)
    (curves / "notes.txt").write_text("mine")
    (curves / "events.out.tfevents.1.old").write_bytes(b"")
    with RunLog(config.output, 0):
        pass
    assert not (curves / "events.out.tfevents.1.old").exists()
    claim(config, resumed=False)
    assert sorted(path.name for path in curves.iterdir()) == ["compared", "notes.txt"]


# --- what killed processes leave ------------------------------------------------------------------------------


@pytest.mark.parametrize("resumed", [False, True])
def test_files_that_killed_processes_were_writing_are_swept_away(config, resumed):
    folder = config.output
    claim(config, resumed=False)
    names = (
        ".weights.safetensors.41",
        ".config.yaml.42",
        "checkpoints/best/.weights.safetensors.43",
        "checkpoints/.step-00000004",
        "checkpoints/.step-00000006/.optimizer.pt.44",
        "checkpoints/.best.removed/weights.safetensors",
    )
    others = (".gitignore", ".config.yaml.swp", "checkpoints/.gitignore")
    for name in (*names, *others):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"half")
    claim(config, resumed)
    left = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    assert left == {*others, "config.yaml"}


def test_a_write_that_is_killed_leaves_what_is_swept_away(tmp_path, monkeypatch):
    """The names that are swept are those that are written."""
    path = tmp_path / "weights.safetensors"
    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", lambda *_, **__: None)
        patch.setattr(os, "replace", lambda *_: None)
        write_whole(path, b"half")
    assert len(list(tmp_path.iterdir())) == 1
    sweep(path)
    assert not list(tmp_path.iterdir())


# --- runs that others start from ------------------------------------------------------------------------------


def test_an_unfinished_run_whose_start_was_trained_again_does_not_go_on(tiny_config, tmp_path):
    """However often it went on before."""
    first = tmp_path / "first" / "weights.safetensors"
    first.parent.mkdir()
    first.write_bytes(b"")
    config = tiny_config("frame_by_frame", f"output={tmp_path / 'run'}", f"init={{all: {first.parent}}}")
    claim(config, resumed=False)
    began = (config.output / "config.yaml").stat().st_mtime
    (config.output / "checkpoints" / "step-00000004").mkdir(parents=True)
    os.utime(config.output / "config.yaml", (began - 100, began - 100))
    os.utime(first, (began - 200, began - 200))
    for _ in range(2):
        assert may_go_on(config, resume=True, overwrite=False)
        claim(config, resumed=True)
    os.utime(first, (began - 50, began - 50))
    with pytest.raises(FileExistsError, match="first, which has been trained again since"):
        may_go_on(config, resume=True, overwrite=False)


def test_a_run_that_another_process_finished_meanwhile_is_not_touched(config):
    claim(config, resumed=False)
    (config.output / "weights.safetensors").touch()
    with pytest.raises(FileExistsError, match="another process has just finished this run"):
        may_go_on(config, resume=True, overwrite=False)


def test_a_run_without_checkpoints_begins_anew_from_the_newer_start(tiny_config, tmp_path):
    first = tmp_path / "first.safetensors"
    config = tiny_config("frame_by_frame", f"output={tmp_path / 'run'}", f"init={{all: {first}}}")
    claim(config, resumed=False)
    (config.output / "log.jsonl").touch()
    first.write_bytes(b"")
    later = (config.output / "config.yaml").stat().st_mtime + 10
    os.utime(first, (later, later))
    assert not may_go_on(config, resume=True, overwrite=False)
