"""Several streams and one model: each gives what it gives alone, all have their turn, and none stops the others."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from small_runs import save_small_model

from accel.inference import several
from accel.inference.loading import load_model
from accel.inference.segmenter import Segmenter
from accel.inference.several import SeveralSegmenter, Stream
from accel.playing.player import Arrival, Player, step_together
from accel.playing.schedules import FixedInterval
from accel.video.source import SourceFrame

SIZE = 32, 48


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return load_model(save_small_model(tmp_path_factory.mktemp("w") / "small.safetensors"), device="cpu")


def frames(seed: int, count: int, size=SIZE) -> list[SourceFrame]:
    rng = np.random.default_rng(seed)
    first = rng.integers(0, 256, (*size, 3), np.uint8)
    return [SourceFrame(np.ascontiguousarray(np.roll(first, 3 * n, 1)), n, n / 25) for n in range(count)]


def recording(name: str, seen: list[SourceFrame]) -> Stream:
    return Stream(name, lambda: iter(seen), live=False, again=False)


@pytest.mark.parametrize("batch", [1, 2, 8])
def test_streams_together_give_what_each_gives_alone(model, batch):
    """Of three streams one has another size, and one ends early."""
    sources = [frames(0, 9), frames(1, 6), frames(2, 9, (48, 32))]
    found = [[], [], []]
    together = SeveralSegmenter(model, FixedInterval(4), confidence=True, batch=batch)
    together.run(
        [recording(str(n), source) for n, source in enumerate(sources)], lambda number, each: found[number].append(each)
    )
    alone = Segmenter(model, FixedInterval(4), confidence=True)
    for source, results in zip(sources, found, strict=True):
        for one, other in zip(alone.stream(source), results, strict=True):
            assert (one.index, one.time, one.is_key, one.dropped) == (other.index, other.time, other.is_key, 0)
            np.testing.assert_allclose(one.confidence, other.confidence, atol=1e-4)
            sure = one.confidence > 1e-3  # rounding differs between a batch and one frame
            np.testing.assert_array_equal(one.labels[sure], other.labels[sure])


def test_frames_of_one_kind_are_one_call(model, monkeypatch):
    calls = Counter()
    for name in ("key_frame", "next_frame"):
        original = getattr(model, name)

        def counted(image, *rest, name=name, original=original):
            calls[name, len(image)] += 1
            return original(image, *rest)

        monkeypatch.setattr(model, name, counted)
    players = [Player(model, FixedInterval(3)) for _ in range(4)]
    images = torch.randint(0, 256, (4, 1, 3, *SIZE), dtype=torch.uint8)
    with torch.inference_mode():
        for _ in range(3):
            step_together([Arrival(player, image) for player, image in zip(players[:3], images[:3], strict=True)])
        steps = step_together([Arrival(player, image) for player, image in zip(players, images, strict=True)])
    assert calls == {("key_frame", 3): 2, ("next_frame", 3): 2, ("key_frame", 1): 1}
    assert [step.is_key for step in steps] == [True] * 4
    assert [step.prediction.at(SIZE).labels.shape for step in steps] == [(1, *SIZE)] * 4


class Camera:
    """Gives frames in real time, unless it is cut off."""

    def __init__(self, rate: float):
        self.rate, self.cut, self.opened = rate, threading.Event(), 0
        self.frame = frames(0, 1)[0].image
        self.given = 0

    def __call__(self) -> Iterator[SourceFrame]:
        self.opened += 1
        if self.cut.is_set():
            raise ValueError("connection refused")
        return self._frames()

    def _frames(self) -> Iterator[SourceFrame]:
        while True:
            time.sleep(1 / self.rate)
            if self.cut.is_set():
                raise OSError("connection lost")
            self.given += 1
            yield SourceFrame(self.frame.copy(), 0, None)


def watch(segmenter: SeveralSegmenter, cameras: list[Camera], stop: threading.Event, events=()):
    """Run until `stop`, with events: seconds from the start and what is done then. Return results and what was told."""
    results: list[list] = [[] for _ in cameras]
    told: list[tuple[int, str]] = []
    timers = [threading.Timer(seconds, act) for seconds, act in events]
    for timer in timers:
        timer.start()
    streams = [Stream(f"camera{n}", camera) for n, camera in enumerate(cameras)]
    segmenter.run(streams, lambda n, each: results[n].append(each), lambda n, what: told.append((n, what)), stop)
    return results, told


def test_a_dead_camera_is_tried_again_with_growing_pauses_and_stops_nobody(model, monkeypatch):
    monkeypatch.setattr(several, "FIRST_PAUSE", 0.1)
    stop = threading.Event()
    cameras = [Camera(20) for _ in range(3)]
    cameras[2].cut.set()  # never there
    lost = cameras[1].cut
    events = [(1.0, lost.set), (2.0, lost.clear), (4.5, stop.set)]
    results, told = watch(SeveralSegmenter(model, FixedInterval(5)), cameras, stop, events)
    of = [[what for number, what in told if number == n] for n in range(3)]
    assert of[0] == [] and len(results[0]) > 5 and results[2] == []
    assert of[2][:4] == [f"connection refused; trying again in {pause:g} s" for pause in (0.1, 0.2, 0.4, 0.8)]
    assert of[1][0] == "connection lost; trying again in 0.1 s" and of[1][-1] == "it is back"
    times = [each.time for each in results[1]]
    assert times == sorted(times) and max(np.diff(times)) > 0.5  # the break is in the times
    assert [each.index for each in results[1]] == sorted({each.index for each in results[1]})


def test_drops_are_counted_for_each_stream(model):
    stop = threading.Event()
    cameras = [Camera(rate) for rate in (200, 5)]
    slow = SeveralSegmenter(model, FixedInterval(5))
    original = slow._look

    def look(arrived):
        time.sleep(0.05 * len(arrived))
        return original(arrived)

    slow._look = look
    results, _ = watch(slow, cameras, stop, [(2.0, stop.set)])
    for camera, found in zip(cameras, results, strict=True):
        last = found[-1]
        assert last.index == len(found) - 1 + last.dropped < camera.given
    assert results[0][-1].dropped > len(results[0]) and len(results[1]) > 2


def test_all_streams_have_their_turn(model):
    """Frames come faster than they are labelled: nobody gets more than the others."""
    stop = threading.Event()
    cameras = [Camera(rate) for rate in (400, 200, 100, 100)]
    slow = SeveralSegmenter(model, FixedInterval(5))
    original = slow._look

    def look(arrived):
        time.sleep(0.02)
        return original(arrived)

    slow._look = look
    results, _ = watch(slow, cameras, stop, [(3.0, stop.set)])
    counts = [len(found) for found in results]
    assert max(counts) - min(counts) <= max(2, 0.05 * max(counts))


def test_an_error_of_who_gets_the_results_ends_all(model):
    def consume(number, frame):
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        SeveralSegmenter(model, FixedInterval(5)).run([Stream("a", Camera(50))], consume)


def test_an_error_of_a_recording_is_told_and_the_others_go_on(model):
    def broken() -> Iterator[SourceFrame]:
        yield frames(0, 1)[0]
        raise ValueError("damaged near frame 1")

    counts, told = Counter(), []
    SeveralSegmenter(model, FixedInterval(5)).run(
        [Stream("a", broken, live=False, again=False), recording("b", frames(1, 5))],
        lambda number, frame: counts.update([number]),
        lambda number, what: told.append((number, what)),
    )
    assert counts == {0: 1, 1: 5} and told == [(0, "damaged near frame 1")]
