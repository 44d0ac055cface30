"""Boxes of the connected regions of CamVid's label maps."""

import numpy as np
import pytest

from accel.config import DataConfig, load_stages
from accel.datasets import build_dataset, data_root
from accel.datasets.camvid import CLASS_NAMES as CAMVID
from accel.datasets.camvid_boxes import region_boxes
from accel.datasets.checking import check_split
from accel.datasets.clips import collate
from accel.training.feeding import build_loader

CAR, PERSON, BICYCLIST, ROAD = (CAMVID.index(name) for name in ("car", "pedestrian", "bicyclist", "road"))
CLASSES = [CAR, PERSON, BICYCLIST]


def test_boxes_are_the_extents_of_connected_regions():
    labels = np.full((90, 120), ROAD, np.uint8)
    labels[10:20, 5:25] = CAR
    labels[19:40, 25:30] = CAR  # touches it at a corner
    labels[10:20, 50:60] = CAR
    labels[50:80, 100:104] = PERSON
    labels[50:80, 110] = PERSON  # a pixel wide, where two are the least
    labels[60, 100:104] = BICYCLIST  # a pixel high; the person's pixels above and below are two regions
    assert region_boxes(labels, CLASSES).tolist() == [
        [5, 10, 29, 39, 0],
        [50, 10, 59, 19, 0],
        [100, 50, 103, 59, 1],
        [100, 61, 103, 79, 1],
    ]
    assert region_boxes(np.full((90, 120), ROAD, np.uint8), CLASSES).shape == (0, 5)


def test_frames_are_those_of_camvid(tiny_camvid):
    config, stills = (DataConfig(name=name, root=tiny_camvid) for name in ("camvid_boxes", "camvid"))
    dataset, labelled = build_dataset(config, "val"), build_dataset(stills, "val")
    assert len(dataset) == len(labelled) and dataset.class_names == ("car", "pedestrian", "bicyclist")
    for index in range(len(dataset)):
        assert dataset.place(index) == labelled.place(index) and dataset.history(index) == labelled.history(index)
        clip, other = dataset.clip(index, 1), labelled.clip(index, 1)
        assert np.array_equal(clip.frames, other.frames) and np.array_equal(clip.labels, other.labels)
        assert np.array_equal(clip.boxes, region_boxes(other.labels, CLASSES)), "not of the boxes' own classes"
        assert np.array_equal(clip.boxes, dataset.truth(index, other.labels.shape)[0])
    assert dataset.only_labels(0) is None, "pixels of 11 classes are not to be counted as those of 3"
    assert collate([dataset.clip(0, 1)]).labels.shape[2] == 5, "boxes, not the label map, are trained on"
    assert data_root(DataConfig(name="camvid_boxes")).name == "camvid"
    found = check_split(config, "val", (1,), workers=0, quiet=True)
    assert not found.problems and found.files == 2 * len(dataset)


def test_simulated_motion_knows_the_label_maps(tiny_camvid, monkeypatch):
    """It takes ground, sky and what moves from them; by the boxes' names, a sky would be a car."""
    from accel.training import feeding

    made, motion = [], feeding.SimulatedMotion
    monkeypatch.setattr(feeding, "SimulatedMotion", lambda names, **rest: made.append(names) or motion(names, **rest))
    stage = load_stages("experiments/camvid_boxes/dff.yaml", [f"data.root={tiny_camvid}", "train.workers=0"])[0]
    build_loader(build_dataset(stage.data, "train/fit"), stage, 0)
    assert made == [CAMVID]
    clip = build_loader(build_dataset(stage.data, "train/fit"), stage, 0).dataset[0]
    assert len(clip.frames) == 6 and clip.boxes.shape[1] == 5


@pytest.mark.parametrize("name", ["camvid_boxes", "streetscape_vid"])
def test_recipes_train_three_seeds_of_each_model(name):
    stages = load_stages(f"experiments/{name}/all.yaml", [])
    outputs = [stage.output.as_posix() for stage in stages]
    assert len(set(outputs)) == len(outputs) == 3 * (3 if name == "camvid_boxes" else 4)
    for stage in stages:
        assert all(source in outputs[: outputs.index(stage.output.as_posix())] for source in stage.init.values())
        assert all(source.endswith(f"rfcn{f'_seed{stage.seed}' * bool(stage.seed)}") for source in stage.init.values())
