"""Tables, JSON and CSV say what was found."""

import csv
import json
import re
from dataclasses import replace

import pytest
from films import Films, Teller

from accel.evaluation.comparing.seeds import markdown, summarize
from accel.evaluation.results import SweepResult
from accel.evaluation.running.evaluator import compare
from accel.evaluation.running.videos import Run, run_videos
from accel.evaluation.tables import (
    class_table,
    distance_tables,
    model_table,
    print_result,
    print_sweep,
    summary,
    sweep_caveats,
    sweep_tables,
    write_csv,
    write_json,
)
from accel.progress import console


@pytest.fixture(scope="module")
def sweep():
    models = {"one": Teller(), "other": Teller()}
    dataset = Films(range(8))
    found = compare(models, dataset, (1, 3), widths=(1, 2), workers=0, quiet=True)
    runs = {(name, k): Run(models[name], k) for name in models for k in (1, 3)}
    temporal = run_videos(runs, dataset, "dis", workers=0, quiet=True)
    models = {n: tuple(replace(r, temporal=temporal[n, r.interval]) for r in results) for n, results in found.items()}
    return SweepResult("films", "val", dataset.class_names, ((1, 2, 3),) * 5, (1, 3), models)


def printed(*tables):
    with console.capture() as shown:
        for table in tables:
            console.print(table)
    return shown.get()


def test_a_class_that_is_nowhere_has_a_dash(sweep):
    result = sweep.models["one"][1]
    assert result.accuracy.iou["e"] is None
    lines = printed(class_table(result)).splitlines()
    (line,) = (line for line in lines if "e " in line and "class" not in line and "mean" not in line)
    assert "-" in line and "nan" not in line


def test_an_miou_says_what_it_is_the_mean_of_wherever_it_is_shown(sweep, tmp_path):
    result = sweep.models["one"][1]
    assert (result.accuracy.classes_scored, result.accuracy.classes_not_in_labels) == (4, ("e",))
    assert 0.1 < result.accuracy.ignored < 0.3
    caveats = "mean of 4 of 5 classes; no label has 'e'"
    assert f"mIoU {100 * result.accuracy.miou:.2f}% ({caveats}) over" in summary(result)
    assert re.search(rf"mean of 4 of 5 +│ +{100 * result.accuracy.miou:.1f}", printed(class_table(result)))
    with console.capture() as shown:
        print_sweep(sweep)
    assert shown.get().splitlines()[-2:] == [f"one, mIoU: {caveats}", f"other, mIoU: {caveats}"]
    assert f"one, mIoU: {caveats}" in " ".join(printed(model_table({"one": result}, "title")).split())
    write_json(tmp_path / "one.json", sweep.as_dict())
    assert f"other, mIoU: {caveats}" in markdown(summarize([tmp_path / "one.json"])).splitlines()


def test_what_is_true_of_some_intervals_names_them(sweep):
    one, three = sweep.models["one"]
    models = {"one": (one, replace(three, accuracy=replace(three.accuracy, ignored=0.99999)))}
    first, second = sweep_caveats(replace(sweep, models=models))
    assert first == "one, mIoU at interval 1: mean of 4 of 5 classes; no label has 'e'"
    assert second.startswith("one, mIoU at interval 3: mean of 4")
    assert second.endswith("; >99.99% of the labels' pixels are ignored")


def test_the_tables_have_every_model_interval_and_distance(sweep):
    tables = list(sweep_tables(sweep))
    assert [table.row_count for table in tables] == [4, 3, 3, 4, 4, 4]
    text = printed(*tables)
    for result in (r for results in sweep.models.values() for r in results):
        for share in (result.mean, result.accuracy.miou, result.worst, *(a.miou for a in result.by_distance.values())):
            assert f"{100 * share:.1f}" in text
        assert f"{100 * result.temporal.flicker:.2f}" in text and f"{100 * result.accuracy.trimap[1]:.1f}" in text
        assert f"{result.seconds_key:.4f}" in text


def test_what_was_not_measured_has_no_table(sweep):
    bare = {
        n: tuple(replace(r, temporal=None, accuracy=replace(r.accuracy, trimap={})) for r in rs)
        for n, rs in sweep.models.items()
    }
    tables = list(sweep_tables(replace(sweep, models=bare)))
    assert len(tables) == 4 and "flicker" not in printed(*tables) and " px" not in printed(*tables)


def test_one_result_is_printed_with_its_distances(sweep):
    result = sweep.models["one"][1]
    text = printed(*distance_tables(result))
    assert "within 2 px" in text and f"{100 * result.by_distance[2].trimap[1]:.1f}" in text
    with console.capture() as shown:
        print_result(result)
    assert "temporal consistency" in shown.get() and "at interval 3" in shown.get()


def test_json_holds_everything(sweep, tmp_path):
    write_json(tmp_path / "new/sweep.json", sweep.as_dict())
    read = json.loads((tmp_path / "new/sweep.json").read_text())
    result = sweep.models["other"][1]
    there = read["models"]["other"][1]
    assert read["intervals"] == [1, 3] and read["class_names"] == list("abcde")
    assert there["by_distance"]["2"]["miou"] == result.by_distance[2].miou
    assert there["confusion"] == [list(row) for row in result.accuracy.confusion]
    assert there["temporal"]["consistency"] == result.temporal.consistency
    assert there["trimap"]["2"] == result.accuracy.trimap[2]
    assert "NaN" not in (tmp_path / "new/sweep.json").read_text()


def test_csv_has_a_row_for_each_distance_and_one_for_all(sweep, tmp_path):
    write_csv(tmp_path / "new/sweep.csv", sweep)
    with (tmp_path / "new/sweep.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    places = [(row["model"], row["interval"], row["distance"]) for row in rows]
    one = [("1", "0"), ("1", "all"), ("3", "0"), ("3", "1"), ("3", "2"), ("3", "all")]
    assert places == [(name, *place) for name in ("one", "other") for place in one]
    result = sweep.models["one"][1]
    row = rows[places.index(("one", "3", "1"))]
    assert float(row["miou"]) == result.by_distance[1].miou
    assert float(row["trimap 2"]) == result.by_distance[1].trimap[2]
    assert float(row["iou a"]) == result.by_distance[1].iou["a"] and row["iou e"] == "" and row["mean"] == ""
    last = rows[places.index(("one", "3", "all"))]
    assert (last["classes_scored"], last["classes_not_in_labels"]) == ("4", "e")
    assert float(last["ignored"]) == result.accuracy.ignored
    assert float(last["mean"]) == result.mean and float(last["worst"]) == result.worst
    assert float(last["consistency"]) == result.temporal.consistency and last["flow"] == "dis"
