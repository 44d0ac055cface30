"""The tables of a report as HTML. They need no JavaScript, and scroll sideways on narrow screens."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape

from accel.evaluation.report.plots import milliseconds
from accel.evaluation.results import EvaluationResult, SweepResult
from accel.evaluation.tables import percent


def summary_table(sweep: SweepResult) -> str:
    """Return a table of accuracy and speed, with a row for each model and interval."""
    figure, facts = sweep.words.figure, list(_found(sweep)[0][1].accuracy.facts())
    heads = (
        "model", "interval", f"mean {figure} %", f"pooled {figure} %", f"worst {figure} %", "at distance",
        "ms a frame", "ms a key frame", "ms another frame", "frames a second", "frames scored", "could not be read",
        *facts,
    )  # fmt: skip
    rows = (
        (
            name, r.interval, percent(r.mean, 2), percent(r.value, 2), percent(r.worst, 2), r.worst_distance,
            f"{milliseconds(r):.1f}", f"{1000 * r.seconds_key:.1f}",
            "-" if r.seconds_current is None else f"{1000 * r.seconds_current:.1f}",
            f"{r.fps:.1f}", r.frames_scored, r.frames_damaged, *r.accuracy.facts().values(),
        )
        for name, r in _found(sweep)
    )  # fmt: skip
    return table("Accuracy and speed", heads, rows)


def distance_table(sweep: SweepResult) -> str:
    """Return a table with a row for each model and interval and a column for each distance from the key frame."""
    places = sorted({d for _, r in _found(sweep) for d in r.by_distance})
    rows = (
        (name, r.interval, *(percent(r.by_distance[d].value, 2) if d in r.by_distance else "" for d in places))
        for name, r in _found(sweep)
    )
    heads = "model", "interval", *(f"distance {d}" for d in places)
    return table(f"{sweep.words.figure} in per cent by distance from the key frame", heads, rows)


def class_table(sweep: SweepResult) -> str:
    """Return a table with a row for each class and a column for each model and interval. The mean is last."""
    words, found = sweep.words, [(name, r, r.accuracy) for name, r in _found(sweep)]
    heads = "class", *(f"{name}, interval {r.interval}" for name, r, _ in found)
    rows = [(c, *(percent(accuracy.of_classes[c]) for *_, accuracy in found)) for c in sweep.class_names]
    rows.append((f"mean ({words.figure})", *(percent(accuracy.value) for *_, accuracy in found)))
    scored = (f"{accuracy.classes_scored} of {len(accuracy.of_classes)}" for *_, accuracy in found)
    rows.append(("classes in the mean", *scored))
    return table(f"{words.of_class} of each class in per cent, all distances counted together", heads, rows)


def breakdown_table(sweep: SweepResult, number: int) -> str:
    """Return a table with a row for each model and interval and a column for each part of what was scored.

    number: which of the breakdowns of the results.
    """
    found = [(name, r, r.accuracy.breakdowns()[number]) for name, r in _found(sweep)]
    first = found[0][2]
    heads = "model", "interval", *(first.head.format(part) for part in first.parts), "all"
    rows = (
        (name, r.interval, *(percent(share, 2) for share in each.parts.values()), percent(r.value, 2))
        for name, r, each in found
    )
    return table(first.caption, heads, rows)


def temporal_table(sweep: SweepResult) -> str:
    """Return a table of how steady the labels are, with a row for each model and interval."""
    heads = "model", "interval", "consistency %", "flicker %", "pixels compared %", "pairs of frames", "flow"
    rows = (
        (
            name, r.interval, percent(r.temporal.consistency, 2), percent(r.temporal.flicker, 2),
            percent(r.temporal.compared), r.temporal.pairs, r.temporal.flow,
        )
        for name, r in _found(sweep)
        if r.temporal is not None
    )  # fmt: skip
    return table("Steadiness from frame to frame", heads, rows)


def confusion_table(name: str, result: EvaluationResult, class_names: Sequence[str]) -> str:
    """Return a table with a row for each true class: the per cent of its pixels predicted as each class, and its number
    of pixels."""
    rows = []
    for true, counts in zip(class_names, result.accuracy.confusions() or (), strict=True):
        total = sum(counts)
        rows.append((true, *(percent(n / total if total else None) for n in counts), f"{total:,}".replace(",", " ")))
    caption = (
        f"Confusion matrix of {name} at interval {result.interval}: true class in the row, predicted in the column"
    )
    return table(caption, ("true class", *class_names, "pixels"), rows)


def table(caption: str, heads: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Return a table that scrolls by itself. The first column is the head of its row."""
    head = "".join(f'<th scope="col">{_breakable(h)}</th>' for h in heads)
    body = "".join(
        f'<tr><th scope="row">{_breakable(first)}</th>{"".join(f"<td>{escape(str(c))}</td>" for c in rest)}</tr>\n'
        for first, *rest in rows
    )
    return (
        f'<div class="scroll" tabindex="0"><table><caption>{escape(caption)}</caption>'
        f"<thead><tr>{head}</tr></thead>\n<tbody>{body}</tbody></table></div>"
    )


def _breakable(text: object) -> str:
    """Allow a line break after each underscore, because names of models have no spaces."""
    return escape(str(text)).replace("_", "_<wbr>")


def _found(sweep: SweepResult) -> list[tuple[str, EvaluationResult]]:
    return [(name, result) for name, results in sweep.models.items() for result in results]
