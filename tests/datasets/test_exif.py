"""Images that carry an EXIF orientation: what is done with it is the same everywhere, and told."""

import io

import numpy as np
import pytest
from PIL import Image, ImageOps

from accel.config import DataConfig
from accel.datasets.checking import check_split
from accel.datasets.labelled_folder import LabelledFolder
from accel.files.exif import orientation
from accel.files.images import read_colour_labels, read_image, read_labels

PICTURE = np.random.default_rng(0).integers(0, 3, (6, 9), np.uint8)
COLOURS = np.array([(0, 0, 0), (250, 10, 20), (7, 7, 200)], np.uint8)
FORMATS = {"png": {}, "webp": {"lossless": True}, "tiff": {}, "jpg": {"quality": 100, "subsampling": 0}}


def save(path, image, turn, **how):
    exif = Image.Exif()
    if turn:
        exif[0x0112] = turn
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path, exif=exif, **how)
    return path


@pytest.mark.parametrize("suffix", FORMATS)
@pytest.mark.parametrize("turn", range(9))
def test_images_are_turned_as_viewers_show_them(tmp_path, suffix, turn):
    path = save(tmp_path / f"a.{suffix}", Image.fromarray(COLOURS[PICTURE]), turn, **FORMATS[suffix])
    assert orientation(path) == (turn or 1)
    with Image.open(path) as image:
        expected = np.array(ImageOps.exif_transpose(image)).astype(int)
    assert np.abs(read_image(path) - expected).max() <= (3 if suffix == "jpg" else 0)


def test_cameras_files_with_more_in_them(tmp_path):
    """Another application's block first; big-endian; an entry that is no orientation."""
    buffer = io.BytesIO()
    Image.fromarray(COLOURS[PICTURE]).save(buffer, "JPEG")
    data = buffer.getvalue()
    make, turn = b"\x01\x0f\0\x02\0\0\0\x04abc\0", b"\x01\x12\0\x03\0\0\0\x01\0\x06\0\0"
    block = b"MM\0*\0\0\0\x08\0\x02" + make + turn + b"\0" * 4
    blocks = b"http://ns.adobe.com/", b"Exif\0\0" + block
    segments = b"".join(b"\xff\xe1" + (len(each) + 2).to_bytes(2, "big") + each for each in blocks)
    (tmp_path / "a.jpg").write_bytes(data[:2] + segments + data[2:])
    assert orientation(tmp_path / "a.jpg") == 6 and read_image(tmp_path / "a.jpg").shape == (9, 6, 3)


@pytest.mark.parametrize("data", [b"", b"\xff\xd8\xff\xe1", b"\x89PNG\r\n\x1a\n\0", b"II*\0\xff\xff\xff\xff", b"RIFF"])
def test_what_cannot_be_read_carries_none(tmp_path, data):
    (tmp_path / "a.jpg").write_bytes(data)
    assert orientation(tmp_path / "a.jpg") == 1 == orientation(tmp_path / "nothing.jpg")


@pytest.mark.parametrize("turn", range(9))
def test_labels_that_carry_one_are_turned_alike_in_all_forms(tmp_path, turn):
    palette = Image.fromarray(PICTURE, "P")
    palette.putpalette(COLOURS.flatten().tolist())
    path = save(tmp_path / "a.png", Image.fromarray(PICTURE), turn)
    with Image.open(path) as image:
        expected = np.array(ImageOps.exif_transpose(image))
    assert np.array_equal(read_labels(path), expected)
    assert np.array_equal(read_labels(save(path, palette, turn)), expected)
    table = np.zeros(2**24, np.uint8)
    table[COLOURS.astype(int) @ [1 << 16, 1 << 8, 1]] = range(3)
    assert np.array_equal(read_colour_labels(save(path, Image.fromarray(COLOURS[PICTURE]), turn), table), expected)


def test_the_check_names_images_that_carry_one(tmp_path):
    """Turned by 180 degrees, images and labels still have one size; turned by 90, not."""
    for number, turn in enumerate((0, 1, 3, 6)):
        save(tmp_path / f"train/images/{number}.jpg", Image.fromarray(COLOURS[PICTURE]), turn)
        save(tmp_path / f"train/labels/{number}.png", Image.fromarray(PICTURE), 0)
    (tmp_path / "classes.txt").write_text("a\nb\nc\n")
    data = DataConfig(name="folder", root=tmp_path)
    found = check_split(data, "train", (1,), workers=0, quiet=True)
    images = [tmp_path / f"train/images/{number}.jpg" for number in (2, 3)]
    (line,) = found.warnings
    assert "2 images with an EXIF orientation, turned as it says; labels are read as stored" in line
    assert line.endswith(f": {images[0]}, {images[1]}") and "1 warning" not in found.problems
    (problem,) = found.problems
    assert problem.startswith(f"{images[1]}: 6 x 9 pixels, turned as its EXIF orientation says, but ")
    with pytest.raises(ValueError, match="the same size; found 6 x 9 and 9 x 6 .*3.jpg is turned as its EXIF"):
        LabelledFolder(tmp_path, "train").clip(3, 1)


def test_many_are_counted_and_some_named(tmp_path):
    for number in range(12):
        save(tmp_path / f"train/images/{number}.jpg", Image.fromarray(COLOURS[PICTURE]), 3)
        save(tmp_path / f"train/labels/{number}.png", Image.fromarray(PICTURE), 0)
    (tmp_path / "classes.txt").write_text("a\nb\nc\n")
    found = check_split(DataConfig(name="folder", root=tmp_path), "train", (1,), workers=0, quiet=True)
    assert "12 images with" in found.warnings[0] and found.warnings[0].endswith("7.jpg and 4 more")
    assert "1 warning" in found.summary() and not found.problems
