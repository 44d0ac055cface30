import io
import struct
import zlib

import cv2
import numpy as np
import pytest
from PIL import Image

from accel.files.images import UNDEFINED, read_image, read_labels


@pytest.fixture
def rgb():
    return np.random.default_rng(0).integers(0, 256, (40, 60, 3), np.uint8)


def write_png(path, *chunks):
    body = b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks
    )
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + body)


@pytest.mark.parametrize("ending", ["png", "bmp", "webp"])
def test_an_image_is_read_as_rgb(tmp_path, rgb, ending):
    path = tmp_path / f"a.{ending}"
    if ending == "webp":
        Image.fromarray(rgb).save(path, lossless=True)
    else:
        Image.fromarray(rgb).save(path)
    assert np.array_equal(read_image(path), rgb)
    assert read_image(str(path)).flags.c_contiguous


@pytest.mark.parametrize("progressive", [False, True])
def test_a_jpeg_is_read_as_rgb(tmp_path, progressive):
    y, x = np.mgrid[:40, :60]
    smooth = np.stack([4 * x, 5 * y, 255 - 4 * x], -1).astype(np.uint8)
    Image.fromarray(smooth).save(tmp_path / "a.jpg", quality=98, progressive=progressive)
    assert np.abs(read_image(tmp_path / "a.jpg").astype(int) - smooth).mean() < 3


def test_grey_and_transparent_images_are_read_as_rgb(tmp_path, rgb):
    Image.fromarray(rgb[..., 0]).save(tmp_path / "grey.png")
    Image.fromarray(np.dstack([rgb, rgb[..., 0]])).save(tmp_path / "alpha.png")
    assert np.array_equal(read_image(tmp_path / "grey.png"), np.repeat(rgb[..., :1], 3, axis=2))
    assert np.array_equal(read_image(tmp_path / "alpha.png"), rgb)


@pytest.mark.parametrize("kept", [0, 1, 7, 8, 20, 33, 60, 0.1, 0.5, 0.9, -13, -12, -5, -1])
@pytest.mark.parametrize("reader", [read_image, read_labels])
def test_a_png_cut_off_anywhere_is_refused(tmp_path, rgb, reader, kept):
    path = tmp_path / "cut.png"
    Image.fromarray(rgb if reader is read_image else rgb[..., 0]).save(path)
    data = path.read_bytes()
    path.write_bytes(data[: int(kept * len(data)) if isinstance(kept, float) else kept])
    with pytest.raises(ValueError, match=r"cut\.png"):
        reader(path)


@pytest.mark.parametrize("kept", [3, 10, 100, 0.3, 0.9, -2, -1])
def test_a_jpeg_cut_off_anywhere_is_refused_even_with_a_whole_preview_inside(tmp_path, rgb, kept):
    preview = io.BytesIO()
    Image.fromarray(rgb[::4, ::4].copy()).save(preview, "JPEG")
    path = tmp_path / "cut.jpg"
    Image.fromarray(rgb).save(path)
    data = path.read_bytes()
    preview = b"\xff\xe1" + struct.pack(">H", len(preview.getvalue()) + 2) + preview.getvalue()
    data = data[:2] + preview + data[2:]
    path.write_bytes(data)
    assert read_image(path).shape == rgb.shape
    path.write_bytes(data[: int(kept * len(data)) if isinstance(kept, float) else kept])
    with pytest.raises(ValueError, match=r"cut\.jpg"):
        read_image(path)


def test_every_flipped_byte_of_a_png_is_noticed(tmp_path):
    path = tmp_path / "flipped.png"
    labels = np.arange(64, dtype=np.uint8).reshape(8, 8)
    Image.fromarray(labels).save(path)
    data = path.read_bytes()
    for position in range(len(data)):
        path.write_bytes(data[:position] + bytes([data[position] ^ 0x40]) + data[position + 1 :])
        with pytest.raises(ValueError, match=r"flipped\.png"):
            read_labels(path)


def test_a_png_with_too_few_rows_is_refused(tmp_path):
    path = tmp_path / "short.png"
    header = struct.pack(">IIBBBBB", 50, 50, 8, 0, 0, 0, 0)
    write_png(path, (b"IHDR", header), (b"IDAT", zlib.compress(bytes(51 * 20))), (b"IEND", b""))
    with pytest.raises(ValueError, match=r"short\.png"):
        read_labels(path)


def test_a_header_that_asks_for_gigabytes_is_refused_before_decoding(tmp_path):
    path = tmp_path / "bomb.png"
    header = struct.pack(">IIBBBBB", 60000, 60000, 8, 0, 0, 0, 0)
    write_png(path, (b"IHDR", header), (b"IDAT", zlib.compress(bytes(1000))), (b"IEND", b""))
    for reader in (read_image, read_labels):
        with pytest.raises(ValueError, match=r"bomb\.png.*60000 x 60000"):
            reader(path)


def test_a_missing_file_is_named(tmp_path):
    for reader in (read_image, read_labels):
        with pytest.raises(FileNotFoundError, match=r"nowhere\.png"):
            reader(tmp_path / "nowhere.png")


def test_a_folder_and_a_text_file_are_no_images(tmp_path):
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "text.png").write_text("hello, I am a text file")
    for reader in (read_image, read_labels):
        with pytest.raises(ValueError, match=r"folder\.png"):
            reader(tmp_path / "folder.png")
        with pytest.raises(ValueError, match=r"text\.png"):
            reader(tmp_path / "text.png")


def test_labels_are_read_as_stored(tmp_path):
    labels = np.arange(256, dtype=np.uint8).reshape(16, 16)
    Image.fromarray(labels).save(tmp_path / "a.png")
    assert np.array_equal(read_labels(tmp_path / "a.png"), labels)


@pytest.mark.parametrize("classes", [2, 4, 16, 256])
def test_palette_labels_are_their_indices(tmp_path, classes):
    labels = (np.arange(256) % classes).astype(np.uint8).reshape(16, 16)
    image = Image.fromarray(labels)
    image.putpalette(np.random.default_rng(0).integers(0, 256, 3 * classes, np.uint8).tolist())
    bits = {2: 1, 4: 2, 16: 4, 256: 8}[classes]
    image.save(tmp_path / "a.png", bits=bits)
    header = (tmp_path / "a.png").read_bytes()[24:26]
    assert header == bytes([bits, 3])
    assert np.array_equal(read_labels(tmp_path / "a.png"), labels)


@pytest.mark.parametrize(
    ("image", "found"),
    [
        (np.zeros((8, 8), np.uint16), "16 bit grey"),
        (np.zeros((8, 8, 3), np.uint8), "8 bit RGB"),
        (np.zeros((8, 8, 4), np.uint8), "alpha"),
    ],
)
def test_labels_of_another_kind_are_refused(tmp_path, image, found):
    cv2.imwrite(str(tmp_path / "a.png"), image)
    with pytest.raises(ValueError, match=rf"a\.png.*one channel of 8 bits.*{found}"):
        read_labels(tmp_path / "a.png")


def test_labels_with_one_bit_are_refused(tmp_path):
    Image.fromarray(np.eye(8, dtype=bool)).save(tmp_path / "a.png")  # OpenCV would make 255 of the ones
    with pytest.raises(ValueError, match="1 bit grey"):
        read_labels(tmp_path / "a.png")


def test_jpeg_labels_are_refused(tmp_path, rgb):
    Image.fromarray(rgb[..., 0]).save(tmp_path / "a.jpg")
    with pytest.raises(ValueError, match=r"a\.jpg.*PNG.*JPEG"):
        read_labels(tmp_path / "a.jpg")


def test_a_table_translates_labels_and_refuses_values_outside_it(tmp_path):
    table = np.full(256, UNDEFINED, np.uint8)
    table[[7, 8]] = 0, 1
    cv2.imwrite(str(tmp_path / "a.png"), np.uint8([[7, 8], [8, 7]]))
    cv2.imwrite(str(tmp_path / "b.png"), np.uint8([[7, 9], [8, 9]]))
    assert read_labels(tmp_path / "a.png", table).tolist() == [[0, 1], [1, 0]]
    with pytest.raises(ValueError, match=r"b\.png: label value 9 on 2 pixels; expected one of 7-8"):
        read_labels(tmp_path / "b.png", table)
