"""The plots of a report, as matplotlib figures. They are narrow, with large letters, so that they are readable on a
phone."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

from accel.evaluation.results import EvaluationResult, SweepResult

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.transforms import Bbox

# Dark enough for white letters on them and for lines on white, and told apart by the colour-blind (after Okabe and
# Ito, "Color universal design", 2008).
COLOURS = ("#0065a8", "#c04a00", "#007a58", "#a3337a", "#6b5900", "#333333", "#c2185b", "#5e35b1", "#00838f")
BARS = 4  # models in the bars of each class, at most
_WIDTH = 5.6  # inches, at 96 pixels: 538
_LEAST = 4.0  # percentage points that an axis of accuracy spans, so that chance does not look like a difference
_STYLE = {
    "font.size": 12,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#e2e2e2",
    "axes.axisbelow": True,
    "axes.titlesize": 12,
    "axes.formatter.useoffset": False,
    "axes.titlelocation": "left",
    "lines.linewidth": 2,
    "svg.hashsalt": "accel",  # the same figures make the same files
}


@dataclass(frozen=True)
class Plot:
    """A plot.

    name: the name of its file.
    alt: a description for people who cannot see it.
    svg: the picture.
    png: the same picture.
    """

    name: str
    alt: str
    svg: str
    png: bytes


def draw_plots(sweep: SweepResult) -> dict[str, Plot]:
    """Return the plots for which these results have data, by name: accuracy_speed, distance, classes, confusion,
    temporal, and one for each breakdown of the accuracy that has an axis."""
    import matplotlib

    longest = {name: results[-1] for name, results in sweep.models.items()}
    best = max(longest, key=lambda name: longest[name].value)
    interval, words = sweep.intervals[-1], sweep.words
    drawn: dict[str, Plot] = {}

    def draw(name: str, alt: str, make: Callable[[], Figure]) -> None:
        drawn[name] = _saved(name, alt, make())

    style: Any = _STYLE
    with matplotlib.rc_context(style):
        draw("accuracy_speed", f"mean {words.figure} against milliseconds a frame", lambda: _accuracy_speed(sweep))
        if any(len(result.by_distance) > 1 for result in longest.values()):
            alt = f"{words.figure} by distance from the key frame at interval {interval}"
            draw("distance", alt, lambda: _distance(longest))
        alt = f"{words.of_class} of each class at interval {interval}"
        draw("classes", alt, lambda: _classes(longest, sweep.class_names))
        if longest[best].accuracy.confusions() is not None:
            alt = f"confusion matrix of {best} at interval {interval}"
            draw("confusion", alt, lambda: _confusion(longest[best], sweep.class_names))
        for number, each in enumerate(longest[best].accuracy.breakdowns()):
            if not each.axis:
                continue
            alt = f"{each.caption} at interval {interval}"
            draw(each.name, alt, lambda number=number: _breakdown(longest, number))  # type: ignore[misc] # its default
        if any(result.temporal for result in longest.values()):
            draw("temporal", "temporal consistency and flicker by interval", lambda: _temporal(sweep))
    return drawn


def milliseconds(result: EvaluationResult) -> float:
    """Return the average time of a frame, over key frames and others."""
    return 1000 / result.fps


def colours(names: Sequence[str]) -> dict[str, str]:
    """Return the colour of each model in all plots."""
    return {name: COLOURS[i % len(COLOURS)] for i, name in enumerate(names)}


def _accuracy_speed(sweep: SweepResult) -> Figure:
    figure, axes = _figure(4.4)
    colour = colours(list(sweep.models))
    points = {}
    for name, results in sweep.models.items():
        # To one without memory all frames are alike: intervals differ by the frames they can be scored on, no more.
        still = len(results) > 1 and all(r.seconds_current in (None, r.seconds_key) for r in results)
        shown = results[:1] if still else results
        x, y = [milliseconds(r) for r in shown], [100 * r.mean for r in shown]
        axes.plot(x, y, color=colour[name], alpha=0.45)
        axes.plot(x, y, "o", color=colour[name], markersize=17)
        for place, result in zip(zip(x, y, strict=True), shown, strict=True):
            text = "1+" if still else str(result.interval)
            axes.annotate(text, place, color="white", size=9.5, ha="center", va="center_baseline")
        points[name] = list(zip(x, y, strict=True))
    spread = [milliseconds(r) for results in sweep.models.values() for r in results]
    if max(spread) > 8 * min(spread):
        axes.set_xscale("log")
    else:
        axes.set_xlim(0, 1.12 * max(spread))
    _span(axes)
    low, high = axes.get_ylim()
    axes.set_ylim(low - 0.05 * (high - low), high + 0.16 * (high - low))
    axes.set_xlabel("milliseconds a frame (fewer is faster)")
    axes.set_ylabel(f"mean {sweep.words.figure} in per cent")
    _name_points(axes, points, colour)
    return figure


def _distance(longest: dict[str, EvaluationResult]) -> Figure:
    series = {n: {d: a.value for d, a in r.by_distance.items()} for n, r in longest.items()}
    return _lines(series, "frames since the key frame", _per_cent(longest))


def _breakdown(longest: dict[str, EvaluationResult], number: int) -> Figure:
    """Plot the parts at even steps. number: which of the breakdowns of the results."""
    each = {name: result.accuracy.breakdowns()[number] for name, result in longest.items()}
    series = {name: each[name].parts | {"all": result.value} for name, result in longest.items()}
    return _lines(series, next(iter(each.values())).axis, _per_cent(longest))


def _per_cent(longest: dict[str, EvaluationResult]) -> str:
    return f"{next(iter(longest.values())).words.figure} in per cent"


def _temporal(sweep: SweepResult) -> Figure:
    figure, axes = _figure(5.6, 2)
    known = {n: {str(r.interval): r.temporal for r in rs if r.temporal} for n, rs in sweep.models.items()}
    steady = {n: {interval: t.consistency for interval, t in ts.items()} for n, ts in known.items()}
    flicker = {n: {interval: t.flicker for interval, t in ts.items()} for n, ts in known.items()}
    _draw_lines(axes[0], steady, "", "consistency in per cent")
    _draw_lines(axes[1], flicker, "interval", "flicker in per cent")
    axes[0].set_title("Consistency: higher is steadier")
    axes[1].set_title("Flicker: lower is steadier")
    return figure


def _classes(longest: dict[str, EvaluationResult], class_names: Sequence[str]) -> Figure:
    names = sorted(longest, key=lambda n: -longest[n].value)[:BARS]
    names = [name for name in longest if name in names]
    known = [c for c in class_names if any(longest[n].accuracy.of_classes[c] is not None for n in names)]
    if len(known) < len(class_names) / 2:
        class_names = known
    figure, axes = _figure(1.1 + len(class_names) * (0.14 + 0.17 * len(names)))
    colour, height = colours(list(longest)), 0.8 / len(names)
    rows, handles = np.arange(len(class_names)), []
    for i, name in enumerate(names):
        shares = [longest[name].accuracy.of_classes[c] for c in class_names]
        at = rows - 0.4 + (i + 0.5) * height
        handles.append(axes.barh(at, [100 * (s or 0) for s in shares], height * 0.9, color=colour[name]))
        for y, share in zip(at, shares, strict=True):
            text = "-" if share is None else f"{100 * share:.0f}"
            axes.annotate(text, (100 * (share or 0), y), (3, 0), textcoords="offset points", va="center", size=9.5)
    axes.set_yticks(rows, class_names)
    axes.invert_yaxis()
    axes.grid(False, axis="y")
    axes.set_xlim(0, 108)
    axes.set_xlabel(f"{longest[names[0]].words.of_class} in per cent")
    axes.set_ylim(len(class_names) - 0.45, -0.55)
    titles = [_short(name) for name in names]
    figure.legend(handles=handles, labels=titles, loc="outside upper center", ncols=min(2, len(names)), frameon=False)
    return figure


def _confusion(result: EvaluationResult, class_names: Sequence[str]) -> Figure:
    counts = np.array(result.accuracy.confusions(), float)
    rows = counts.sum(1, keepdims=True)
    shares = np.divide(100 * counts, rows, out=np.full_like(counts, np.nan), where=rows > 0)
    number = len(class_names)
    figure, axes = _figure(_WIDTH + 0.2)
    image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=100)
    size = 9 if number <= 12 else 6.5
    for (y, x), share in np.ndenumerate(shares):
        if share >= 0.5:
            ink = "white" if share > 55 else "#222222"
            axes.text(x, y, f"{share:.0f}", ha="center", va="center", color=ink, size=size)
    for y in np.flatnonzero(rows[:, 0] == 0):
        axes.text(
            (number - 1) / 2, float(y), "not in the ground truth", ha="center", va="center", color="#777777", size=size
        )
    axes.set_xticks(range(number), class_names, rotation=90)
    axes.set_yticks(range(number), class_names)
    axes.grid(False)
    axes.set_xlabel("predicted as")
    axes.set_ylabel("true class")
    bar = figure.colorbar(image, ax=axes, shrink=0.6, location="top", aspect=40, pad=0.02)
    bar.set_label("per cent of the pixels of the true class")
    return figure


# --- what they share -----------------------------------------------------------------------------------------------


def _figure(height: float, rows: int = 1) -> tuple[Figure, Any]:
    from matplotlib.figure import Figure

    figure = Figure((_WIDTH, height), layout="constrained")
    return figure, figure.subplots(rows)


def _saved(name: str, alt: str, figure: Figure) -> Plot:
    svg, png = io.StringIO(), io.BytesIO()
    figure.savefig(svg, format="svg", metadata={"Date": None})
    figure.savefig(png, format="png", dpi=150)
    return Plot(name, alt, svg.getvalue(), png.getvalue())


def _lines(series: dict[str, dict], x_label: str, y_label: str) -> Figure:
    figure, axes = _figure(4.0)
    _draw_lines(axes, series, x_label, y_label, _LEAST)
    return figure


def _draw_lines(axes: Axes, series: dict[str, dict], x_label: str, y_label: str, least: float = 0) -> None:
    """Draw a line for each model from {place: share}, with its name at its end. least: the smallest span of the axis in
    percentage points."""
    colour = colours(list(series))
    ends: dict[str, tuple[float, float]] = {}
    places = list(dict.fromkeys(place for points in series.values() for place in points))
    for name, points in series.items():
        x = [places.index(place) for place in points]
        y = [np.nan if share is None else 100 * share for share in points.values()]
        axes.plot(x, y, "o-", color=colour[name], markersize=6)
        known = [(a, b) for a, b in zip(x, y, strict=True) if not np.isnan(b)]
        if known:
            ends[name] = known[-1]
    axes.set_xticks(range(len(places)), [str(place) for place in places])
    axes.set_xlim(-0.3, len(places) - 0.7)
    axes.margins(y=0.12)
    _span(axes, least)
    axes.set_xlabel(x_label)
    axes.set_ylabel(y_label)
    _name_ends(axes, ends, colour)


def _span(axes: Axes, least: float = _LEAST) -> None:
    low, high = axes.get_ylim()
    if high - low < least:
        axes.set_ylim((low + high - least) / 2, (low + high + least) / 2)


def _name_ends(axes: Any, ends: dict[str, tuple[float, float]], colour: dict[str, str]) -> None:
    """Write names to the right of the lines, moved apart where they would touch."""
    low, high = axes.get_ylim()
    apart = (high - low) * 15 / 72 / (axes.figure.get_figheight() / len(axes.figure.axes) - 0.7)  # a line of letters
    heights = _moved_apart([y for _, y in ends.values()], apart)
    for (name, (x, y)), at in zip(ends.items(), heights, strict=True):
        axes.annotate(
            _short(name), (x, y), (1.03, at), xycoords="data", textcoords=axes.get_yaxis_transform(),
            color=colour[name], va="center", annotation_clip=False, size=11,
            arrowprops={"arrowstyle": "-", "color": colour[name], "alpha": 0.4, "shrinkA": 0, "shrinkB": 5},
        )  # fmt: skip


def _name_points(axes: Any, points: dict[str, list[tuple[float, float]]], colour: dict[str, str]) -> None:
    """Write each name beside one of its model's points, where it covers the fewest points and names of others."""
    axes.figure.draw_without_rendering()  # fixes where the axes are
    frame, pixels = axes.get_window_extent(), axes.figure.dpi / 72
    spots = {name: axes.transData.transform(each) for name, each in points.items()}
    taken = [_around(x, y, 20 * pixels, 20 * pixels) for each in spots.values() for x, y in each]
    for each in spots.values():  # the lines between the points, lightly
        taken += [
            _around(x, y, 2, 2)
            for a, b in pairwise(each)
            for x, y in (a + t * (b - a) for t in np.linspace(0.1, 0.9, 9))
        ]
    for name, each in spots.items():
        width, height = 7.6 * pixels * len(_short(name)), 14 * pixels
        across, up = width / 2 + 12 * pixels, height / 2 + 11 * pixels
        places = [
            (x + dx * across, y + dy * up)
            for x, y in each
            for dx, dy in ((0, 1), (0, -1), (1, 0), (-1, 0), (0.6, 1), (-0.6, 1), (0.6, -1), (-0.6, -1))
        ]
        boxes = [_around(x, y, width, height) for x, y in places]
        costs = [_covered(box, taken) + 1e6 * _outside(box, frame) for box in boxes]
        best = int(np.argmin(costs))
        taken.append(boxes[best])
        x, y = axes.transData.inverted().transform(places[best])
        axes.text(x, y, _short(name), color=colour[name], weight="bold", size=11, ha="center", va="center")


def _around(x: float, y: float, width: float, height: float) -> tuple[float, float, float, float]:
    """Return left, bottom, right and top of a box, given its centre."""
    return x - width / 2, y - height / 2, x + width / 2, y + height / 2


def _covered(box: tuple[float, ...], others: Sequence[tuple[float, ...]]) -> float:
    """Return the area of the box that other boxes cover."""
    across = (min(box[2], other[2]) - max(box[0], other[0]) for other in others)
    up = (min(box[3], other[3]) - max(box[1], other[1]) for other in others)
    return sum(max(w, 0) * max(h, 0) for w, h in zip(across, up, strict=True))


def _outside(box: tuple[float, ...], frame: Bbox) -> bool:
    return box[0] < frame.x0 or box[1] < frame.y0 or box[2] > frame.x1 or box[3] > frame.y1


def _moved_apart(heights: Sequence[float], apart: float) -> list[float]:
    """Return the heights in the same order, each at least `apart` from the next. The group stays about where it was."""
    order = np.argsort(heights, kind="stable")
    moved = np.array(heights, float)
    for before, here in pairwise(order):
        moved[here] = max(moved[here], moved[before] + apart)
    return list(moved - (moved - np.array(heights)).mean())


def _short(name: str) -> str:
    name = name if len(name) <= 26 else f"{name[:25]}…"
    return name.replace("$", r"\$")  # which would begin a formula
