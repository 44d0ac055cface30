"""Models on whole videos, as a user runs them."""

import numpy as np
import pytest
import torch
from films import SIZE, Films, Teller, said

from accel.evaluation.running.videos import Run, run_videos
from accel.measures.temporal import TemporalTally, matches_of


def watched(runs, dataset, **options):
    seen = []
    options = {"workers": 0, "flow": "exact", **options}
    results = run_videos(runs, dataset, watch=seen.append, quiet=True, **options)
    return results, seen


def moving(dx):
    return np.broadcast_to(np.array([dx, 0], np.float32), (*SIZE, 2))


@pytest.mark.parametrize("interval", [1, 2, 5])
def test_key_frames_come_first_and_at_every_interval(interval):
    model = Teller()
    dataset = Films((0, 3, 6), (2,), flows={})
    results, seen = watched({"a": Run(model, interval)}, dataset)
    numbers = [*range(7), *range(3)]
    assert [frame.is_key["a"] for frame in seen] == [n % interval == 0 for n in numbers]
    assert [frame.first for frame in seen] == [n == 0 for n in numbers]
    assert [int(frame.image[0, 0, 1]) for frame in seen] == numbers
    for frame, number, video in zip(seen, numbers, [0] * 7 + [1] * 3, strict=True):
        expected = said(video, number - number % interval, number % interval)
        assert np.array_equal(frame.labels["a"].numpy(), expected)
    assert (results["a"].frames, results["a"].pairs, results["a"].triples) == (10, 6 + 2, 5 + 1)


def test_later_key_frames_build_on_the_state_before_them():
    class Rememberer(Teller):
        refreshed = ()

        def key_frame(self, image, state=None):
            if state is not None:
                self.refreshed += ((state.video, state.key + state.distance + 1),)
            return super().key_frame(image)

    model = Rememberer()
    watched({"a": Run(model, 3)}, Films((0, 3, 6), (3,), flows={}))
    assert model.refreshed == ((0, 3), (0, 6), (1, 3))


def test_the_truth_is_there_on_labelled_frames():
    dataset = Films((0, 3, 6), (2,), flows={})
    _, seen = watched({"a": Run(Teller(), 2)}, dataset)
    labelled = [frame for frame in seen if frame.truth is not None]
    assert [frame.index for frame in labelled] == [0, 1, 2, 3]
    assert all(np.array_equal(frame.truth, dataset.truth(frame.index)) for frame in labelled)
    places = [(frame.index, frame.before) for frame in seen]
    assert places == [(0, 0), *((1, n) for n in (2, 1, 0)), *((2, n) for n in (2, 1, 0)), *((3, n) for n in (2, 1, 0))]


@pytest.mark.parametrize("workers", [0, 2])
def test_the_figures_are_those_of_the_frames_compared_by_hand(workers):
    flows = {(0, 2): moving(1), (0, 5): moving(-2), (1, 1): moving(30)}
    dataset = Films((0, 3, 6), (2,), flows=flows)
    results, seen = watched({"a": Run(Teller(), 3)}, dataset, workers=workers)
    tally = TemporalTally(5)
    for frame, video in zip(seen, [0] * 7 + [1] * 3, strict=True):
        if frame.first:
            tally.start()
        flow = flows.get((video, int(frame.image[0, 0, 1])), moving(0))
        tally.update(frame.labels["a"], None if frame.first else torch.from_numpy(matches_of(flow)))
    found = results["a"]
    assert (found.consistency, found.compared, found.flicker) == (tally.consistency, tally.compared, tally.flicker)
    assert found.compared < 1 and found.flow == "exact"
    assert found.consistency_iou["e"] is None and found.consistency_iou["a"] > 0


def test_every_frame_is_read_once_but_for_the_one_that_flow_leads_to():
    dataset = Films((0, 3, 6), (2,), flows={})
    watched({"a": Run(Teller(), 3), "b": Run(Teller(), 1)}, dataset)
    twice = {place for place, times in dataset.reads.items() if times > 1}
    assert set(dataset.reads) == {(0, n) for n in range(7)} | {(1, n) for n in range(3)}
    assert twice == {(0, 0), (0, 3)} and max(dataset.reads.values()) == 2
    dataset.reads.clear()
    run_videos({"a": Run(Teller(), 3)}, dataset, "exact", indices=[3], workers=0, quiet=True)
    assert set(dataset.reads) == {(1, 0), (1, 1), (1, 2)}


def test_runs_go_side_by_side_each_at_its_interval():
    dataset = Films((6,), flows={})
    results, seen = watched({("a", 1): Run(Teller(), 1), ("a", 3): Run(Teller(), 3)}, dataset)
    assert [frame.is_key["a", 3] for frame in seen] == [True, False, False, True, False, False, True]
    assert all(frame.is_key["a", 1] for frame in seen)
    alone, _ = watched({"only": Run(Teller(), 3)}, dataset)
    assert results["a", 3] == alone["only"]


def test_a_model_that_never_changes_its_mind_is_steady():
    model = Teller(lambda video, key, distance: np.arange(SIZE[0] * SIZE[1], dtype=np.uint8).reshape(SIZE) % 4)
    results, _ = watched({"a": Run(model, 4)}, Films((9,), flows={}))
    assert (results["a"].consistency, results["a"].flicker, results["a"].compared) == (1, 0, 1)


def test_behind_a_damaged_frame_the_video_goes_on_with_a_key_frame(capsys):
    """And what lies between the last labelled frame and the damage is not run: nothing comes after it."""
    dataset = Films((1, 4, 8), flows={}, damaged=[(0, 6)])
    results, seen = watched({"a": Run(Teller(), 3)}, dataset)
    numbers = [int(frame.image[0, 0, 1]) for frame in seen]
    assert numbers == [0, 1, 2, 3, 4, 7, 8]
    assert [frame.first for frame in seen] == [n in (0, 7) for n in numbers]
    assert [n for n, frame in zip(numbers, seen, strict=True) if frame.is_key["a"]] == [0, 3, 7]
    assert (results["a"].pairs, results["a"].triples) == (4 + 1, 3)
    assert capsys.readouterr().out.count("left out: frame0-6.png: damaged") == 1


def test_damaged_labels_do_not_break_the_video():
    dataset = Films((1, 4, 8), flows={}, damaged_labels=[(0, 4)])
    results, seen = watched({"a": Run(Teller(), 3)}, dataset)
    assert [int(frame.image[0, 0, 1]) for frame in seen] == [*range(9)]
    assert [frame.index for frame in seen if frame.truth is not None] == [0, 2]
    assert results["a"].pairs == 8


def test_stills_have_no_temporal_figures():
    results, _ = watched({"a": Run(Teller(), 3)}, Films((0,), (0,)), flow="dis")
    found = results["a"]
    assert found.consistency is found.compared is found.flicker is None and found.frames == 2


def test_without_flow_frames_are_shown_and_not_compared():
    results, seen = watched({"a": Run(Teller(), 3)}, Films((0, 3, 6), flows={}), flow=None)
    assert [int(frame.image[0, 0, 1]) for frame in seen] == [*range(7)]
    assert (results["a"].consistency, results["a"].pairs, results["a"].flow) == (None, 0, None)


@pytest.mark.gpu
def test_on_the_gpu_the_figures_are_the_same():
    dataset = Films((0, 3, 6), (2,), flows={(0, 2): moving(1)})
    on_gpu, _ = watched({"a": Run(Teller().cuda(), 3)}, dataset)
    on_cpu, _ = watched({"a": Run(Teller(), 3)}, dataset)
    for figure in ("consistency", "compared", "flicker"):
        assert getattr(on_gpu["a"], figure) == pytest.approx(getattr(on_cpu["a"], figure))
