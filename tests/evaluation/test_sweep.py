"""Accuracy by distance: every (key frame, distance) once, and the numbers that brute force finds."""

import pickle

import numpy as np
import pytest
import torch
from films import CLASSES, SIZE, Films, Forgetful, Teller, said
from small_models import standardise_scores

from accel.datasets import Clip
from accel.datasets.camvid import CamVid
from accel.evaluation.running.evaluator import compare, evaluate
from accel.evaluation.running.sweep import Looks, Tally, result_of, sweep
from accel.measures.boundary import TrimapMatrix, trimap_bands
from accel.measures.confusion import ConfusionMatrix
from accel.models import Accel, DeepFeatureFlow, DeepLab, FlowNetS, FlowWarp, FrameByFrame, ScoreFusion, SmpBackbone

DENSE = range(12)
FILMS = {
    "dense": (DENSE,),
    "sparse": ((4,), (9,), (2,)),
    "every third": (range(2, 20, 3),),
    "mixed": (DENSE, (7,), (0, 1, 5, 6, 11), (0,)),
}


def run(models, dataset, intervals, **options):
    models = models if isinstance(models, dict) else {"model": models}
    return sweep(models, dataset, intervals, workers=0, quiet=True, **options)


def brute_force(dataset, interval, distance, say=said, left_out=()):
    """The counts of one distance at one interval, each frame on its own."""
    matrix = ConfusionMatrix(CLASSES)
    for index, (video, number) in enumerate(dataset.labelled):
        if number >= interval - 1 and index not in left_out:
            predicted = say(video, number - distance, distance)
            matrix.update(torch.from_numpy(predicted), torch.from_numpy(dataset.truth(index)))
    return matrix.counts


@pytest.mark.parametrize("films", FILMS.values(), ids=FILMS)
@pytest.mark.parametrize("intervals", [(1,), (3,), (1, 2, 3, 5), (2, 5)])
@pytest.mark.parametrize("average", [True, False])
def test_the_counts_are_those_of_brute_force(films, intervals, average):
    dataset = Films(*films)
    tally = run(Teller(), dataset, intervals, average=average)["model"]
    for interval in intervals:
        for distance in range(interval):
            if average or distance == interval - 1:
                counts = tally.score(distance, interval).matrix.all_pixels().counts
                assert torch.equal(counts, brute_force(dataset, interval, distance))
            result = result_of(tally, interval, average)
            assert result.frames_scored == sum(number >= interval - 1 for _, number in dataset.labelled)


@pytest.mark.parametrize("model", [Teller, Forgetful])
@pytest.mark.parametrize("interval", [1, 3])
def test_what_counts_is_handed_out_once_a_frame(model, interval):
    """And nothing else: not what is rehearsed, nor frames that a file is missing for."""
    dataset = Films(DENSE, (4,), (1, 7), damaged=[(0, 5)])
    given = []
    result = evaluate(
        model(),
        dataset,
        interval,
        workers=0,
        quiet=True,
        on_labels=lambda name, labels: given.append((name, labels.clone())),
    )
    lost = range(5, 5 + interval)
    scored = [(v, n) for v, n in dataset.labelled if n >= interval - 1 and not (v == 0 and n in lost)]
    assert sorted(name for name, _ in given) == sorted(f"{v}-{n}" for v, n in scored)
    assert result.frames_scored == len(scored)
    distance = 0 if model is Forgetful else interval - 1
    for name, labels in given:
        video, number = map(int, name.split("-"))
        assert np.array_equal(labels, said(video, number - distance, distance))


def test_of_several_models_and_distances_each_prediction_is_handed_out():
    given = []
    run({"a": Teller(), "b": Teller()}, Films((4,)), (2, 3), on_labels=lambda name, _: given.append(name))
    assert given == ["0-4"] * 2 * 3  # distances 0, 1 and 2; the first two serve both intervals


@pytest.mark.parametrize("films", FILMS.values(), ids=FILMS)
def test_every_key_frame_is_propagated_once_and_no_further_than_is_scored(films):
    """For all intervals together; labels are made of key frames and of what is scored, and of nothing else."""
    dataset, model = Films(*films), Teller()
    run(model, dataset, (1, 2, 3, 5))
    scored = {
        (video, number - distance, distance)
        for video, number in dataset.labelled
        for interval in (1, 2, 3, 5)
        for distance in range(interval)
        if number >= interval - 1
    }
    keys = {(video, key, 0) for video, key, _ in scored}
    on_the_way = {(video, key, d) for video, key, distance in scored for d in range(distance + 1)}
    first = min(scored, key=lambda place: (place[0], place[1]))[:2]
    rehearsal = {(*first, d) for d in (0, 1) if (*first, d) in on_the_way}
    assert {place for place, n in model.steps.items() if n > 1} <= rehearsal
    assert set(model.steps) == on_the_way
    assert scored | keys | rehearsal == set(model.labelled)
    assert sum(model.steps.values()) == len(on_the_way) + len(rehearsal)


@pytest.mark.parametrize("films", FILMS.values(), ids=FILMS)
def test_every_frame_is_read_once(films):
    dataset = Films(*films)
    run({"a": Teller(), "b": Teller()}, dataset, (1, 2, 5))
    assert set(dataset.reads.values()) == {1}
    needed = {(v, n - d) for v, n in dataset.labelled for k in (1, 2, 5) for d in range(k) if n >= k - 1}
    assert needed <= set(dataset.reads)


def test_the_curve_at_interval_1_is_frame_by_frame_evaluation():
    """Whatever other intervals there are, and also with a network."""
    torch.manual_seed(0)
    accel = small_accel()
    dataset = Snow()
    alone = evaluate(FrameByFrame(accel.reference), dataset, 1, workers=0, quiet=True)
    swept = compare({"accel": accel}, dataset, (1, 3), workers=0, quiet=True)["accel"]
    assert swept[0].accuracy == alone.accuracy
    assert [*swept[0].by_distance] == [0] and swept[0].by_distance[0].miou == alone.accuracy.miou
    assert swept[0].mean == swept[0].worst == alone.accuracy.miou
    assert swept[1].by_distance[2].miou != swept[1].by_distance[0].miou  # the snow moves


@pytest.mark.parametrize("model", ["frame by frame", "deep feature flow"])
def test_on_a_still_video_all_distances_agree(model):
    """Of a model whose flow is zero where nothing moves."""
    torch.manual_seed(0)
    reference = DeepLab(SmpBackbone("tu-test_resnet"), CLASSES, 8)
    models = {
        "frame by frame": FrameByFrame(reference),
        "deep feature flow": DeepFeatureFlow(reference, FlowWarp(NoFlow())),
    }
    dataset = Snow(still=True)
    (result,) = compare({"model": models[model]}, dataset, (4,), workers=0, quiet=True)["model"]
    first = result.by_distance[0]
    assert all(accuracy == first for accuracy in result.by_distance.values())
    assert result.mean == pytest.approx(first.miou) and result.worst == first.miou == result.value


class NoFlow(torch.nn.Module):
    def forward(self, now, before):
        return torch.zeros(1, 2, -(-now.shape[2] // 16), -(-now.shape[3] // 16))


class Snow(Films):
    """One video of frames of noise, every one labelled."""

    def __init__(self, still=False):
        super().__init__(range(6))
        self.still = still

    def clip(self, index, length):
        numbers = range(index - length + 1, index + 1)
        frames = [np.random.default_rng(0 if self.still else n).integers(0, 256, (48, 64, 3)) for n in numbers]
        labels = np.random.default_rng(99 if self.still else index).integers(0, CLASSES, (48, 64)).astype(np.uint8)
        return Clip(np.array(frames, np.uint8), labels, None, str(index))


def small_accel():
    reference, update = (DeepLab(SmpBackbone("tu-test_resnet"), CLASSES, 8) for _ in range(2))
    flow = FlowNetS(1 / 16)
    torch.nn.init.normal_(flow.predict["2"].weight, std=0.1)  # as if trained: something moves
    for branch in (reference, update):
        standardise_scores(branch, (48, 64))
    return Accel(reference, FlowWarp(flow), update, ScoreFusion(CLASSES)).eval()


@pytest.mark.parametrize("average", [True, False])
def test_one_sweep_finds_what_an_evaluation_of_each_interval_finds(average):
    dataset = Films(*FILMS["mixed"])
    swept = compare({"model": Teller()}, dataset, (5, 1, 3), average, workers=0, quiet=True)["model"]
    for result, interval in zip(swept, (1, 3, 5), strict=True):
        alone = evaluate(Teller(), dataset, interval, average, workers=0, quiet=True)
        for found in (result, alone):
            assert found.interval == interval and found.seconds_key > 0
            assert (found.seconds_current is None) == (interval == 1)
        figures = ("accuracy", "by_distance", "frames_scored", "mean", "worst", "worst_distance")
        assert [getattr(result, f) for f in figures] == [getattr(alone, f) for f in figures]


def test_mean_and_worst_are_those_of_the_distances():
    def say(video, key, distance):
        """Right at distances 0 and 2, wrong at 1."""
        return np.full(SIZE, 0 if distance != 1 else 1, np.uint8)

    class AllA(Films):
        def truth(self, index):
            return np.zeros(SIZE, np.uint8)

    tally = run(Teller(say), AllA((4,)), (3,))["model"]
    result = result_of(tally, 3)
    assert [a.miou for a in result.by_distance.values()] == [1, 0, 1]
    assert (result.mean, result.worst, result.worst_distance) == (pytest.approx(2 / 3), 0, 1)
    # counted together: class a 2 of 3 pixels, class b predicted in vain, the others nowhere
    assert result.accuracy.miou == pytest.approx((2 / 3 + 0) / 2)
    assert result.accuracy.iou == {"a": pytest.approx(2 / 3), "b": 0, "c": None, "d": None, "e": None}


def test_a_model_without_memory_is_asked_once_about_each_frame():
    dataset, model = Films(*FILMS["dense"]), Forgetful()
    tally = run(model, dataset, (1, 2, 5))["model"]
    assert len(model.steps) == 12 and sum(model.steps.values()) == 13 + 1  # two frames are rehearsed
    for distance in range(5):
        expected = brute_force(dataset, 5, distance, lambda video, key, d: said(video, key + d, 0))
        assert torch.equal(tally.score(distance, 5).matrix.all_pixels().counts, expected)
    result = result_of(tally, 5)
    assert result.seconds_current == result.seconds_key and result.fps == pytest.approx(1 / result.seconds_key)


def test_models_are_scored_side_by_side():
    dataset = Films(*FILMS["mixed"])
    other = lambda video, key, distance: said(video + 50, key, distance)  # noqa: E731
    both = run({"a": Teller(), "b": Teller(other)}, dataset, (1, 3))
    assert torch.equal(
        both["a"].score(2, 3).matrix.counts, run(Teller(), dataset, (1, 3))["model"].score(2, 3).matrix.counts
    )
    assert torch.equal(both["b"].score(2, 3).matrix.all_pixels().counts, brute_force(dataset, 3, 2, other))


# --- trimaps --------------------------------------------------------------------------------------------------


def test_trimaps_are_counted_by_distance_too():
    dataset = Films(*FILMS["mixed"])
    tally = run(Teller(), dataset, (1, 3), widths=(1, 2))["model"]
    expected = TrimapMatrix(CLASSES, (1, 2))
    for index, (video, number) in enumerate(dataset.labelled):
        if number >= 2:
            truth = dataset.truth(index)
            tensors = map(torch.from_numpy, (said(video, number - 1, 1), truth, trimap_bands(truth, (1, 2))))
            expected.update(*tensors)
    assert torch.equal(tally.score(1, 3).matrix.counts, expected.counts)
    result = result_of(tally, 3)
    assert result.by_distance[1].trimap == {w: expected.within(w).miou() for w in (1, 2)}
    assert [*result.accuracy.trimap] == [1, 2]


def test_without_widths_there_are_no_trimaps():
    assert compare({"m": Teller()}, Films(DENSE), (2,), workers=0, quiet=True)["m"][0].accuracy.trimap == {}


@pytest.mark.gpu
def test_on_the_gpu_the_counts_are_the_same():
    dataset = Films(*FILMS["mixed"])
    on_gpu = run(Teller().cuda(), dataset, (1, 3), widths=(1, 2))["model"]
    same_counts(on_gpu, run(Teller(), dataset, (1, 3), widths=(1, 2))["model"])


# --- sharing the work -----------------------------------------------------------------------------------------


def same_counts(a: Tally, b: Tally):
    assert a.scores.keys() == b.scores.keys()
    assert all(torch.equal(a.scores[place].matrix.counts.cpu(), b.scores[place].matrix.counts) for place in a.scores)
    assert (a.scored, a.damaged) == (b.scored, b.damaged)


@pytest.mark.parametrize("parts", [2, 3])
def test_splitting_the_set_over_processes_changes_nothing(parts):
    """Each part's tally travels as bytes, as between processes."""
    dataset = Films(*FILMS["mixed"], damaged=[(2, 5)])
    whole = run(Teller(), dataset, (1, 2, 5), widths=(1, 4))["model"]
    indices = np.array_split(np.arange(len(dataset)), parts)
    tallies = [run(Teller(), dataset, (1, 2, 5), widths=(1, 4), indices=part.tolist())["model"] for part in indices]
    first, *others = (pickle.loads(pickle.dumps(tally)) for tally in tallies)
    merged = sum(others, first)
    same_counts(merged, whole)
    assert len(merged.seconds_key) >= len(whole.seconds_key)


def test_what_was_not_swept_has_no_result():
    dataset = Films(DENSE)
    tally = run(Teller(), dataset, (1, 4))["model"]
    for interval in (2, 5):
        with pytest.raises(ValueError, match=f"interval {interval} was not swept, .* swept were 1, 4"):
            result_of(tally, interval)
    farthest = run(Teller(), dataset, (1, 4), average=False)["model"]
    assert result_of(farthest, 4, average=False).by_distance.keys() == {3}
    with pytest.raises(ValueError, match="interval 4 was swept at its farthest distance only"):
        result_of(farthest, 4)
    with pytest.raises(ValueError, match="cannot be added"):
        tally + farthest


def share_of_the_work(rank, parts):
    dataset = Films(*FILMS["mixed"])
    indices = np.array_split(np.arange(len(dataset)), parts)[rank].tolist()
    return run(Teller(), dataset, (1, 3), indices=indices)["model"]


@pytest.mark.slow
def test_two_processes_find_what_one_finds():
    from concurrent.futures import ProcessPoolExecutor

    with ProcessPoolExecutor(2) as pool:
        a, b = pool.map(share_of_the_work, (0, 1), (2, 2))
    same_counts(a + b, share_of_the_work(0, 1))


@pytest.mark.parametrize("workers", [1, 2])
def test_workers_read_the_same(workers):
    dataset = Films(*FILMS["mixed"], damaged=[(0, 5)])
    by_workers = sweep({"model": Teller()}, dataset, (1, 3), widths=(2,), workers=workers, quiet=True)["model"]
    same_counts(by_workers, run(Teller(), dataset, (1, 3), widths=(2,))["model"])


# --- damage ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("damage", "lost"),
    [
        # by interval: the labelled frames that cannot be scored
        ({"damaged": [(0, 5)]}, {1: {5}, 2: {5, 6}, 4: {5, 6, 7, 8}}),
        ({"damaged": [(0, 0)]}, {1: {0}, 2: {1}, 4: {3}}),
        ({"damaged": [(0, 4), (0, 6)]}, {1: {4, 6}, 2: {4, 5, 6, 7}, 4: {4, 5, 6, 7, 8, 9}}),
        ({"damaged_labels": [(0, 5)]}, {1: {5}, 2: {5}, 4: {5}}),  # the image is there for the others
        ({"damaged_labels": [(0, 0)]}, {1: {0}, 2: set(), 4: set()}),
        ({"damaged": [(0, 5)], "damaged_labels": [(0, 6)]}, {1: {5, 6}, 2: {5, 6}, 4: {5, 6, 7, 8}}),
        ({"damaged": [(0, 11)]}, {1: {11}, 2: {11}, 4: {11}}),
    ],
)
def test_damage_costs_an_interval_the_frames_that_need_the_file(damage, lost, capsys):
    dataset = Films(DENSE, **damage)
    tally = run(Teller(), dataset, (1, 2, 4))["model"]
    for interval, frames in lost.items():
        result = result_of(tally, interval)
        assert (result.frames_damaged, result.frames_scored) == (len(frames), 13 - interval - len(frames))
        for distance in range(interval):
            expected = brute_force(Films(DENSE), interval, distance, left_out=frames)
            assert torch.equal(tally.score(distance, interval).matrix.all_pixels().counts, expected)
    out = capsys.readouterr().out
    for kind, places in damage.items():
        for video, number in places:
            name = f"{'frame' if kind == 'damaged' else 'labels'}{video}-{number}.png"
            assert out.count(f"left out: {name}: damaged") == 1


@pytest.mark.parametrize("seed", range(12))
def test_whatever_is_labelled_and_damaged_the_counts_are_those_of_brute_force(seed):
    rng = np.random.default_rng(seed)
    videos = [np.flatnonzero(rng.random(15) < density) for density in rng.choice((0.1, 0.4, 1), 3)]
    every = [(video, number) for video in range(3) for number in range(15)]
    damaged, damaged_labels = ({place for place in every if rng.random() < 0.06} for _ in range(2))
    intervals = tuple(sorted(rng.choice(range(1, 7), 3, replace=False).tolist()))
    whole = Films(*videos)
    if max((number for _, number in whole.labelled), default=0) < intervals[-1] - 1:
        pytest.skip("too short for these intervals")
    dataset = Films(*videos, damaged=damaged, damaged_labels=damaged_labels)
    tally = run(Teller(), dataset, intervals)["model"]
    for interval in intervals:
        lost = {
            index
            for index, (video, number) in enumerate(dataset.labelled)
            if (video, number) in damaged_labels
            or any((video, number - d) in damaged for d in range(interval) if number >= interval - 1)
        }
        there = [i for i, (_, number) in enumerate(dataset.labelled) if number >= interval - 1]
        assert tally.damaged[interval] == len(lost.intersection(there))
        assert sum(n for reach, n in tally.scored.items() if reach >= interval) == len(set(there) - lost)
        for distance in range(interval):
            expected = brute_force(whole, interval, distance, left_out=lost)
            assert torch.equal(tally.score(distance, interval).matrix.all_pixels().counts, expected)


def test_an_interval_that_nothing_is_left_for_is_an_error():
    tally = run(Teller(), Films((4,), damaged=[(0, 2)]), (1, 5))["model"]
    assert result_of(tally, 1).frames_scored == 1
    with pytest.raises(ValueError, match=r"none of the labelled frames could be read \(interval 5\)"):
        result_of(tally, 5)


@pytest.mark.parametrize(
    ("intervals", "message"),
    [
        ((0, 1), "interval 0: expected 1"),
        ((), "no interval"),
        ((2, 3, 2), "interval 2 occurs twice in 2, 3, 2"),
        ((1, 13), "interval 13 needs 12 frames before a labelled one; the longest clip in this data set has 12"),
    ],
)
def test_intervals_that_cannot_be_are_refused(intervals, message):
    with pytest.raises(ValueError, match=message):
        run(Teller(), Films(DENSE), intervals)


def test_a_class_out_of_range_is_refused_with_what_was_found():
    say = lambda video, key, distance: np.full(SIZE, CLASSES + 2, np.uint8)  # noqa: E731
    with pytest.raises(ValueError, match="class 7 among the labels; there are 5 classes, 0 to 4"):
        run(Teller(say), Films(DENSE), (2,))


def test_camvid_is_swept_as_one_video(tiny_camvid):
    """Six frames, all labelled. At interval 3 the first two are not scored, but frames 2 to 5 are, at 0, 1 and 2."""

    class Counting(FrameByFrame):
        carries_state = True  # so that it is asked about every distance

        def __init__(self):
            super().__init__(DeepLab(SmpBackbone("tu-test_resnet"), 11, 8))
            self.keys = self.steps = 0

        def key_frame(self, image, state=None):
            self.keys += 1
            return super().key_frame(image)

        def next_frame(self, image, state):
            self.steps += 1
            return super().key_frame(image)

    model = Counting()
    tally = run(model, CamVid(tiny_camvid, "val"), (1, 3))["model"]
    assert (model.keys, model.steps) == (6 + 1, 4 * 2 + 1)  # and the rehearsal; frame 1 of the first pass is gone past
    assert result_of(tally, 3).frames_scored == 4


def test_figures_on_the_way_take_a_small_share_of_the_time(monkeypatch):
    """Those of many boxes take seconds. To look every second would take most of the time."""
    clock = [100.0]
    monkeypatch.setattr("time.monotonic", lambda: clock[0])
    looks = Looks()
    assert not looks.is_due()
    for takes, pause in ((0.0, 1), (3.0, 150)):
        clock[0] = looks.next + 0.1
        assert looks.is_due()
        with looks.timed():
            clock[0] += takes
        assert looks.next == pytest.approx(clock[0] + pause)
