"""The map between Cityscapes' and CamVid's classes: whole, one for both directions, and consistent with its sources."""

import json

import numpy as np
import pytest

from accel.datasets import camvid, cityscapes
from accel.datasets.camvid_original import CLASSES
from accel.datasets.class_maps import CITYSCAPES_TO_CAMVID, find_class_map

CITYSCAPES, CAMVID = cityscapes.CLASS_NAMES, camvid.CLASS_NAMES


def named(table, classes, targets):
    return {name: "ignored" if t == 255 else targets[t] for name, t in zip(classes, table.tolist(), strict=False)}


def test_every_class_of_cityscapes_has_a_row_with_a_reason_and_every_class_of_camvid_is_reached():
    assert tuple(row.name for row in CITYSCAPES_TO_CAMVID) == CITYSCAPES
    assert {row.counterpart for row in CITYSCAPES_TO_CAMVID} == {*CAMVID, None}
    assert all(row.predicted in CAMVID and len(row.why) > 2 for row in CITYSCAPES_TO_CAMVID)
    assert all(row.predicted == row.counterpart for row in CITYSCAPES_TO_CAMVID if row.counterpart)


def test_the_rows_follow_the_groups_that_camvids_own_32_classes_form():
    group = {name: target for name, _, target in CLASSES}
    for row in CITYSCAPES_TO_CAMVID:
        for word in row.why.replace(";", " ").replace(",", " ").replace("(", " ").replace(")", " ").split():
            if word in group and word not in ("Misc_Text",):  # lettering is of CamVid's sign, not of Cityscapes'
                assert group[word] == row.counterpart, (row.name, word)


def test_what_a_cityscapes_model_predicts_counts_as_a_class_of_camvid():
    found = find_class_map(CITYSCAPES, CAMVID)
    assert found.class_names == CAMVID and found.ignored == ()
    assert np.array_equal(found.palette, camvid.PALETTE)
    predictions = named(found.predictions, CITYSCAPES, CAMVID)
    expected = {
        "road": "road", "sidewalk": "sidewalk", "building": "building", "wall": "building", "fence": "fence",
        "pole": "pole", "traffic light": "sign", "traffic sign": "sign", "vegetation": "tree", "terrain": "tree",
        "sky": "sky", "person": "pedestrian", "rider": "bicyclist", "car": "car", "truck": "car", "bus": "car",
        "train": "car", "motorcycle": "bicyclist", "bicycle": "bicyclist",
    }  # fmt: skip
    assert predictions == expected
    assert found.truth[:11].tolist() == list(range(11)) and (found.truth[11:] == 255).all()
    assert found.predictions.dtype == found.truth.dtype == np.uint8 and len(found.predictions) == 256
    assert (found.predictions[:19] < 11).all() and (found.predictions[19:] == 255).all()


def test_a_camvid_model_is_scored_on_cityscapes_in_its_own_classes():
    found, other = find_class_map(CAMVID, CITYSCAPES), find_class_map(CITYSCAPES, CAMVID)
    assert found.class_names == CAMVID and found.ignored == ("train",)
    assert found.predictions[:11].tolist() == list(range(11))
    assert named(found.truth, CITYSCAPES, CAMVID) == named(other.predictions, CITYSCAPES, CAMVID) | {"train": "ignored"}
    assert (found.truth[19:] == 255).all()


@pytest.mark.parametrize(
    ("known", "found"), [(CAMVID, CITYSCAPES[::-1]), (("a", "b"), CAMVID), (CITYSCAPES, ("a",)), (("a",), ("a",))]
)
def test_other_pairs_have_no_map(known, found):
    assert find_class_map(known, found) is None


def test_cityscapes_on_both_sides_is_mapped_as_on_each():
    both = find_class_map(CITYSCAPES, CITYSCAPES)
    assert np.array_equal(both.predictions, find_class_map(CITYSCAPES, CAMVID).predictions)
    assert np.array_equal(both.truth, find_class_map(CAMVID, CITYSCAPES).truth)
    assert both.class_names == CAMVID and both.ignored == ("train",)


def test_a_map_describes_itself():
    found = find_class_map(list(CAMVID), list(CITYSCAPES))
    assert found.describe() == (
        "classes mapped: the model knows 11, the data have 19, scored in 11 (sky, building, pole, road, sidewalk, "
        "tree, sign, fence, car, pedestrian, bicyclist); not scored: train"
    )
    assert "not scored" not in find_class_map(CITYSCAPES, CAMVID).describe()
    values = json.loads(json.dumps(found.as_dict()))
    assert values["truth"]["train"] is None and values["truth"]["wall"] == "building"
    assert values["predictions"] == {name: name for name in CAMVID} and list(values["truth"]) == list(CITYSCAPES)
