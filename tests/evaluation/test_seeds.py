"""Seeds of one model as one row."""

import json
import re
import statistics

import pytest

from accel.evaluation.comparing.seeds import Figure, markdown, summarize


def result(interval, *mious, fps=10.0):
    by_distance = {str(d): {"miou": miou} for d, miou in enumerate(mious)}
    return {"interval": interval, "by_distance": by_distance, "mean": statistics.fmean(mious), "fps": fps}


def values(models, **other):
    """What `SweepResult` writes, as far as it counts here."""
    about = {"data": "camvid", "split": "val", "class_names": ["sky", "tree"], "class_maps": {}, "simulated": None}
    return {**about, "models": models, **other}


@pytest.fixture
def write(tmp_path):
    def write(name, models, **other):
        path = tmp_path / name
        path.write_text(json.dumps(values(models, **other)))
        return path

    return write


def test_runs_of_one_name_are_a_mean_and_a_standard_deviation(write):
    first = write("a.json", {"DFF #0": [result(2, 0.6, 0.5)], "DFF #1": [result(2, 0.7, 0.6)]})
    second = write("b.json", {"DFF #2": [result(2, 0.8, 0.4)], "Accel": [result(1, 0.9), result(2, 0.9, 0.8, fps=4)]})
    summary = summarize([first, second])
    assert summary.accuracy["DFF"][2] == Figure(pytest.approx(0.6), pytest.approx(0.05), 3)
    assert summary.by_distance["DFF"][1] == Figure(pytest.approx(0.5), pytest.approx(0.1), 3)
    assert summary.accuracy["Accel"] == {1: Figure(0.9, None, 1), 2: Figure(pytest.approx(0.85), None, 1)}
    assert summary.seconds["Accel"][2].mean == 0.25
    assert list(summary.by_distance["Accel"]) == [0, 1]


def test_tables_leave_out_what_was_not_measured(write):
    path = write(
        "a.json", {"A #0": [result(1, 0.5)], "A #1": [result(1, 0.6)], "B": [result(1, 0.7), result(2, 0.7, 0.6)]}
    )
    accuracy, seconds, distance = markdown(summarize([path])).split("\n\n")
    assert accuracy.splitlines() == [
        "| mIoU %, mean over distances, at interval | runs | 1 | 2 |",
        "| --- | --- | --- | --- |",
        "| A | 2 | 55.0 ± 7.1 |  |",
        "| B | 1 | 70.0 | 65.0 |",
    ]
    assert "| B | 1 | 100 | 100 |" in seconds and "| B | 1 | 70.0 | 60.0 |" in distance


def test_a_run_that_stands_twice_is_refused(write):
    a, b = write("a.json", {"A #0": [result(1, 0.5)]}), write("b.json", {"A #0": [result(1, 0.6)]})
    with pytest.raises(ValueError, match=r"b\.json: 'A #0' is also in .*a\.json"):
        summarize([a, b])


MAP = {"predictions": {"sky": "sky", "hedge": "tree"}, "truth": {"sky": "sky", "tree": "tree"}}


@pytest.mark.parametrize(
    ("other", "difference"),
    [
        ({"data": "cityscapes"}, "b.json has data cityscapes, A camvid"),
        ({"split": "test"}, "b.json has split test, A val"),
        ({"class_names": ["sky", "bush"]}, "b.json has classes sky, bush, A sky, tree"),
        (
            {"class_maps": {"A #1": {**MAP, "truth": {"sky": None}}}},
            "b.json has the true sky counted as None, A sky",
        ),
        (
            {"simulated": {"simulated_test_frames": 4, "motion.pan": 0.1}},
            "b.json has data.simulated_test_frames 4, A None",
        ),
        (
            {"class_maps": {"A #1": MAP}},
            "b.json has the predicted hedge of 'A #1' counted as tree, A that of 'A #0' as None",
        ),
    ],
)
def test_results_on_different_data_are_not_averaged(write, other, difference):
    a, b = write("a.json", {"A #0": [result(1, 0.5)]}), write("b.json", {"A #1": [result(1, 0.6)]}, **other)
    expected = difference.replace("b.json", str(b)).replace(", A ", f", {a} ")
    with pytest.raises(ValueError, match=re.escape(expected + ": ")):
        summarize([a, b])


def test_models_of_different_class_maps_compare_in_the_classes_they_were_brought_to(write):
    a = write("a.json", {"A #0": [result(1, 0.5)], "B": [result(1, 0.5)]}, class_maps={"B": MAP})
    b = write("b.json", {"A #1": [result(1, 0.7)]})
    assert summarize([a, b]).accuracy["A"][1].mean == pytest.approx(0.6)


def test_runs_at_different_intervals_are_not_averaged(write):
    a = write("a.json", {"A #0": [result(1, 0.5), result(2, 0.5, 0.4)]})
    b = write("b.json", {"B": [result(1, 0.5)], "A #1": [result(1, 0.6)]})
    words = f"{b} has 'A #1' at the intervals 1, {a} 'A #0' at 1, 2: the runs of a model need the same intervals"
    with pytest.raises(ValueError, match=re.escape(words)):
        summarize([a, b])


GOOD = result(1, 0.5)


@pytest.mark.parametrize(
    "text",
    [
        *("", "[]", '{"models": 3}', '{"models": {"A": [{}]}}', '{"models": {"A": [1]}}'),
        *(
            json.dumps(values({"A": results}))
            for results in (
                *([], {}, 1, [GOOD, GOOD], [{**GOOD, "interval": 2}], [{**GOOD, "interval": 0, "by_distance": {}}]),
                *([{**GOOD, "by_distance": {"0": {}}}], [{**GOOD, "by_distance": {"1": {"miou": 0.5}}}]),
                *([{**GOOD, "by_distance": {"0": {"miou": None}}}], [{**GOOD, "by_distance": [0.5]}]),
                *([{**GOOD, "fps": 0}], [{**GOOD, "fps": "1"}], [{**GOOD, "mean": 10**400}]),
                *([{**GOOD, "mean": float("nan")}], [{k: v for k, v in GOOD.items() if k != "mean"}]),
            )
        ),
        json.dumps(values({})),
        json.dumps(values({"A": [GOOD]}, class_maps={"A": {}})),
        json.dumps(values({"A": [GOOD]}, class_maps=[])),
        json.dumps(values({"A": [GOOD]}, class_names=None)),
        json.dumps(values({"A": [GOOD]}, simulated=3)),
        json.dumps({key: value for key, value in values({"A": [GOOD]}).items() if key != "split"}),
    ],
)
def test_other_files_are_refused(tmp_path, text):
    (tmp_path / "x.json").write_text(text)
    with pytest.raises(ValueError, match=r"x\.json: not the result of accel evaluate --sweep"):
        summarize([tmp_path / "x.json"])
    with pytest.raises(FileNotFoundError, match="y.json"):
        summarize([tmp_path / "y.json"])


def test_results_of_two_protocols_are_not_averaged(write):
    """Older versions wrote no protocol: theirs was the one that scores distances."""
    a = write("a.json", {"A #0": [result(1, 0.5)]}, protocol="distances")
    b = write("b.json", {"A #1": [result(1, 0.5)]})
    assert summarize([a, b]).accuracy["A"][1].count == 2
    c = write("c.json", {"A #2": [result(1, 0.5)]}, protocol="videos")
    with pytest.raises(ValueError, match="has protocol videos, .* distances: results on different data"):
        summarize([a, c])
