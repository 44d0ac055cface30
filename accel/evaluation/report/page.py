"""The report: one self-contained HTML page, with its plots as PNG and its numbers as JSON and CSV beside it."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from datetime import datetime
from html import escape
from importlib.resources import files
from pathlib import Path
from string import Template

from accel.evaluation.origin import Origin
from accel.evaluation.report import page_tables as tables
from accel.evaluation.report.page_player import player_data, player_html
from accel.evaluation.report.pictured_clips import PlayerClip
from accel.evaluation.report.plots import Plot, colours, draw_plots
from accel.evaluation.results import SweepResult
from accel.evaluation.tables import sweep_caveats, write_csv, write_json

PLOTS = ("accuracy_speed", "distance", "classes", "confusion", "boundary", "motion", "temporal")
NAMES = ("index.html", "results.json", "results.csv", *(f"{name}.png" for name in PLOTS))
_MARK = '<meta name="generator" content="accel report">'  # what an earlier report is known by


def check_folder(folder: str | Path) -> None:
    """Check that a report may be written to the folder.

    Raises FileExistsError unless the folder is absent, empty or holds only an earlier report. Raises NotADirectoryError
    if it is a file.
    """
    folder = Path(folder)
    if not folder.exists():
        return
    if not folder.is_dir():
        raise NotADirectoryError(f"--report {folder}: is a file; expected a folder, new or empty")
    others = sorted(path.name for path in folder.iterdir() if path.name not in NAMES)
    index = folder / "index.html"
    if not others and any(folder.iterdir()) and not (index.is_file() and _MARK in _beginning(index)):
        others = sorted(path.name for path in folder.iterdir())
    if others:
        raise FileExistsError(
            f"--report {folder}: holds {others[0]}, which no report wrote; choose a new or an empty folder"
        )


def write_report(folder: str | Path, sweep: SweepResult, clips: Sequence[PlayerClip], origin: Origin) -> Path:
    """Write index.html, the plots, results.json and results.csv. Return the path of the page. An earlier report is
    replaced.

    Raises the errors of `check_folder`.
    """
    folder = Path(folder)
    check_folder(folder)
    plots = draw_plots(sweep)  # all that may fail comes before the earlier report goes
    page = build_page(sweep, clips, plots, origin)
    folder.mkdir(parents=True, exist_ok=True)
    for name in NAMES:
        (folder / name).unlink(missing_ok=True)
    (folder / "index.html").write_text(page, encoding="utf-8")  # first, so that half a report is known as one
    for name, plot in plots.items():
        (folder / f"{name}.png").write_bytes(plot.png)
    write_json(folder / "results.json", sweep.as_dict() | {"origin": origin.as_dict()})
    write_csv(folder / "results.csv", sweep)
    return folder / "index.html"


def build_page(sweep: SweepResult, clips: Sequence[PlayerClip], plots: dict[str, Plot], origin: Origin) -> str:
    """Return the page as HTML. Pictures and data are inside; it loads nothing."""
    last = {name: results[-1] for name, results in sweep.models.items()}
    best = max(last, key=lambda name: last[name].value)
    words = sweep.words
    sections = [
        _section("What was measured", _introduction(sweep, origin)),
        _section(
            "Accuracy and speed",
            _text("speed") + _caveats(sweep) + _figure(plots, "accuracy_speed") + tables.summary_table(sweep),
        ),
    ]
    if clips:
        sections.append(_section("Frame by frame", player_html(clips, sweep)))
    if "distance" in plots:
        content = _text("distance") + _figure(plots, "distance") + tables.distance_table(sweep)
        sections.append(_section("Accuracy by distance from the key frame", content))
    content = f"<p>{words.of_class_meaning}</p>" + _figure(plots, "classes") + tables.class_table(sweep)
    sections.append(_section("Class by class", content))
    if "confusion" in plots:
        matrix = tables.confusion_table(best, last[best], sweep.class_names)
        title = f"Confusions between classes: {best}, interval {last[best].interval}"
        content = _text("confusion") + _figure(plots, "confusion") + _folded("As numbers", matrix)
        sections.append(_section(title, content))
    for number, each in enumerate(last[best].accuracy.breakdowns()):
        content = (
            f"<p>{each.text}</p>"
            + (_figure(plots, each.name) if each.name in plots else "")
            + tables.breakdown_table(sweep, number)
        )
        sections.append(_section(each.title, content))
    if "temporal" in plots:
        content = _text("temporal") + _figure(plots, "temporal") + tables.temporal_table(sweep)
        sections.append(_section("Steadiness", content))
    return Template(_asset("page.html")).substitute(
        mark=_MARK,
        title=escape(f"{', '.join(sweep.models)} on {sweep.data} {sweep.split}"),
        heading=escape(f"{words.heading} on {sweep.data}, {sweep.split} split"),
        style=_asset("page.css"),
        sections="\n".join(sections),
        clips=player_data(clips),
        script=_asset("player.js") if clips else "",
    )


_TEXTS = {
    "speed": "Higher is more accurate, further left is faster. Each point is a model at one interval. The number in it "
    "is the interval. 1+ is a model that looks at every frame by itself: all intervals give the same result.",
    "distance": "A frame after its key frame is judged by features that were carried along from the key frame. "
    "The greater the distance, the more errors are possible. The plot shows each model at its longest interval.",
    "confusion": "Each row has the pixels of one true class and adds up to 100. Pixels off the diagonal are wrong. "
    "Shares under 0.5 per cent are left blank.",
    "temporal": "Consistency: mIoU between the labels of a frame and those of the frame before, moved along the "
    "optical flow. Flicker: the share of pixels that change their label and change it back within three frames. "
    "Neither needs ground truth. A model that always predicts road is perfectly steady, so compare mIoU too.",
}


def _introduction(sweep: SweepResult, origin: Origin) -> str:
    first = next(iter(sweep.models.values()))
    frames = sorted({r.frames_scored for results in sweep.models.values() for r in results})
    scored, why = str(frames[0]), ""
    if len(frames) > 1:
        scored, why = f"{frames[0]} to {frames[-1]}", "; a longer interval needs more frames before a labelled one"
    intervals = ", ".join(map(str, sweep.intervals))
    tried = "all distances from the key frame" if _all_distances(first) else "only the farthest distance is scored"
    if sweep.protocol == "videos":
        tried = "each video was played once from its first frame, so each frame has one distance"
    models = "".join(
        f'<li><b style="color:{colour}">{escape(name)}</b>: weights from '
        f"<code>{escape(origin.checkpoints[name])}</code></li>"
        for name, colour in colours(list(sweep.models)).items()
    )
    code = f" with commit <code>{escape(origin.commit)}</code>" if origin.commit else ""
    return f"""
<p>Each model {sweep.words.aim.format(len(sweep.class_names))}. It was
scored on {scored} labelled frames of the <b>{escape(sweep.split)}</b> split of <b>{escape(sweep.data)}</b>, at the
intervals {intervals} ({tried}{why}).</p>
<ul>{models}</ul>
<dl>
<dt>Key frame, interval</dt><dd>On a key frame the heavy part of a model runs. Between key frames its features are
carried along, which is faster. The interval is the number of frames from one key frame to the next; a frame's
distance is how many frames its key frame lies before it.</dd>
<dt>{sweep.words.figure}</dt><dd>{sweep.words.meaning} <em>Mean</em> is the mean over the distances, <em>worst</em> is
the lowest of the distances.</dd>
<dt>Milliseconds a frame</dt><dd>From a frame on the device to its prediction there, median; key frames and others
averaged as they occur at the interval. Reading files is not in it. Measured on: {escape(origin.machine)}.</dd>
</dl>
{_folded("The command", f"<pre>{escape(origin.command)}</pre>")}
<p>The numbers are beside this page, in <a href="results.json">results.json</a> and
<a href="results.csv">results.csv</a>, with each plot as a PNG. Made on
{datetime.fromisoformat(origin.time):%d %B %Y, %H:%M} UTC{code}.</p>"""


def _caveats(sweep: SweepResult) -> str:
    """Return a paragraph for every mIoU (mAP) that is not simply the mean over all classes."""
    lines = "<br>".join(map(escape, sweep_caveats(sweep)))
    return f"<p><strong>{lines}</strong></p>" if lines else ""


def _all_distances(results) -> bool:
    return all(len(r.by_distance) == r.interval for r in results)


def _section(title: str, content: str) -> str:
    return f"<section><h2>{escape(title)}</h2>\n{content}\n</section>"


def _text(name: str) -> str:
    return f"<p>{_TEXTS[name]}</p>"


def _figure(plots: dict[str, Plot], name: str) -> str:
    picture = base64.b64encode(plots[name].svg.encode()).decode()
    return f'<img class="plot" alt="{escape(plots[name].alt)}" src="data:image/svg+xml;base64,{picture}">'


def _folded(title: str, content: str) -> str:
    return f"<details><summary>{escape(title)}</summary>{content}</details>"


def _asset(name: str) -> str:
    return files("accel.evaluation.report").joinpath("assets").joinpath(name).read_text(encoding="utf-8")


def _beginning(path: Path) -> str:
    with path.open(encoding="utf-8", errors="replace") as file:
        return file.read(2000)
