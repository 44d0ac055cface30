"""CamVid in its original form: colours to classes, folders and splits, against the 11-class form."""

import cv2
import numpy as np
import pytest
from PIL import Image

from accel.config import DataConfig
from accel.datasets import build_dataset
from accel.datasets.camvid import CLASS_NAMES, PALETTE, CamVid
from accel.datasets.camvid_original import CLASSES, CamVidOriginal, colour_table, segnet_split

COLOUR_OF = {name: colour for name, colour, _ in CLASSES}
SAMPLES = {  # one class of 32 for each of 11, not the one that gives it its name where there is another
    "sky": "Sky", "building": "Wall", "pole": "Column_Pole", "road": "LaneMkgsDriv", "sidewalk": "ParkingBlock",
    "tree": "VegetationMisc", "sign": "TrafficLight", "fence": "Fence", "car": "Truck_Bus",
    "pedestrian": "Pedestrian", "bicyclist": "MotorcycleScooter",
}  # fmt: skip


def write_colours(path, labels, classes=SAMPLES):
    """Index labels, 11 or 255 = unlabelled, as the colours of some of the 32 classes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    table = np.zeros((256, 3), np.uint8)  # Void is black
    for i, name in enumerate(CLASS_NAMES):
        table[i] = COLOUR_OF[classes[name]]
    cv2.imwrite(str(path), table[labels][..., ::-1])


def converted(camvid, root, images, annotations, splits=("train", "val", "test")):
    """The frames of a CamVid in index form, once more in folders of the original form."""
    for split in splits:
        for path in sorted((camvid / split).glob("*.png")):
            (root / images.format(split)).mkdir(parents=True, exist_ok=True)
            (root / images.format(split) / path.name).write_bytes(path.read_bytes())
            labels = cv2.imread(str(camvid / f"{split}annot" / path.name), cv2.IMREAD_UNCHANGED)
            write_colours(root / annotations.format(split) / f"{path.stem}_L.png", labels)
    return root


@pytest.fixture
def original(tiny_camvid, tmp_path):
    return converted(tiny_camvid, tmp_path / "original", "701_StillsRaw_full", "LabeledApproved_full")


@pytest.mark.parametrize(
    ("images", "annotations"),
    [
        ("701_StillsRaw_full", "LabeledApproved_full"),
        ("701_StillsRaw_full", "701_StillsRaw_full"),
        ("{}", "{}_labels"),
        ("{}", "{}"),
        (".", "."),
    ],
)
def test_every_layout_reads_as_the_same_frames_in_index_form(tiny_camvid, tmp_path, images, annotations):
    root = converted(tiny_camvid, tmp_path / "original", images, annotations)
    for split in ("train", "val", "test"):
        expected, found = CamVid(tiny_camvid, split), build_dataset(DataConfig(name="camvid", root=root), split)
        assert isinstance(found, CamVidOriginal)
        assert [found.name(i) for i in range(len(found))] == [expected.name(i) for i in range(len(expected))]
        for i in range(len(expected)):
            assert found.history(i) == expected.history(i)
            length = expected.history(i) + 1
            a, b = expected.clip(i, length), found.clip(i, length)
            assert np.array_equal(a.frames, b.frames) and np.array_equal(a.labels, b.labels)


def test_the_32_classes_fall_into_11_groups_and_void(tmp_path):
    groups = {
        "sky": {"Sky"},
        "building": {"Building", "Wall"},
        "pole": {"Column_Pole"},
        "road": {"Road", "LaneMkgsDriv", "LaneMkgsNonDriv", "RoadShoulder"},
        "sidewalk": {"Sidewalk", "ParkingBlock"},
        "tree": {"Tree", "VegetationMisc"},
        "sign": {"SignSymbol", "Misc_Text", "TrafficLight"},
        "fence": {"Fence"},
        "car": {"Car", "SUVPickupTruck", "Truck_Bus"},
        "pedestrian": {"Pedestrian"},
        "bicyclist": {"Bicyclist", "MotorcycleScooter"},
    }
    path = tmp_path / "701_StillsRaw_full/0006R0_f00930.png"
    path.parent.mkdir()
    cv2.imwrite(str(path), np.zeros((2, 32, 3), np.uint8))
    colours = np.array([colour for _, colour, _ in CLASSES], np.uint8)  # (32, 3)
    cv2.imwrite(str(path.with_name("0006R0_f00930_L.png")), np.stack([colours, colours])[..., ::-1])
    labels = CamVidOriginal(tmp_path, "train").clip(0, 1).labels
    assert labels.shape == (2, 32) and labels.dtype == np.uint8 and np.array_equal(labels[0], labels[1])
    found = {}
    for (name, _, _), label in zip(CLASSES, labels[0].tolist(), strict=True):
        found.setdefault("void" if label == 255 else CLASS_NAMES[label], set()).add(name)
    assert len(found.pop("void")) == 32 - sum(map(len, groups.values()))
    assert found == groups


def test_the_colours_are_distinct_and_those_of_the_palette():
    assert len(CLASSES) == 32 == len(COLOUR_OF) == len(set(COLOUR_OF.values()))
    named = ("Sky", "Building", "Column_Pole", "Road", "Sidewalk", "Tree", "SignSymbol", "Fence", "Car", "Pedestrian",
             "Bicyclist")  # fmt: skip
    assert [COLOUR_OF[name] for name in named] == [tuple(colour) for colour in PALETTE.tolist()]


def test_an_unknown_colour_is_named_with_file_and_pixel(original):
    path = original / "LabeledApproved_full/0006R0_f00960_L.png"
    image = cv2.imread(str(path))
    image[7, 11] = (3, 2, 129)  # blue, green, red
    image[30, 2] = (0, 0, 1)
    cv2.imwrite(str(path), image)
    train = CamVidOriginal(original, "train")
    train.clip(0, 1)
    message = r"0006R0_f00960_L\.png: colour \(129, 2, 3\) at pixel \(11, 7\) .*; 2 pixels"
    with pytest.raises(ValueError, match=message):
        train.clip(1, 1)


def test_labels_that_are_no_colours_are_refused(original):
    path = original / "LabeledApproved_full/0006R0_f00930_L.png"
    train = CamVidOriginal(original, "train")
    cv2.imwrite(str(path), np.zeros((36, 48), np.uint8))
    with pytest.raises(ValueError, match=r"0006R0_f00930_L\.png: expected colours .* found PNG with 8 bit grey"):
        train.clip(0, 1)
    cv2.imwrite(str(path), np.zeros((36, 48, 3), np.uint16))
    with pytest.raises(ValueError, match="found PNG with 16 bit RGB"):
        train.clip(0, 1)
    cv2.imwrite(str(path.with_suffix(".jpg")), np.zeros((36, 48, 3), np.uint8))
    path.with_suffix(".jpg").rename(path)
    with pytest.raises(ValueError, match="labels must be PNG files .* found JPEG"):
        train.clip(0, 1)
    path.unlink()
    with pytest.raises(FileNotFoundError, match=r"0006R0_f00930_L\.png: no such file"):
        train.clip(0, 1)


def test_colours_in_a_palette_and_with_alpha_are_read(original):
    path = original / "LabeledApproved_full/0006R0_f00930_L.png"
    train = CamVidOriginal(original, "train")
    expected = train.clip(0, 1).labels
    image = cv2.imread(str(path))
    cv2.imwrite(str(path), np.dstack([image, np.full(image.shape[:2], 9, np.uint8)]))
    assert np.array_equal(train.clip(0, 1).labels, expected)
    with Image.fromarray(image[..., ::-1].copy()).quantize(32) as palette_image:
        palette_image.save(path)
    assert np.array_equal(train.clip(0, 1).labels, expected)


def test_label_colours_may_be_given_in_a_file(original):
    lines = [f"{r} {g} {b}\t\t{name}\r\n" for name, (r, g, b), _ in CLASSES]
    listing = original / "label_colors.txt"
    listing.write_text("".join(lines))
    expected = CamVidOriginal(original, "train").clip(0, 1).labels
    wall, sky = COLOUR_OF["Wall"], COLOUR_OF["Sky"]
    swapped = "".join(lines).replace("{} {} {}\t\tWall".format(*wall), "{} {} {}\t\tWall".format(*sky))
    listing.write_text(swapped.replace("{} {} {}\t\tSky".format(*sky), "{} {} {}\t\tSky".format(*wall)) + "\n")
    colour_table.cache_clear()
    found = CamVidOriginal(original, "train").clip(0, 1).labels
    exchanged = np.arange(256, dtype=np.uint8)
    exchanged[[0, 1]] = 1, 0  # sky and, in this sample, all that is building
    assert np.array_equal(found, exchanged[expected]) and not np.array_equal(found, expected)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("128 128 Sky\n", r"label_colors\.txt line 1: expected R G B Class, found '128 128 Sky'"),
        ("\n128 128 256 Sky\n", r"line 2: expected R G B Class"),
        ("128 128 128 Heaven\n", r"line 1: 'Heaven' is none of CamVid's 32 classes"),
        ("128 128 128 Sky\n1 2 3 Sky\n", "line 2: a second line for this class"),
        ("128 128 128 Sky\n128 128 128 Road\n", "line 2: a second line for this class or this colour"),
        ("\n", r"label_colors\.txt: lists no colour"),
    ],
)
def test_a_colour_list_that_is_none_is_refused_at_once(original, text, message):
    (original / "label_colors.txt").write_text(text)
    with pytest.raises(ValueError, match=message):
        CamVidOriginal(original, "train")


def test_a_list_takes_precedence_over_segnets_split(original):
    (original / "val.txt").write_text("Seq05VD_f00030.png\n0006R0_f00960\n")
    val = CamVidOriginal(original, "val")
    assert [val.name(i) for i in range(len(val))] == ["Seq05VD_f00030", "0006R0_f00960"]


def test_frames_of_other_recordings_need_a_list(tmp_path, tiny_camvid):
    assert segnet_split("0003AB_f00010") is None and segnet_split("holiday") is None
    root = tmp_path / "mine/701_StillsRaw_full"
    write_colours(root / "0003AB_f00010_L.png", np.zeros((4, 4), np.uint8))
    write_colours(root / "0003AB_f00010.png", np.zeros((4, 4), np.uint8))
    with pytest.raises(FileNotFoundError, match=r"no CamVid val split at .*mine.* and val\.txt if the frames are not"):
        CamVidOriginal(root.parent, "val")
    (root.parent / "val.txt").write_text("0003AB_f00010")
    assert CamVidOriginal(root.parent, "val").name(0) == "0003AB_f00010"


def test_what_is_nowhere_is_answered_with_both_layouts(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"trainannot/NAME\.png .* original 701_StillsRaw_full/NAME\.png"):
        build_dataset(DataConfig(name="camvid", root=tmp_path), "train")
    with pytest.raises(FileNotFoundError, match=r"expected 701_StillsRaw_full/NAME\.png and LabeledApproved_full"):
        CamVidOriginal(tmp_path, "train")


def test_the_index_form_is_taken_where_both_are(tiny_camvid):
    converted(tiny_camvid, tiny_camvid, "701_StillsRaw_full", "LabeledApproved_full")
    dataset = build_dataset(DataConfig(name="camvid", root=tiny_camvid), "val")
    assert type(dataset) is CamVid


def test_segnets_split_is_that_of_the_real_lists(camvid_root, tmp_path):
    """The 701 frames in one folder fall apart into the lists of SegNet, with the video that is in them."""
    names = {split: (camvid_root / f"{split}.txt").read_text().split() for split in ("train", "val", "test")}
    for folder, ending in (("701_StillsRaw_full", ".png"), ("LabeledApproved_full", "_L.png")):
        (tmp_path / folder).mkdir()
        for name in (name for listed in names.values() for name in listed):
            (tmp_path / folder / (name + ending)).touch()
    for split, expected in names.items():
        found, index = CamVidOriginal(tmp_path, split), CamVid(camvid_root, split)
        assert [found.name(i) for i in range(len(found))] == sorted(expected)
        assert sorted(map(found.history, range(len(found)))) == sorted(map(index.history, range(len(index))))


def test_real_labels_written_in_the_original_form_read_back_equal(camvid_root, tmp_path):
    picked = {"train": "0016E5_08520", "val": "0016E5_08065", "test": "0001TP_009000"}
    expected = {}
    for split, name in picked.items():
        image = cv2.imread(str(camvid_root / split / f"{name}.png"))
        labels = cv2.imread(str(camvid_root / f"{split}annot" / f"{name}.png"), cv2.IMREAD_UNCHANGED)
        image, labels = (cv2.resize(x, (960, 720), interpolation=cv2.INTER_NEAREST) for x in (image, labels))
        write_colours(tmp_path / f"LabeledApproved_full/{name}_L.png", labels)
        (tmp_path / "701_StillsRaw_full").mkdir(exist_ok=True)
        cv2.imwrite(str(tmp_path / f"701_StillsRaw_full/{name}.png"), image)
        expected[split] = image[..., ::-1], np.where(labels == 11, 255, labels)
    for split, (image, labels) in expected.items():
        clip = CamVidOriginal(tmp_path, split).clip(0, 1)
        assert clip.frames.shape == (1, 720, 960, 3) and np.array_equal(clip.frames[0], image)
        assert np.array_equal(clip.labels, labels) and len(np.unique(labels)) > 6
