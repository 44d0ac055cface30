"""Boxes as transparent pictures, which a report lays over the frame: detections, true boxes, and what is wrong."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

import numpy as np

from accel.measures.average_precision import match
from accel.tasks.pictures import Shown, svg

RIGHT, WRONG, MISSED = "#2fd06a", "#ff3b4e", "#ffb000"  # told apart by their dashes, too
LETTERS = 15  # lines of text that would fill the height of a frame


@dataclass(frozen=True)
class Drawn:
    """A box to draw: its corners in pixels of the frame, both within it, its colour, its text and its dashes (empty for
    a solid line)."""

    box: Sequence[float]
    colour: str
    text: str = ""
    dashes: str = ""


def boxes_picture(boxes: Iterable[Drawn], size: tuple[int, int]) -> str:
    """Return boxes on nothing, as SVG. Those that come first are drawn last, over the others. size: (H, W) of the
    frame in pixels."""
    height, width = size
    letters = max(height, width / 2) / LETTERS
    line = letters / 7
    drawn = []
    for each in reversed(list(boxes)):
        x1, y1, x2, y2 = (float(corner) for corner in each.box)
        dashes = f' stroke-dasharray="{each.dashes}"' if each.dashes else ""
        shape = f'x="{x1:.1f}" y="{y1:.1f}" width="{x2 - x1 + 1:.1f}" height="{y2 - y1 + 1:.1f}"'
        drawn.append(
            f'<rect {shape} fill="none" stroke="#000" stroke-opacity=".55" stroke-width="{1.9 * line:.2f}"/>'
            f'<rect {shape} fill="none" stroke="{each.colour}" stroke-width="{line:.2f}"{dashes}/>'
        )
        if each.text:
            drawn.append(_text(each, x1, y1, letters, width))
    return svg(f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}">{"".join(drawn)}</svg>')


def _text(drawn: Drawn, left: float, top: float, letters: float, width: int) -> str:
    """Return a text on its colour, over the box; within it where there is no room above."""
    long = 0.58 * letters * len(drawn.text) + 0.4 * letters
    left = min(max(left, 0.0), max(width - long, 0.0))
    above = top - 1.15 * letters
    above = top if above < 0 else above
    return (
        f'<rect x="{left:.1f}" y="{above:.1f}" width="{long:.1f}" height="{1.15 * letters:.1f}" fill="{drawn.colour}"/>'
        f'<text x="{left + 0.2 * letters:.1f}" y="{above + 0.88 * letters:.1f}" font-size="{letters:.1f}" '
        f'font-family="Arial,Helvetica,sans-serif" textLength="{long - 0.4 * letters:.1f}" '
        f'lengthAdjust="spacingAndGlyphs" fill="{_ink(drawn.colour)}">{escape(drawn.text)}</text>'
    )


def _ink(colour: str) -> str:
    red, green, blue = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
    return "#111" if 0.299 * red + 0.587 * green + 0.114 * blue > 140 else "#fff"


def colour_of(palette: np.ndarray, k: int) -> str:
    """Return the colour of a class as HTML writes it."""
    return "#{:02x}{:02x}{:02x}".format(*palette[k].tolist())


def truth_picture(boxes: np.ndarray, names: Sequence[str], palette: np.ndarray, size: tuple[int, int]) -> str:
    """Draw true boxes (M, 5), as in `Clip`."""
    rows = boxes.tolist()
    return boxes_picture((Drawn(row[:4], colour_of(palette, int(row[4])), names[int(row[4])]) for row in rows), size)


def detections_shown(
    said: Any,
    true: np.ndarray | None,
    names: Sequence[str],
    palette: np.ndarray,
    size: tuple[int, int],
    threshold: float,
) -> Shown:
    """Draw the detections of a frame whose score is at least `threshold`, and what is wrong with them.

    said: `Boxes` as arrays.
    true: the true boxes (M, 5), as in `Clip`, or None.
    size: (H, W) of the frame.
    """
    sure = np.flatnonzero(said.scores[: int(said.count)] >= threshold)
    boxes, scores, classes = (array[sure] for array in (said.boxes, said.scores, said.classes))
    texts = [f"{names[k]} {score:.2f}" for k, score in zip(classes.tolist(), scores.tolist(), strict=True)]
    colours = [colour_of(palette, k) for k in classes.tolist()]
    prediction = boxes_picture(map(Drawn, boxes.tolist(), colours, texts), size)
    if true is None:
        return Shown(prediction, None, "")
    of = true[:, 4].astype(np.int64)
    order = np.argsort(-np.round(scores.astype(np.float64), 4), kind="stable")  # that of the matches
    matched = match(boxes, scores, classes, true[:, :4], of).matched
    missed = [n for n in range(len(true)) if n not in matched]
    drawn = [Drawn(true[n, :4].tolist(), MISSED, names[of[n]], "2 1.2") for n in missed]
    for place, right in zip(order.tolist(), (matched >= 0).tolist(), strict=True):
        drawn.append(Drawn(boxes[place].tolist(), RIGHT if right else WRONG, "" if right else texts[place]))
    drawn.sort(key=lambda each: (RIGHT, WRONG, MISSED).index(each.colour), reverse=True)
    wrong = int((matched < 0).sum())
    note = f"{len(true) - len(missed)} of {len(true)} objects found, {wrong} wrong box{'' if wrong == 1 else 'es'}"
    return Shown(prediction, boxes_picture(drawn, size), note)
