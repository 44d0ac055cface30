"""Links to files that are not there are missing files: named, counted, and never taken for none."""

import shutil

import pytest

from accel.config import DataConfig
from accel.datasets import build_dataset
from accel.datasets.checking import check_split
from accel.video.reader import FolderReader


def unhinge(path):
    """Make a link of a file or folder, and take away what it leads to."""
    target = path.with_name(f"gone-{path.name}")
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    path.symlink_to(target)
    return f"{path}: a link to {target}, which is not there"


def problems(name, root, split, *lengths):
    return check_split(DataConfig(name=name, root=root), split, lengths or (1,), workers=0, quiet=True).problems


def first(folder, pattern):
    return sorted(folder.rglob(pattern))[0]


@pytest.mark.parametrize("what", ["images/a.png", "labels/a.png", "labels/drive/ulm_000000_000098.png", "labels/drive"])
def test_in_a_folder_of_ones_own(tiny_folder, what):
    path = tiny_folder / "train" / what
    if "0098" in what:
        path = first(path.parent, "*.png")
    line = unhinge(path)
    found = problems("folder", tiny_folder, "train", 1, 2)
    assert [each for each in found if each.startswith(f"{path}:")] == [line]
    with pytest.raises(FileNotFoundError) as error:  # before any training
        build_dataset(DataConfig(name="folder", root=tiny_folder), "train")
    assert str(error.value) == line


def test_a_frame_between_labelled_ones(tiny_folder):
    frames = sorted((tiny_folder / "train/images/drive").iterdir())
    line = unhinge(frames[2])
    assert line in problems("folder", tiny_folder, "train", 3)
    told = []
    with FolderReader(frames[0].parent, on_damage=told.append) as reader:
        assert len(list(reader)) == 4 and told == [line] and reader.len_hint == 5


def test_images_without_labels(tiny_folder):
    """Nothing reads them: training may go on without them."""
    frames = sorted((tiny_folder / "train/images/drive").iterdir())
    shutil.copy(frames[0], tiny_folder / "train/images/b.png")
    lines = [unhinge(tiny_folder / "train/images/b.png"), unhinge(frames[-1])]
    assert problems("folder", tiny_folder, "train")[:2] == lines
    assert len(build_dataset(DataConfig(name="folder", root=tiny_folder), "train")) == 2


def test_a_folder_of_frames(tiny_folder):
    line = unhinge(tiny_folder / "train/images/drive")
    with pytest.raises(FileNotFoundError) as error:
        build_dataset(DataConfig(name="folder", root=tiny_folder), "train")
    assert "no folder" in str(error.value) and str(tiny_folder / "train/images/drive") in line


def test_in_cityscapes(tiny_cityscapes):
    images, truth = (tiny_cityscapes / kind / "train" for kind in ("leftImg8bit_sequence", "gtFine"))
    lines = [
        unhinge(first(truth / "aachen", "*_labelIds.png")),
        unhinge(first(images / "aachen", "aachen_000001_000002*.png")),
        unhinge(truth / "ulm"),
    ]
    found = problems("cityscapes", tiny_cityscapes, "train", 3)
    assert sorted(each for each in found if "a link to" in each) == sorted(lines)


def test_in_camvid(tiny_camvid):
    lines = [unhinge(first(tiny_camvid / "trainannot", "*.png")), unhinge(sorted((tiny_camvid / "train").iterdir())[1])]
    found = problems("camvid", tiny_camvid, "train")
    assert found[0] == f"{lines[1]}, but the train split lists it" and lines[0] in found


def test_in_the_place_of_a_list(tiny_camvid):
    line = unhinge(tiny_camvid / "train.txt")
    with pytest.raises(FileNotFoundError) as error:
        build_dataset(DataConfig(name="camvid", root=tiny_camvid), "train")
    assert str(error.value) == line
