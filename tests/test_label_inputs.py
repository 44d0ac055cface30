"""`tools/demo.py --input` on what people have on their disks: no frame is shifted, none is passed over in silence."""

import json
from fractions import Fraction

import av
import cv2
import numpy as np
import pytest
import torch

from accel.config import parse_model
from accel.models import build_model
from accel.video.writer import VideoWriter
from accel.weights.checkpoints import Description, save_weights

SIZE = 48, 64


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """A small model of three classes, as it starts."""
    torch.manual_seed(0)
    branch = {"encoder": "tu-test_resnet", "head_channels": 8}
    values = {"name": "deep_feature_flow", "num_classes": 3, "reference": branch, "flow": {"width": 1 / 16}}
    config = parse_model(values, "test")
    path = tmp_path_factory.mktemp("weights") / "weights.safetensors"
    save_weights(path, build_model(config), Description(config, ("a", "b", "c"), ((1, 2, 3), (4, 5, 6), (7, 8, 9)), 0))
    return path


@pytest.fixture
def label(tool, weights, tmp_path, capsys):
    """label(INPUT, ...): labels it into `out`; all that the command said. `ends` is the code that is expected."""

    def run(source, *options, ends=0):
        capsys.readouterr()
        options = ["--output", tmp_path / "out", "--device", "cpu", "--interval", 5, *options]
        code = tool("demo", "--checkpoint", weights, "--input", source, *options)
        told = capsys.readouterr()
        assert code == ends, told.err
        return " ".join((told.out + told.err).split())

    return run


def write_frames(folder, count, size=SIZE):
    folder.mkdir(parents=True)
    for number in range(count):
        cv2.imwrite(str(folder / f"frame_{number:03d}.png"), np.full((*size, 3), 20 * number % 256, np.uint8))
    return folder


def write_video(path, count=3, rate=25):
    with VideoWriter(path, rate) as video:
        for number in range(count):
            video.write(np.full((*SIZE, 3), 20 * number % 256, np.uint8))
    return path


def written(folder):
    """Numbers of the label images, times of the video's frames and its length in seconds, and the summary."""
    numbers = sorted(int(path.stem.removeprefix("frame_")) for path in (folder / "labels").iterdir())
    with av.open(str(folder / "video.mp4")) as container:
        times = [frame.time for frame in container.decode(video=0)]
        length = container.duration / av.time_base
    return numbers, times, length, json.loads((folder / "summary.json").read_text())


def test_frames_that_cannot_be_read_leave_a_gap(label, tmp_path):
    folder = write_frames(tmp_path / "drive", 9)
    cut = folder / "frame_003.png"
    cut.write_bytes(cut.read_bytes()[:-20])
    for number in (5, 6):
        (folder / f"frame_{number:03d}.png").write_bytes(b"")
    said = label(folder)
    numbers, times, length, summary = written(tmp_path / "out")
    assert numbers == [0, 1, 2, 4, 7, 8]
    assert times == pytest.approx([number / 25 for number in numbers]) and length == pytest.approx(9 / 25)
    assert summary["missing"] == [[3, 3], [5, 6]] and summary["frames"] == 6 and summary["damaged"] == 3
    assert "frame_003.png" in said and "frames that could not be read: 3, 5-6" in said


def test_a_video_of_a_variable_rate_keeps_its_times(label, tmp_path):
    times = [*(n / 30 for n in range(20)), *(20 / 30 + n / 3 for n in range(4))]
    with av.open(str(tmp_path / "a.mkv"), "w") as container:
        stream = container.add_stream("mjpeg", rate=30)
        stream.width, stream.height, stream.pix_fmt = SIZE[1], SIZE[0], "yuvj420p"
        stream.codec_context.time_base = Fraction(1, 30)
        for time in times:
            frame = av.VideoFrame.from_ndarray(np.zeros((*SIZE, 3), np.uint8), format="rgb24")
            frame.pts, frame.time_base = round(30 * time), Fraction(1, 30)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    label(tmp_path / "a.mkv")
    numbers, shown, length, _ = written(tmp_path / "out")
    assert numbers == list(range(24))
    assert shown == pytest.approx(times, abs=6e-4) and 1.7 <= length <= 2.01


def test_all_videos_of_a_folder_are_labelled_and_the_rest_is_named(label, tmp_path):
    folder = tmp_path / "card"
    for name in ("a.mp4", "00001.MTS", "c.3gp", "d.gif"):
        write_video(folder / name)
    cv2.imwrite(str(folder / "thumb.jpg"), np.zeros((*SIZE, 3), np.uint8))
    (folder / "notes.txt").touch()
    said = label(folder)
    assert sorted(path.parent.name for path in tmp_path.glob("out/*/video.mp4")) == [
        "00001.MTS",
        "a.mp4",
        "c.3gp",
        "d.gif",
    ]
    assert "2 files or folders are not part of any video (notes.txt, thumb.jpg)" in said


def test_labels_of_a_folder_carry_the_names_of_its_frames(label, tmp_path):
    folder = write_frames(tmp_path / "in", 2)
    (folder / "frame_001.png").rename(folder / "IMG 7 (b).png")
    cv2.imwrite(str(folder / "IMG 7 (b).bmp"), np.zeros((*SIZE, 3), np.uint8))
    label(folder)
    names = sorted(path.name for path in (tmp_path / "out/labels").iterdir())
    assert names == ["IMG 7 (b).bmp.png", "IMG 7 (b).png.png", "frame_000.png"]


def test_one_bad_video_of_several_is_told_and_the_others_are_labelled(label, tmp_path):
    folder = tmp_path / "card"
    for name in ("a.mp4", "c.mp4"):
        write_video(folder / name)
    (folder / "b.mp4").write_bytes(b"no video")
    said = label(folder, ends=1)
    assert "left out:" in said and "b.mp4" in said and "not labelled, or not to the end: 1 of 3 videos: b.mp4" in said
    assert sorted(path.parent.name for path in tmp_path.glob("out/*/video.mp4")) == ["a.mp4", "c.mp4"]
    assert "b.mp4" in label(folder, "--strict", "--output", tmp_path / "strict", ends=2)
    assert not (tmp_path / "strict").exists()


def test_strict_stops_at_what_would_be_left_out(label, tmp_path):
    folder = tmp_path / "card"
    write_video(folder / "a.mp4")
    (folder / "notes.txt").touch()
    said = label(folder, "--strict", ends=2)
    assert "--strict:" in said and "(notes.txt)" in said and not (tmp_path / "out").exists()
    frames = write_frames(tmp_path / "frames", 3)
    (frames / "frame_001.png").write_bytes(b"damaged")
    assert "frame_001.png" in label(frames, "--strict", ends=2)


def test_a_name_with_colons_is_a_files(label, tmp_path):
    write_video(tmp_path / "2024-01-01T12:00:00.mp4")
    label("2024-01-01T12:00:00.mp4")
    assert written(tmp_path / "out")[0] == [0, 1, 2]


def test_a_time_lapse_is_labelled(label, tmp_path):
    write_video(tmp_path / "a.mp4", 6, Fraction(1, 3600))
    label(tmp_path / "a.mp4")
    numbers, times, length, _ = written(tmp_path / "out")
    assert numbers == list(range(6)) and times == [3600 * number for number in range(6)] and length == 21_600


def test_a_frame_of_another_size_is_told_before_any_work(tool, weights, tmp_path, capsys):
    folder = write_frames(tmp_path / "drive", 4)
    write_frames(tmp_path / "other", 1, (24, 32))
    (tmp_path / "other/frame_000.png").rename(folder / "frame_004.png")
    assert tool("demo", "--checkpoint", weights, "--input", folder, "--output", tmp_path / "out") == 2
    assert "frame_004.png: 32x24 pixels, but the first frame" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("fps", "rate"), [("10", 10), ("0.5", 0.5), ("30000/1001", 30000 / 1001)])
def test_a_folder_of_frames_has_the_rate_that_the_user_says(label, tmp_path, fps, rate):
    label(write_frames(tmp_path / "drive", 4), "--fps", fps)
    numbers, times, length, summary = written(tmp_path / "out")
    assert times == pytest.approx([number / rate for number in numbers], rel=1e-6)
    assert length == pytest.approx(4 / rate, rel=1e-5) and summary["frame_rate"] == pytest.approx(rate)


@pytest.mark.parametrize("fps", ["0", "-3", "ten", "1/0", "nan", "1e9"])
def test_a_rate_that_is_none_is_refused(tool, tmp_path, capsys, fps):
    assert tool("demo", "--input", write_frames(tmp_path / "drive", 2), f"--fps={fps}") == 2
    assert f"--fps: {fps}: expected a number of frames a second" in capsys.readouterr().err


def test_a_rate_for_what_has_one_is_refused(tool, tmp_path, capsys):
    for source in ([], ["--input", write_video(tmp_path / "a.mp4")]):
        assert tool("demo", *source, "--fps", 10) == 2
        assert "error: --fps: " in capsys.readouterr().err


def write_scenes(path, scenes, count=6):
    """Scenes of some texture that stand still, `count` frames each."""
    rng = np.random.default_rng(0)
    with VideoWriter(path, 25) as video:
        for _ in range(scenes):
            picture = cv2.resize(rng.integers(0, 256, (48, 64, 3), np.uint8), (256, 192), interpolation=cv2.INTER_CUBIC)
            for _ in range(count):
                video.write(picture)
    return path


@pytest.mark.parametrize(("options", "keys"), [([], 2), (["--scene-cuts"], 3), (["--interval", 3], 6)])
def test_the_summary_says_how_many_key_frames_were_taken(label, tmp_path, options, keys):
    """Of 3 scenes of 6 frames, with a key frame every 10 frames at most; not what the interval lets expect."""
    said = label(write_scenes(tmp_path / "a.mp4", 3), "--interval", 10, *options)
    *_, summary = written(tmp_path / "out")
    assert summary["scene_cuts"] == ("--scene-cuts" in options)
    assert summary["key_share"] == pytest.approx(keys / 18) and f"{keys / 18:.1%} key frames" in said
    assert summary["seconds_frame"] > 0 and summary["fps"] == pytest.approx(1 / summary["seconds_frame"])
