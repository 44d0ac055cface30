"""Training data are checked before a run: every file that training reads, and every fault at once."""

import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest

from accel import datasets
from accel.config import DataConfig, load_stages
from accel.datasets import build_dataset
from accel.datasets.checking import check_data, check_split
from accel.datasets.sampling import TrainingClips
from accel.datasets.simulation.motion import SimulatedMotion
from accel.datasets.simulation.simulated_clips import SimulatedClips
from accel.files import images


def cityscapes(root, **settings):
    return DataConfig(name="cityscapes", root=root, **settings)


def damage(path):
    path.write_bytes(path.read_bytes()[:-20])


def checked(data, *lengths, workers=0):
    return check_split(data, data.train_split, lengths or (data.clip_length,), workers, quiet=True)


def files_read(monkeypatch, action):
    """The names of the image files that `action` reads."""
    read, names = images._read_bytes, []

    def note(path):
        names.append(path.name)
        return read(path)

    with monkeypatch.context() as patch:
        patch.setattr(images, "_read_bytes", note)
        action()
    return names


@pytest.mark.parametrize("length", [1, 3, 4])
def test_what_is_checked_is_what_training_reads_and_nothing_twice(tiny_cityscapes, monkeypatch, length):
    data = cityscapes(tiny_cityscapes, clip_length=length)
    clips = TrainingClips(build_dataset(data, "train"), length)
    trained = files_read(monkeypatch, lambda: [clips[i] for i in range(len(clips))])
    read = files_read(monkeypatch, lambda: checked(data))
    assert sorted(read) == sorted(set(trained)) and len(read) == 4 * (1 + length)


def test_frames_that_labelled_ones_share_are_read_once(tiny_camvid, monkeypatch):
    data = DataConfig(name="camvid", root=tiny_camvid, train_split="val", clip_length=3)
    read = files_read(monkeypatch, lambda: checked(data))
    assert len(read) == len(set(read)) + 4  # labels are called as their images; of 6 frames, 4 are trained on
    assert checked(data).labelled == 4 and checked(data).left_out == 2 and not checked(data).problems
    assert "4 labelled frames (2 more have too few frames before them, and are left out)" in checked(data).summary()


def test_data_without_files_are_not_said_to_be_fit(tiny_camvid, monkeypatch):
    stills = build_dataset(DataConfig(name="camvid", root=tiny_camvid), "train")
    clips = SimulatedClips(stills, SimulatedMotion(stills.class_names), 3)
    monkeypatch.setitem(datasets.BUILDERS, "camvid", lambda *_: clips)
    with pytest.raises(ValueError, match="camvid train at .*: these data are not stored as image files"):
        checked(DataConfig(name="camvid", root=tiny_camvid))


@pytest.mark.parametrize("workers", [0, 2])
def test_all_faults_are_found_at_once(tiny_cityscapes, workers):
    frames, labels = tiny_cityscapes / "leftImg8bit_sequence/train", tiny_cityscapes / "gtFine/train"
    cut = frames / "aachen/aachen_000000_000003_leftImg8bit.png"
    small = frames / "aachen/aachen_000001_000002_leftImg8bit.png"
    gap = frames / "ulm/ulm_000000_000097_leftImg8bit.png"
    labelled = frames / "ulm/ulm_000000_000203_leftImg8bit.png"
    strange = labels / "aachen/aachen_000001_000003_gtFine_labelIds.png"
    unused = frames / "aachen/aachen_000000_000000_leftImg8bit.png"
    damage(cut)
    damage(unused)
    gap.unlink()
    labelled.unlink()
    cv2.imwrite(str(small), np.zeros((32, 48, 3), np.uint8))
    cv2.imwrite(str(strange), np.full((64, 96), 77, np.uint8))
    found = checked(cityscapes(tiny_cityscapes, clip_length=3), workers=workers).problems
    assert [line.split(":")[0] for line in sorted(found)] == sorted(map(str, (cut, small, gap, labelled, strange)))
    reasons = {line.split(":")[0]: line.partition(": ")[2] for line in found}
    assert "cut off" in reasons[str(cut)]
    assert "no such file, but the clip that ends in ulm_000000_000098 needs it" in reasons[str(gap)]
    assert "no such file, but gtFine/train lists this frame" in reasons[str(labelled)]
    assert "label value 77 on 6144 pixels" in reasons[str(strange)]
    assert "48 x 32 pixels, but" in reasons[str(small)]  # than another image, for want of its labels


def test_an_image_of_another_size_than_its_labels_is_named_with_both(tiny_camvid):
    path = tiny_camvid / "train/0006R0_f00960.png"
    cv2.imwrite(str(path), np.zeros((20, 30, 3), np.uint8))
    (line,) = checked(DataConfig(name="camvid", root=tiny_camvid)).problems
    assert line == f"{path}: 30 x 20 pixels, but {tiny_camvid}/trainannot/0006R0_f00960.png has 48 x 36"


def test_missing_images_and_labels_of_camvid_are_listed_together(tiny_camvid):
    image, label = tiny_camvid / "train/0006R0_f00930.png", tiny_camvid / "trainannot/0006R0_f00990.png"
    image.unlink()
    label.unlink()
    lines = checked(DataConfig(name="camvid", root=tiny_camvid)).problems
    assert sorted(line.split(":")[0] for line in lines) == sorted([str(image), str(label)])


def test_a_file_that_may_not_be_read_is_a_fault_like_others(tiny_camvid, monkeypatch):
    forbidden = tiny_camvid / "train/0006R0_f00960.png"
    opened = Path.open

    def fail(path, *arguments, **more):
        if path == forbidden:
            raise PermissionError(13, "Permission denied", str(path))
        return opened(path, *arguments, **more)

    monkeypatch.setattr(Path, "open", fail)
    (line,) = checked(DataConfig(name="camvid", root=tiny_camvid)).problems
    assert line.startswith(f"{forbidden}: ") and "Permission denied" in line


def test_a_video_that_begins_later_has_no_gap(tiny_cityscapes):
    """ulm's frames begin at 95 and at 200, aachen's at 0: nothing is missing, but no clip of 5 can be made."""
    found = checked(cityscapes(tiny_cityscapes), 4, 5)
    assert found.labelled == 4 and found.problems == [
        f"{found.title}: no clip of 5 frames: no labelled frame has 4 frames before it"
    ]


def test_generated_scenes_are_checked_once_they_are_made(scenes_made_here, tmp_path):
    data = DataConfig(name="streetscape", root=tmp_path / "s", snippets={"train": 1}, size=(64, 64), clip_length=5)
    assert not checked(data).problems and checked(data).files == 6
    damage(next((tmp_path / "s").rglob("*_000017_leftImg8bit.png")))
    (line,) = checked(data).problems
    assert "000017_leftImg8bit.png: the PNG is cut off" in line


def test_a_recipe_has_each_data_set_checked_once_with_its_longest_clips(tiny_run, tiny_cityscapes, tmp_path, capsys):
    _, single = tiny_run("frame_by_frame")
    shutil.copy(single, tmp_path / "stills.yaml")
    (tmp_path / "stills.yaml").write_text((tmp_path / "stills.yaml").read_text().replace("clip_length: 3", ""))
    recipe = tmp_path / "recipe.yaml"
    again = f"{{base: stills.yaml, output: {tmp_path}/again}}"
    recipe.write_text(f"stages: [{{base: stills.yaml, output: {tmp_path}/stills}}, frame_by_frame.yaml, {again}]")
    assert check_data(load_stages(recipe), workers=0) == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if "fit for training" in line]
    assert lines == [
        f"cityscapes train at {tiny_cityscapes}: 16 files of 4 labelled frames read, all are fit for training"
    ]
    damage(next((tiny_cityscapes / "leftImg8bit_sequence/train").rglob("*_000002_leftImg8bit.png")))
    assert check_data(load_stages(recipe), workers=0) == 2
    assert "16 files of 4 labelled frames read; 1 problem" in capsys.readouterr().out


def test_what_is_validated_on_is_checked_too(tiny_run, tiny_cityscapes, capsys):
    arguments = tiny_run("frame_by_frame", "train.validation={split: val, every: 1}")
    stages = load_stages(arguments[1], arguments[2:])
    assert check_data(stages, workers=0) == 0
    for path in (tiny_cityscapes / "leftImg8bit_sequence" / "val").rglob("*.png"):
        damage(path)
    assert check_data(stages, workers=0) == 2
    assert "val/" in capsys.readouterr().out


def test_stills_with_simulated_motion_need_no_frames_before_them(tiny_camvid):
    data = DataConfig(name="camvid", root=tiny_camvid, clip_length=4, motion={})
    assert check_data([_config(data)], workers=0) == 0


def _config(data):
    from types import SimpleNamespace

    train = SimpleNamespace(validation=None, loss=SimpleNamespace(name="cross_entropy"))
    return SimpleNamespace(data=data, motion=data.motion, train=train)


def test_no_data_at_all_are_refused_as_ever(tmp_path):
    with pytest.raises(FileNotFoundError, match="no Cityscapes train split"):
        checked(cityscapes(tmp_path))
