"""Settle how a run labels its videos, before any of them is looked at."""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

from accel.files.digests import sha256_of
from accel.fleet.settings import Settings
from accel.formats import default_formats, find_formats
from accel.inference.loading import load_model
from accel.playing.schedules import check_interval
from accel.weights.checkpoints import PRETRAINED, WEIGHTS

SEGMENT = 600.0  # seconds
_DIGITS = 16  # of a SHA-256, which tell weights of one name apart


def settle(
    weights: Path,
    interval: int,
    write: Sequence[str] = (),
    *,
    scene_cuts: bool = False,
    flat_latency: bool = False,
    optimize: bool = False,
    fps: Fraction | None = None,
    segment: float | None = None,
    device: str = "auto",
    threads: int | None = None,
) -> Settings:
    """Return the settings of a run.

    write: the names of formats. Empty: the task's own.
    segment: seconds. Longer videos are cut into segments of about this length. None: `SEGMENT`.
    The others are as in `accel label`.

    Raises ValueError for an interval or a format that does not exist, and for a file that has no weights.
    """
    check_interval(interval)
    task = load_model(weights, device="cpu").task  # a file that cannot be loaded is told before anything is written
    formats = tuple(dict.fromkeys(write)) or default_formats(task)
    find_formats(task, formats)
    segment = SEGMENT if segment is None else segment
    if not 1 <= segment < math.inf:
        raise ValueError(f"--segment {segment:g}: expected 1 or more seconds")
    if threads is not None and threads < 1:
        raise ValueError(f"--threads {threads}: expected 1 or more")
    return Settings(
        weights=str(weights.resolve()),
        model=_name(weights),
        task=task,
        interval=interval,
        formats=formats,
        scene_cuts=scene_cuts,
        flat_latency=flat_latency,
        optimize=optimize,
        fps=str(fps or 25),
        segment=segment,
        device=device,
        threads=threads,
    )


def _name(weights: Path) -> str:
    """Return a name for people, and digits that differ between weights of one name."""
    name = weights.resolve().parent.name if weights.name in (WEIGHTS, PRETRAINED) else weights.stem
    return f"{name}@{sha256_of(weights)[:_DIGITS]}"
