"""Check data before a run: read every file that training will read, report all that are unusable at once, and count
classes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from rich.table import Table
from torch.utils.data import DataLoader, Dataset

from accel.datasets import GENERATED, build_dataset, data_root, generated_part
from accel.datasets.box_counts import BoxCounts
from accel.datasets.label_counts import MAX_NAMED, LabelCounts, Use, doubts, histogram_of, stops_at_doubts
from accel.datasets.sampling import init_worker
from accel.datasets.stored import StoredClips
from accel.datasets.stored_boxes import StoredBoxes
from accel.files.exif import orientation
from accel.files.images import read_image
from accel.progress import Bar, bar, console
from accel.threads import usable_cores
from accel.wording import few

if TYPE_CHECKING:
    from accel.config import Config, DataConfig


@dataclass
class Findings:
    """The result of checking a split.

    title: the data set, its split and its place.
    labelled: the number of labelled frames that are used.
    left_out: the number of labelled frames that are not used, because too few frames come before them.
    files: the number of files that were read.
    problems: one line for each missing or unusable file, beginning with its path, and for errors in all labels
        together.
    warnings: one line for each possible error in the labels.
    counts: the counts of the labels. None if the labels are not used.
    """

    title: str
    labelled: int = 0
    left_out: int = 0
    files: int = 0
    problems: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    counts: LabelCounts | BoxCounts | None = None

    def summary(self) -> str:
        """Return one line."""
        left_out = f" ({self.left_out} more have too few frames before them, and are left out)" if self.left_out else ""
        found = f"{self.files} files of {self.labelled} labelled frames{left_out} read"
        if not self.problems:
            if not self.warnings:
                return f"{self.title}: {found}, all are fit for training"
            return f"{self.title}: {found}, all can be used; {_number(self.warnings, 'warning')}"
        return f"{self.title}: {found}; {_number(self.problems, 'problem')}"

    def class_table(self) -> Table | None:
        """Return a table of how often each class occurs. None if no label was counted."""
        if self.counts is None or not self.counts.read:
            return None
        table = Table("class", *self.counts.columns, title=f"{self.title}: {self.counts.read} labels")
        for column in table.columns[1:]:
            column.justify = "right"
        *classes, without = self.counts.rows()
        for row in classes:
            table.add_row(*row)
        table.add_section()
        table.add_row(*without)
        return table


def check_data(configs: Sequence[Config], workers: int | None = None) -> int:
    """Check the training and validation data of every experiment, each distinct split once, and print the problems.

    workers: the number of processes that read (default: one for each CPU). 0: this process reads.

    Return the exit code: 0, or 2 if any file cannot be used or nothing can be learned from the labels. Raises
    ValueError or FileNotFoundError if there are no data at all.
    """
    findings = [check_split(use.data, use.split, use.lengths, workers, use=use.labels) for use in _distinct(configs)]
    for found in findings:
        for problem in found.problems:
            console.print(problem)
        for warning in found.warnings:
            console.print(f"warning: {warning}")
    for found in findings:
        if table := found.class_table():
            console.print(table)
    for found in findings:
        console.print(found.summary())
    return 2 if any(found.problems for found in findings) else 0


def check_split(
    data: DataConfig,
    split: str,
    lengths: Sequence[int],
    workers: int | None = None,
    quiet: bool = False,
    use: Use | None = "training",
) -> Findings:
    """Read every file of a split.

    lengths: the lengths of the stored clips that are used. A labelled frame is read with the longest one for which it
        has enough frames. Every image must have the size of its labels.
    use: the use of the labels. None: they are not used (only flow is trained), so their content does not matter.
    """
    found = Findings(f"{data.name} {split} at {data_root(data)}")
    try:
        with bar(f"{data.name} {split}", None, quiet) as progress:
            dataset = build_dataset(data, split, progress.of, on_missing=found.problems.append)
    except (ValueError, FileNotFoundError):
        if not found.problems:
            raise
        return found
    if not isinstance(dataset, StoredClips | StoredBoxes):
        raise ValueError(f"{found.title}: these data are not stored as image files; there is nothing to check")
    if max(lengths) > 1:  # else each frame is on its own
        found.warnings += dataset.notes
    plans = _plan(dataset, lengths, found)
    workers = usable_cores() if workers is None else workers
    total = sum(_label_files(dataset) + len(plan.images) for plan in plans)
    with bar(found.title, total, quiet) as progress:
        found.counts = _read_all(dataset, plans, workers, found, progress)
    found.problems = list(dict.fromkeys(found.problems))  # a file may be missed by the data set and by the reading
    if use is None:
        found.counts = None
        return found
    strict = stops_at_doubts(data)
    if isinstance(found.counts, BoxCounts):
        judged = found.counts.doubts(use, strict)
    else:
        judged = doubts(found.counts, dataset, use, strict)
    found.problems += (f"{found.title}: {line}" for line in judged.errors)
    found.warnings += (f"{found.title}: {line}" for line in judged.warnings)
    return found


@dataclass(frozen=True)
class _Plan:
    """A labelled frame whose label file is to be read, and the images that no earlier labelled frame has."""

    index: int
    images: tuple[Path, ...]


def _label_files(dataset: StoredClips | StoredBoxes) -> int:
    """Return how many files besides images each labelled frame has."""
    return 0 if isinstance(dataset, StoredBoxes) and not dataset.own_files else 1


def _plan(dataset: StoredClips | StoredBoxes, lengths: Sequence[int], found: Findings) -> list[_Plan]:
    planned: set[Path] = set()
    gaps: dict[Path, str] = {}
    plans = []
    for index in range(len(dataset)):
        length = max((n for n in lengths if n - 1 <= dataset.history(index)), default=0)
        for path in dataset.gaps(index, max(lengths)) if length < max(lengths) else ():
            gaps.setdefault(path, f"{path}: no such file, but the clip that ends in {dataset.name(index)} needs it")
        if not length:
            found.left_out += 1
            continue
        images = tuple(path for path in dataset.image_paths(index, length) if path not in planned)
        planned.update(images)
        plans.append(_Plan(index, images))
    found.problems += gaps.values()
    found.labelled = len(plans)
    for length in lengths:
        if not gaps and not any(dataset.history(index) >= length - 1 for index in range(len(dataset))):
            found.problems.append(
                f"{found.title}: no clip of {length} frames: no labelled frame has {length - 1} frames before it"
            )
    return plans


def _read_all(
    dataset: StoredClips | StoredBoxes, plans: list[_Plan], workers: int, found: Findings, progress: Bar
) -> LabelCounts | BoxCounts:
    """Record unusable files in `found`. Return the counts of the readable labels."""
    turned: list[Path] = []
    counts: LabelCounts | BoxCounts
    checks: _Checks | _BoxChecks
    if isinstance(dataset, StoredBoxes):
        counts, checks = BoxCounts(dataset.class_names), _BoxChecks(dataset, plans)
    else:
        counts, checks = LabelCounts(dataset.class_names), _Checks(dataset, plans)
    loader = DataLoader(
        checks, batch_size=None, num_workers=min(workers, len(plans)), collate_fn=_as_is, worker_init_fn=init_worker
    )
    for checked in loader:
        found.files += checked.files
        found.problems += checked.problems
        turned += checked.turned
        if checked.labels is not None:
            counts.add(checked.labels)
        progress.update(found.files, f"{len(found.problems)} problems" if found.problems else "")
    if turned:
        found.warnings.append(f"{found.title}: {_turned(turned)}")
    return counts


def _turned(images: Sequence[Path]) -> str:
    return (
        f"{_number(images, 'image')} with an EXIF orientation, turned as it says; labels are read as stored, and must "
        f"fit the turned image: {few([str(image) for image in images], MAX_NAMED)}"
    )


@dataclass(frozen=True)
class _Checked:
    """The result for the files of a plan.

    files: the number of files that were read.
    problems: one line for each unusable file.
    labels: the `histogram_of` the labels, or the classes (M,) of the boxes. None if they could not be read.
    turned: the images with an EXIF orientation.
    """

    files: int
    problems: list[str]
    labels: np.ndarray | None
    turned: list[Path]


class _Checks(Dataset):
    """Item i is the result for the files of plan i."""

    def __init__(self, dataset: StoredClips, plans: list[_Plan]):
        self.dataset, self.plans = dataset, plans

    def __len__(self) -> int:
        return len(self.plans)

    def __getitem__(self, item: int) -> _Checked:
        plan = self.plans[item]
        problems, histogram, expected = [], None, None
        try:
            path, labels = self.dataset.labels(plan.index)
            expected, histogram = (path, labels.shape), histogram_of(labels)
        except (ValueError, OSError) as error:
            problems.append(str(error))
        problems += _image_problems(plan, expected)
        return _Checked(1 + len(plan.images), problems, histogram, _turned_images(plan))


class _BoxChecks(Dataset):
    """The same, of labelled frames with boxes: every mistake in the boxes is a problem."""

    def __init__(self, dataset: StoredBoxes, plans: list[_Plan]):
        self.dataset, self.plans = dataset, plans

    def __len__(self) -> int:
        return len(self.plans)

    def __getitem__(self, item: int) -> _Checked:
        plan, classes = self.plans[item], None
        problems = []
        image = self.dataset.image_paths(plan.index, 1)[-1]
        try:
            height, width = read_image(image).shape[:2]
        except (ValueError, OSError) as error:
            problems.append(str(error))
        else:
            problems += _image_problems(plan, (image, (height, width)))
            try:
                boxes, mistakes = self.dataset.truth(plan.index, (height, width))
                classes = boxes[:, 4]
                problems += mistakes
            except (ValueError, OSError) as error:
                problems.append(str(error))
        return _Checked(_label_files(self.dataset) + len(plan.images), problems, classes, _turned_images(plan))


def _turned_images(plan: _Plan) -> list[Path]:
    return [path for path in plan.images if orientation(path) != 1]


def _image_problems(plan: _Plan, expected: tuple[Path, tuple[int, int]] | None) -> Iterator[str]:
    """Yield the problems of the images.

    expected: a file and its size (H, W): that of the labels. None: that of the first readable image.
    """
    for path in plan.images:
        try:
            size = read_image(path).shape[:2]
        except (ValueError, OSError) as error:
            yield str(error)
            continue
        expected = expected or (path, size)
        if size != expected[1]:
            other, (height, width) = expected
            turned = ", turned as its EXIF orientation says" if orientation(path) != 1 else ""
            yield f"{path}: {size[1]} x {size[0]} pixels{turned}, but {other} has {width} x {height}"


@dataclass(frozen=True)
class _Use:
    """A split of a data set for training or validation, the lengths of the clips that are read, and the use of the
    labels."""

    data: DataConfig
    split: str
    lengths: tuple[int, ...]
    labels: Use | None


def _distinct(configs: Sequence[Config]) -> list[_Use]:
    """Return each split once, with the lengths of all its uses, and the strictest use of its labels."""
    found: dict[tuple, _Use] = {}
    for config in configs:
        each, validation = config.data, config.train.validation
        learned: Use | None = None if config.train.loss.name == "flow" else "training"
        uses = [_Use(each, each.train_split, (1 if config.motion else each.clip_length,), learned)]
        if validation is not None:
            length = 1 if each.test_frames else validation.interval
            uses.append(_Use(each, validation.split, (length,), "validation"))
        for use in uses:
            made = (each.snippets.get(generated_part(use.split)), each.size) if each.name in GENERATED else ()
            key = each.name, data_root(each).resolve(), use.split, made
            found[key] = _both(found[key], use) if key in found else use
    return [replace(use, lengths=tuple(sorted(set(use.lengths)))) for use in found.values()]


def _both(one: _Use, other: _Use) -> _Use:
    """Merge two uses of a split."""
    strict, rest = sorted((one, other), key=lambda use: (_STRICTNESS.index(use.labels), not stops_at_doubts(use.data)))
    return replace(strict, lengths=strict.lengths + rest.lengths)


_STRICTNESS = ("training", "validation", None)


def _number(lines: Sequence[object], name: str) -> str:
    return f"{len(lines)} {name}{'s' if len(lines) > 1 else ''}"


def _as_is(item: Any) -> Any:
    return item
