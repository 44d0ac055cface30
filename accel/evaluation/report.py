"""Results as tables for the terminal and as JSON."""

from __future__ import annotations

import json
from pathlib import Path

from rich.table import Table

from accel.evaluation.evaluator import EvaluationResult


def class_table(result: EvaluationResult) -> Table:
    """Per-class IoU in per cent, mean last."""
    table = Table("class", "IoU %")
    table.columns[1].justify = "right"
    for name, iou in result.iou.items():
        table.add_row(name, "-" if iou is None else f"{100 * iou:.1f}")
    table.add_section()
    table.add_row("mean", f"{100 * result.miou:.1f}")
    return table


def summary(result: EvaluationResult) -> str:
    """One line for the whole result."""
    current = "" if result.seconds_current is None else f", current frame {result.seconds_current:.4f} s"
    damaged = f", {result.frames_damaged} could not be read" if result.frames_damaged else ""
    return (
        f"mIoU {100 * result.miou:.2f}% over {result.frames_scored} frames{damaged} at interval {result.interval}; "
        f"key frame {result.seconds_key:.4f} s{current}, {result.fps:.1f} frames/s"
    )


def model_table(results: dict[str, EvaluationResult], title: str) -> Table:
    """Models side by side: mIoU and speed."""
    table = Table("model", "interval", "mIoU %", "key s", "current s", "frames/s", title=title)
    for column in table.columns[1:]:
        column.justify = "right"
    for name, r in results.items():
        current = "-" if r.seconds_current is None else f"{r.seconds_current:.4f}"
        table.add_row(name, str(r.interval), f"{100 * r.miou:.1f}", f"{r.seconds_key:.4f}", current, f"{r.fps:.1f}")
    return table


def write_json(path: str | Path, values: dict) -> None:
    """Write JSON, making the folder."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(values, indent=2) + "\n")
