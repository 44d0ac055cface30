"""What notebooks, file managers and archives leave among the files of a data set is no part of it."""

import shutil

import pytest

from accel.config import DataConfig
from accel.datasets import build_dataset
from accel.datasets.camvid_original import CamVidOriginal
from accel.datasets.checking import check_split
from accel.evaluation.cityscapes.official import official_scores
from accel.video.folder import VideoFolder

HIDDEN = (".ipynb_checkpoints", "__MACOSX", "@eaDir", ".Trash-1000", "lost+found")


def litter(root):
    """Put hidden folders, empty and with copies, and macOS' second files into all folders below `root`."""
    for folder in [root, *(path for path in root.rglob("*") if path.is_dir())]:
        files = [path for path in folder.iterdir() if path.is_file()]
        for name in HIDDEN:
            (folder / name).mkdir()
        for path in files:
            shutil.copy(path, folder / HIDDEN[0] / f"{path.stem}-checkpoint{path.suffix}")
            shutil.copy(path, folder / HIDDEN[1] / path.name)
            (folder / f"._{path.name}").write_bytes(b"\0\5\26\7")


def described(data, split):
    dataset = build_dataset(data, split)
    places = [(dataset.name(i), dataset.place(i), dataset.history(i)) for i in range(len(dataset))]
    return places, check_split(data, split, (1, 2), workers=0, quiet=True, use=None).summary()


def test_data_sets_are_the_same_with_hidden_files_among_them(tiny_folder, tiny_cityscapes, tiny_camvid):
    for name, root, split in (
        ("folder", tiny_folder, "train"),
        ("cityscapes", tiny_cityscapes, "train"),
        ("camvid", tiny_camvid, "val"),
    ):
        data = DataConfig(name=name, root=root)
        before = described(data, split)
        litter(root)
        assert described(data, split) == before and "problem" not in before[1]


@pytest.mark.parametrize("listed", [True, False])
def test_camvid_without_a_list(tiny_camvid, listed):
    labels = tiny_camvid / "val_labels"
    (tiny_camvid / "valannot").rename(labels)
    for path in list(labels.iterdir()):
        path.rename(labels / f"{path.stem}_L.png")
    if not listed:
        (tiny_camvid / "val.txt").unlink()
    before = [CamVidOriginal(tiny_camvid, "val").name(i) for i in range(6)]
    litter(tiny_camvid)
    after = CamVidOriginal(tiny_camvid, "val")
    assert [after.name(i) for i in range(len(after))] == before


def test_videos_are_the_same_with_hidden_files_among_them(tiny_folder):
    images = tiny_folder / "train/images"
    (images / "a.png").unlink()
    before = VideoFolder(images).videos(), VideoFolder(images / "drive").open("drive").len_hint
    litter(images)
    assert (VideoFolder(images).videos(), VideoFolder(images / "drive").open("drive").len_hint) == before
    assert before == (["drive"], 5)


def test_hidden_predictions_are_not_scored(tiny_cityscapes, tmp_path):
    truths = sorted((tiny_cityscapes / "gtFine/val").rglob("*_labelIds.png"))
    (tmp_path / "predicted").mkdir()
    for path in truths:
        shutil.copy(path, tmp_path / "predicted" / path.name.replace("_gtFine_labelIds", ""))
    before = official_scores(tmp_path / "predicted", truths)
    litter(tmp_path / "predicted")
    assert official_scores(tmp_path / "predicted", truths) == before
