"""The accuracy of a model, with the words for it: what tables, files and reports ask of a task."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, ClassVar


@dataclass(frozen=True)
class Words:
    """How a task's accuracy is called and explained.

    figure: the name of the figure, such as mIoU.
    of_class: the name of the figure of one class, such as IoU.
    key: the name of the figure in files.
    heading: what the models do, as the heading of a report.
    aim: what the models do to each frame, in a sentence of a report: "label every pixel of ...".
    meaning: what the figure is, in a sentence or two.
    of_class_meaning: what the figure of one class is.
    errors: what the pictures of errors in a report show.
    signs: further entries of the legend there: colour and meaning.
    """

    figure: str
    of_class: str
    key: str
    heading: str
    aim: str
    meaning: str
    of_class_meaning: str
    errors: str = ""
    signs: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class Breakdown:
    """The accuracy on parts of what was scored, such as the pixels near class borders.

    name: a short name, which is also that of its plot's file.
    title: the title of its section in a report.
    caption: the caption of its table. It says the unit.
    text: an explanation for people who look at the report.
    axis: what the parts are, for the axis of a plot. Empty: there is no plot.
    head: what a part is called in a table with other columns beside it. {} stands for the part.
    parts: the accuracy by part. None if there was nothing to measure.
    """

    name: str
    title: str
    caption: str
    text: str
    axis: str
    head: str
    parts: dict[str, float | None]


@dataclass(frozen=True)
class Accuracy(ABC):
    """The accuracy of a model on a set of frames. Each task has a subclass, whose fields go into result files.

    Shares are 0..1, and None if there was nothing to measure.

    words: how the figures are called.
    classes_scored: the number of classes in the figure.
    """

    words: ClassVar[Words]

    classes_scored: int

    @property
    @abstractmethod
    def value(self) -> float | None:
        """Return the figure by which models are compared."""

    @property
    @abstractmethod
    def of_classes(self) -> dict[str, float | None]:
        """Return the figure of each class by name."""

    def figures(self) -> dict:
        """Return the fields for a file that has one accuracy, without long ones."""
        return asdict(self)

    @abstractmethod
    def brief(self) -> dict:
        """Return the fields for a file that has the accuracy at many distances."""

    @abstractmethod
    def columns(self) -> dict[str, float | None]:
        """Return the figures as columns of a CSV file."""

    @abstractmethod
    def counts(self) -> dict[str, Any]:
        """Return further columns of a CSV file, on what was scored."""

    @abstractmethod
    def facts(self) -> dict[str, str]:
        """Return further columns of a report's table, on what was scored."""

    def caveats(self) -> str:
        """Return a note that must be shown beside the figure. Empty if there is nothing to note."""
        return ""

    @classmethod
    def caveats_in(cls, values: Mapping[str, Any]) -> str:
        """Return the note of `caveats` for a result in a JSON file."""
        return ""

    def breakdowns(self) -> tuple[Breakdown, ...]:
        """Return the accuracy on parts of what was scored, as far as it was measured."""
        return ()

    def confusions(self) -> tuple[tuple[int, ...], ...] | None:
        """Return K rows of K counts, by true class (row) and predicted class (column). None for a task without such
        counts."""
        return None


def share(value: float) -> float | None:
    """Return None for NaN, which JSON does not have."""
    return None if math.isnan(value) else value


def by_name(class_names: Sequence[str], values: Sequence[float]) -> dict[str, float | None]:
    """Return the value of each class by name. NaN becomes None."""
    return dict(zip(class_names, map(share, values), strict=True))
