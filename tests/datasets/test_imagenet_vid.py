"""ImageNet VID and DET as Deep Feature Flow's release reads them, on a tiny one in the same layout."""

import cv2
import numpy as np
import pytest

from accel.config import DataConfig
from accel.datasets import build_dataset
from accel.datasets.imagenet_vid import CLASS_NAMES, ImageNetVid
from accel.datasets.sampling import TrainingClips

CAR, DOG, ELSEWHERE = "n02958343", "n02084071", "n99999999"
SIZE = (40, 60)
VIDEO = "train/ILSVRC2015_VID_train_0000/ILSVRC2015_train_00000000"


def annotation(*objects):
    boxes = "".join(
        f"<object><trackid>0</trackid><name>{name}</name><bndbox><xmax>{x2}</xmax><xmin>{x1}</xmin><ymax>{y2}</ymax>"
        f"<ymin>{y1}</ymin></bndbox><occluded>0</occluded><generated>1</generated></object>"
        for name, x1, y1, x2, y2 in objects
    )
    return f"<annotation><size><width>60</width><height>40</height></size>{boxes}</annotation>"


def write(root, kind, name, value, *objects):
    image, boxes = root / "Data" / kind / f"{name}.JPEG", root / "Annotations" / kind / f"{name}.xml"
    for path in (image, boxes):
        path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(image), np.full((*SIZE, 3), value, np.uint8))
    boxes.write_text(annotation(*objects))


@pytest.fixture
def root(tmp_path):
    """A video of 12 frames of which 3 and 11 are to be trained on, two pictures, and a video of 3 frames to score."""
    (tmp_path / "ImageSets").mkdir()
    for number in range(12):
        write(tmp_path, "VID", f"{VIDEO}/{number:06d}", 10 * number, (CAR, number, 2, number + 9, 21))
    (tmp_path / "ImageSets/VID_train_15frames.txt").write_text(f"{VIDEO} 1 3 12\n{VIDEO} 1 11 12\n")
    write(tmp_path, "DET", "train/n1/a", 200, (DOG, -3, 5, 70, 39.5), (ELSEWHERE, 0, 0, 9, 9), (CAR, 30, 9, 20, 20))
    write(tmp_path, "DET", "train/n1/b", 220)
    (tmp_path / "ImageSets/DET_train_30classes.txt").write_text("train/n1/a 1\ntrain/n1/b 2\n")
    for number in range(3):
        write(tmp_path, "VID", f"val/ILSVRC2015_val_00000000/{number:06d}", number, (DOG, 1, 1, 5, 5))
    (tmp_path / "ImageSets/VID_val_videos.txt").write_text("val/ILSVRC2015_val_00000000 1 0 3\n")
    (tmp_path / "ImageSets/VID_val_frames.txt").write_text(
        "".join(f"val/ILSVRC2015_val_00000000/{number:06d} {number + 1}\n" for number in range(3))
    )
    return tmp_path


def test_frames_and_pictures_are_read(root):
    dataset = ImageNetVid(root, "DET_train_30classes+VID_train_15frames")
    assert [dataset.history(i) for i in range(len(dataset))] == [0, 0, 3, 11]
    assert dataset.name(3) == f"{VIDEO}/000011" and dataset.place(3) == (f"VID/{VIDEO}", 11)
    clip = dataset.clip(3, 4)
    assert clip.frames[:, 0, 0, 0].tolist() == pytest.approx([80, 90, 100, 110], abs=2)
    assert clip.boxes.tolist() == [[11, 2, 20, 21, CLASS_NAMES.index("car")]]
    assert clip.labels is None and clip.boxes.dtype == np.float32
    picture = dataset.clip(0, 1)  # boxes are clipped; objects of other classes and boxes without an inside are left out
    assert picture.boxes.tolist() == [[0, 5, 59, 39, CLASS_NAMES.index("dog")]]
    assert dataset.clip(1, 1).boxes.shape == (0, 5)
    with pytest.raises(ValueError, match="000003.JPEG: 3 frames come before it, a clip of 5 needs more"):
        dataset.clip(2, 5)


def test_whole_videos_are_scored_by_either_list(root):
    videos, frames = (ImageNetVid(root, f"VID_val_{each}") for each in ("videos", "frames"))
    places = [[dataset.place(i) for i in range(len(dataset))] for dataset in (videos, frames)]
    assert places[0] == places[1] == [("VID/val/ILSVRC2015_val_00000000", number) for number in range(3)]


def test_training_takes_shorter_clips_where_there_is_no_more(root):
    config = DataConfig(name="imagenet_vid", root=root)
    dataset = build_dataset(config, "DET_train_30classes+VID_train_15frames")
    clips = TrainingClips(dataset, length=10)
    assert len(clips) == 4
    assert sorted(len(clips[number].frames) for number in range(4)) == [1, 1, 4, 10]


def test_what_is_not_as_it_should_be_is_told(root):
    with pytest.raises(FileNotFoundError, match=r"VID_nothing\.txt.*expected the lists of Deep Feature Flow's release"):
        ImageNetVid(root, "VID_nothing")
    for line in ("a b c", "../../x 1", "a 1 2"):
        (root / "ImageSets/VID_odd.txt").write_text(f"\n{line}\n")
        with pytest.raises(ValueError, match=r"VID_odd\.txt, line 2: expected NAME ID"):
            ImageNetVid(root, "VID_odd")
    (root / "ImageSets/VID_empty.txt").write_text("\n")
    with pytest.raises(ValueError, match="no frame in VID_empty"):
        ImageNetVid(root, "VID_empty")
    (root / "ImageSets/other.txt").write_text("a 1\n")
    with pytest.raises(ValueError, match="begins with VID_ or DET_"):
        ImageNetVid(root, "other")


def test_damaged_and_missing_files_are_named(root):
    dataset = ImageNetVid(root, "VID_val_videos")
    boxes = root / "Annotations/VID/val/ILSVRC2015_val_00000000"
    (boxes / "000000.xml").write_text("<annotation><object>")
    (boxes / "000001.xml").write_text(f"<annotation><object><name>{DOG}</name></object></annotation>")
    (boxes / "000002.xml").unlink()
    for index, error in ((0, ValueError), (1, ValueError), (2, FileNotFoundError)):
        with pytest.raises(error, match=rf"00000{index}\.xml"):
            dataset.clip(index, 1)
    image = root / "Data/VID/val/ILSVRC2015_val_00000000/000001.JPEG"
    image.unlink()
    missing = []
    left = ImageNetVid(root, "VID_val_videos", missing.append)
    assert len(left) == 2 and len(missing) == 1 and str(image) in missing[0]


def test_clips_can_come_from_after_the_labelled_frame(root):
    """Played backwards, so that the labelled one is the last."""
    dataset = ImageNetVid(root, "DET_train_30classes+VID_train_15frames")
    assert [dataset.following(i) for i in range(len(dataset))] == [0, 0, 8, 0]
    clip = dataset.backward_clip(2, 4)
    assert clip.frames[:, 0, 0, 0].tolist() == pytest.approx([60, 50, 40, 30], abs=2)
    assert clip.boxes[0].tolist() == [3, 2, 12, 21, CLASS_NAMES.index("car")] and clip.name == f"{VIDEO}/000003"
    with pytest.raises(ValueError, match=r"000011\.JPEG: 0 frames come after it, a clip of 2 needs more"):
        dataset.backward_clip(3, 2)


def test_training_takes_either_side_as_often_as_it_has_frames(root):
    dataset = ImageNetVid(root, "VID_train_15frames")
    clips = TrainingClips(dataset, 10, around=True)
    values = [clips[n].frames[:, 0, 0, 0].tolist() for n in range(60)]
    assert {(len(v), round(v[0] / 10), round(v[-1] / 10)) for v in values} == {(4, 0, 3), (9, 11, 3), (10, 2, 11)}
    after = sum(v[0] > v[-1] for v in values)
    assert after / 30 == pytest.approx(8 / 11, abs=0.2)  # of the 30 of frame 3
    assert values == [clips[n].frames[:, 0, 0, 0].tolist() for n in range(60)]
    with pytest.raises(ValueError, match="key_frames around: frames after labelled ones are not known"):
        TrainingClips(ImageNetVid(root, "DET_train_30classes"), 10, around=True)
