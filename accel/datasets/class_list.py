"""classes.txt: the classes of a user's own data, and their values in the label files.

There is one class a line, in the order of their indices: "NAME", or "R G B NAME" with its colour. If labels have
another value than the number of the line, counted from 0, "VALUE = " comes before either form. The sign may be left out
if all lines are "VALUE NAME". A line with the name
"ignored" is not a class: its value and its colour count as ignored. Lines that begin with "# " are comments.

Lists of other programs are accepted if they leave nothing to guess: CVAT's labelmap.txt, LabelMe's labels.txt, and
tables with commas, semicolons or tabs, such as "name,r,g,b" and "Pixel Value, Class". Otherwise they are refused, with
the expected form.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np

from accel.files.images import UNDEFINED
from accel.files.small_files import read_text
from accel.labels import IGNORED

CLASSES_FILE = "classes.txt"
IGNORED_NAME = "ignored"
_ELSEWHERE = ("labelmap.txt", "labels.txt", "label_colors.txt", "class_dict.csv", "classes.csv", "_classes.csv")
_FORM = (
    'expected "NAME" or "R G B NAME", colours up to 255, or "VALUE = NAME" with the value that the class has in the '
    "labels, up to 255"
)
_OTHER_FORMS = "; CVAT's labelmap.txt and tables with a first line like name,r,g,b are accepted too"

_WITH_VALUE = re.compile(r"([0-9]{1,3})\s*=\s*(.+)")
_VALUE_AND_NAME = re.compile(r"([0-9]{1,3})\s+([^0-9\s=:;,].*)")  # of all lines, or it is part of a name
_COMMENT = re.compile(r"#(\s.*|\s*label:.*)?")
_CVAT = re.compile(r"(?P<name>[^:]+):(?P<colour>(?:[0-9]{1,3},[0-9]{1,3},[0-9]{1,3})?):[^:]*:[^:]*")
_LABELME_IGNORED = "__ignore__"  # its value is -1: the next line has the value 0

# Columns of tables, by what their heads are called.
_COLUMNS = {
    "name": {"name", "class", "label", "category", "class name", "label name", "classname"},
    "value": {"value", "pixel value", "id", "index", "idx", "class id", "label id"},
    "r": {"r", "red"},
    "g": {"g", "green"},
    "b": {"b", "blue"},
}
_HEADS = {head for heads in _COLUMNS.values() for head in heads} | {"classes", "labels", "names", "categories"}
MAX_LINES, _MAX_LINE = 10_000, 1000  # of the file; characters of a line
# What a line of another form looks like; nobody calls a class so.
_NO_NAME = re.compile(
    r"[{[]\s*([\"'{[].*)?|[\"'].*[\"']\s*[,:].*|<[?!].*|- .*"  # JSON, XML, YAML
    r"|[0-9]+\s*[:;,)\t].*"  # "0: road"
    r"|.*[:;,\t=]\s*[0-9]+"  # "road: 0"
    r"|.*\s[0-9]{1,3}[\s,;]+[0-9]{1,3}[\s,;]+[0-9]{1,3}"  # "road 128 64 128"
    r"|#.*|.*#[0-9a-fA-F]{6}\b.*"  # colours in hexadecimal
)

Colour = tuple[int, int, int]


@dataclass(frozen=True)
class Classes:
    """The content of classes.txt.

    names: the names of the K classes, in the order of their indices.
    palette: their colours, (K, 3) uint8 RGB.
    values: the value of each class in the label files.
    coloured: whether the file gives the colour of every class. If not, missing colours are made up.
    ignored: values that count as ignored, besides 255 if no class has it.
    ignored_colours: the same for colours.
    """

    names: tuple[str, ...]
    palette: np.ndarray
    values: tuple[int, ...]
    coloured: bool
    ignored: tuple[int, ...] = ()
    ignored_colours: tuple[Colour, ...] = ()

    def table(self) -> np.ndarray:
        """Return the class index of each value in a label file, for `read_labels`: (256,) uint8."""
        table = np.full(256, UNDEFINED, np.uint8)
        table[[IGNORED, *self.ignored]] = IGNORED
        table[list(self.values)] = np.arange(len(self.values))
        return table

    def colour_table(self) -> np.ndarray:
        """Return the class index of each colour, for `read_colour_labels`: (2**24,) uint8.

        Raises ValueError if two classes have the same colour, or if a colour is missing.
        """
        if not self.coloured:
            raise ValueError('labels are read by colour only where every class has its own: "R G B NAME"')
        names: dict[Colour, str] = dict.fromkeys(self.ignored_colours, IGNORED_NAME)
        for name, colour in zip(self.names, map(tuple, self.palette.tolist()), strict=True):
            if colour in names:
                raise ValueError(f"the colour {colour} is that of {names[colour]:.80} and of {name:.80}")
            names[colour] = name
        return _colour_table(tuple(map(tuple, self.palette.tolist())), self.ignored_colours)


@dataclass(frozen=True)
class _Line:
    """A line of the list: its number, its content (None for what it does not give) and its text."""

    number: int
    name: str
    colour: Colour | None
    value: int | None
    text: str


class _NotUnderstoodError(ValueError):
    """An invalid line, with its number and text."""

    def __init__(self, number: int, text: str):
        super().__init__(text)
        self.number, self.text = number, text


def read_classes(path: Path) -> Classes:
    """Return the classes that a file lists. Classes without colours get colours.

    Raises FileNotFoundError, or ValueError with the line for an invalid line.
    """
    try:
        text = read_text(path)
    except FileNotFoundError:
        there = next((name for name in _ELSEWHERE if (path.parent / name).is_file()), None)
        hint = f"; {there} beside it may be that list: copy it to {path.name}" if there else ""
        raise FileNotFoundError(
            f"{path}: no such file; expected the classes, one a line, in the order of the indices in the labels{hint}"
        ) from None
    if (count := text.count("\n")) > MAX_LINES:
        raise ValueError(f"{path}: {count} lines; expected 2 to {UNDEFINED} classes")
    try:
        lines = list(_parse(text))
    except _NotUnderstoodError as wrong:
        raise ValueError(f"{path}, line {wrong.number}: {wrong.text:.80}: {_FORM}{_OTHER_FORMS}") from None
    names: dict[int, str] = {}  # by value
    for place, line in enumerate(lines):
        value = place if line.value is None else line.value
        if line.name in names.values() and line.name != IGNORED_NAME:
            raise ValueError(f"{path}, line {line.number}: class {line.name:.80} occurs twice")
        if value in names:
            raise ValueError(
                f"{path}, line {line.number}: the value {value} belongs to {line.name:.80} and to "
                f'{names[value]:.80}; write both lines as "VALUE = NAME"'
            )
        names[value] = line.name
    classes = [(value, line) for value, line in zip(names, lines, strict=True) if line.name != IGNORED_NAME]
    ignored = [(value, line) for value, line in zip(names, lines, strict=True) if line.name == IGNORED_NAME]
    if not 2 <= len(classes) <= UNDEFINED:
        raise ValueError(f"{path}: {len(classes)} classes; expected 2 to {UNDEFINED}")
    palette = pascal_palette(len(classes))
    for place, (_, line) in enumerate(classes):
        if line.colour:
            palette[place] = line.colour
    return Classes(
        names=tuple(line.name for _, line in classes),
        palette=palette,
        values=tuple(value for value, _ in classes),
        coloured=all(line.colour for _, line in classes),
        ignored=tuple(value for value, _ in ignored),
        ignored_colours=tuple(line.colour for _, line in ignored if line.colour),
    )


def _parse(text: str) -> Iterator[_Line]:
    lines = [(n, line.strip()) for n, line in enumerate(text.splitlines(), 1) if line.strip()]
    lines = [(n, line) for n, line in lines if not _COMMENT.fullmatch(line)]
    if long := next(((n, line) for n, line in lines if len(line) > _MAX_LINE), None):
        raise _NotUnderstoodError(*long)
    if lines and lines[0][1] == _LABELME_IGNORED:
        del lines[0]
    if lines and all(_CVAT.fullmatch(line) for _, line in lines):
        return _cvat(lines)
    if len(lines) > 1 and all(_VALUE_AND_NAME.fullmatch(line) for _, line in lines):
        return (_plain(number, _VALUE_AND_NAME.sub(r"\1 = \2", line)) for number, line in lines)
    return _table(lines) or map(_plain, *zip(*lines, strict=True)) if lines else iter(())


def _cvat(lines: Sequence[tuple[int, str]]) -> Iterator[_Line]:
    """Yield the lines of "name:r,g,b:parts:actions"."""
    for number, line in lines:
        found = _CVAT.fullmatch(line)
        assert found is not None, "the file was taken for CVAT's"
        colour = found["colour"] and _colour(found["colour"].split(","), number, line)
        yield _Line(number, found["name"].strip(), colour or None, None, line)


def _table(lines: Sequence[tuple[int, str]]) -> Iterator[_Line] | None:
    """Return the rows of a table with commas, semicolons or tabs between columns. None if the lines are not such a
    table."""
    for mark in ",;\t":
        rows = [[cell.strip() for cell in next(csv.reader([line], delimiter=mark))] for _, line in lines]
        heads = [cell.lower().replace("_", " ") for cell in rows[0]]
        columns = {kind: i for kind, known in _COLUMNS.items() for i, head in enumerate(heads) if head in known}
        known = [head for head in heads if any(head in each for each in _COLUMNS.values())]
        if len(known) > 1:
            if len(known) > len(columns) or "name" not in columns:
                raise _NotUnderstoodError(*lines[0])
            return _rows(lines[1:], rows[1:], columns, len(heads))
        for order in ("name,r,g,b", "r,g,b,name", "value,name", "value,r,g,b,name", "value,name,r,g,b"):
            kinds = order.split(",")
            if all(_fits(row, kinds) for row in rows):
                return _rows(lines, rows, {kind: i for i, kind in enumerate(kinds)}, len(kinds))
    if lines[0][1].lower().replace("_", " ") in _HEADS:  # a table of one column, whose head is no class
        raise _NotUnderstoodError(*lines[0])
    return None


def _fits(row: Sequence[str], kinds: Sequence[str]) -> bool:
    """Return whether numbers are exactly where they should be."""
    return len(row) == len(kinds) and all(
        cell.isdecimal() != (kind == "name") for cell, kind in zip(row, kinds, strict=True)
    )


def _rows(
    lines: Sequence[tuple[int, str]], rows: Sequence[Sequence[str]], columns: dict[str, int], width: int
) -> Iterator[_Line]:
    for (number, line), row in zip(lines, rows, strict=True):
        cells = {kind: row[place] for kind, place in columns.items()} if len(row) == width else {}
        if not cells.get("name"):
            raise _NotUnderstoodError(number, line)
        channels = [cells[kind] for kind in "rgb" if kind in cells]
        value = _number(cells["value"], number, line) if "value" in cells else None
        yield _Line(number, cells["name"], _colour(channels, number, line) if channels else None, value, line)


def _plain(number: int, line: str) -> _Line:
    with_value = _WITH_VALUE.fullmatch(line)
    value, rest = (_number(with_value[1], number, line), with_value[2]) if with_value else (None, line)
    *channels, name = rest.split(maxsplit=3) if rest.split()[0].isdecimal() else [rest]
    if _NO_NAME.fullmatch(name):
        raise _NotUnderstoodError(number, line)
    return _Line(number, name, _colour(channels, number, line) if channels else None, value, line)


def _colour(channels: Sequence[str], number: int, line: str) -> Colour:
    if len(channels) != 3:
        raise _NotUnderstoodError(number, line)
    red, green, blue = (_number(channel, number, line) for channel in channels)
    return red, green, blue


def _number(text: str, number: int, line: str) -> int:
    """Read a number 0..255."""
    if not (text.isascii() and text.isdecimal() and len(text) <= 3 and int(text) <= 255):
        raise _NotUnderstoodError(number, line)
    return int(text)


@lru_cache(maxsize=2)
def _colour_table(colours: tuple[Colour, ...], ignored: tuple[Colour, ...]) -> np.ndarray:
    """Return the table: 16 MB, made in milliseconds. It is not sent to the processes that read."""
    table = np.full(2**24, UNDEFINED, np.uint8)
    for index, (red, green, blue) in (*((IGNORED, each) for each in ignored), *enumerate(colours)):
        table[(red << 16) + (green << 8) + blue] = index
    return table


def pascal_palette(count: int) -> np.ndarray:
    """Return colours that differ well, (count, 3) uint8: those of Pascal VOC, whose first, black, stays free for
    ignored pixels."""
    index = np.arange(1, count + 1)
    palette = np.zeros((count, 3), np.uint8)
    for bit in range(8):  # three bits of the index at a time become one bit of each channel, the highest first
        for channel in range(3):
            palette[:, channel] |= ((index >> (3 * bit + channel) & 1) << (7 - bit)).astype(np.uint8)
    return palette
