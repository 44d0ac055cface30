"""A sweep over the forms that people's labels have: they are trained on as they are meant, or refused with the way out.

Whether they are read as they are meant is seen in the batches of a training.
"""

import re

import cv2
import numpy as np
import pytest
from PIL import Image

from accel.config import Config
from accel.datasets import build_dataset
from accel.datasets.label_counts import histogram_of
from accel.datasets.label_sample import look_at_labels
from accel.datasets.polygons import convert
from accel.training.feeding import build_loader

COLOURS = np.array([(0, 0, 0), (200, 30, 10), (10, 20, 30)], np.uint8)
NAMES = ("background", "crack", "rust")
PLAIN, PAINTED = "background\ncrack\nrust\n", "0 0 0 background\n200 30 10 crack\n10 20 30 rust\n"
OTHER = np.array([0, 7, 23], np.uint8)  # raw ids
MARKS = np.array([0, 255, 128], np.uint8)


def grey(values):
    return Image.fromarray(values)


def palette(indices, colours):
    picture = Image.fromarray(indices.astype(np.uint8))
    picture.putpalette(colours.ravel().tolist())
    return picture


def few_bits(labels):
    """A grey PNG of 4 bits."""
    import io
    import struct
    import zlib

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    padded = np.pad(labels, ((0, 0), (0, labels.shape[1] % 2)))
    rows = b"".join(b"\0" + bytes(row[::2] << 4 | row[1::2]) for row in padded)
    header = struct.pack(">IIBBBBB", labels.shape[1], labels.shape[0], 4, 0, 0, 0, 0)
    parts = [(b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    return io.BytesIO(b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*part) for part in parts))


ORDER = np.array([2, 0, 1])  # colours in another order than the classes
# What a label file holds (made from class indices), the ending of its name, and classes.txt.
READ = {
    "indices": (grey, "", PLAIN),
    "4 bits": (few_bits, "", PLAIN),
    "16 bits": (lambda k: grey(k.astype(np.uint16)), "", PLAIN),
    "palette": (lambda k: palette(k, COLOURS), "", PLAIN),
    "palette with a viewer's colours": (lambda k: palette(k, COLOURS[ORDER] // 2), "", PLAIN),
    "palette in another order": (lambda k: palette(np.argsort(ORDER)[k], COLOURS[ORDER]), "", PAINTED),
    "colours": (lambda k: grey(COLOURS[k]), "", PAINTED),
    "colours with alpha": (lambda k: grey(COLOURS[k]).convert("RGBA"), "", PAINTED),
    "indices as RGB": (lambda k: grey(k).convert("RGB"), "", PLAIN),
    "indices as RGBA": (lambda k: grey(k).convert("RGBA"), "", PLAIN),
    "grey and alpha": (lambda k: grey(k).convert("LA"), "", PLAIN),
    "raw ids": (lambda k: grey(OTHER[k]), "", "0 = background\n7 = crack\n23 = rust\n"),
    "raw ids, an id column": (lambda k: grey(OTHER[k]), "", "0 background\n7 crack\n23 rust\n"),
    "raw ids, a table": (lambda k: grey(OTHER[k]), "", "id,name\n0,background\n7,crack\n23,rust\n"),
    "black and white": (lambda k: grey(MARKS[k]), "", "background\n255 = crack\n128 = rust\n"),
    "an ending": (grey, "_mask", PLAIN),
    "Cityscapes' ending": (grey, "_gtFine_labelIds", PLAIN),
    "another case": (grey, "upper", PLAIN),
    "CVAT": (lambda k: grey(COLOURS[k]), "", "background:0,0,0::\ncrack:200,30,10::\nrust:10,20,30::\n"),
    "a byte-order mark": (grey, "", "\ufeff" + PLAIN.replace("\n", "\r\n")),
    "shifted, 0 is not labelled": (lambda k: grey(k + 1), "", "0 = ignored\n1 = background\n2 = crack\n3 = rust\n"),
}
REFUSED = {
    "black and white without a word": (lambda k: grey(np.where(k == 1, 255, k)), "", PLAIN, '"255 = crack"'),
    "raw ids without a word": (lambda k: grey(OTHER[k]), "", PLAIN, "label values 7, 23 .*expected one of 0-2, 255"),
    "colours without a word": (lambda k: grey(COLOURS[k]), "", PLAIN, 'give each class its own in .*: "R G B NAME"'),
    "a colour too many": (lambda k: grey(COLOURS[k]), "", PAINTED.replace("10 20", "9 9"), 'write "10 20 30 ignored"'),
    "JPEG": (lambda k: grey(k), ".jpg", PLAIN, "labels must be PNG files"),
    "ids above 255": (
        lambda k: grey(k.astype(np.uint16) * 200),
        "",
        PLAIN,
        "expected labels of 0 to 255; found the va",
    ),
    "two endings": (grey, "_color _labelIds", PLAIN, "choose with data.label_ending=_"),
    "no such class": (grey, "", "background\ncrack\nrust\nmoss\n", "class 3 'moss' occurs in none of the 3 labels"),
}

PLACES = {
    "halves": lambda k: [k[: len(k) // 2].fill(1), k[:, -3:].fill(2)],
    "a corner": lambda k: [k[-2:, -3:].fill(1), k[0, :1].fill(2)],
    "thin lines": lambda k: [k[:, 5].fill(1), k[7, :].fill(2)],
    "a frame": lambda k: [k.fill(1), k[1:-1, 1:-1].fill(0), k[5:9, 5:9].fill(2)],
}


def write(root, form, ending, classes, place, size):
    """Three photos and their labels. Return the class indices that are meant."""
    meant = []
    for name in ("a1", "b2", "c3"):
        labels = np.zeros(size, np.uint8)
        PLACES[place](labels)
        meant.append(labels)
        for kind in ("images", "labels"):
            (root / "train" / kind).mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(root / f"train/images/{name}.png"), np.full((*size, 3), 99, np.uint8))
        stems = [name.upper()] if ending == "upper" else [name + each for each in ending.split() or [""]]
        for stem in stems:
            path = root / "train/labels" / (stem if ending == ".jpg" else f"{stem}.png")
            made = form(labels)
            path.write_bytes(made.getvalue()) if hasattr(made, "getvalue") else made.save(path)
    (root / "classes.txt").write_text(classes, encoding="utf-8")
    return np.stack(meant)


def batch_of(root):
    """The labels of the first batch of a training, which has every photo once, after the check at its start."""
    reference = {"encoder": "resnet18", "head_channels": 8}
    train = {"steps": 1, "batch_size": 3, "workers": 0, "optimizer": {"name": "sgd", "lr": 1}}
    config = Config.model_validate(
        {
            "model": {"name": "frame_by_frame", "reference": reference},
            "data": {"name": "folder", "root": str(root), "augmentation": {"flip": 0}},
            "train": train,
            "output": str(root / "run"),
        }
    )
    dataset = build_dataset(config.data, "train")
    found = look_at_labels(dataset, range(len(dataset)), "training", True, "mine")
    if found.errors:
        raise ValueError("; ".join(found.errors))
    (batch,) = build_loader(dataset, config, 0)
    return dataset.class_names, batch.labels.numpy()


@pytest.mark.parametrize("size", [(24, 32), (33, 47)])
@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("form", READ)
def test_labels_of_this_form_are_trained_on_as_they_are_meant(tmp_path, form, place, size):
    meant = write(tmp_path, *READ[form], place, size)
    names, labels = batch_of(tmp_path)
    assert names == NAMES
    assert histogram_of(labels.reshape(-1, size[1])).tolist() == histogram_of(meant.reshape(-1, size[1])).tolist()
    assert np.array_equal(labels, meant)  # all photos have the same labels, in whatever order they come


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("form", REFUSED)
def test_labels_of_this_form_are_refused_with_what_to_write(tmp_path, form, place):
    *how, message = REFUSED[form]
    write(tmp_path, *how, place, (24, 32))
    with pytest.raises((ValueError, FileNotFoundError)) as error:
        batch_of(tmp_path)
    assert re.search(message, str(error.value)) and "\n" not in str(error.value)


@pytest.mark.parametrize("size", [(24, 32), (33, 47)])
def test_outlines_are_trained_on_once_they_are_drawn(tmp_path, size):
    (tmp_path / "yolo/labels").mkdir(parents=True)
    (tmp_path / "yolo/images").mkdir()
    height, width = size
    shares = np.array([[4, 2], [20, 2], [20, 12], [4, 12]]) / (width, height)
    for name in "abc":
        cv2.imwrite(str(tmp_path / f"yolo/images/{name}.png"), np.full((*size, 3), 99, np.uint8))
        (tmp_path / f"yolo/labels/{name}.txt").write_text("0 " + " ".join(map(str, shares.ravel())))
    (tmp_path / "yolo/data.yaml").write_text("names: [crack]\n")
    convert(tmp_path / "yolo/labels", tmp_path / "mine/train")
    names, labels = batch_of(tmp_path / "mine")
    assert names == ("background", "crack")
    assert histogram_of(labels.reshape(-1, width))[:2].tolist() == [3 * (height * width - 160), 3 * 160]
