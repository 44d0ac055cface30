"""Files that are damaged or mean harm end in a right result or a clear error, within bounded time and memory."""

import io
import json
import os
import pickle
import struct
import subprocess
import sys
import time
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from cases import forget_peak, megabytes
from mutations import blank_png
from PIL import Image
from safetensors.torch import save_file

from accel.config import load_stages
from accel.datasets.camvid import CamVid
from accel.datasets.streetscape.files import _read_description
from accel.files.image_headers import MAX_PIXELS, MAX_SCANS, max_pixels
from accel.files.images import read_colour_labels, read_image, read_labels
from accel.files.yaml_files import MAX_BYTES, MAX_NESTING, MAX_NODES, parse_yaml
from accel.video.reader import VideoFileReader
from accel.video.writer import VideoWriter
from accel.weights.checkpoints import describe_weights, load_state, save_state

CASES = Path(__file__).with_name("cases.py")
MEGABYTES = 300  # that damaged files of some kilobytes may take together, with what the libraries keep
SECONDS = 10


# --- thousands of damaged files ---------------------------------------------------------------------------------


def run_cases(folder, first, count, timeout):
    """What became of so many cases of every kind, read in a process of their own under a limit of memory."""
    command = [sys.executable, str(CASES), str(folder), str(first), str(count)]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=timeout, env=os.environ | {"OMP_NUM_THREADS": "1"}
    )
    assert done.returncode == 0, done.stderr[-3000:]  # a crash, or the traceback of a case that took too long
    return json.loads(done.stdout)


@pytest.mark.parametrize(
    ("first", "count"),
    [
        (0, 25),
        *(pytest.param(first, 150, marks=[pytest.mark.slow, pytest.mark.timeout(900)]) for first in (1000, 2000)),
    ],
)
def test_damaged_files_end_in_a_result_or_a_clear_error(tmp_path, first, count):
    found = run_cases(tmp_path, first, count, timeout=250 if count < 100 else 880)
    assert {kind: each["wrong"] for kind, each in found.items() if each["wrong"]} == {}
    assert len(found) == 22 and all(each["right"] + each["refused"] == count for each in found.values())
    assert all(each["refused"] for each in found.values())  # the damage is none that nobody notices
    assert sum(each["right"] for each in found.values()) > count  # nor one that nothing survives
    assert sum(each["megabytes"] for each in found.values()) < MEGABYTES
    total = len(found) * count
    print(
        f"{total} cases: {sum(each['right'] for each in found.values())} right, longest "
        f"{max(each['longest'] for each in found.values()):.2f} s, "
        f"{sum(each['megabytes'] for each in found.values()):.0f} MB"
    )


# --- small files that stand for gigabytes -----------------------------------------------------------------------


@pytest.fixture
def bounded():
    """What is read in this test must take little time and memory."""
    before, start = forget_peak(), time.monotonic()
    yield
    assert time.monotonic() - start < SECONDS
    assert megabytes("VmHWM") - before < 100


def bmp(width, height):
    return struct.pack("<2sIHHIIiiHHIIiiII", b"BM", 100, 0, 0, 54, 40, width, height, 1, 8, 1, 0, 0, 0, 0, 0) + bytes(
        46
    )


def tiff(width, height):
    entries = [(256, 4, 1, width), (257, 4, 1, height), (258, 3, 1, 8), (273, 4, 1, 8), (277, 3, 1, 1), (279, 4, 1, 8)]
    body = struct.pack("<H", len(entries)) + b"".join(struct.pack("<HHII", *entry) for entry in entries)
    return b"II*\0" + struct.pack("<I", 16) + bytes(8) + body + bytes(4)


def webp(width, height):
    chunk = (
        b"VP8X" + struct.pack("<IB3x", 10, 0) + (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
    )
    return b"RIFF" + struct.pack("<I", len(chunk) + 4) + b"WEBP" + chunk


def jpeg(width, height):
    file = io.BytesIO()
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(file, "jpeg")
    data = bytearray(file.getvalue())
    struct.pack_into(">HH", data, data.index(b"\xff\xc0") + 5, height, width)
    return bytes(data)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("bomb.png", blank_png(60000, 60000, 1000)),
        ("bomb.jpg", jpeg(60000, 60000)),
        ("bomb.bmp", bmp(60000, 60000)),
        ("bomb.tif", tiff(60000, 60000)),
        ("bomb.webp", webp(60000, 60000)),
    ],
)
def test_a_header_that_asks_for_gigabytes_is_refused_with_all_that_one_needs_to_know(tmp_path, bounded, name, content):
    assert len(content) < 1024
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(ValueError) as error:
        read_image(path)
    assert str(error.value) == (
        f"{path}: its header says 60000 x 60000 pixels; at most {MAX_PIXELS} are read "
        "(ACCEL_MAX_PIXELS=N sets another limit)"
    )


@pytest.mark.parametrize(
    "read", [read_image, read_labels, lambda path: read_colour_labels(path, np.zeros(2**24, "u1"))]
)
def test_a_png_of_few_data_for_its_size_is_refused_before_decoding(tmp_path, bounded, read):
    path = tmp_path / "bomb.png"
    path.write_bytes(blank_png(11000, 11000, 1000, colour=0))
    with pytest.raises(ValueError, match=r"bomb\.png: the PNG is damaged .* 11000 x 11000 .* cannot hold them"):
        read(path)


def test_the_limit_on_pixels_can_be_set(tmp_path, monkeypatch):
    path = tmp_path / "image.png"
    Image.fromarray(np.zeros((40, 60, 3), np.uint8)).save(path)
    monkeypatch.setenv("ACCEL_MAX_PIXELS", "2399")
    with pytest.raises(ValueError, match=r"image\.png: its header says 60 x 40 pixels; at most 2399 are read"):
        read_image(path)
    monkeypatch.setenv("ACCEL_MAX_PIXELS", "2400")
    assert read_image(path).shape == (40, 60, 3)
    monkeypatch.setenv("ACCEL_MAX_PIXELS", "many")
    with pytest.raises(ValueError, match="ACCEL_MAX_PIXELS=many: expected a number of pixels"):
        max_pixels()


def test_the_limit_holds_for_videos_too(tmp_path, monkeypatch):
    path = tmp_path / "drive.mp4"
    with VideoWriter(path, 25) as writer:
        for _ in range(3):
            writer.write(np.zeros((48, 64, 3), np.uint8))
    monkeypatch.setenv("ACCEL_MAX_PIXELS", "3000")
    with pytest.raises(ValueError, match=r"drive\.mp4: its header says 64 x 48 pixels; at most 3000 are read"):
        VideoFileReader(path)


def test_images_of_other_formats_pipes_and_files_of_gigabytes_are_refused(tmp_path, bounded):
    Image.fromarray(np.zeros((4, 4), np.uint8)).save(tmp_path / "a.gif")
    os.mkfifo(tmp_path / "pipe.png")
    with (tmp_path / "large.png").open("wb") as file:
        file.truncate(2**40)  # takes no space on disk
    for name, words in (
        ("a.gif", "expected PNG, JPEG, BMP, WebP or TIFF"),
        ("pipe.png", "not a file"),
        ("large.png", "at most"),
    ):
        with pytest.raises(ValueError, match=rf"{name}: .*{words}"):
            read_image(tmp_path / name)


def test_every_flipped_byte_of_a_compressed_tiff_is_noticed(tmp_path):
    """OpenCV leaves what it cannot decompress grey, and says so to nobody."""
    file, noise = io.BytesIO(), np.random.default_rng(0).integers(0, 256, (20, 30, 3), np.uint8)
    Image.fromarray(noise).save(file, "tiff", compression="tiff_deflate")
    data, path = file.getvalue(), tmp_path / "a.tif"
    path.write_bytes(data)
    assert np.array_equal(read_image(path), noise)
    start = data.index(zlib.compress(noise.tobytes())[:2], 8)  # zlib's own header
    for at in range(start + 2, start + 1800, 50):
        path.write_bytes(data[:at] + bytes([data[at] ^ 0x55]) + data[at + 1 :])
        with pytest.raises(ValueError, match=r"a\.tif: the TIFF is damaged \(checksum"):
            read_image(path)


def test_a_jpeg_of_a_thousand_scans_is_refused(tmp_path, bounded):
    file = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)).save(
        file, "jpeg", progressive=True
    )
    data = file.getvalue()
    last = data.rindex(b"\xff\xda")
    (tmp_path / "slow.jpg").write_bytes(data[:last] + data[last:-2] * 1000 + data[-2:])
    with pytest.raises(ValueError, match=rf"slow\.jpg: a JPEG of 10\d\d scans; at most {MAX_SCANS}"):
        read_image(tmp_path / "slow.jpg")


# --- configurations ---------------------------------------------------------------------------------------------

LAUGHS = "a: &a [x,x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"{new}: &{new} [{','.join([f'*{old}'] * 10)}]\n" for old, new in zip("abcdefgh", "bcdefghi", strict=True)
)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (LAUGHS, f"line 4: not valid YAML: more than {MAX_NODES} values"),
        ("a: &a [*a]", "line 1: not valid YAML: the alias \\*a comes before the end"),
        ("[" * (MAX_NESTING + 1), f"nested more than {MAX_NESTING} deep"),
        ("- " * 10_000, f"nested more than {MAX_NESTING} deep"),
        ("[" + "x," * (MAX_NODES + 1) + "]", f"more than {MAX_NODES} values"),
        ("x" * (MAX_BYTES + 1), f"{MAX_BYTES + 1} bytes; at most {MAX_BYTES} are read"),
        ("a: !!python/object/apply:os.system [true]", "could not determine a constructor"),
        ("seed: " + "9" * 5000, "not valid YAML: Exceeds the limit"),
        ("seed: 2001-99-99", "not valid YAML: month must be in"),
        ("base: [run.yaml, run.yaml]", "circle|more than 500 files"),
        ("stages: [run.yaml, run.yaml]", "circle|more than 500 files"),
        ("base: /dev/zero", "/dev/zero: not a readable YAML file"),
    ],
)
def test_yaml_that_means_harm_is_refused_with_its_file(tmp_path, bounded, text, words):
    path = tmp_path / "run.yaml"
    path.write_text(text)
    with pytest.raises(ValueError, match=words) as error:
        load_stages(path)
    assert "\n" not in str(error.value) and len(str(error.value)) < 500
    assert str(path) in str(error.value) or "/dev/zero" in str(error.value)


def test_bases_that_double_at_every_level_are_counted(tmp_path, bounded):
    for level in range(14):
        (tmp_path / f"{level}.yaml").write_text(f"base: [{level + 1}.yaml, {level + 1}.yaml]")
    (tmp_path / "14.yaml").write_text("seed: 1")
    with pytest.raises(ValueError, match="more than 500 files for one experiment"):
        load_stages(tmp_path / "0.yaml")


def test_anchors_within_the_limits_are_fine():
    assert parse_yaml("a: &a {x: [1, 2]}\nb: *a\nc: [*a, *a]")["c"][1] == {"x": [1, 2]}


# --- checkpoints ------------------------------------------------------------------------------------------------

WIDE = {"name": "frame_by_frame", "num_classes": 3, "reference": {"encoder": "resnet18", "head_channels": 10**12}}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"model": json.dumps(WIDE)}, "head_channels"),
        ({"model": "[" * 100_000}, "recursion"),
        ({"class_names": '"abc"'}, "expected a list of names"),
        ({"class_names": '["a"]'}, "1 class names and 3 colours for 3 classes"),
        ({"palette": '[[0, 0, 0], [1, 1, 1], [0, 0, 256]]'}, "not a colour of three numbers"),
        ({"step": "9" * 5000}, "damaged metadata"),
    ],
)  # fmt: skip
def test_what_weights_say_of_themselves_is_believed_within_limits(tmp_path, bounded, change, words):
    said = {
        "format": "accel",
        "model": '{"name": "frame_by_frame", "num_classes": 3, "reference": {"encoder": "resnet18"}}',
        "class_names": '["a", "b", "c"]',
        "palette": "[[0, 0, 0], [1, 1, 1], [2, 2, 2]]",
        "step": "1",
    }
    path = tmp_path / "w.safetensors"
    save_file({"x": torch.zeros(1)}, path, said)
    assert describe_weights(path).step == 1
    save_file({"x": torch.zeros(1)}, path, said | change)
    with pytest.raises(ValueError, match=words) as error:
        describe_weights(path)
    assert str(path) in str(error.value) and "\n" not in str(error.value) and len(str(error.value)) < 600


@pytest.mark.parametrize("length", [2**63, 2**40, 10**8 + 1, 10**6])
def test_a_header_longer_than_its_file_is_refused(tmp_path, bounded, length):
    path = tmp_path / "w.safetensors"
    path.write_bytes(struct.pack("<Q", length) + b"{}" + b" " * 100)
    with pytest.raises(ValueError, match=r"w\.safetensors: not a safetensors file"):
        describe_weights(path)


class Trap:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


def test_a_state_runs_no_code(tmp_path):
    trap, path = tmp_path / "trapped", tmp_path / "state.pt"
    path.write_bytes(pickle.dumps(Trap(trap)))
    with pytest.raises(ValueError, match=r"state\.pt: not the state of a run \(not an intact archive"):
        load_state(path)
    for new in (True, False):
        torch.save({"step": 1, "model": Trap(trap)}, path, _use_new_zipfile_serialization=new)
        with pytest.raises(ValueError, match=r"state\.pt: not the state of a run"):
            load_state(path)
    assert not trap.exists()
    torch.load(path, weights_only=False)  # it would have
    assert trap.exists()


def test_a_state_that_grows_while_it_is_read_is_refused(tmp_path, bounded):
    save_state(tmp_path / "whole.pt", {"step": 1, "model": {"x": torch.zeros(2**20)}})
    with (
        zipfile.ZipFile(tmp_path / "whole.pt") as whole,
        zipfile.ZipFile(tmp_path / "small.pt", "w", zipfile.ZIP_DEFLATED) as small,
    ):
        for entry in whole.infolist():
            small.writestr(entry.filename, whole.read(entry))
    assert load_state(tmp_path / "whole.pt")["step"] == 1
    with pytest.raises(ValueError, match=r"small\.pt: not the state of a run \(compressed entries"):
        load_state(tmp_path / "small.pt")


# --- videos, lists, descriptions --------------------------------------------------------------------------------


def test_a_playlist_is_no_video_file(tmp_path, bounded):
    """FFmpeg would read it again and again, waiting for more."""
    path = tmp_path / "live.m3u8"
    path.write_text("#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nelsewhere.ts\n")
    with pytest.raises(ValueError, match=r"live\.m3u8: a playlist; expected a video file"):
        VideoFileReader(path)


def test_a_long_list_that_repeats_itself_is_refused_at_once(tiny_camvid, bounded):
    (tiny_camvid / "train.txt").write_text("".join(f"name{n}\n" for n in range(200_000)) + "name7\n")
    with pytest.raises(ValueError, match=r"train\.txt: lists name7 more than once"):
        CamVid(tiny_camvid, "train")
    (tiny_camvid / "train.txt").write_bytes(b"\xff\xff")
    with pytest.raises(ValueError, match=r"train\.txt: not a text in UTF-8 \(byte 0\)"):
        CamVid(tiny_camvid, "train")


@pytest.mark.parametrize(
    "change", [{"size": [10**6, 10**6]}, {"size": [64]}, {"size": "64"}, {"seed": -1}, {"seed": "0"}, {"seed": None}]
)
def test_a_description_of_impossible_scenes_is_refused(tmp_path, change):
    values = {"generator": "accel streetscape", "version": 1, "seed": 0, "size": [64, 64]}
    (tmp_path / "streetscape.json").write_text(json.dumps(values | change))
    with pytest.raises(ValueError, match=r"streetscape\.json: (seed|size) "):
        _read_description(tmp_path)
    (tmp_path / "streetscape.json").write_text("[" * 100_000)
    with pytest.raises(ValueError, match=r"streetscape\.json: damaged"):
        _read_description(tmp_path)


def test_the_damage_of_a_png_can_pass_its_checksums():
    """The mutations reach the decoder, not only the first look."""
    from mutations import with_checksums

    png = bytearray(blank_png(8, 8, 200))
    png[20] ^= 1
    fixed = with_checksums(bytes(png))
    assert fixed != bytes(png) and zlib.crc32(fixed[12:29]) == struct.unpack(">I", fixed[29:33])[0]
