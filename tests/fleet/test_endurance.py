"""A worker's memory does not grow from video to video, nor with the minutes that cameras run; and nobody starves."""

from __future__ import annotations

import threading
import time
from collections import Counter
from pathlib import Path

import pytest
from small_runs import save_small_model, write_moving

from accel.fleet.labelling import Labeller
from accel.fleet.starting import settle
from accel.fleet.units import Unit
from accel.inference.loading import load_model
from accel.inference.several import SeveralSegmenter, Stream
from accel.playing.schedules import FixedInterval
from accel.video.live import in_real_time
from accel.video.opening import open_video

FORMATS = ("png", "npz", "overlay", "coco", "shares", "confidence")


def resident() -> float:
    """Megabytes of this process."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096 / 1e6


@pytest.mark.slow
def test_memory_does_not_grow_over_thirty_videos(tmp_path):
    """The first ten fill PyTorch's and FFmpeg's stores."""
    weights = save_small_model(tmp_path / "small.safetensors")
    video = write_moving(tmp_path / "0.mp4", 25, size=(240, 320))
    labeller = Labeller(settle(weights, 5, FORMATS, device="cpu", threads=1), tmp_path / "out")
    sizes = []
    for number in range(30):
        copy = tmp_path / f"{number}.mp4"
        if number:
            copy.write_bytes(video.read_bytes())
        assert labeller.label(Unit(str(copy))).status == "done"
        sizes.append(resident())
    print("megabytes:", [round(size) for size in sizes])
    assert max(sizes[-5:]) < max(sizes[5:10]) + 10  # a video's frames are 6 MB, its labels 2 MB


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_eight_cameras_share_a_model_fairly_for_two_minutes(tmp_path):
    """Files played in real time, faster than they can be labelled; one is cut off after 40 s, for 30 s."""
    weights = save_small_model(tmp_path / "small.safetensors")
    video = write_moving(tmp_path / "camera.mp4", 400, rate=25, size=(120, 160))
    start, stop = time.monotonic(), threading.Event()
    counts, told, memory = [Counter() for _ in range(2)], [], []

    def away(number: int) -> bool:
        return number == 3 and 40 < time.monotonic() - start < 70

    def play(number: int):
        while True:
            for frame in in_real_time(open_video(video)):
                if away(number):
                    raise OSError("connection lost")
                yield frame

    def connect(number: int):
        if away(number):
            raise ValueError("no route to host")
        return play(number)

    def consume(number, frame) -> None:
        if not 35 < time.monotonic() - start < 80:  # of all alike
            counts[0][number] += 1
        counts[1][number] += 1
        if sum(counts[1].values()) % 50 == 0:
            memory.append(resident())

    streams = [Stream(f"camera{n}", lambda n=n: connect(n)) for n in range(8)]
    model = SeveralSegmenter(load_model(weights, device="cpu"), FixedInterval(5))
    original = model._look

    def slow(arrived):  # slower than the cameras on any machine
        time.sleep(0.02)
        return original(arrived)

    model._look = slow
    threading.Timer(120, stop.set).start()
    model.run(streams, consume, lambda number, what: told.append((number, what)), stop)
    print(
        "frames:",
        dict(counts[1]),
        "told:",
        told,
        "megabytes:",
        [round(each) for each in memory[:: max(1, len(memory) // 10)]],
    )
    fair = [counts[0][number] for number in range(8)]
    assert min(fair) > 0 and max(fair) <= 1.05 * min(fair) + 1
    assert {number for number, _ in told} == {3} and told[-1] == (3, "it is back")
    assert max(memory[-len(memory) // 4 :]) < max(memory[len(memory) // 4 : len(memory) // 2]) + 10
