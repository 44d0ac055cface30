"""Validation in training: what it takes as the run's result, and what it does with damaged frames."""

import pytest
from run_files import log_of, weights_of

from accel.config import load_stages
from accel.config.experiments import EXPERIMENTS
from accel.tasks.segmentation import MeanIou
from accel.training.feeding import start_worker
from accel.training.trainer import train
from accel.weights.checkpoints import describe_weights

STEPS = ("data.clip_length=1", "train.steps=3")


@pytest.fixture
def figures(monkeypatch):
    """The mIoU of each validation, in turn."""
    given = iter([0.2, 0.5, 0.3])
    monkeypatch.setattr(MeanIou, "value", lambda self: next(given))


@pytest.mark.parametrize(("take", "step", "other", "other_step"), [("best", 2, "last", 3), ("last", 3, "best", 2)])
def test_the_best_weights_are_the_result_or_the_last_by_a_key(tiny_config, figures, take, step, other, other_step):
    validation = f"train.validation={{split: val, every: 1, frames: 1, take: {take}}}"
    config = tiny_config("frame_by_frame", *STEPS, validation)
    train(config, "cpu")
    assert describe_weights(config.output).step == step
    assert describe_weights(config.output / "checkpoints" / other).step == other_step
    weights_of(config)  # they are whole


@pytest.mark.parametrize("workers", [0, 1])
def test_damaged_frames_are_named_and_counted(tiny_config, tiny_cityscapes, capsys, workers):
    config = tiny_config(
        "frame_by_frame", *STEPS, f"train.workers={workers}", "train.validation={split: val, every: 1}"
    )
    damaged = sorted((tiny_cityscapes / "leftImg8bit_sequence/val/aachen").glob("*_000003_*"))[0]
    damaged.write_bytes(damaged.read_bytes()[:200])
    train(config, "cpu")
    told = capsys.readouterr().out
    assert told.count("left out of validation: ") == 1 and str(damaged) in told.replace("\n", "")
    assert told.count("1 frames could not be read") == 3
    assert len([line for line in log_of(config) if "validation_miou" in line]) == 3


def test_a_validation_of_which_nothing_can_be_read_ends_the_run(tiny_config, tiny_cityscapes):
    for path in (tiny_cityscapes / "leftImg8bit_sequence/val").rglob("*.png"):
        path.write_bytes(b"no image")
    config = tiny_config("frame_by_frame", *STEPS, "train.validation={split: val, every: 1}")
    with pytest.raises(ValueError, match=r"train\.validation: none of the 4 frames can be read"):
        train(config, "cpu")


def test_own_data_and_camvid_validate_by_default():
    for recipe, split in (("folder/all.yaml", "val"), ("camvid/all.yaml", "train/held")):
        stages = load_stages(EXPERIMENTS / recipe)
        branches = [s for s in stages if s.data.clip_length == 1 and "longer" not in s.output.name]
        assert branches and all(stage.train.validation.split == split for stage in branches)
        assert all(stage.train.validation is None for stage in stages if stage.train.loss.name == "flow")


def test_labelled_videos_are_one_key_in_the_folder_recipe():
    stages = load_stages(EXPERIMENTS / "folder/all.yaml", ["data.clips=stored"])
    for stage in stages:
        learns_flow = stage.train.loss.name == "flow"
        assert (stage.motion is not None) == learns_flow, stage.output
        assert stage.data.test_frames is None
    assert all(stage.motion is not None for stage in load_stages(EXPERIMENTS / "folder/all.yaml"))
    assert load_stages(EXPERIMENTS / "folder/all.yaml")[-1].train.validation.interval == 5
    with pytest.raises(ValueError, match=r"flownet\.yaml.*train\.loss: clips of folder have no exact flow to train on"):
        load_stages(EXPERIMENTS / "folder/all.yaml", ["data.motion=null"])


def test_a_signal_to_all_processes_does_not_end_the_readers(tiny_config, monkeypatch):
    """Ctrl-C reaches workers, too: they ignore it, and the run ends as it should."""
    from accel.training import validation

    started = []
    monkeypatch.setattr(
        validation, "DataLoader", lambda *args, **how: started.append(how["worker_init_fn"]) or iter(())
    )
    config = tiny_config("frame_by_frame", *STEPS, "train.validation={split: val, every: 1}")
    with pytest.raises(StopIteration):
        train(config, "cpu")
    assert started == [start_worker]
