import shutil
import time
from pathlib import Path

import cv2
import numpy as np
import pytest
from cityscapesscripts.helpers.labels import id2label, trainId2label

from accel.datasets.cityscapes import Cityscapes, Streetscape


@pytest.fixture
def cityscapes(tiny_cityscapes):
    return Cityscapes(tiny_cityscapes, "train")


def test_the_classes_are_those_of_cityscapesscripts(cityscapes):
    assert cityscapes.num_classes == 19
    for i, name in enumerate(cityscapes.class_names):
        assert name == trainId2label[i].name
        assert tuple(cityscapes.palette[i]) == trainId2label[i].color
    assert cityscapes.palette.shape == (19, 3) and cityscapes.palette.dtype == np.uint8


def test_labelled_frames_are_found_with_their_history(cityscapes):
    assert [cityscapes.name(i) for i in range(len(cityscapes))] == [
        "aachen_000000_000003",
        "aachen_000001_000003",
        "ulm_000000_000098",
        "ulm_000000_000203",
    ]
    assert [cityscapes.history(i) for i in range(4)] == [3, 3, 3, 3]


@pytest.mark.parametrize("length", [1, 2, 4])
def test_a_clip_is_the_frames_up_to_the_labelled_one(cityscapes, length):
    clip = cityscapes.clip(2, length)
    assert clip.name == "ulm_000000_000098"
    assert clip.frames.shape == (length, 64, 96, 3) and clip.frames.dtype == np.uint8
    assert clip.frames[:, 0, 0, 0].tolist() == list(range(99 - length, 99))
    assert clip.labels.shape == (64, 96) and clip.labels.dtype == np.uint8
    assert clip.flow is None


def test_train_ids_made_from_ids_are_those_of_the_official_table(cityscapes):
    made = cityscapes.clip(0, 1).labels
    ids = cv2.imread(str(cityscapes.label_id_path(0)), cv2.IMREAD_UNCHANGED)
    official = np.array([id2label[int(i)].trainId % 256 for i in ids.flat], np.uint8).reshape(ids.shape)
    assert np.array_equal(made, official)
    assert set(np.unique(official)) == {*range(19), 255}


def test_stored_train_ids_are_used_where_present(cityscapes):
    path = str(cityscapes.label_id_path(3)).replace("labelIds", "labelTrainIds")
    cv2.imwrite(path, np.full((64, 96), 7, np.uint8))
    assert (cityscapes.clip(3, 1).labels == 7).all()
    cv2.imwrite(path, np.full((64, 96), 19, np.uint8))
    with pytest.raises(ValueError, match=r"labelTrainIds\.png: label value 19 .* expected one of 0-18, 255"):
        cityscapes.clip(3, 1)


def test_labelled_frames_have_their_place_in_their_sequence(cityscapes):
    names = ["aachen_000000", "aachen_000001", "ulm_000000", "ulm_000000"]
    assert [cityscapes.place(i) for i in range(4)] == [*zip(names, (3, 3, 98, 203), strict=True)]


def test_the_history_ends_at_a_missing_frame(tiny_cityscapes, cityscapes):
    cityscapes.image_path(0, before=2).unlink()
    again = Cityscapes(tiny_cityscapes, "train")
    assert [again.history(i) for i in range(4)] == [1, 3, 3, 3]
    with pytest.raises(ValueError, match=r"aachen_000000_000003.* 1 frames .* clip of 3 needs 2"):
        again.clip(0, 3)
    with pytest.raises(FileNotFoundError, match="aachen_000000_000001"):
        cityscapes.clip(0, 4)  # listed while it was there


def test_the_history_reaches_through_labelled_frames_of_a_long_recording(tmp_path):
    images, annotations = tmp_path / "leftImg8bit_sequence/val/bonn", tmp_path / "gtFine/val/bonn"
    images.mkdir(parents=True)
    annotations.mkdir(parents=True)
    for frame in [*range(90, 151), *range(200, 211)]:
        (images / f"bonn_000000_{frame:06d}_leftImg8bit.png").touch()
        if frame % 10 == 0:
            (annotations / f"bonn_000000_{frame:06d}_gtFine_labelIds.png").touch()
    val = Cityscapes(tmp_path, "val")
    assert [val.history(i) for i in range(len(val))] == [0, 10, 20, 30, 40, 50, 60, 0, 10]


def test_without_the_sequences_clips_have_one_frame(tiny_cityscapes):
    whole = tiny_cityscapes / "leftImg8bit_sequence"
    for path in whole.glob("*/*/*.png"):
        if not path.name.split("_")[2].endswith(("3", "98")):
            path.unlink()
    whole.rename(tiny_cityscapes / "leftImg8bit")
    stills = Cityscapes(tiny_cityscapes, "val")
    assert [stills.history(i) for i in range(4)] == [0, 0, 0, 0]
    assert stills.clip(1, 1).frames.shape == (1, 64, 96, 3)
    with pytest.raises(ValueError, match="leftImg8bit_sequence/val, which is not there"):
        stills.clip(1, 2)


def test_a_missing_folder_is_answered_with_the_layout(tmp_path, tiny_cityscapes):
    with pytest.raises(FileNotFoundError, match=r"no Cityscapes train split at .*nowhere.* gtFine/train/CITY/"):
        Cityscapes(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match="no Cityscapes valid split"):
        Cityscapes(tiny_cityscapes, "valid")
    shutil.rmtree(tiny_cityscapes / "gtFine/val")
    (tiny_cityscapes / "gtFine/val").mkdir()
    with pytest.raises(FileNotFoundError, match="no Cityscapes val split"):
        Cityscapes(tiny_cityscapes, "val")


def test_labels_without_their_frame_are_an_error(tiny_cityscapes, cityscapes):
    cityscapes.image_path(1).unlink()
    with pytest.raises(FileNotFoundError, match="aachen_000001_000003_leftImg8bit"):
        Cityscapes(tiny_cityscapes, "train")


def test_labels_and_frames_of_another_size_are_an_error(cityscapes):
    cv2.imwrite(str(cityscapes.label_id_path(0)), np.zeros((32, 48), np.uint8))
    with pytest.raises(ValueError, match=r"_leftImg8bit\.png and .*labelIds\.png .* 96 x 64 and 48 x 32"):
        cityscapes.clip(0, 1)
    cv2.imwrite(str(cityscapes.image_path(1, before=1)), np.zeros((32, 48, 3), np.uint8))
    with pytest.raises(ValueError, match=r"000002_leftImg8bit\.png and .*48 x 32 and 96 x 64"):
        cityscapes.clip(1, 2)


def test_a_damaged_frame_is_named(cityscapes):
    path = cityscapes.image_path(0, before=1)
    path.write_bytes(path.read_bytes()[:500])
    assert cityscapes.clip(0, 1).frames.shape[0] == 1
    with pytest.raises(ValueError, match="aachen_000000_000002_leftImg8bit"):
        cityscapes.clip(0, 2)


def test_a_clip_has_at_least_one_frame(cityscapes):
    with pytest.raises(ValueError, match="at least one frame"):
        cityscapes.clip(0, 0)


def test_a_subclass_that_knows_the_flow_fills_it_in(tiny_cityscapes):
    class Moving(Cityscapes):
        def flow(self, image_path):
            return np.full((64, 96, 2), int(image_path.name.split("_")[2]), np.float32)

    moving = Moving(tiny_cityscapes, "train")
    clip = moving.clip(0, 4)
    assert clip.flow.shape == (3, 64, 96, 2) and clip.flow.dtype == np.float32
    assert clip.flow[:, 0, 0, 0].tolist() == [1, 2, 3]
    assert moving.clip(0, 1).flow is None


def test_streetscapes_flow_comes_from_its_scenes(tiny_cityscapes, monkeypatch):
    class Scene:
        def flow(self, frame):
            return np.full((64, 96, 2), frame, np.float32)

    def scene_of(root, path):
        assert root == tiny_cityscapes and path == "ulm_000000_000000_leftImg8bit.png"
        laid_out.append(path)
        return Scene(), 0

    laid_out = []
    monkeypatch.setattr("accel.datasets.streetscape.scene_of", scene_of, raising=False)
    assert Streetscape(tiny_cityscapes, "val").clip(3, 3).flow[:, 0, 0, 0].tolist() == [202, 203]
    assert len(laid_out) == 1  # once for the whole clip
    assert Streetscape(tiny_cityscapes, "val", with_flow=False).clip(3, 3).flow is None


def test_streetscape_may_be_limited_to_the_first_snippets(tiny_cityscapes):
    assert [Streetscape(tiny_cityscapes, limit=2).name(i) for i in range(2)] == [
        "aachen_000000_000003",
        "aachen_000001_000003",
    ]
    assert len(Streetscape(tiny_cityscapes, limit=2)) == 2
    with pytest.raises(ValueError, match="limit must be between 1 and the 4 labelled frames"):
        Streetscape(tiny_cityscapes, limit=5)


def test_a_split_as_large_as_the_real_one_is_listed_in_seconds(tmp_path):
    for city in range(3):  # 3 of 18 cities
        images, annotations = (
            tmp_path / f"leftImg8bit_sequence/train/c{city}",
            tmp_path / f"gtFine/train/c{city}",
        )
        images.mkdir(parents=True)
        annotations.mkdir(parents=True)
        for sequence in range(165):
            (annotations / f"c{city}_{sequence:06d}_000019_gtFine_labelIds.png").touch()
            for frame in range(30):
                (images / f"c{city}_{sequence:06d}_{frame:06d}_leftImg8bit.png").touch()
    start = time.process_time()
    train = Cityscapes(tmp_path, "train")
    assert time.process_time() - start < 1
    assert len(train) == 495 and all(train.history(i) == 19 for i in range(495))


@pytest.mark.parametrize("length", [1, 3])
def test_a_clip_reads_its_own_frames_and_no_others(tiny_cityscapes, monkeypatch, length):
    """Of a snippet's frames only those of the clip are decoded, whatever else lies there."""
    read, opened = Path.open, []

    def note(path, *arguments, **more):
        opened.append(path.name)
        return read(path, *arguments, **more)

    dataset = Cityscapes(tiny_cityscapes, "train")
    monkeypatch.setattr(Path, "open", note)
    dataset.clip(2, length)
    frames = [f"ulm_000000_{number:06d}_leftImg8bit.png" for number in range(99 - length, 99)]
    assert opened == ["ulm_000000_000098_gtFine_labelTrainIds.png", *frames]
