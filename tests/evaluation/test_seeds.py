"""Seeds of one model as one row."""

import json
import statistics

import pytest

from accel.evaluation.seeds import Figure, markdown, summarize


def result(interval, *mious, fps=10.0):
    by_distance = {str(d): {"miou": miou} for d, miou in enumerate(mious)}
    return {"interval": interval, "by_distance": by_distance, "mean": statistics.fmean(mious), "fps": fps}


@pytest.fixture
def write(tmp_path):
    def write(name, models):
        path = tmp_path / name
        path.write_text(json.dumps({"data": "camvid", "models": models}))
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
        "| mIoU %, mean over distances, at interval | 1 | 2 |",
        "| --- | --- | --- |",
        "| A | 55.0 ± 7.1 |  |",
        "| B | 70.0 | 65.0 |",
    ]
    assert "| B | 100 | 100 |" in seconds and "| B | 70.0 | 60.0 |" in distance


def test_a_run_that_stands_twice_is_refused(write):
    a, b = write("a.json", {"A #0": [result(1, 0.5)]}), write("b.json", {"A #0": [result(1, 0.6)]})
    with pytest.raises(ValueError, match=r"b\.json: 'A #0' stands in .*a\.json, too"):
        summarize([a, b])


@pytest.mark.parametrize("text", ["", "[]", '{"models": 3}', '{"models": {"A": [{}]}}', '{"models": {"A": [1]}}'])
def test_other_files_are_refused(tmp_path, text):
    (tmp_path / "x.json").write_text(text)
    with pytest.raises(ValueError, match=r"x\.json: not the result of tools/evaluate\.py --sweep"):
        summarize([tmp_path / "x.json"])
    with pytest.raises(FileNotFoundError, match="y.json"):
        summarize([tmp_path / "y.json"])
