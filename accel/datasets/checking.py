"""Before a run: read every file that training will read, and name all that it cannot use, at once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from torch.utils.data import DataLoader, Dataset

from accel.datasets import build_dataset, data_root
from accel.datasets.sampling import init_worker
from accel.datasets.stored import StoredClips
from accel.files.images import read_image
from accel.progress import Bar, bar, console
from accel.threads import usable_cores

if TYPE_CHECKING:
    from accel.config import Config, DataConfig


@dataclass
class Findings:
    """What checking a split found.

    title: the data set, its split and where it is.
    labelled: how many labelled frames are used; left_out: how many are not, because too few frames come before
        them; files: how many were read.
    problems: one line for each file that is missing or cannot be used, beginning with its path.
    """

    title: str
    labelled: int = 0
    left_out: int = 0
    files: int = 0
    problems: list[str] = field(default_factory=list)

    def summary(self) -> str:
        """One line."""
        left_out = f" ({self.left_out} more have too few frames before them, and are left out)" if self.left_out else ""
        found = f"{self.files} files of {self.labelled} labelled frames{left_out} read"
        if not self.problems:
            return f"{self.title}: {found}, all are fit for training"
        return f"{self.title}: {found}; {len(self.problems)} problem{'s' if len(self.problems) > 1 else ''}"


def check_data(configs: Sequence[Config], workers: int | None = None) -> int:
    """Check what every experiment trains and validates on, each distinct split once, and print what is wrong.

    workers: processes that read (default: one a CPU); 0: this one.

    Returns the exit code: 0, or 2 if any file cannot be used. Raises ValueError or FileNotFoundError where there are
    no data at all.
    """
    findings = [check_split(data, split, lengths, workers) for data, split, lengths in _distinct(configs)]
    for found in findings:
        for problem in found.problems:
            console.print(problem)
    for found in findings:
        console.print(found.summary())
    return 2 if any(found.problems for found in findings) else 0


def check_split(
    data: DataConfig, split: str, lengths: Sequence[int], workers: int | None = None, quiet: bool = False
) -> Findings:
    """Read every file of a split.

    lengths: of the stored clips that are used; a labelled frame is read with the longest one that it has the
        frames for. Every image must have the size of its labels.
    """
    found = Findings(f"{data.name} {split} at {data_root(data)}")
    try:
        with bar(f"{data.name} {split}", None, quiet) as progress:
            dataset = build_dataset(data, split, progress.of, on_missing=found.problems.append)
    except (ValueError, FileNotFoundError):
        if not found.problems:
            raise
        return found
    if not isinstance(dataset, StoredClips):
        raise ValueError(f"{found.title}: these data are not stored as image files; there is nothing to check")
    plans = _plan(dataset, lengths, found)
    workers = usable_cores() if workers is None else workers
    total = sum(1 + len(plan.images) for plan in plans)
    with bar(found.title, total, quiet) as progress:
        _read_all(dataset, plans, workers, found, progress)
    return found


@dataclass(frozen=True)
class _Plan:
    """A labelled frame whose label file is to be read, and images that no labelled frame before it has."""

    index: int
    images: tuple[Path, ...]


def _plan(dataset: StoredClips, lengths: Sequence[int], found: Findings) -> list[_Plan]:
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


def _read_all(dataset: StoredClips, plans: list[_Plan], workers: int, found: Findings, progress: Bar) -> None:
    checks = _Checks(dataset, plans)
    loader = DataLoader(
        checks, batch_size=None, num_workers=min(workers, len(plans)), collate_fn=_as_is, worker_init_fn=init_worker
    )
    for files, problems in loader:
        found.files += files
        found.problems += problems
        progress.update(found.files, f"{len(found.problems)} problems" if found.problems else "")


class _Checks(Dataset):
    """Item i is what was found in the files of plan i: how many were read, and a line for each that is no good."""

    def __init__(self, dataset: StoredClips, plans: list[_Plan]):
        self.dataset, self.plans = dataset, plans

    def __len__(self) -> int:
        return len(self.plans)

    def __getitem__(self, item: int) -> tuple[int, list[str]]:
        plan = self.plans[item]
        return 1 + len(plan.images), list(self._problems(plan))

    def _problems(self, plan: _Plan) -> Iterator[str]:
        expected = None  # a file, and its size: that of the labels, or else of the first image that can be read
        try:
            path, labels = self.dataset.labels(plan.index)
            expected = path, labels.shape
        except (ValueError, OSError) as error:
            yield str(error)
        for path in plan.images:
            try:
                size = read_image(path).shape[:2]
            except (ValueError, OSError) as error:
                yield str(error)
                continue
            expected = expected or (path, size)
            if size != expected[1]:
                other, (height, width) = expected
                yield f"{path}: {size[1]} x {size[0]} pixels, but {other} has {width} x {height}"


def _distinct(configs: Sequence[Config]) -> Iterator[tuple[DataConfig, str, list[int]]]:
    """The data sets and splits that are trained and validated on, with the lengths of the clips that are read."""
    data: dict[tuple, tuple[DataConfig, str]] = {}
    lengths: dict[tuple, set[int]] = {}
    for config in configs:
        each, validation = config.data, config.train.validation
        uses = [(each.train_split, 1 if each.motion else each.clip_length)]
        if validation is not None:
            uses.append((validation.split, 1 if each.simulated_test_frames else validation.interval))
        for split, length in uses:
            made = (each.snippets.get(split), each.size) if each.name == "streetscape" else ()
            key = each.name, data_root(each).resolve(), split, made
            data.setdefault(key, (each, split))
            lengths.setdefault(key, set()).add(length)
    return ((*data[key], sorted(lengths[key])) for key in data)


def _as_is(item: tuple[int, list[str]]) -> tuple[int, list[str]]:
    return item
