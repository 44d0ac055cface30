import cv2
import numpy as np
import pytest

from accel.config import DataConfig
from accel.datasets import build_dataset
from accel.datasets.camvid import CamVid

PARTS = ("train", "train/fit", "train/held")


def test_val_is_one_video_and_train_and_test_are_stills(tiny_camvid):
    val = CamVid(tiny_camvid, "val")
    assert [val.history(i) for i in range(len(val))] == [0, 1, 2, 3, 4, 5]
    for split in ("train", "test"):
        stills = CamVid(tiny_camvid, split)
        assert [stills.history(i) for i in range(len(stills))] == [0, 0, 0]


def test_a_clip_is_the_frames_up_to_the_labelled_one(tiny_camvid):
    clip = CamVid(tiny_camvid, "val").clip(4, 3)
    assert clip.name == "0016E5_07967"
    assert clip.frames.shape == (3, 36, 48, 3) and clip.frames.dtype == np.uint8
    assert clip.frames[:, 0, 0, 0].tolist() == [2, 3, 4]
    assert clip.flow is None


def test_unlabelled_pixels_are_ignored_and_the_rest_is_kept(tiny_camvid):
    labels = CamVid(tiny_camvid, "test").clip(1, 1).labels
    stored = cv2.imread(str(tiny_camvid / "testannot/Seq05VD_f00030.png"), cv2.IMREAD_UNCHANGED)
    assert np.array_equal(labels, np.where(stored == 11, 255, stored))


def test_a_value_that_is_no_class_is_refused(tiny_camvid):
    path = tiny_camvid / "trainannot/0006R0_f00930.png"
    labels = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    labels[3, 5] = 255
    cv2.imwrite(str(path), labels)
    CamVid(tiny_camvid, "train").clip(0, 1)
    labels[3, 5] = 12
    cv2.imwrite(str(path), labels)
    with pytest.raises(ValueError, match=r"0006R0_f00930\.png: label value 12 on 1 pixels"):
        CamVid(tiny_camvid, "train").clip(0, 1)


def test_clips_of_stills_are_refused_with_the_reason(tiny_camvid):
    with pytest.raises(ValueError, match=r"0006R0_f00960\.png.*a clip of 5 needs 4.*stills a second apart"):
        CamVid(tiny_camvid, "train").clip(1, 5)
    with pytest.raises(ValueError, match=r"0016E5_07963\.png.*2 frames come directly before"):
        CamVid(tiny_camvid, "val").clip(2, 4)


def test_a_gap_begins_a_new_video(tiny_camvid):
    (tiny_camvid / "val.txt").unlink()
    for folder in ("val", "valannot"):
        (tiny_camvid / folder / "0016E5_07963.png").unlink()
    val = CamVid(tiny_camvid, "val")
    assert [val.history(i) for i in range(len(val))] == [0, 1, 0, 1, 2]


def test_labelled_frames_have_their_place_in_their_video(tiny_camvid):
    assert [CamVid(tiny_camvid, "val").place(i) for i in range(6)] == [("0016E5_07959", n) for n in range(6)]
    stills = CamVid(tiny_camvid, "train")
    assert [stills.place(i) for i in range(3)] == [(stills.name(i), 0) for i in range(3)]
    (tiny_camvid / "val.txt").write_text("0016E5_07961\n0016E5_07969\n")
    (tiny_camvid / "val" / "0016E5_07965.png").unlink()
    val = CamVid(tiny_camvid, "val")
    assert [val.place(i) for i in range(2)] == [("0016E5_07959", 1), ("0016E5_07967", 1)]


def test_frames_without_labels_belong_to_the_video(tiny_camvid):
    (tiny_camvid / "val.txt").write_text("0016E5_07969\n")
    val = CamVid(tiny_camvid, "val")
    assert len(val) == 1 and val.history(0) == 5
    assert val.clip(0, 6).frames[:, 0, 0, 0].tolist() == [0, 1, 2, 3, 4, 5]


def test_segnets_own_lists_are_understood(tiny_camvid):
    names = (tiny_camvid / "val.txt").read_text().split()
    lines = [f"/SegNet/CamVid/val/{n}.png /SegNet/CamVid/valannot/{n}.png" for n in names]
    (tiny_camvid / "val.txt").write_text("\r\n".join(lines) + "\n\n")
    val = CamVid(tiny_camvid, "val")
    assert [val.name(i) for i in range(len(val))] == names


def test_the_list_gives_the_order_and_its_absence_the_order_of_names(tiny_camvid):
    (tiny_camvid / "train.txt").write_text("0006R0_f00990\n0006R0_f00930\n")
    assert [CamVid(tiny_camvid, "train").name(i) for i in range(2)] == ["0006R0_f00990", "0006R0_f00930"]
    (tiny_camvid / "train.txt").unlink()
    assert CamVid(tiny_camvid, "train").name(0) == "0006R0_f00930"


def test_what_is_missing_is_named(tiny_camvid, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no CamVid val split at .*nowhere: expected val/NAME\.png"):
        CamVid(tmp_path / "nowhere", "val")
    (tiny_camvid / "train.txt").write_text("0006R0_f00931\n")
    with pytest.raises(FileNotFoundError, match=r"0006R0_f00931\.png.*train split lists it"):
        CamVid(tiny_camvid, "train")
    (tiny_camvid / "train.txt").write_text("\n")
    with pytest.raises(ValueError, match=r"train\.txt: lists no frame"):
        CamVid(tiny_camvid, "train")
    (tiny_camvid / "train.txt").write_text("0006R0_f00930\n0006R0_f00930\n")
    with pytest.raises(ValueError, match=r"train\.txt: lists 0006R0_f00930 more than once"):
        CamVid(tiny_camvid, "train")
    val = CamVid(tiny_camvid, "val")
    (tiny_camvid / "valannot/0016E5_07959.png").unlink()
    with pytest.raises(FileNotFoundError, match=r"valannot/0016E5_07959\.png"):
        val.clip(0, 1)


def test_labels_of_another_size_are_an_error(tiny_camvid):
    cv2.imwrite(str(tiny_camvid / "valannot/0016E5_07959.png"), np.zeros((36, 40), np.uint8))
    with pytest.raises(ValueError, match=r"val/0016E5_07959\.png and .*valannot.* 48 x 36 and 40 x 36"):
        CamVid(tiny_camvid, "val").clip(0, 1)


@pytest.mark.parametrize(("split", "frames"), [("train", 367), ("val", 101), ("test", 233)])
def test_the_real_camvid_has_the_published_splits(camvid_root, split, frames):
    camvid = CamVid(camvid_root, split)
    assert len(camvid) == frames
    assert camvid.num_classes == 11 == len(camvid.palette)
    histories = [camvid.history(i) for i in range(frames)]
    assert histories == (list(range(101)) if split == "val" else [0] * frames)
    labels = camvid.clip(frames // 2, 1).labels
    assert labels.shape == (360, 480)
    assert set(np.unique(labels)) <= {*range(11), 255}


def test_the_real_val_video_moves_little_from_frame_to_frame(camvid_root):
    frames = CamVid(camvid_root, "val").clip(60, 5).frames.astype(float)
    neighbours = np.abs(frames[1:] - frames[:-1]).mean()
    assert neighbours < np.abs(frames[4] - frames[0]).mean()


def test_the_end_of_every_recording_is_held_out(tmp_path):
    names = [f"0001TP_{n:06d}" for n in range(0, 36 * 30, 30)] + [f"0006R0_f{n:05d}" for n in range(0, 24 * 30, 30)]
    for folder in ("train", "trainannot"):
        (tmp_path / folder).mkdir()
        for name in names:
            (tmp_path / folder / f"{name}.png").touch()
    (tmp_path / "train.txt").write_text("\n".join(reversed(names)))
    whole, fit, held = ({s.name(i) for i in range(len(s))} for s in (CamVid(tmp_path, p) for p in PARTS))
    assert held == {*names[33:36], *names[-2:]}
    assert fit | held == whole and not fit & held


def test_parts_of_a_split_are_called_by_their_names(tiny_camvid):
    with pytest.raises(ValueError, match=r"split 'train/half': the parts of a split are fit and held"):
        CamVid(tiny_camvid, "train/half")


def test_parts_of_the_original_form(tmp_path):
    root = tmp_path / "camvid"
    names = [f"0006R0_f{n:05d}" for n in range(0, 360, 30)]
    for folder in ("701_StillsRaw_full", "LabeledApproved_full"):
        (root / folder).mkdir(parents=True)
    for name in names:
        (root / "701_StillsRaw_full" / f"{name}.png").touch()
        (root / "LabeledApproved_full" / f"{name}_L.png").touch()
    (root / "train.txt").write_text("\n".join(names))
    config = DataConfig(name="camvid", root=root)
    held = build_dataset(config, "train/held")
    assert [held.name(i) for i in range(len(held))] == names[-1:]
    assert len(build_dataset(config, "train/fit")) == 11
