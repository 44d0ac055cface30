"""Regions of label maps as run lengths (RLE) and polygons, in the way of COCO."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass

import cv2
import numpy as np

_BITS = 5  # of a number that a character of COCO's strings holds


def class_runs(labels: np.ndarray) -> dict[int, np.ndarray]:
    """Return the run lengths of each class that occurs in labels (H, W): off, on, off, ..., column by column."""
    flat = np.ascontiguousarray(labels.T).ravel()
    starts = np.concatenate([[0], np.flatnonzero(flat[1:] != flat[:-1]) + 1])
    ends = np.append(starts[1:], flat.size)
    classes = flat[starts]
    runs = {}
    for k in np.unique(classes):
        chosen = classes == k
        begin, end = starts[chosen], ends[chosen]
        counts = np.empty(2 * len(begin) + 1, np.int64)
        counts[0::2] = np.append(begin, flat.size) - np.concatenate([[0], end])
        counts[1::2] = end - begin
        runs[int(k)] = counts if counts[-1] else counts[:-1]
    return runs


def runs_to_mask(counts: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Return the mask (H, W) bool of run lengths. Raises ValueError if they are those of another size."""
    height, width = size
    if counts.sum() != height * width or (counts < 0).any():
        raise ValueError(f"run lengths of {int(counts.sum())} pixels; expected {width}x{height}")
    return np.repeat(np.arange(len(counts)) % 2 == 1, counts).reshape(width, height).T


def runs_to_string(counts: np.ndarray) -> str:
    """Write run lengths as COCO's compressed string, as `pycocotools` does."""
    left = counts.astype(np.int64).copy()
    left[3:] -= counts[1:-2]
    chars, used = [], []
    open_ = np.ones(len(left), bool)
    while open_.any():
        low = left & (2**_BITS - 1)
        left >>= _BITS
        more = np.where(low & 2 ** (_BITS - 1), left != -1, left != 0) & open_
        chars.append((low | more << _BITS) + 48)
        used.append(open_)
        open_ = more
    return np.stack(chars, 1)[np.stack(used, 1)].astype(np.uint8).tobytes().decode("ascii")


def string_to_runs(text: str) -> np.ndarray:
    """Read COCO's compressed string. Raises ValueError for any other text."""
    codes = np.frombuffer(text.encode("ascii", "replace"), np.uint8).astype(np.int64) - 48
    if not len(codes) or (codes < 0).any() or (codes > 63).any() or codes[-1] & 32:
        raise ValueError("not a compressed RLE of COCO")
    last = (codes & 32) == 0
    starts = np.concatenate([[0], np.flatnonzero(last)[:-1] + 1])
    lengths = np.flatnonzero(last) - starts + 1
    place = np.arange(len(codes)) - np.repeat(starts, lengths)
    counts = np.add.reduceat((codes & 31) << (_BITS * place), starts)
    counts -= np.where(codes[last] & 16, np.int64(1) << (_BITS * lengths), 0)
    counts[1::2] = np.cumsum(counts[1::2])
    counts[2::2] = np.cumsum(counts[2::2])
    return counts


@dataclass(frozen=True)
class Region:
    """A connected region of one class.

    outline: (N, 2) int, x and y of corners of pixels, clockwise. It goes around holes too: there and back on one line,
        which encloses nothing.
    area: pixels.
    box: x, y, width, height.
    """

    class_index: int
    outline: np.ndarray
    area: int
    box: tuple[int, int, int, int]


def regions(labels: np.ndarray, class_count: int) -> list[Region]:
    """Return the regions of labels (H, W), whose pixels touch at an edge. Other labels, such as 255, have none."""
    ids = np.zeros((labels.shape[0] + 2, labels.shape[1] + 2), np.int64)
    known: list[tuple[int, np.ndarray]] = []  # class and statistics of each region
    for k in np.unique(labels):
        if k >= class_count:
            continue
        count, components, statistics, _ = cv2.connectedComponentsWithStats(
            (labels == k).astype(np.uint8), connectivity=4
        )
        inner = ids[1:-1, 1:-1]
        np.copyto(inner, components + len(known), where=components > 0)
        known += [(int(k), statistics[number]) for number in range(1, count)]
    loops = _loops(ids)
    found = []
    for number, (k, statistics) in enumerate(known, 1):
        left, top, width, height, area = map(int, statistics)  # in the order of cv2.CC_STAT_...
        found.append(Region(k, _joined(loops[number]), area, (left, top, width, height)))
    return found


def _edges(ids: np.ndarray) -> np.ndarray:
    """Return the edges of pixels on borders: (M, 5) of region, x and y where it begins, and its direction x, y.

    Regions lie to the right of their edges. ids: (H + 2, W + 2), with a border of zeros.
    """
    found = []
    ys, xs = np.nonzero(ids[:, :-1] != ids[:, 1:])  # to the right of (y, x)
    left, right = ids[ys, xs], ids[ys, xs + 1]
    found.append(np.stack([left, xs, ys - 1, 0 * xs, 0 * xs + 1], 1))
    found.append(np.stack([right, xs, ys, 0 * xs, 0 * xs - 1], 1))
    ys, xs = np.nonzero(ids[:-1] != ids[1:])  # below (y, x)
    above, below = ids[ys, xs], ids[ys + 1, xs]
    found.append(np.stack([above, xs, ys, 0 * xs - 1, 0 * xs], 1))
    found.append(np.stack([below, xs - 1, ys, 0 * xs + 1, 0 * xs], 1))
    edges = np.concatenate(found)
    return edges[edges[:, 0] > 0]


def _loops(ids: np.ndarray) -> dict[int, list[np.ndarray]]:
    """Return the closed lines around each region, as corners where they turn: the outer one, and those of holes."""
    following: dict[tuple[int, int, int], list[tuple[int, int]]] = defaultdict(list)
    for region, x, y, dx, dy in _edges(ids).tolist():
        following[region, x, y].append((dx, dy))
    loops: dict[int, list[np.ndarray]] = defaultdict(list)
    for region, x, y in list(following):
        while following[region, x, y]:
            dx, dy = following[region, x, y].pop()
            at, corners, first = (x, y), [(x, y)], (dx, dy)
            while True:
                at = at[0] + dx, at[1] + dy
                if at == (x, y):
                    break
                ways = following[region, at[0], at[1]]
                # Where two pixels of a region touch at a corner only, the line stays with the pixel it is at.
                way = ways[0] if len(ways) == 1 else next(each for each in ways if each == (-dy, dx))
                ways.remove(way)
                if way != (dx, dy):
                    corners.append(at)
                    dx, dy = way
            if (dx, dy) == first:  # it began in the middle of a straight line
                corners.pop(0)
            loops[region].append(np.array(corners))
    return loops


def _joined(loops: list[np.ndarray]) -> np.ndarray:
    """Return one closed line for a region's outer line and its holes'."""
    outer = max(range(len(loops)), key=lambda number: np.ptp(loops[number], axis=0).sum())
    line = loops[outer]
    for number, hole in enumerate(loops):
        if number != outer:
            distances = ((line[:, None] - hole[None]) ** 2).sum(-1)
            here, there = np.unravel_index(distances.argmin(), distances.shape)
            around = np.concatenate([hole[there:], hole[: there + 1]])
            line = np.concatenate([line[: here + 1], around, line[here:]])
    return line
