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


def write_grey(path, values, bits):
    """A grey PNG of so many bits a pixel, without scaling."""
    bitmap = (values[..., None].astype(np.uint16) >> np.arange(bits - 1, -1, -1, dtype=np.uint16) & 1).astype(np.uint8)
    rows = b"".join(b"\0" + np.packbits(row).tobytes() for row in bitmap.reshape(len(values), -1))
    header = struct.pack(">IIBBBBB", values.shape[1], values.shape[0], bits, 0, 0, 0, 0)
    write_png(path, (b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b""))


@pytest.mark.parametrize("bits", [1, 2, 4, 8, 16])
def test_grey_labels_of_any_depth_are_read_as_stored(tmp_path, bits):
    values = np.random.default_rng(0).integers(0, min(2**bits, 256), (5, 7))
    write_grey(tmp_path / "a.png", values, bits)
    assert np.array_equal(read_labels(tmp_path / "a.png"), values)


@pytest.mark.parametrize(("bits", "white"), [(1, 1), (2, 3), (4, 15), (8, 255), (16, 65535)])
def test_white_is_255_where_that_is_a_class(tmp_path, bits, white):
    """Programs that make files smaller store masks of 0 and 255 with one bit; others with 16."""
    write_grey(tmp_path / "a.png", np.array([[0, white]]), bits)
    table = np.full(256, UNDEFINED, np.uint8)
    table[[0, 255]] = 0, 1
    assert read_labels(tmp_path / "a.png", table).tolist() == [[0, 1]]
    table[255] = 255  # no class: nothing says what the stored value means
    if bits != 8:
        with pytest.raises(ValueError, match=r"a\.png: (label value|expected labels of 0 to 255)"):
            read_labels(tmp_path / "a.png", table)


@pytest.mark.parametrize("mode", ["LA", "RGB", "RGBA"])
def test_grey_written_as_colours_is_grey(tmp_path, mode):
    values = np.array([[0, 1, 7]], np.uint8)
    Image.fromarray(values).convert(mode).save(tmp_path / "a.png")
    assert np.array_equal(read_labels(tmp_path / "a.png"), values)


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (np.full((8, 8), 256, np.uint16), "expected labels of 0 to 255; found the value 256 in a PNG with 16 bit grey"),
        (np.full((8, 8, 3), (1, 2, 3), np.uint8), "expected labels as one channel .*8 bit RGB"),
        (np.full((8, 8, 4), (1, 2, 3, 4), np.uint8), "expected labels as one channel .*alpha"),
    ],
)
def test_labels_of_another_kind_are_refused(tmp_path, image, message):
    cv2.imwrite(str(tmp_path / "a.png"), image)
    with pytest.raises(ValueError, match=rf"a\.png: {message}"):
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
