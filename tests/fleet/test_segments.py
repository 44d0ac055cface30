"""A long video is cut where a decoder can start, and no seam shows."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import av
import numpy as np
import pytest
from small_runs import SIZE, save_small_model

from accel.fleet.labelling import TIMES, Labeller, plan
from accel.fleet.starting import settle
from accel.fleet.units import VIDEOS, Unit
from accel.video.reader import VideoFileReader
from accel.video.segments import FrameTimes, SegmentReader, cut, frame_times

COUNT, RATE, GROUP = 50, 25, 8


def write_groups(path: Path, options: dict[str, str], container: str | None = None) -> Path:
    """A video with a codec key frame every `GROUP` frames. Each frame's red says its number."""
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 30, (*SIZE, 3))
    with av.open(str(path), "w", format=container) as file:
        stream = file.add_stream("libx264", rate=RATE, options={"g": str(GROUP), "keyint_min": "1", **options})
        stream.height, stream.width, stream.pix_fmt = *SIZE, "yuv420p"
        for number in range(COUNT):
            image = np.roll(noise, number, 1)
            image[..., 0] += 4 * number
            file.mux(stream.encode(av.VideoFrame.from_ndarray(image.astype(np.uint8), format="rgb24")))
        file.mux(stream.encode(None))
    return path


KINDS = {
    "closed": ({"bf": "0", "sc_threshold": "0"}, "a.mp4"),
    "reordered": ({"bf": "2", "sc_threshold": "0"}, "a.mp4"),
    "open": ({"bf": "2", "sc_threshold": "0", "x264-params": "open-gop=1"}, "a.mp4"),
    "matroska": ({"bf": "2", "sc_threshold": "0"}, "a.mkv"),
    "transport stream": ({"bf": "2", "sc_threshold": "0"}, "a.ts"),
}


@pytest.fixture(params=KINDS)
def video(request, tmp_path) -> Path:
    options, name = KINDS[request.param]
    return write_groups(tmp_path / name, options)


def test_a_segments_frames_numbers_and_times_are_those_of_the_whole(video):
    whole = list(VideoFileReader(video).frames())
    times = frame_times(video)
    assert times is not None and len(times.stamps) == len(whole) == COUNT
    assert np.flatnonzero(times.keys).tolist() == list(range(0, COUNT, GROUP))
    for first, stop in ((0, 9), (8, 24), (13, 30), (41, 50)):
        part = list(SegmentReader(video, first, stop, times).frames())
        assert [frame.index for frame in part] == list(range(first, stop))
        for frame, same in zip(part, whole[first:stop], strict=True):
            np.testing.assert_array_equal(frame.image, same.image)
            assert frame.time == pytest.approx(same.time)


def test_cuts_are_at_codec_key_frames_and_leave_no_short_rest(video, tmp_path):
    assert cut(video, 0.6) == [range(0, 16), range(16, 32), range(32, 50)]
    assert cut(video, 1.9) == [] == cut(video, 60)
    cut(video, 0.6, tmp_path / "times.npz")
    np.testing.assert_array_equal(FrameTimes.load(tmp_path / "times.npz").stamps, frame_times(video).stamps)


@pytest.mark.parametrize("flat_latency", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_at_a_seam_the_labels_are_those_of_the_uncut_run(tmp_path, flat_latency):
    video = str(write_groups(tmp_path / "a.mp4", KINDS["reordered"][0]))
    weights = save_small_model(tmp_path / "small.safetensors")
    settings = settle(weights, 5, device="cpu", threads=1, flat_latency=flat_latency)
    labeller = Labeller(settings, tmp_path / "whole")
    (whole,) = plan(video, settings, tmp_path / "whole")
    labeller.label(whole)
    pieces = replace(settings, segment=0.6)
    units = plan(video, pieces, tmp_path / "cut")
    assert [(unit.start, unit.stop) for unit in units] == [(0, 16), (16, 32), (32, 50)]
    labeller.settings, labeller.out = pieces, tmp_path / "cut"
    rows = [labeller.label(unit) for unit in units]
    assert [row.frames for row in rows] == [16, 16, 18] and {row.status for row in rows} == {"done"}
    assert [row.seconds for row in rows] == pytest.approx([16 / 25, 16 / 25, 18 / 25])
    found = {path.name: path.read_bytes() for path in (tmp_path / "cut" / VIDEOS).glob("*/labels/*.png")}
    assert found == {path.name: path.read_bytes() for path in (tmp_path / "whole" / VIDEOS).glob("*/labels/*.png")}
    assert len(set(found.values())) > COUNT / 3
    assert (tmp_path / "cut" / TIMES / f"{Unit(video).id}.npz").is_file()


def test_a_damaged_segment_says_what_it_lacks(tmp_path):
    video = write_groups(tmp_path / "a.mkv", KINDS["closed"][0])
    times = frame_times(video)
    data = video.read_bytes()
    video.write_bytes(data[: 3 * len(data) // 4])
    said: list[str] = []
    reader = SegmentReader(video, 30, 50, times, on_damage=said.append)
    frames = list(reader.frames())
    assert 0 < len(frames) < 20 and "no frame after" in said[-1]
    assert reader.missing == [range(frames[-1].index + 1, 50)]
    with pytest.raises(ValueError, match="cannot be|expected 40 to 59 among them"):
        SegmentReader(video, 40, 60, times)


def test_a_video_whose_packets_have_no_times_is_not_cut(tmp_path):
    raw = write_groups(tmp_path / "a.h264", KINDS["reordered"][0], "h264")
    assert frame_times(raw) is None and cut(raw, 0.1) == []
