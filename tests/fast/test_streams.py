"""Streams and graphs of a GPU, tried with a stand-in that finds races (see `side_streams`)."""

import contextlib
import dataclasses
import threading

import pytest
import torch
from side_streams import FakeCuda, Stream, Watch
from small_models import SIZE, assert_same, clip_of, lively

from accel.fast import streams
from accel.fast.graphs import CudaGraph
from accel.fast.streams import side_by_side, tensors_in

CPU = torch.device("cpu")


class Careless(CudaGraph):
    """As `CudaGraph` was: nothing keeps one call from another."""

    def __call__(self, *given):
        for own, tensor in zip(self.inputs, given, strict=True):
            own.copy_(tensor)
        self.replay()
        return tuple(output.clone() for output in self.outputs)


@pytest.fixture
def cuda(monkeypatch):
    fake = FakeCuda()
    monkeypatch.setattr(streams, "streams_of", lambda device: fake)
    return fake


@pytest.mark.parametrize(("kind", "safe"), [(CudaGraph, True), (Careless, False)])
def test_a_graph_on_two_streams_waits_for_its_last_results(cuda, kind, safe):
    graph = kind(lambda x: (2 * x,), (torch.zeros(3),), cuda)
    given = [torch.full((3,), float(n)) for n in range(3)]
    with torch.no_grad(), Watch(cuda):
        one, other = side_by_side(lambda: graph(given[1])[0], lambda: graph(given[2])[0], CPU, "update")
        again = graph(given[0])[0]
    assert [x.tolist() for x in (one, other, again)] == [[2.0] * 3, [4.0] * 3, [0.0] * 3]
    assert [stream.name for stream in cuda.replays[0]] == ["side 1", "main", "main"]
    assert (cuda.races == []) is safe


@pytest.mark.parametrize(("kind", "safe"), [(CudaGraph, True), (Careless, False)])
def test_networks_that_are_both_branches_have_no_race_with_flat_latency(cuda, kind, safe, monkeypatch):
    """AccelShared's one network runs for the update branch and for the renewal within a frame."""
    monkeypatch.setattr("accel.fast.compilation._compile", lambda part, examples, *_: kind(part, examples, cuda))
    model, clip = lively("published_shared"), clip_of(SIZE, 6)
    maps = []
    fast = model.optimized(SIZE, torch.float32, parts=3)
    for network, found in ((fast, maps), (model, expected := [])):
        with torch.inference_mode(), Watch(cuda):
            scores, state = network.key_frame(clip[:, 0])
            state = network.renew(state, 3)
            found.append(scores)
            for t in range(1, 6):
                scores, state = network.next_frame(clip[:, t], state)
                found.append(scores)
    assert_same(maps, expected, 1e-3)
    assert any(len(set(where)) > 2 for where in cuda.replays)  # else this shows nothing
    assert (cuda.races == []) is safe


@pytest.mark.parametrize(("kind", "safe"), [(CudaGraph, True), (Careless, False)])
def test_threads_that_share_a_graph_take_turns(cuda, kind, safe):
    inside, second_is_through = threading.Event(), threading.Event()

    def double(x):
        if x[0] == 1:  # the first thread's call: long enough for the second one to come between
            inside.set()
            second_is_through.wait(0.5)
        return (2 * x,)

    graph, results = kind(double, (torch.zeros(3),), cuda), {}

    def call(number):
        results[number] = graph(torch.full((3,), float(number)))[0].tolist()
        if number == 2:
            second_is_through.set()

    first = threading.Thread(target=call, args=(1,))
    first.start()
    assert inside.wait(5)
    second = threading.Thread(target=call, args=(2,))
    second.start()
    first.join(5), second.join(5)
    assert (results == {1: [2.0] * 3, 2: [4.0] * 3}) is safe


@dataclasses.dataclass(frozen=True)
class Passed:
    values: dict
    function: object = print


def test_all_that_was_made_on_a_side_stream_is_held_for_the_main_one(cuda):
    a, b, c = torch.zeros(1), torch.zeros(2), torch.zeros(3)
    with torch.no_grad():
        side_by_side(lambda: None, lambda: (Passed({"a": a, "more": [b]}), c, None, 3), CPU, "update")
    assert [(id(t), s.name) for t, s in cuda.held] == [(id(t), "main") for t in (a, b, c)]
    assert list(tensors_in((Passed, torch.nn.Linear(2, 2)))) == []


def test_with_gradients_or_on_the_cpu_one_follows_the_other(cuda, monkeypatch):
    assert side_by_side(lambda: 1, lambda: 2, CPU, "update") == (1, 2) and cuda.made == 0
    monkeypatch.undo()
    with torch.no_grad():
        assert side_by_side(lambda: 1, lambda: 2, CPU, "update") == (1, 2)


def test_a_failure_leaves_the_streams_in_order(cuda):
    def fail():
        cuda.current().tick()
        raise ValueError("no")

    with torch.no_grad(), pytest.raises(ValueError, match="no"):
        side_by_side(lambda: 1, fail, CPU, "update")
    side = cuda.side(cuda.main, "update")
    assert cuda.current() is cuda.main and cuda.main.clock[side] == 1


def test_side_streams_are_kept_and_bounded(cuda):
    first = cuda.side(cuda.main, "update")
    assert cuda.side(cuda.main, "update") is first and cuda.side(cuda.main, "reference") is not first
    for number in range(3 * streams.KEPT):
        cuda.side(Stream(f"main {number}"), "update")
        assert cuda.side(cuda.main, "update") is first  # it is in use
    assert len(cuda._sides) == streams.KEPT


def test_threads_get_one_side_stream(cuda, monkeypatch):
    """Two threads on one stream, whose side stream is only being made."""
    making, make = threading.Barrier(2), cuda.new

    def slowly():
        with contextlib.suppress(threading.BrokenBarrierError):
            making.wait(0.3)  # both make one at once, unless something keeps them apart
        return make()

    monkeypatch.setattr(cuda, "new", slowly)
    found = []
    threads = [threading.Thread(target=lambda: found.append(cuda.side(cuda.main, "update"))) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(5)
    assert found[0] is found[1] and cuda.made == 1


def test_graphs_are_captured_one_at_a_time_on_a_stream_of_their_own(monkeypatch):
    """What is asked of PyTorch, on a machine that may have no GPU."""
    made, under_way, calls = [], [], []

    class Made:
        def __init__(self, device=None, priority=0):
            made.append(priority)

        def wait_stream(self, other): ...

    class Nothing:
        def __init__(self, *args, **kwargs): ...

        def __enter__(self): ...

        def __exit__(self, *error): ...

    class Capture(Nothing):
        def __init__(self, graph, stream, capture_error_mode):
            assert capture_error_mode == "thread_local" and calls[-1] == "clear"
            calls.append(stream)

        def __enter__(self):
            under_way.append(1)
            assert len(under_way) == 1
            threading.Event().wait(0.05)

        def __exit__(self, *error):
            under_way.pop()

    class Graph:
        def replay(self): ...

    for name, stand_in in {"Stream": Made, "stream": Nothing, "device": Nothing, "graph": Capture}.items():
        monkeypatch.setattr(torch.cuda, name, stand_in)
    monkeypatch.setattr(torch.cuda, "CUDAGraph", Graph)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: Made)
    monkeypatch.setattr(Made, "wait_stream", lambda *streams: None)
    monkeypatch.setattr(torch._C, "_cuda_clearCublasWorkspaces", lambda: calls.append("clear"), raising=False)
    cuda = streams.Cuda(torch.device("cuda", 0))
    failures = []

    def capture():
        try:
            cuda.capture(lambda x: (x,), [torch.zeros(1)], 2)
        except AssertionError as error:
            failures.append(error)

    threads = [threading.Thread(target=capture) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(5)
    captured_on = [call for call in calls if call != "clear"]
    assert not failures and len(captured_on) == 3 and len(set(map(id, captured_on))) == 1
    assert made == [-1]  # none of those that frames are uploaded on, which have the usual priority
