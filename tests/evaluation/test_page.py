"""The report says what was found, needs nothing but itself, and overwrites nothing but an earlier report."""

import csv
import json
import re
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest
from films import CLASSES, Films, Teller

from accel.evaluation.origin import Origin
from accel.evaluation.report.page import NAMES, check_folder, write_report
from accel.evaluation.report.pictured_clips import ClipRecorder, choose_clips
from accel.evaluation.results import SweepResult
from accel.evaluation.running.evaluator import compare
from accel.evaluation.running.videos import Run, run_videos
from accel.tasks import task_of

WRITTEN = set(NAMES) - {"motion.png"}  # which is of detection
NAMED = {"one": "one", "<b>other</b> & $x_1$": "</script><script>alert(1)</script>"}  # model: checkpoint
PALETTE = ((128, 64, 128), (70, 70, 70), (0, 0, 142), (107, 142, 35), (220, 20, 60))


class Coloured(Films):
    palette = np.array(PALETTE, np.uint8)


@pytest.fixture(scope="module")
def found():
    """Results of two models at intervals 1 and 3, with trimaps and steadiness, and the clips."""
    models = {name: Teller() for name in NAMED}
    dataset = Coloured(range(8), (2, 4))
    results = compare(models, dataset, (1, 3), widths=(1, 2), workers=0, quiet=True)
    runs = {(name, k): Run(models[name], k) for name in models for k in (1, 3)}
    recorder = ClipRecorder(dataset, choose_clips(dataset), [(name, 3) for name in models], task_of(Teller(), dataset))
    temporal = run_videos(runs, dataset, "dis", watch=recorder, workers=0, quiet=True)
    with_it = {n: tuple(replace(r, temporal=temporal[n, r.interval]) for r in rs) for n, rs in results.items()}
    return SweepResult("films", "val", dataset.class_names, PALETTE, (1, 3), with_it), recorder.clips()


@pytest.fixture(scope="module")
def written(found, tmp_path_factory):
    folder = tmp_path_factory.mktemp("report") / "new/folder"
    write_report(folder, *found, ORIGIN)
    return folder


ORIGIN = Origin("python tools/evaluate.py --sweep 1,3", 1, "a machine", "abc1234+", "2026-11-21T12:00+00:00", NAMED)


class Reader(HTMLParser):
    """What is in a page: tables by their captions (rows of cells), sources of pictures and scripts, tags."""

    def __init__(self, page):
        super().__init__()
        self.tables, self.tags, self.addresses, self.texts = {}, [], [], []
        self._rows, self._cell, self._caption = [], None, None
        self.feed(page)

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.addresses += [value for key, value in attributes if key in ("src", "href")]
        if tag == "table":
            self._rows = []
        elif tag == "tr":
            self._rows.append([])
        elif tag in ("td", "th", "caption"):
            self._cell = ""

    def handle_data(self, data):
        self.texts.append(data)
        if self._cell is not None:
            self._cell += data

    def handle_endtag(self, tag):
        if tag == "caption":
            self._caption, self._cell = self._cell, None
        elif tag in ("td", "th"):
            self._rows[-1].append(self._cell)
            self._cell = None
        elif tag == "table":
            self.tables[self._caption] = self._rows


@pytest.fixture(scope="module")
def page(written):
    return Reader((written / "index.html").read_text(encoding="utf-8"))


def table(page, beginning):
    (rows,) = (rows for caption, rows in page.tables.items() if caption.startswith(beginning))
    return rows


def test_the_tables_hold_the_results_without_javascript(found, page):
    sweep, _ = found
    head, *rows = table(page, "Accuracy and speed")
    assert [row[:2] for row in rows] == [[name, k] for name in NAMED for k in ("1", "3")]
    for row, result in zip(rows, (r for rs in sweep.models.values() for r in rs), strict=True):
        by_head = dict(zip(head, row, strict=True))
        assert by_head["mean mIoU %"] == f"{100 * result.mean:.2f}"
        assert by_head["pooled mIoU %"] == f"{100 * result.accuracy.miou:.2f}"
        assert by_head["worst mIoU %"] == f"{100 * result.worst:.2f}"
        assert by_head["ms a frame"] == f"{1000 / result.fps:.1f}"
        assert by_head["frames scored"] == str(result.frames_scored)
    distance = table(page, "mIoU in per cent by distance")
    accuracy = sweep.models["one"][1].by_distance
    assert distance[2] == ["one", "3", *(f"{100 * accuracy[d].miou:.2f}" for d in range(3))]
    assert distance[1][3:] == ["", ""]  # interval 1 has distance 0 only
    trimap = table(page, "mIoU in per cent near")
    assert trimap[2][2] == f"{100 * sweep.models['one'][1].accuracy.trimap[1]:.2f}"
    steady = table(page, "Steadiness")[2]
    assert steady[2] == f"{100 * sweep.models['one'][1].temporal.consistency:.2f}" and steady[6] == "dis"


def test_a_class_that_is_nowhere_has_a_dash(page):
    rows = {row[0]: row[1:] for row in table(page, "IoU of each class")}
    assert rows["e"] == ["-"] * 4 and "-" not in rows["a"]
    confusion = {row[0]: row[1:] for row in table(page, "Confusion matrix")}
    assert confusion["e"] == ["-"] * CLASSES + ["0"]


def test_the_page_says_what_an_miou_is_the_mean_of(page):
    lines = [f"{name}, mIoU: mean of 4 of 5 classes; no label has 'e'" for name in NAMED]
    at = page.texts.index(lines[0])
    assert [text for text in page.texts if "mean of" in text] == lines and at < page.texts.index("pooled mIoU %")
    assert set(table(page, "IoU of each class")[-1][1:]) == {"4 of 5"}


def test_the_rows_of_the_confusion_matrix_are_shares_of_the_true_class(found, page):
    caption = next(c for c in page.tables if c.startswith("Confusion matrix"))
    name = next(n for n in NAMED if f" {n} " in caption)
    rows = {row[0]: row[1:] for row in page.tables[caption]}
    counts = found[0].models[name][1].accuracy.confusion[0]
    assert rows["a"][:CLASSES] == [f"{100 * n / sum(counts):.1f}" for n in counts]
    assert int(rows["a"][-1].replace(" ", "")) == sum(counts)


def test_names_cannot_become_markup(page, written):
    text = (written / "index.html").read_text()
    assert "b" not in page.tags[page.tags.index("table") :] and "alert(1)</script>" not in text
    assert page.tags.count("script") == 2 and "&lt;b&gt;other&lt;/b&gt;" in text


def test_the_page_loads_nothing(page, written):
    beside = [a for a in page.addresses if not a.startswith("data:")]
    assert sorted(beside) == ["results.csv", "results.json"]
    text = (written / "index.html").read_text()
    style_and_script = "".join(re.findall(r"<style>.*?</style>|<script>.*?</script>", text, re.S))
    assert "http" not in style_and_script and "url(" not in style_and_script and "@import" not in style_and_script
    assert 'name="viewport"' in text


def test_plots_and_numbers_are_beside_the_page(found, written):
    assert {path.name for path in written.iterdir()} == WRITTEN
    assert all((written / name).read_bytes().startswith(b"\x89PNG") for name in WRITTEN if name.endswith(".png"))
    read = json.loads((written / "results.json").read_text())
    assert read["models"]["one"][1]["miou"] == found[0].models["one"][1].accuracy.miou
    assert read["origin"]["commit"] == "abc1234+"
    with (written / "results.csv").open(newline="") as file:
        assert len(list(csv.DictReader(file))) == 2 * (2 + 4)


@pytest.mark.parametrize(("commit", "said"), [("abc1234+", "with commit"), (None, "12:00 UTC.")])
def test_the_page_says_when_and_by_which_commit(found, tmp_path, commit, said):
    write_report(tmp_path, *found, replace(ORIGIN, commit=commit))
    text = (tmp_path / "index.html").read_text()
    assert "Made on\n21 November 2026, 12:00 UTC" in text and said in text and ("with commit" in text) == bool(commit)


def test_what_was_not_measured_has_no_section(found, tmp_path):
    sweep, _ = found
    first = sweep.models["one"][0]
    bare = {"one": (replace(first, temporal=None, accuracy=replace(first.accuracy, trimap={})),)}
    write_report(tmp_path / "r", replace(sweep, models=bare, intervals=(1,)), [], ORIGIN)
    page = Reader((tmp_path / "r/index.html").read_text())
    assert len(page.tables) == 3 and "Frame by frame" not in page.texts
    assert not any((tmp_path / f"r/{name}.png").exists() for name in ("boundary", "temporal", "distance"))


def test_an_earlier_report_is_replaced_as_a_whole(found, tmp_path):
    sweep, clips = found
    write_report(tmp_path / "r", sweep, clips, ORIGIN)
    bare = {n: tuple(replace(r, temporal=None) for r in rs) for n, rs in sweep.models.items()}
    write_report(tmp_path / "r", replace(sweep, models=bare), clips, ORIGIN)
    assert {p.name for p in (tmp_path / "r").iterdir()} == WRITTEN - {"temporal.png"}


@pytest.mark.parametrize("name", ["thesis.tex", "index.html", "results.json"])
def test_a_folder_that_holds_other_things_is_refused_and_left_alone(found, tmp_path, name):
    (tmp_path / name).write_text("dear")
    for refuse in (lambda: check_folder(tmp_path), lambda: write_report(tmp_path, *found, ORIGIN)):
        with pytest.raises(FileExistsError, match=f"holds {name}, which no report wrote; choose a new"):
            refuse()
    assert [p.name for p in tmp_path.iterdir()] == [name] and (tmp_path / name).read_text() == "dear"


def test_a_file_is_refused(tmp_path):
    (tmp_path / "file").write_text("dear")
    with pytest.raises(NotADirectoryError, match="file: is a file; expected a folder"):
        check_folder(tmp_path / "file")


def test_a_new_an_empty_and_an_earlier_folder_are_welcome(written, tmp_path):
    for folder in (tmp_path, tmp_path / "new", written):
        check_folder(folder)


def test_one_result_at_its_farthest_distance_makes_a_report(found, tmp_path):
    """As `--interval 3` without `--avg`: one distance, so no curve over distances."""
    sweep, _ = found
    result = sweep.models["one"][1]
    result = replace(result, by_distance={2: result.by_distance[2]})
    write_report(tmp_path / "r", replace(sweep, models={"one": (result,)}, intervals=(3,)), [], ORIGIN)
    text = (tmp_path / "r/index.html").read_text()
    assert "only the farthest distance" in text and "by distance from" not in text


def test_an_earlier_report_stays_if_the_new_one_cannot_be_made(found, tmp_path, monkeypatch):
    write_report(tmp_path, *found, ORIGIN)
    before = (tmp_path / "index.html").read_text()

    def fail(sweep):
        raise RuntimeError("no plots today")

    monkeypatch.setattr("accel.evaluation.report.page.draw_plots", fail)
    with pytest.raises(RuntimeError):
        write_report(tmp_path, *found, ORIGIN)
    assert (tmp_path / "index.html").read_text() == before and (tmp_path / "results.csv").is_file()
