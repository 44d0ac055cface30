"""This project's docstrings, which are free text, as reStructuredText, which Sphinx reads."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from textwrap import dedent

_ITEM = re.compile(r"([A-Za-z_]\w*(?:, [A-Za-z_]\w*)*): +(?=\S)")
_CODE = re.compile(r"(``.+?``|`[^`]+`)")


def to_rest(lines: Iterable[str]) -> list[str]:
    """The lines of a docstring, as reStructuredText.

    A paragraph that begins "name: text" is a list of such names, unless it is the first. A paragraph that is indented
    throughout stays as it is, in a fixed-width font. `Code` in single backticks is code. Nothing else is markup.
    """
    result = []
    for number, paragraph in enumerate(_paragraphs(lines)):
        result += [_joined(paragraph)] if number == 0 else _paragraph(paragraph)
        result.append("")
    return result


def _paragraphs(lines: Iterable[str]) -> Iterator[list[str]]:
    paragraph: list[str] = []
    for line in [*lines, ""]:
        if line.strip():
            paragraph.append(line.rstrip())
        elif paragraph:
            yield paragraph
            paragraph = []


def _paragraph(lines: list[str]) -> list[str]:
    if all(line.startswith(" ") for line in lines):
        return ["::", "", *(f"    {line}" for line in lines)]
    if lines[0].startswith(("- ", "* ")) or re.match(r"\d+\. ", lines[0]):
        mark = "#. " if lines[0][0].isdigit() else "* "
        return _list(lines, re.compile(r"(?:[-*]|\d+\.) +"), lambda match: mark)
    if re.fullmatch(r"(Args|Raises|Returns|Yields):", lines[0]) and len(lines) > 1:
        return [f"**{lines[0]}**", "", *_paragraph(dedent("\n".join(lines[1:])).split("\n"))]
    if _ITEM.match(lines[0]):
        lines = re.sub(rf"(?<=\S)  +(?={_ITEM.pattern})", "\n", "\n".join(lines)).split("\n")  # two in a line
        return _list(lines, _ITEM, lambda match: f"* **{_escaped(match[1])}**: ")
    # Lists may follow their introduction at once.
    for number, line in enumerate(lines):
        if number and line.startswith(("- ", "* ")):
            return [*_paragraph(lines[:number]), "", *_paragraph(lines[number:])]
    return [_joined(lines)]


def _joined(lines: list[str]) -> str:
    return _text(" ".join(line.strip() for line in lines))


def _list(lines: list[str], begins: re.Pattern, mark: Callable[[re.Match], str]) -> list[str]:
    """One entry for each line that `begins` one; other lines go on with the entry before."""
    entries: list[tuple[str, list[str]]] = []
    for line in lines:
        match = begins.match(line)
        if match:
            entries.append((mark(match), [line[match.end() :]]))
        else:
            entries[-1][1].append(line.strip())
    return [head + _text(" ".join(rest)) for head, rest in entries]


def _text(text: str) -> str:
    parts = _CODE.split(text)
    return "".join(f"``{part.strip('`')}``" if _CODE.fullmatch(part) else _escaped(part) for part in parts)


def _escaped(text: str) -> str:
    return re.sub(r"([\\*|_`])", r"\\\1", text)
