"""Generated scenes with boxes: what is written is what the label maps show, in the layout of ImageNet VID."""

from xml.etree import ElementTree

import cv2
import numpy as np
import pytest
from cityscapesscripts.helpers.labels import name2label

from accel.config import DataConfig
from accel.datasets import build_dataset
from accel.datasets.imagenet_vid import ImageNetVid
from accel.datasets.streetscape import StreetScene, generate_streetscape, generate_streetscape_vid
from accel.datasets.streetscape.boxes import CLASS_NAMES, visible_boxes
from accel.datasets.streetscape.scene import Rendering
from accel.datasets.streetscape.vid_files import scene_files
from accel.datasets.streetscape_vid import StreetscapeVid

SIZE = (64, 128)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return generate_streetscape_vid(tmp_path_factory.mktemp("vid"), {"train": 1, "val": 1}, SIZE, seed=3, workers=0)


def rendering_of(instances):
    return Rendering(np.zeros((*instances.shape, 3), np.uint8), (instances // 1000).astype(np.uint8), instances)


def test_boxes_are_the_extents_of_the_instances():
    scene, seen = StreetScene(3, "train", 0, (160, 320)), 0
    for frame in (0, 17):
        rendering = scene.render(frame)
        told = {each.track: each for each in visible_boxes(rendering)}
        for number in np.unique(rendering.instance_ids):
            points = cv2.findNonZero((rendering.instance_ids == number).astype(np.uint8))
            x, y, width, height = cv2.boundingRect(points)
            names = [name for name in CLASS_NAMES if number >= 1000 and name2label[name].id == number // 1000]
            if names and min(width, height) >= 8 and len(points) >= width * height / 4:
                each = told.pop(int(number))
                assert each.box == (x, y, x + width - 1, y + height - 1) and [each.name] == names
                seen += 1
        assert not told
    assert seen > 5


def test_tiny_and_hidden_objects_are_left_out():
    car, person = name2label["car"].id * 1000, name2label["person"].id * 1000
    instances = np.full((100, 200), 7, np.int32)
    instances[10:20, 20:40] = car + 1
    instances[10:20, 60:64] = person + 2  # 4 pixels wide, where 5 are the least
    instances[40:60:9, 100:120] = car + 3  # three rows of twenty are seen
    instances[70:90, 100:110] = name2label["building"].id
    assert [tuple(each) for each in visible_boxes(rendering_of(instances))] == [(car + 1, "car", (20, 10, 39, 19))]
    instances[15, 39] = 7  # a corner that something hides: its row has others
    instances[10:20, 30:40] = 7
    assert visible_boxes(rendering_of(instances))[0].box == (20, 10, 29, 19)


def test_they_are_read_as_imagenet_vid_is(root):
    whole = StreetscapeVid(root, "VID_val_videos")
    assert len(whole) == 30 and [whole.history(index) for index in range(30)] == list(range(30))
    chosen = StreetscapeVid(root, "VID_train_15frames")
    assert len(chosen) == 15 and chosen.history(0) == 1 and not chosen.may_be_short
    (root / "ImageSets/VID_train_more.txt").write_text(
        "train/streetscape_train_000000 1 0 30\ntrain/streetscape_train_000001 1 0 30\n"
    )
    assert [len(StreetscapeVid(root, "VID_train_more", limit=limit)) for limit in (1, 2)] == [1, 2]
    assert len(StreetscapeVid(root, "VID_val_frames")) == 30
    scene = StreetScene(3, "val", 0, SIZE)
    found = 0
    for frame in (4, 29):
        clip, rendering = whole.clip(frame, 3), scene.render(frame)
        assert clip.frames.shape == (3, *SIZE, 3)
        assert np.abs(clip.frames[-1].astype(int) - rendering.image).mean() < 5  # JPEG, of noise
        expected = [[*each.box, CLASS_NAMES.index(each.name)] for each in visible_boxes(rendering)]
        assert clip.boxes.tolist() == expected
        found += len(expected)
    assert found > 0


def test_an_object_keeps_its_track(root):
    scene = StreetScene(3, "train", 0, SIZE)
    tracks = set()
    for path in list(scene_files(root, "train", 0))[30:]:
        things = ElementTree.parse(path).getroot().findall("object")
        told = {int(thing.findtext("trackid")): thing.findtext("name") for thing in things}
        instances = scene.render(int(path.stem)).instance_ids
        assert all((instances == track).any() for track in told) and len(told) == len(things)
        tracks.update(told.items())
    assert len(tracks) == len(dict(tracks)), "a track has one class"


def test_other_readers_of_vid_find_their_way(root):
    """Names are plain, not synsets: as a data set of ImageNet's classes, there is no box."""
    assert ImageNetVid(root, "VID_val_videos").clip(29, 1).boxes.shape == (0, 5)


def test_only_what_is_missing_is_written(root):
    times = {path: path.stat().st_mtime_ns for path in root.rglob("*") if path.is_file()}
    generate_streetscape_vid(root, {"train": 1, "val": 1}, SIZE, seed=3, workers=0)
    assert times == {path: path.stat().st_mtime_ns for path in root.rglob("*") if path.is_file()}
    lost = list(scene_files(root, "train", 0))[45]
    content = lost.read_bytes()
    lost.unlink()
    told = []
    generate_streetscape_vid(root, {"train": 1}, SIZE, seed=3, workers=0, progress=lambda *done: told.append(done))
    assert lost.read_bytes() == content and told == [(1, 1)]


def test_configurations_name_their_lists(root):
    config = DataConfig(name="streetscape_vid", root=root, snippets={"train": 1, "val": 1}, size=SIZE)
    with pytest.raises(ValueError, match="seed 3, expected 0"):
        build_dataset(config, "VID_train_15frames")
    (root / "streetscape.json").write_text((root / "streetscape.json").read_text().replace('"seed": 3', '"seed": 0'))
    assert len(build_dataset(config, "VID_train_15frames")) == 15
    for split in ("train", "VID_test_videos", "VID_train_15frames+VID_val_videos"):
        with pytest.raises(ValueError, match="such as VID_train_15frames, VID_train_videos, VID_val_15frames"):
            build_dataset(config, split)


def test_layouts_are_not_mixed(root, tmp_path):
    with pytest.raises(ValueError, match="found generator 'accel streetscape_vid', expected 'accel streetscape'"):
        generate_streetscape(root, {"train": 1}, SIZE, seed=3, workers=0)
    (tmp_path / "Data").mkdir()
    with pytest.raises(ValueError, match="Data: found a data set that is not Streetscape"):
        generate_streetscape_vid(tmp_path, {"train": 1}, SIZE)
