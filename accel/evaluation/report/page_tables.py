"""The tables of a report as HTML. They need no JavaScript, and scroll sideways on narrow screens."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape

from accel.evaluation.report.plots import milliseconds
from accel.evaluation.results import EvaluationResult, SweepResult
from accel.evaluation.tables import percent


def summary_table(sweep: SweepResult) -> str:
    """Return a table of accuracy and speed, with a row for each model and interval."""
    heads = (
        "model", "interval", "mean mIoU %", "pooled mIoU %", "worst mIoU %", "at distance", "ms a frame",
        "ms a key frame", "ms another frame", "frames a second", "frames scored", "could not be read",
        "classes in mIoU", "pixels ignored %",
    )  # fmt: skip
    rows = (
        (
            name, r.interval, percent(r.mean, 2), percent(r.miou, 2), percent(r.worst, 2), r.worst_distance,
            f"{milliseconds(r):.1f}", f"{1000 * r.seconds_key:.1f}",
            "-" if r.seconds_current is None else f"{1000 * r.seconds_current:.1f}",
            f"{r.fps:.1f}", r.frames_scored, r.frames_damaged, f"{r.classes_scored} of {len(r.iou)}",
            percent(r.ignored),
        )
        for name, r in _found(sweep)
    )  # fmt: skip
    return table("Accuracy and speed", heads, rows)


def distance_table(sweep: SweepResult) -> str:
    """Return a table with a row for each model and interval and a column for each distance from the key frame."""
    places = sorted({d for _, r in _found(sweep) for d in r.by_distance})
    rows = (
        (name, r.interval, *(percent(r.by_distance[d].miou, 2) if d in r.by_distance else "" for d in places))
        for name, r in _found(sweep)
    )
    heads = "model", "interval", *(f"distance {d}" for d in places)
    return table("mIoU in per cent by distance from the key frame", heads, rows)


def class_table(sweep: SweepResult) -> str:
    """Return a table with a row for each class and a column for each model and interval. The mean is last."""
    heads = "class", *(f"{name}, interval {r.interval}" for name, r in _found(sweep))
    rows = [(c, *(percent(r.iou[c]) for _, r in _found(sweep))) for c in sweep.class_names]
    rows.append(("mean (mIoU)", *(percent(r.miou) for _, r in _found(sweep))))
    rows.append(("classes in the mean", *(f"{r.classes_scored} of {len(r.iou)}" for _, r in _found(sweep))))
    return table("IoU of each class in per cent, all distances counted together", heads, rows)


def boundary_table(sweep: SweepResult) -> str:
    """Return a table with a row for each model and interval and a column for each trimap width."""
    widths = sorted({w for _, r in _found(sweep) for w in r.trimap})
    heads = "model", "interval", *(f"within {w} px" for w in widths), "all pixels"
    rows = (
        (name, r.interval, *(percent(r.trimap.get(w), 2) for w in widths), percent(r.miou, 2))
        for name, r in _found(sweep)
    )
    return table("mIoU in per cent near class borders", heads, rows)


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
    for true, counts in zip(class_names, result.confusion, strict=True):
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
