"""Draw docs/images/architecture.svg and .png: how Accel labels a key frame and a frame after it.

python docs/draw_architecture.py
"""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch, Polygon, Rectangle

IMAGES = Path(__file__).parent / "images"
WIDTH, HEIGHT = 128, 74  # of the drawing, in its own units
SCENE = (72, 120)  # rows and columns of the little street scenes
CELL = 8  # pixels of a scene that share a feature

INK, FAINT = "#24292f", "#8c959f"
LARGE, SMALL, MOTION, JOIN = "#3b6fb6", "#3f9a6b", "#b7791f", "#8250b5"  # branches, motion, fusion

SKY, BUILDING, TREE, ROAD, WALK, CAR, PERSON = range(7)
PALETTE = np.array(  # as Cityscapes colours its classes
    [(70, 130, 180), (70, 70, 70), (107, 142, 35), (128, 64, 128), (244, 35, 232), (0, 0, 142), (220, 20, 60)], np.uint8
)
PHOTO = np.array(
    [(190, 215, 235), (196, 172, 148), (96, 130, 78), (120, 120, 124), (172, 168, 160), (196, 60, 48), (52, 62, 92)],
    float,
)


def scene(moved: int, person: bool) -> np.ndarray:
    """Labels (rows, columns) of a street whose car has gone `moved` pixels to the right, with a person or without."""
    rows, columns = SCENE
    labels = np.full(SCENE, SKY)
    labels[16:46, :34], labels[24:46, 34:58], labels[12:46, 92:] = BUILDING, BUILDING, BUILDING
    y, x = np.mgrid[:rows, :columns]
    labels[(x - 74) ** 2 + 1.2 * (y - 28) ** 2 < 150] = TREE
    labels[36:46, 72:76] = TREE
    labels[44:] = ROAD
    labels[44:49] = WALK
    if person:
        labels[34:50, 97:105] = PERSON
        labels[28:34, 99:103] = PERSON
    left = 14 + moved
    labels[52:62, left : left + 34] = CAR
    labels[45:52, left + 7 : left + 26] = CAR
    for wheel in (left + 8, left + 26):
        labels[(x - wheel) ** 2 + (y - 62) ** 2 < 16] = CAR
    return labels


def photo(labels: np.ndarray, moved: int) -> np.ndarray:
    """A picture (rows, columns, 3) of such a street."""
    image = PHOTO[labels] + np.random.default_rng(3).normal(0, 4, (*labels.shape, 1))
    rows, columns = SCENE
    y, x = np.mgrid[:rows, :columns]
    image[(labels == ROAD) & (abs(y - 66) < 1.2) & (x % 24 < 13)] = 235
    windows = (labels == BUILDING) & (y % 9 < 5) & (x % 9 < 5) & (y > 18)
    image[windows] *= 0.72
    left = 14 + moved
    image[46:51, left + 9 : left + 24][:, [i for i in range(15) if i != 7]] = (205, 225, 235)
    for wheel in (left + 8, left + 26):
        image[(x - wheel) ** 2 + (y - 62) ** 2 < 16] = 40
    return image.clip(0, 255).astype(np.uint8)


def features(labels: np.ndarray) -> np.ndarray:
    """A made-up feature map: a shade for each cell, by what is in it."""
    cells = labels[CELL // 2 :: CELL, CELL // 2 :: CELL]
    shade = np.array([0.08, 0.3, 0.45, 0.62, 0.7, 0.98, 0.85])[cells]
    return (shade + np.random.default_rng(1).normal(0, 0.025, cells.shape)).clip(0, 1)


def show(axes: Axes, image: np.ndarray, left: float, bottom: float, width: float, order: float = 3, **how) -> None:
    """An image with a thin frame."""
    height = width * SCENE[0] / SCENE[1]
    axes.imshow(
        image, extent=(left, left + width, bottom, bottom + height), interpolation="nearest", zorder=order, **how
    )
    frame = Rectangle((left, bottom), width, height, fill=False, edgecolor=INK, linewidth=0.9, zorder=order + 0.1)
    axes.add_patch(frame)


def stack(axes: Axes, values: np.ndarray, left: float, bottom: float, width: float, colours: str) -> None:
    """A map with many channels: three sheets behind one another."""
    for depth in (2, 1, 0):
        show(
            axes,
            values,
            left + 1.1 * depth,
            bottom + 1.1 * depth,
            width,
            3.6 - 0.3 * depth,
            cmap=colours,
            vmin=0,
            vmax=1,
        )


def network(axes: Axes, left: float, middle: float, width: float, tall: float, colour: str, text: str) -> None:
    """A network that makes a small map of a large image: a shape that narrows to the right."""
    near, far = tall / 2, tall / 3.4
    corners = [(left, middle - near), (left, middle + near), (left + width, middle + far), (left + width, middle - far)]
    axes.add_patch(Polygon(corners, facecolor=colour, edgecolor="none", zorder=3))
    axes.text(left + width / 2, middle, text, color="white", ha="center", va="center", zorder=5, weight="bold")


def box(axes: Axes, left: float, bottom: float, width: float, height: float, colour: str, text: str) -> None:
    patch = FancyBboxPatch(
        (left, bottom), width, height, boxstyle="round,pad=0,rounding_size=1.2", facecolor=colour, edgecolor="none"
    )
    axes.add_patch(patch).set_zorder(3)
    axes.text(
        left + width / 2, bottom + height / 2, text, color="white", ha="center", va="center", zorder=5, weight="bold"
    )


def arrow(axes: Axes, *points: tuple[float, float], colour: str = INK) -> None:
    """A line through `points`, with a head at the last."""
    for start, end in pairwise(points[:-1]):
        axes.plot(*zip(start, end, strict=True), color=colour, linewidth=2.2, zorder=2, solid_capstyle="round")
    axes.add_patch(
        FancyArrowPatch(
            points[-2], points[-1], arrowstyle="-|>", mutation_scale=16, shrinkA=0, shrinkB=0, color=colour, linewidth=2
        )
    )


def note(axes: Axes, x: float, y: float, text: str, **how) -> None:
    axes.text(x, y, text, **({"ha": "center", "va": "top", "color": INK, "zorder": 5} | how))


def draw() -> plt.Figure:
    """The whole picture."""
    plt.rcParams.update({"font.family": "DejaVu Sans", "font.size": 14.5, "svg.hashsalt": "accel"})
    figure = plt.figure(figsize=(WIDTH / 10, HEIGHT / 10), facecolor="white")
    axes = figure.add_axes((0, 0, 1, 1))
    moved = 3 * CELL
    before, after = scene(0, person=False), scene(moved, person=True)
    carried_on = scene(moved, person=False)  # the key frame's features know nothing of who came later

    # Two bands: the key frame above, a frame after it below.
    for bottom, top, colour in ((46.5, 73, "#eef4fb"), (1, 45.5, "#f3f8f4")):
        axes.add_patch(Rectangle((1, bottom), WIDTH - 2, top - bottom, facecolor=colour, edgecolor="none", zorder=0))
    note(axes, 2.6, 71.8, "Key frame (every 5th frame, say): slow", ha="left", weight="bold", color=LARGE)
    note(axes, 2.6, 4.7, "Every frame in between: fast", ha="left", weight="bold", color=SMALL)

    # Key frame: reference branch, features, labels.
    key = 58.3
    show(axes, photo(before, 0), 3, key - 6.6, 22)
    arrow(axes, (25.4, key), (29.2, key))
    network(axes, 29.2, key, 23.8, 20, LARGE, "reference branch\n(large network)")
    arrow(axes, (53, key), (57, key))
    stack(axes, features(before), 57.4, key - 5, 14.5, "viridis")
    note(axes, 65.5, key - 5.5, "features")
    arrow(axes, (74.6, key), (103.2, key))
    show(axes, PALETTE[before], 103.6, key - 6.6, 22)
    note(axes, 114.6, key - 7.1, "labels")

    # The motion between the two frames.
    show(axes, photo(after, moved), 3, 7, 22)
    box(axes, 3, 29.5, 22, 8.4, MOTION, "motion between\nthe two frames")
    arrow(axes, (14, key - 6.9), (14, 38), colour=MOTION)
    arrow(axes, (14, 20.6), (14, 29.4), colour=MOTION)

    # The features, carried along that motion.
    carried = 33.7
    arrow(axes, (65.5, key - 9.2), (65.5, carried + 7.6), colour=LARGE)
    note(axes, 67, 45.2, "carried along", ha="left", color=LARGE)
    arrow(axes, (25.2, carried), (57, carried), colour=MOTION)
    note(axes, 41, carried + 4, "where to shift them", va="center", color=MOTION)
    stack(axes, features(carried_on), 57.4, carried - 5, 14.5, "viridis")
    note(axes, 65.5, carried - 5.5, "shifted features")

    # The update branch, on the frame itself.
    own = 13.6
    arrow(axes, (25.4, own), (29.2, own))
    network(axes, 29.2, own, 20.8, 12.5, SMALL, "update branch\n(small network)")
    arrow(axes, (50, own), (78.6, own))
    note(axes, 64, own + 2.4, "sees what is new", va="center", color=SMALL)

    # Scores of both, fusion, labels.
    arrow(axes, (74.6, carried), (78.6, carried))
    for labels, y in ((carried_on, carried), (after, own)):
        stack(axes, features(labels), 79, y - 3.6, 10.8, "magma")
        note(axes, 85, y - 4.1, "scores")
    joined = (carried + own) / 2
    box(axes, 91, joined - 3.3, 10, 6.6, JOIN, "fusion")
    arrow(axes, (92.2, carried), (96, carried), (96, joined + 3.4))
    arrow(axes, (92.2, own), (96, own), (96, joined - 3.4))
    arrow(axes, (101, joined), (103.4, joined))
    show(axes, PALETTE[after], 103.8, joined - 6.6, 22)
    note(axes, 114.8, joined - 7.1, "labels")

    axes.set(xlim=(0, WIDTH), ylim=(0, HEIGHT), aspect="equal")
    axes.axis("off")
    return figure


def main() -> None:
    figure = draw()
    figure.savefig(IMAGES / "architecture.png", dpi=110)
    figure.savefig(IMAGES / "architecture.svg", metadata={"Date": None})
    print(f"written: {IMAGES}/architecture.png and .svg")


if __name__ == "__main__":
    main()
