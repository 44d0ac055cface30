"""What a run replaces in its folder, and what it leaves alone."""

import os
import shutil
from pathlib import Path

import pytest

from accel.config import dump_config, load_config
from accel.datasets import build_dataset
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
        ".sources.json.42",
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
    assert left == {*others, "config.yaml", "sources.json"}


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


@pytest.fixture
def started(tiny_config, tmp_path):
    """started(output, ...): an unfinished run that started from the weights in `first`, with a checkpoint."""
    (tmp_path / "first").mkdir()
    (tmp_path / "first/weights.safetensors").write_bytes(b"weights")

    def started(*overrides):
        config = tiny_config("frame_by_frame", f"init={{all: {tmp_path / 'first'}}}", *overrides)
        claim(config, resumed=False, dataset=build_dataset(config.data, config.data.train_split))
        (config.output / "checkpoints/step-00000004").mkdir(parents=True)
        return config

    return started


def test_an_unfinished_run_whose_start_has_other_weights_by_now_does_not_go_on(started, tmp_path):
    """However often it went on before, and whatever the times of the files."""
    config, first = started(), tmp_path / "first/weights.safetensors"
    for time in (0, 2e9):
        os.utime(first, (time, time))
        assert may_go_on(config, resume=True, overwrite=False)
        claim(config, resumed=True)
    before = first.stat()
    first.write_bytes(b"others!")
    os.utime(first, ns=(before.st_atime_ns, before.st_mtime_ns))
    with pytest.raises(FileExistsError, match="started from other weights than .*first holds now"):
        may_go_on(config, resume=True, overwrite=False)
    first.unlink()  # what is gone was not trained again
    assert may_go_on(config, resume=True, overwrite=False)


def test_a_run_without_checkpoints_begins_anew_from_other_weights(tiny_config, tmp_path):
    first = tmp_path / "first.safetensors"
    first.write_bytes(b"weights")
    config = tiny_config("frame_by_frame", f"output={tmp_path / 'run'}", f"init={{all: {first}}}")
    claim(config, resumed=False)
    (config.output / "log.jsonl").touch()
    first.write_bytes(b"others")
    assert not may_go_on(config, resume=True, overwrite=False)


def test_where_data_and_runs_lie_is_not_what_they_are(started, tiny_config, tmp_path, monkeypatch):
    config = started()
    root, start = config.data.root, f"init={{all: {tmp_path / 'first'}}}"

    def goes_on(*overrides):
        return may_go_on(tiny_config("frame_by_frame", start, *overrides), resume=True, overwrite=False)

    (tmp_path / "link").symlink_to(root)
    monkeypatch.chdir(tmp_path)
    for spelled in (f"{root}/", f"{root}/../{root.name}", root.name, tmp_path / "link"):
        assert goes_on(f"data.root={spelled}")
    shutil.move(root, tmp_path / "disk/data")
    assert goes_on(f"data.root={tmp_path}/disk/data")
    shutil.move(config.output, tmp_path / "elsewhere")
    assert goes_on(f"data.root={tmp_path}/disk/data", f"output={tmp_path}/elsewhere")
    shutil.move(tmp_path / "first", tmp_path / "disk/first")
    start = f"init={{all: {tmp_path}/disk/first/weights.safetensors}}"
    assert goes_on(f"data.root={tmp_path}/disk/data", f"output={tmp_path}/elsewhere")
    moved = tiny_config("frame_by_frame", start, f"data.root={tmp_path}/disk/data", f"output={tmp_path}/elsewhere")
    claim(moved, resumed=True)  # from now on, the run says where they are
    assert load_config(moved.output / "config.yaml") == moved


def test_other_data_and_other_weights_at_another_place_are_others(started, tiny_config, tmp_path):
    config = started()
    start = f"init={{all: {tmp_path / 'first'}}}"
    shutil.copytree(config.data.root, tmp_path / "others")
    for label in (tmp_path / "others/gtFine/train/ulm").glob("*000098*"):
        label.unlink()
    with pytest.raises(FileExistsError, match=f"other labelled frames than those at {tmp_path}/others"):
        may_go_on(tiny_config("frame_by_frame", start, f"data.root={tmp_path}/others"), resume=True, overwrite=False)
    with pytest.raises(FileExistsError, match=r"there: init\.all: .*; now: init\.all: .*reference"):
        other = f"init={{all: {tmp_path / 'first'}#reference}}"
        may_go_on(tiny_config("frame_by_frame", other), resume=True, overwrite=False)
    with pytest.raises(FileExistsError, match=r"there: init\.reference: null"):
        other = f"init={{reference: {tmp_path / 'first'}}}"
        may_go_on(tiny_config("frame_by_frame", other), resume=True, overwrite=False)
    shutil.copytree(tmp_path / "first", tmp_path / "second")
    (tmp_path / "second/weights.safetensors").write_bytes(b"others")
    with pytest.raises(FileExistsError, match="other weights than .*second holds now"):
        other = f"init={{all: {tmp_path / 'second'}}}"
        may_go_on(tiny_config("frame_by_frame", other), resume=True, overwrite=False)


@pytest.mark.parametrize("noted", [None, "", "[", "[]", '{"init": 3}'])
def test_a_run_that_noted_nothing_is_known_by_its_settings(started, tiny_config, tmp_path, noted):
    """One of an older version."""
    config = started()
    (config.output / "sources.json").unlink()
    if noted is not None:
        (config.output / "sources.json").write_text(noted)
    assert may_go_on(config, resume=True, overwrite=False)
    elsewhere = tiny_config("frame_by_frame", f"init={{all: {tmp_path / 'first/weights.safetensors'}}}")
    with pytest.raises(FileExistsError, match=r"other settings \(there: init\.all"):
        may_go_on(elsewhere, resume=True, overwrite=False)


def test_a_run_that_another_process_finished_meanwhile_is_not_touched(config):
    claim(config, resumed=False)
    (config.output / "weights.safetensors").touch()
    with pytest.raises(FileExistsError, match="another process has just finished this run"):
        may_go_on(config, resume=True, overwrite=False)
