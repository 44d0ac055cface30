"""The official Cityscapes score: cityscapesscripts' own pixel-level scorer, on predictions in files.

    with Predictions(folder) as predictions:
        result = evaluate(model, dataset, interval, on_labels=predictions.write)
        predictions.finish()
        scores = score_predictions(predictions, dataset)
        print(check_agreement(result.value, scores))

The same works on every data set in Cityscapes' layout, Streetscape among them.
"""

from __future__ import annotations

import io
import math
from bisect import bisect_left
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import numpy as np
from cityscapesscripts.helpers.labels import category2labels, labels
from rich.table import Table

from accel.datasets.cityscapes import Cityscapes
from accel.datasets.clips import ClipDataset
from accel.evaluation.running.predictions import Predictions, require_cityscapes
from accel.files.image_headers import PNG_GREY, PNG_PALETTE, examine
from accel.files.images import UNDEFINED, read_labels
from accel.files.listing import is_hidden

TOLERANCE = 1e-6  # how far our own mIoU may be from the official one

_TRUTH = "_gtFine_labelIds.png"
_INSTANCES = "_gtFine_instanceIds.png"

_IDS = [label.id for label in labels if label.id >= 0]  # the licence plate, -1, is never drawn
_VALID_IDS = np.full(256, UNDEFINED, np.uint8)
_VALID_IDS[_IDS] = _IDS


@dataclass(frozen=True)
class Scores:
    """IoU of each class (or category), 0..1, and their mean. A class that is neither in the ground truth nor predicted
    has None and is not in the mean."""

    mean: float | None
    each: dict[str, float | None]


@dataclass(frozen=True)
class OfficialScores:
    """The scores of cityscapesscripts for `frames` predictions.

    classes, categories: IoU of the 19 classes and the 7 categories.
    instance_classes, instance_categories: iIoU, in which every instance has the same weight, for the 8 classes and the
        2 categories that have instances. None if the ground truth has no instanceIds.
    """

    frames: int
    classes: Scores
    categories: Scores
    instance_classes: Scores | None
    instance_categories: Scores | None


def official_scores(folder: str | Path, truths: Iterable[str | Path]) -> OfficialScores:
    """Run cityscapesscripts' pixel-level scorer on a folder of predictions.

    folder: searched with all its subfolders for CITY_SEQ_FRAME*.png: labelIds at the size of the ground truth.
        Additional predictions do no harm.
    truths: the ground truth, one CITY_SEQ_FRAME_gtFine_labelIds.png for each frame. iIoU needs the instanceIds beside
        each of them.

    A class that is neither in the ground truth nor predicted has no IoU and is left out of the mean. A predicted label
    that is not scored (id 0, "unlabeled", for example) counts as missed if the ground truth has a class there.

    Everything is checked before anything is scored. Raises FileNotFoundError or ValueError for an empty folder, a
    missing or a second prediction for a frame, a size that differs from the ground truth's, invalid label values, and
    damaged files. Raises ValueError if the ground truth has only ignored labels.
    """
    wanted = sorted(map(Path, truths))
    if not wanted:
        raise ValueError("no ground truth to score with")
    predictions = _matching(Path(folder), wanted)
    for prediction, truth in zip(predictions, wanted, strict=True):
        found, expected = read_labels(prediction, _VALID_IDS).shape, read_labels(truth, _VALID_IDS).shape
        header = examine(prediction.read_bytes(), prediction)
        if header.colour not in (PNG_GREY, PNG_PALETTE):  # the scorer reads no other
            raise ValueError(f"{prediction}: expected labels as one channel (or palette indices); found {header}")
        if found != expected:
            raise ValueError(
                f"{prediction}: {found[1]} x {found[0]} pixels (width x height), "
                f"but its ground truth {truth} has {expected[1]} x {expected[0]}"
            )
    with_instances = all(_instances(truth).is_file() for truth in wanted)
    result = _run_scorer(predictions, wanted, with_instances)
    if math.isnan(result["averageScoreClasses"]):
        raise ValueError("nothing to score: the ground truth of these frames has ignored labels only")
    scored = [label for label in labels if not label.ignoreInEval]
    classes = [label.name for label in scored]
    categories = list(dict.fromkeys(label.category for label in scored))
    # a category has iIoU if all its labels have instances
    countable = [c for c in categories if all(label.hasInstances for label in category2labels[c] if label.id in _IDS)]
    instances = [label.name for label in scored if label.hasInstances]

    def scores(mean: str, each: str, names: list[str]) -> Scores:
        return Scores(_number(result[mean]), {name: _number(result[each][name]) for name in names})

    return OfficialScores(
        frames=len(wanted),
        classes=scores("averageScoreClasses", "classScores", classes),
        categories=scores("averageScoreCategories", "categoryScores", categories),
        instance_classes=scores("averageScoreInstClasses", "classInstScores", instances) if with_instances else None,
        instance_categories=(
            scores("averageScoreInstCategories", "categoryInstScores", countable) if with_instances else None
        ),
    )


def require_truth(checkpoint: str | Path, dataset: ClipDataset) -> Cityscapes:
    """Return the data set if the scorer accepts it and the checkpoint's predictions. Otherwise raise ValueError or
    FileNotFoundError.

    The scorer compares labelIds. Everything else here needs only labelTrainIds, which do not suffice for the scorer.
    """
    dataset = require_cityscapes(checkpoint, dataset)
    missing = [path for path in map(dataset.label_id_path, range(len(dataset))) if not path.is_file()]
    if missing:
        raise FileNotFoundError(
            f"{missing[0]}: no such file; cityscapesscripts compares with labelIds, which {len(missing)} of "
            f"{len(dataset)} labelled frames do not have (labelTrainIds alone are not enough)"
        )
    return dataset


def score_predictions(predictions: Predictions, dataset: Cityscapes) -> OfficialScores:
    """Return `official_scores` for the frames of a data set that have predictions."""
    truths = {dataset.name(i): dataset.label_id_path(i) for i in range(len(dataset))}
    return official_scores(predictions.folder, [truths[name] for name in predictions.names])


def official_table(scores: OfficialScores) -> Table:
    """Return a table of class and category scores in per cent, with the means last."""
    columns = ("class", "IoU %") if scores.instance_classes is None else ("class", "IoU %", "iIoU %")
    table = Table(*columns, title=f"cityscapesscripts, {scores.frames} frames")
    for column in table.columns[1:]:
        column.justify = "right"
    parts = (
        ("mean of classes", scores.classes, scores.instance_classes),
        ("mean of categories", scores.categories, scores.instance_categories),
    )
    for title, iou, instances in parts:
        rows = [(name, value, instances.each.get(name) if instances else None) for name, value in iou.each.items()]
        for name, *values in rows:
            table.add_row(name, *map(_per_cent, values[: len(columns) - 1]))
        table.add_section()
        means = (iou.mean, instances.mean if instances else None)
        table.add_row(title, *map(_per_cent, means[: len(columns) - 1]))
        table.add_section()
    return table


def check_agreement(own: float, scores: OfficialScores) -> str:
    """Return a line saying that our own mIoU equals the official one. Raise ValueError if it does not."""
    official = scores.classes.mean
    assert official is not None, "something was scored"
    if abs(own - official) > TOLERANCE:
        raise ValueError(
            f"own mIoU {own:.8f} and official mIoU {official:.8f} differ by more than {TOLERANCE:g}; "
            "were the labelTrainIds of these data made from their labelIds?"
        )
    return f"official mIoU {100 * official:.2f}% over {scores.frames} frames, equal to our own within {TOLERANCE:g}"


def _number(value: float) -> float | None:
    return None if math.isnan(value) else float(value)


def _per_cent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.1f}"


def _frame(truth: Path) -> str:
    """Return CITY_SEQ_FRAME of a ground-truth file."""
    name = truth.name.removesuffix(_TRUTH)
    if name == truth.name or len(name.split("_")) != 3:
        raise ValueError(f"{truth}: expected ground truth named CITY_SEQ_FRAME{_TRUTH}")
    return name


def _instances(truth: Path) -> Path:
    return truth.with_name(_frame(truth) + _INSTANCES)


def _matching(folder: Path, truths: list[Path]) -> list[Path]:
    """Find the one prediction for each ground truth by name, as the scorer does."""
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder}: no such folder; expected predictions CITY_SEQ_FRAME*.png in it")
    files = sorted(
        (path for path in folder.rglob("*.png") if not any(map(is_hidden, path.relative_to(folder).parts))),
        key=lambda path: path.name,
    )
    if not files:
        raise ValueError(f"{folder}: holds no predictions; expected CITY_SEQ_FRAME*.png")
    names = [path.name for path in files]
    found: list[Path] = []
    missing: list[str] = []
    for frame in map(_frame, truths):
        first = bisect_left(names, frame)
        matches = [path for path in files[first : first + 2] if path.name.startswith(frame)]
        if len(matches) > 1:
            raise ValueError(f"two predictions for {frame}: {matches[0]} and {matches[1]}; expected one")
        found += matches
        missing += [] if matches else [frame]
    if missing:
        raise ValueError(
            f"{folder}: no prediction for {missing[0]}: {len(missing)} of {len(truths)} frames "
            f"{'has' if len(missing) == 1 else 'have'} none; expected {missing[0]}*.png"
        )
    return found


def _run_scorer(predictions: list[Path], truths: list[Path], with_instances: bool) -> dict:
    """Return the result of cityscapesscripts. It gets separate arguments, so the global ones of its module stay
    unchanged."""
    from cityscapesscripts.evaluation import evalPixelLevelSemanticLabeling as scorer  # noqa: N813

    settings = {"evalInstLevelScore": with_instances, "JSONOutput": False, "quiet": True}
    arguments = SimpleNamespace(**{**vars(scorer.args), **settings})
    said = io.StringIO()
    with _present_numpy(scorer), redirect_stdout(said):
        try:
            return scorer.evaluateImgLists([str(p) for p in predictions], [str(t) for t in truths], arguments)
        except SystemExit:  # how it reports what it does not like, having printed why
            raise ValueError(f"cityscapesscripts: {' '.join(said.getvalue().split())}") from None
        except Exception as error:  # instanceIds that are none, for one, end in whatever they lead to
            raise ValueError(f"cityscapesscripts: {type(error).__name__}: {error}") from error


@contextmanager
def _present_numpy(scorer) -> Iterator[None]:
    """Give the scorer a NumPy with in1d. Its version 2.3.0 calls np.in1d for iIoU, which NumPy 2.4 removed; isin does
    the same."""
    if hasattr(np, "in1d"):
        yield
        return
    original = scorer.np
    scorer.np = SimpleNamespace(**{**vars(np), "in1d": np.isin})
    try:
        yield
    finally:
        scorer.np = original
