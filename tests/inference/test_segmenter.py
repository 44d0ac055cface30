"""The streaming segmenter: every frame once, key frames by schedule, reading and consuming beside the model."""

import itertools
import re
import threading
import time
import weakref

import cv2
import numpy as np
import pytest
import torch
from small_models import clip_of, small

from accel.config import parse_model
from accel.inference import stages
from accel.inference.segmenter import Segmenter
from accel.inference.transfer import HostTransfer
from accel.models import VideoModel, build_model
from accel.models.prediction import Labels, Prediction
from accel.playing.scene_cuts import SceneCuts
from accel.playing.schedules import FixedInterval
from accel.video.opening import open_video

SOON = 20  # seconds: what should come at once has come by then, on a busy machine, too
BRANCH = {"encoder": "tu-test_resnet", "head_channels": 8}


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    values = {"name": "accel", "num_classes": 5, "reference": BRANCH, "update": BRANCH, "flow": {"width": 1 / 16}}
    return build_model(parse_model(values, "test")).eval()


def video(frames, size=(50, 70), seed=0):
    return list(np.random.default_rng(seed).integers(0, 256, (frames, *size, 3), np.uint8))


@pytest.mark.parametrize("interval", [1, 3, 99])
def test_a_stream_is_key_frames_and_what_follows(model, interval):
    frames = video(7)
    found = list(Segmenter(model, FixedInterval(interval)).stream(iter(frames)))
    assert [s.is_key for s in found] == [t % interval == 0 for t in range(7)]
    state = None
    for t, (frame, segmented) in enumerate(zip(frames, found, strict=True)):
        image = torch.from_numpy(frame).permute(2, 0, 1)[None]
        with torch.no_grad():
            scores, state = model.key_frame(image) if t % interval == 0 else model.next_frame(image, state)
        np.testing.assert_array_equal(segmented.labels, scores.labels((50, 70))[0].numpy())
        assert segmented.labels.dtype == np.uint8 and segmented.seconds > 0
        assert segmented.frame is frame


def test_key_frames_in_a_stream_build_on_those_before_them():
    torch.manual_seed(0)
    sampling = {"name": "learned_sampling", "embedding": 8, "radius": 1}
    values = {"name": "deep_feature_flow", "num_classes": 5, "reference": BRANCH, "propagation": sampling}
    model = build_model(parse_model(values, "test")).eval()
    for key, parameter in model.named_parameters():
        if "quality" in key or "embed_" in key:
            torch.nn.init.normal_(parameter, std=0.1)
    state, lone = None, 0
    frames = video(5)
    found = list(Segmenter(model, FixedInterval(2)).stream(frames))
    for t, (frame, segmented) in enumerate(zip(frames, found, strict=True)):
        image = torch.from_numpy(frame).permute(2, 0, 1)[None]
        step = model.next_frame if t % 2 else model.key_frame
        with torch.no_grad():
            scores, state = step(image, state)
            lone += t % 2 == 0 and t > 0 and not torch.equal(scores.scores, model.key_frame(image)[0].scores)
        np.testing.assert_array_equal(segmented.labels, scores.labels((50, 70))[0].numpy())
    assert lone == 2  # alone, those key frames give something else


def test_a_frame_of_another_size_is_a_key_frame(model):
    frames = video(4) + video(4, (33, 40)) + video(2)
    found = list(Segmenter(model, FixedInterval(3)).stream(frames))
    assert [s.is_key for s in found] == [True, False, False, True] + [True, False, False, True] + [True, False]
    assert [s.labels.shape for s in found] == [f.shape[:2] for f in frames]


def test_frames_are_labelled_as_they_come(model):
    """A camera: it gives its second frame only after the first one's labels are there."""
    labelled = threading.Event()

    def camera():
        first, *others = video(3)
        yield first
        assert labelled.wait(SOON)
        yield from others

    stream = Segmenter(model, FixedInterval(2)).stream(camera())
    next(stream)
    labelled.set()
    assert len(list(stream)) == 2


def test_two_streams_do_not_disturb_each_other(model):
    segmenter = Segmenter(model, FixedInterval(4))
    a, b = video(4), video(4, seed=1)
    alone = [s.labels for s in segmenter.stream(a)]
    together = [s.labels for s, _ in zip(segmenter.stream(a), segmenter.stream(b), strict=True)]
    np.testing.assert_array_equal(alone, together)


def test_an_empty_stream_is_empty(model):
    assert list(Segmenter(model, FixedInterval(1)).stream([])) == []


def read_only(frame):
    frame.flags.writeable = False
    return frame


@pytest.mark.parametrize("view", [lambda f: f[:, ::-1], lambda f: f[..., ::-1], np.asfortranarray, read_only])
def test_frames_may_be_views_of_other_arrays(model, view, recwarn):
    """OpenCV's BGR turned round is one; decoders hand out read-only ones."""
    frame = view(video(1)[0])
    (found,) = Segmenter(model, FixedInterval(1)).stream([frame])
    (copied,) = Segmenter(model, FixedInterval(1)).stream([frame.copy()])
    np.testing.assert_array_equal(found.labels, copied.labels)
    assert not recwarn.list


@pytest.mark.parametrize("interval", [0, -3])
def test_a_schedule_without_key_frames_is_refused(interval):
    with pytest.raises(ValueError, match=f"interval {interval}: expected 1"):
        FixedInterval(interval)


# --- side by side ---------------------------------------------------------------------------------------------


class MishapError(Exception):
    pass


class Red(Prediction):
    """Scores whose labels are the frame's red channel."""

    def __init__(self, image):
        self.image = image

    def at(self, size):
        return Labels(self.image[:, 0].clone())


class Scripted(VideoModel):
    """A model that labels each pixel with its red; writes down how it is called, and does `work` on each frame."""

    def __init__(self, work=lambda call: None):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.work, self.calls, self.threads = work, [], set()

    def key_frame(self, image, state=None):
        return self._call("key", image)

    def next_frame(self, image, state):
        assert state == self.calls[-1]
        return self._call("next", image)

    def check_spreads_key_frames(self):
        pass

    def renew(self, state, frames):
        assert state == self.calls[-1]
        self.calls.append(f"renew in {frames}")
        return self.calls[-1]

    def _call(self, kind, image):
        assert torch.is_inference_mode_enabled()
        self.threads.add(threading.current_thread())
        self.calls.append(f"{kind} {int(image[0, 0, 0, 0])}")
        self.work(sum(not call.startswith("renew") for call in self.calls) - 1)
        return Red(image), self.calls[-1]


def numbered(count, each=lambda number: None, size=(4, 6)):
    """Frames whose red is their number; `each` is called before one is given."""
    for number in range(count):
        each(number)
        yield np.full((*size, 3), number % 256, np.uint8)


def segment(work=lambda call: None, interval=3, **options):
    return Segmenter(Scripted(work), FixedInterval(interval), **options)


def numbers(found):
    return [int(s.labels[0, 0]) for s in found]


def fail_at(number):
    def check(found):
        if found == number:
            raise MishapError(number)

    return check


@pytest.fixture
def every_thread_ends():
    before = set(threading.enumerate())
    yield
    left = set(threading.enumerate()) - before
    assert not left, left


@pytest.mark.parametrize("delays", [(0, 0, 0), (0.004, 0, 0), (0, 0.004, 0), (0, 0, 0.004)])
def test_all_results_come_in_order_whichever_stage_is_slow(every_thread_ends, delays):
    read, compute, write = (lambda _, delay=delay: time.sleep(delay) for delay in delays)
    consumed = []

    def consume(segmented):
        write(0)
        consumed.append(segmented)

    segment(compute).run(numbered(60, read), consume)
    assert numbers(consumed) == [s.index for s in consumed] == list(range(60))
    assert [s.is_key for s in consumed] == [number % 3 == 0 for number in range(60)]
    assert not any(s.dropped for s in consumed)


def test_the_model_runs_in_the_callers_thread():
    """Compiled CUDA graphs belong to the thread that made them; so do OpenMP's threads."""
    segmenter = segment()
    list(segmenter.stream(numbered(3)))
    segmenter.run(numbered(3), lambda segmented: None)
    assert segmenter.model.threads == {threading.current_thread()}


@pytest.mark.parametrize("slow", ["model", "consumer"])
def test_a_source_waits_for_a_slow_stage_so_few_frames_are_held(every_thread_ends, slow):
    alive, most = 0, 0

    def gone():
        nonlocal alive
        alive -= 1

    def source():
        nonlocal alive
        for frame in numbered(80):
            alive += 1
            weakref.finalize(frame, gone)
            yield frame

    def pause(_):
        nonlocal most
        most = max(most, alive)
        time.sleep(0.004)

    if slow == "model":
        segment(pause).run(source(), lambda segmented: None)
    else:
        segment().run(source(), pause)
    assert 3 <= most <= 15  # two queues of 4, and what is in hand before, between and after them
    assert alive == 0


def pause(_):
    time.sleep(0.02)


def seconds(task):
    start = time.perf_counter()
    task()
    return time.perf_counter() - start


def test_stages_take_the_time_of_the_slowest_not_the_sum(every_thread_ends):
    def one_after_the_other():
        for number, _ in enumerate(numbered(30, pause)):
            pause(number)
            pause(number)

    together = seconds(lambda: segment(pause).run(numbered(30, pause), pause))
    assert together < 0.6 * seconds(one_after_the_other)  # a third, but for the first and the last frame


def test_reading_alone_overlaps_where_the_results_are_iterated(every_thread_ends):
    def one_after_the_other():
        for number, _ in enumerate(numbered(30, pause)):
            pause(number)

    together = seconds(lambda: list(segment(pause).stream(numbered(30, pause))))
    assert together < 0.8 * seconds(one_after_the_other)  # half


# --- errors and early ends ------------------------------------------------------------------------------------


@pytest.mark.parametrize("at", [0, 1, 9])
def test_what_the_source_raises_comes_after_the_labels_of_its_frames(every_thread_ends, at):
    found = []
    with pytest.raises(MishapError):
        for segmented in segment().stream(numbered(99, fail_at(at))):
            found.append(segmented)
    assert numbers(found) == list(range(at))


@pytest.mark.parametrize("way", ["stream", "run"])
@pytest.mark.parametrize("at", [0, 9])
def test_what_the_model_raises_ends_everything(every_thread_ends, way, at):
    ended = threading.Event()

    def endless():
        try:
            yield from numbered(10**6)
        finally:
            ended.set()

    segmenter = segment(fail_at(at))
    with pytest.raises(MishapError):
        if way == "stream":
            list(segmenter.stream(endless()))
        else:
            segmenter.run(endless(), lambda segmented: None)
    assert ended.is_set() and len(segmenter.model.calls) == at + 1


@pytest.mark.parametrize("overlaps", [False, True])
@pytest.mark.parametrize("error", [MishapError, KeyboardInterrupt])
def test_what_was_labelled_before_the_model_failed_is_consumed(every_thread_ends, monkeypatch, error, overlaps):
    """Also where the consumer is behind, so that four results wait for it; and where, as on a GPU, a result is fetched
    after the next frame was begun."""
    monkeypatch.setattr(HostTransfer, "overlaps", overlaps)
    consumed = []

    def work(call):
        if call == 6:
            raise error

    def consume(segmented):
        time.sleep(0.02)
        consumed.append(segmented)

    with pytest.raises(error):
        segment(work).run(numbered(99), consume)
    assert numbers(consumed) == list(range(6))


@pytest.mark.parametrize("stage", ["source", "consumer"])
def test_an_error_in_another_stage_ends_a_run(every_thread_ends, stage):
    given = []
    source = numbered(10**6, fail_at(9) if stage == "source" else given.append)
    with pytest.raises(MishapError):
        segment().run(source, lambda s: fail_at(9 if stage == "consumer" else -1)(s.index))
    assert next(source, None) is None  # closed
    assert len(given) < 9 + 15


def test_a_consumers_error_does_not_wait_for_a_stalled_source(every_thread_ends, monkeypatch):
    monkeypatch.setattr(stages, "PATIENCE", 0.1)
    stalled, release = threading.Event(), threading.Event()

    def stalling():
        yield from numbered(1)
        stalled.set()
        assert release.wait(SOON)

    def consume(segmented):
        assert stalled.wait(SOON)
        raise MishapError

    with pytest.raises(MishapError), pytest.warns(RuntimeWarning, match="its thread stays"):
        segment().run(stalling(), consume)
    (left,) = (thread for thread in threading.enumerate() if thread.name == "accel-read")
    release.set()
    left.join(SOON)


@pytest.mark.parametrize("way", ["break", "error", "interrupt", "close", "forget"])
def test_leaving_the_iteration_ends_the_reading(every_thread_ends, way):
    source = numbered(10**6)
    stream = segment().stream(source)
    if way == "break":
        for _ in stream:
            break
        del stream
    elif way == "close":
        next(stream)
        stream.close()
    elif way == "forget":
        next(stream)
        del stream
    else:
        error = MishapError if way == "error" else KeyboardInterrupt
        with pytest.raises(error):
            for _ in segment().stream(source):
                raise error
    assert next(source, None) is None  # closed


def test_a_stream_that_is_never_begun_reads_nothing(every_thread_ends):
    given = []
    segment().stream(numbered(9, given.append))
    assert not given


# --- live -----------------------------------------------------------------------------------------------------


class Camera:
    """Gives its frames when the script says; `live`."""

    live = True

    def __init__(self, frames):
        self.frames = frames

    def __iter__(self):
        yield from self.frames


def camera_and_model():
    """Frame 0; 1 to 5 while the model is at work on it; then 6, and 7 to 9 while it is at work on that one."""
    at_work = [threading.Event() for _ in range(10)]
    caught_up = {5: threading.Event(), 9: threading.Event()}

    def frames():
        for number, frame in enumerate(numbered(10)):
            if number in (1, 7):
                assert at_work[0 if number == 1 else 2].wait(SOON)
            elif number == 6:
                assert at_work[1].wait(SOON)  # on 5
            yield frame
            if number in caught_up:  # what was given is in its place now
                caught_up[number].set()

    def work(call):
        at_work[call].set()
        if call == 0:
            assert caught_up[5].wait(SOON)
        elif call == 2:
            assert caught_up[9].wait(SOON)

    return frames(), work


def test_a_live_source_drops_what_comes_while_the_model_is_busy(every_thread_ends):
    frames, work = camera_and_model()
    found = list(segment(work, interval=2).stream(Camera(frames)))
    assert numbers(found) == [s.index for s in found] == [0, 5, 6, 9]
    assert [s.dropped for s in found] == [0, 4, 4, 6]
    assert [s.is_key for s in found] == [True, False, True, False]  # dropped frames do not count


def test_any_source_may_be_taken_as_live(every_thread_ends):
    frames, work = camera_and_model()
    assert numbers(segment(work).stream(frames, live=True)) == [0, 5, 6, 9]


@pytest.mark.parametrize("options", [{"live": False}, {}])
def test_other_sources_never_drop(every_thread_ends, options):
    frames = numbered(30)
    found = list(segment(lambda _: time.sleep(0.002)).stream(Camera(frames) if options else frames, **options))
    assert numbers(found) == list(range(30)) and not any(s.dropped for s in found)


def test_a_slow_consumer_makes_a_live_source_drop(every_thread_ends):
    consumed = []

    def consume(segmented):
        consumed.append(segmented)
        time.sleep(0.02)

    segment().run(Camera(numbered(200, lambda _: time.sleep(0.002))), consume)
    assert consumed[-1].index == 199  # the newest is never lost
    assert consumed[-1].dropped == 200 - len(consumed) > 0


def test_times_are_those_of_the_frame(every_thread_ends):
    found = list(segment(lambda _: time.sleep(0.02)).stream(numbered(12, lambda _: time.sleep(0.001))))
    assert all(s.seconds >= 0.02 for s in found)
    assert all(s.latency >= s.seconds for s in found)
    assert all(s.latency >= 4 * 0.02 for s in found[7:-1])  # 4 frames wait before each
    times = [s.time for s in found]
    assert times[0] == 0 and times == sorted(times) and times[-1] >= 11 * 0.001
    frames, work = camera_and_model()
    waited = list(segment(work).stream(Camera(frames)))
    assert all(s.latency < SOON / 2 for s in waited)


def test_a_reader_says_where_its_frames_belong(every_thread_ends, tmp_path):
    """Frames that cannot be read count; the schedule goes by those that can."""
    for number, frame in enumerate(numbered(5)):
        cv2.imwrite(str(tmp_path / f"{number}.png"), frame)
    (tmp_path / "2.png").write_bytes(b"")
    reader = open_video(tmp_path, folder_fps=5, on_damage=lambda _: None)
    found = list(segment(interval=2).stream(reader))
    assert numbers(found) == [s.index for s in found] == [0, 1, 3, 4]
    assert [s.time for s in found] == [0, 0.2, 0.6, 0.8]
    assert [s.is_key for s in found] == [True, False, True, False] and found[-1].dropped == 0
    assert [s.index for s in segment().stream(list(reader))] == [0, 1, 2, 3]  # arrays are counted


@pytest.mark.parametrize(
    ("frame", "found"),
    [
        (np.zeros((96, 160, 3), np.float32), "float32 (96, 160, 3)"),
        (np.zeros((96, 160, 3)), "float64 (96, 160, 3)"),
        (np.zeros((96, 160, 3), np.uint16), "uint16 (96, 160, 3)"),
        (np.zeros((96, 160, 3), bool), "bool (96, 160, 3)"),
        (np.zeros((96, 160), np.uint8), "uint8 (96, 160)"),
        (np.zeros((96, 160, 1), np.uint8), "uint8 (96, 160, 1)"),
        (np.zeros((96, 160, 4), np.uint8), "uint8 (96, 160, 4)"),
        (np.zeros((3, 96, 160), np.uint8), "uint8 (3, 96, 160)"),
        (np.zeros((1, 96, 160, 3), np.uint8), "uint8 (1, 96, 160, 3)"),
        (np.zeros((0, 160, 3), np.uint8), "uint8 (0, 160, 3)"),
        (torch.zeros(3, 96, 160), "torch.Tensor"),
        (None, "builtins.NoneType"),
    ],
)
def test_frames_of_another_kind_are_refused(every_thread_ends, frame, found):
    words = re.escape(f"frame 2: {found}; expected uint8 (H, W, 3) RGB")
    stream = segment().stream([*numbered(2), frame, *numbered(2)])
    assert numbers(itertools.islice(stream, 2)) == [0, 1]
    with pytest.raises(ValueError, match=words):
        next(stream)
    with pytest.raises(ValueError, match=words):
        segment().run([*numbered(2), frame], lambda _: None)


# --- flat latency ---------------------------------------------------------------------------------------------


def test_with_flat_latency_every_frame_but_the_first_is_a_current_one():
    segmenter = segment(interval=3, flat_latency=True)
    found = list(segmenter.stream(numbered(8)))
    assert segmenter.model.calls == [
        *("key 0", "next 1", "next 2"),
        *("next 3", "renew in 3", "next 4", "next 5"),
        *("next 6", "renew in 3", "next 7"),
    ]
    assert [s.is_key for s in found] == [True, False, False, True, False, False, True, False]
    assert numbers(found) == list(range(8))


def test_a_frame_of_another_size_starts_afresh_with_flat_latency():
    segmenter = segment(interval=2, flat_latency=True)
    list(segmenter.stream([*numbered(4), *numbered(3, size=(8, 8))]))
    assert segmenter.model.calls == [
        *("key 0", "next 1", "next 2", "renew in 2", "next 3"),
        *("key 0", "next 1", "next 2", "renew in 2"),
    ]


def test_flat_latency_changes_nothing_where_every_frame_is_a_key_frame():
    segmenter = segment(interval=1, flat_latency=True)
    list(segmenter.stream(numbered(3)))
    assert segmenter.model.calls == ["key 0", "key 1", "key 2"]


def test_confidence_comes_on_request(model):
    frames, size = video(3), (50, 70)
    found = list(Segmenter(model, FixedInterval(2), confidence=True).stream(frames))
    state = None
    for t, (frame, segmented) in enumerate(zip(frames, found, strict=True)):
        image = torch.from_numpy(frame).permute(2, 0, 1)[None]
        with torch.no_grad():
            scores, state = model.next_frame(image, state) if t % 2 else model.key_frame(image)
            best, second = scores.upsample(size)[0].topk(2, 0).values
        np.testing.assert_allclose(segmented.confidence, (best - second).numpy(), atol=1e-4)
        np.testing.assert_array_equal(segmented.labels, scores.labels(size)[0].numpy())
    (plain,) = Segmenter(model, FixedInterval(2)).stream(frames[:1])
    assert not hasattr(plain.prediction, "confidence")


def test_a_schedule_sees_the_frames_the_times_and_what_was_dropped(every_thread_ends):
    from accel.playing.schedules import Decider, Decision, Schedule

    clues = []

    class Asked(Schedule, Decider):
        interval = 5

        def start(self, first):
            return self

        def decide(self, clue):
            clues.append(clue)
            return Decision.KEY if len(clues) == 2 else Decision.CURRENT

    found = list(Segmenter(Scripted(), Asked()).stream(numbered(4)))
    assert [s.is_key for s in found] == [True, False, True, False]
    assert [int(clue.frame[0, 0, 0, 0]) for clue in clues] == [1, 2, 3] and clues[0].frame.shape == (1, 3, 4, 6)
    assert [clue.seconds for clue in clues] == [s.seconds for s in found[:3]]
    assert [clue.dropped for clue in clues] == [0, 0, 0]


def test_looking_ahead_gives_every_frame_in_order_with_key_frames_in_the_middle():
    model = small("accel")
    film = [frame.permute(1, 2, 0).numpy() for frame in clip_of((34, 50), 6, batch=1)[0]]
    ahead = list(Segmenter(model, FixedInterval(4), look_ahead=True).stream(film))
    assert [each.index for each in ahead] == list(range(6))
    assert [each.is_key for each in ahead] == [False, True, False, False, False, True]
    from_key = list(Segmenter(model, FixedInterval(9)).stream(film[1:4]))  # the same frames, later ones after the key
    for one, other in zip(ahead[1:4], from_key, strict=True):
        np.testing.assert_array_equal(one.labels, other.labels)
    back = list(Segmenter(model, FixedInterval(9)).stream(film[1::-1]))
    np.testing.assert_array_equal(ahead[0].labels, back[1].labels)


def test_looking_ahead_is_for_recordings_at_a_fixed_interval():
    with pytest.raises(ValueError, match="expected a fixed interval without SceneCuts"):
        Segmenter(small("accel"), SceneCuts(4), look_ahead=True)
    with pytest.raises(ValueError, match="this source is live"):
        list(Segmenter(small("accel"), FixedInterval(4), look_ahead=True).stream([], live=True))
