"""Read YAML from untrusted sources: plain data only, and no more than a configuration needs.

A few hundred bytes of YAML can expand to gigabytes (aliases of aliases, "billion laughs"), be nested deeper than
Python's stack, or name objects to construct. So everything is counted on the parser's events before anything is built.
"""

from __future__ import annotations

import stat
from pathlib import Path
from typing import Any

import yaml

from accel.files.small_files import decode

MAX_BYTES = 2**16  # of a file; those of this program's own experiments have 1,000
MAX_NESTING = 32
MAX_NODES = 10_000  # values, lists and mappings, with what aliases stand for


def read_yaml(path: Path, numbered: bool = False) -> Any:
    """Return the one document in a file.

    numbered: whether keys may be whole numbers, too.

    Raises FileNotFoundError. Raises ValueError, with file and line, unless the file is YAML with plain data within the
    limits of this module. Keys must be text and must not occur twice.
    """
    try:
        found = path.stat()
        if not stat.S_ISREG(found.st_mode):  # a pipe would be waited for
            raise ValueError("not a file")
        if found.st_size > MAX_BYTES:
            raise ValueError(f"{found.st_size} bytes; at most {MAX_BYTES} are read")
        text = decode(path.read_bytes())
    except FileNotFoundError:
        raise FileNotFoundError(f"no configuration file {path}") from None
    except (OSError, ValueError) as error:
        raise ValueError(f"{path}: not a readable YAML file ({error})") from None
    try:
        return parse_yaml(text, numbered)
    except ValueError as error:
        raise ValueError(f"{path}{error}") from None


def parse_yaml(text: str, numbered: bool = False) -> Any:
    """Return the one document in `text`. Raises ValueError as `read_yaml`, but without the name of a file."""
    try:
        _count(text)
        return yaml.load(text, _NumberedKeyLoader if numbered else _UniqueKeyLoader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f" line {mark.line + 1}" if mark else ""
        problem = getattr(error, "problem", None) or str(error).splitlines()[0]
        raise ValueError(f"{line}: not valid YAML: {' '.join(problem.split())}") from None
    except (ValueError, OverflowError, RecursionError, AttributeError, TypeError, LookupError) as error:
        # What its constructors make of numbers of 5,000 digits, dates such as 2001-99-99, "!!int x" or "!!float ''".
        raise ValueError(f": not valid YAML: {_short(' '.join(str(error).split()))}") from None


def _count(text: str) -> None:
    """Raise YAMLError if the text contains too much."""
    sizes: dict[str, int] = {}  # of what is anchored
    open_nodes: list[list] = [[None, 0]]  # anchor, and nodes so far; the first is the document
    for event in yaml.parse(text, yaml.SafeLoader):
        if isinstance(event, yaml.CollectionEndEvent):
            anchor, size = open_nodes.pop()
            open_nodes[-1][1] += size
            if anchor is not None:
                sizes[anchor] = size
        elif isinstance(event, yaml.AliasEvent):
            if event.anchor not in sizes:
                raise _too_much(event, f"the alias *{event.anchor} comes before the end of what it stands for")
            open_nodes[-1][1] += sizes[event.anchor]
        elif isinstance(event, yaml.CollectionStartEvent):
            open_nodes.append([event.anchor, 1])
            if len(open_nodes) - 1 > MAX_NESTING:
                raise _too_much(event, f"nested more than {MAX_NESTING} deep")
        elif isinstance(event, yaml.ScalarEvent):
            open_nodes[-1][1] += 1
            if event.anchor is not None:
                sizes[event.anchor] = 1
        if sum(size for _, size in open_nodes) > MAX_NODES:
            raise _too_much(event, f"more than {MAX_NODES} values")


def _too_much(event: yaml.Event, problem: str) -> yaml.MarkedYAMLError:
    return yaml.MarkedYAMLError(problem=problem, problem_mark=event.start_mark)  # type: ignore[arg-type] # C's mark, too


def _short(text: str) -> str:
    return text if len(text) <= 200 else f"{text[:200]}..."


class _UniqueKeyLoader(yaml.SafeLoader):
    """A loader of plain data only. A key that occurs twice is an error instead of a silent loss."""

    keys: tuple[type, ...] = (str,)

    def construct_mapping(self, node, deep=False):
        seen = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if type(key) not in self.keys:
                raise yaml.constructor.ConstructorError(
                    None, None, f"key {_short(repr(key))} is not text", key_node.start_mark
                )
            if key in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"key {_short(repr(key))} occurs twice", key_node.start_mark
                )
            seen.add(key)
        return super().construct_mapping(node, deep)


class _NumberedKeyLoader(_UniqueKeyLoader):
    """The same, for lists whose entries have numbers."""

    keys = (str, int)
