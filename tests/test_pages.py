"""The pages say what is there: their links, the files and options of their commands, the public names."""

from __future__ import annotations

import importlib.util
import re
import shlex
from functools import cache
from pathlib import Path

import pytest

import accel

ROOT = Path(__file__).parent.parent
PAGES = sorted(
    {ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "data/README.md", *(ROOT / "docs").rglob("*.md")}
    - set((ROOT / "docs").rglob("api/*.md"))
)
IDS = [str(page.relative_to(ROOT)) for page in PAGES]


@cache
def text_of(page: Path) -> str:
    return page.read_text(encoding="utf-8")


def anchors(page: Path) -> set[str]:
    """What GitHub calls the headings of a page."""
    headings = re.findall(r"^#+ (.+)$", text_of(page), re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def commands(page: Path) -> list[list[str]]:
    """The words of every command on a page, as a shell would read them; the first is the source of the command."""
    text = re.sub(r" *\\\n *", " ", text_of(page))
    found = [shlex.split(words, comments=True) for words in re.findall(r"python (tools/\w+\.py[^`\n]*)", text)]
    for words in re.findall(r"^ +accel ([a-z][^`\n]*)|`accel ([a-z][^`\n]*)`", text, re.M):
        name, *rest = shlex.split(words[0] or words[1], comments=True)
        found.append([f"accel/commands/{name}.py", *rest])
    return found


@cache
def options(tool: str) -> set[str]:
    """The long and short options of a tool, as its source declares them."""
    text = (ROOT / tool).read_text(encoding="utf-8")
    names = {"--help", "-h"} | set(re.findall(r'"(--?[a-z][\w-]*)"', text))
    for module in re.findall(r"from (accel[\w.]*) import", text):
        source = module.replace(".", "/") + ".py"
        if module.startswith("accel.commands."):
            names |= options(source)
        elif (ROOT / source).is_file():
            declared = (ROOT / source).read_text(encoding="utf-8")
            names |= set(re.findall(r'add_argument\(\s*"(--?[a-z][\w-]*)"', declared))
    return names | {f"--no-{name[2:]}" for name in names if name.startswith("--")}


@pytest.mark.parametrize("page", PAGES, ids=IDS)
def test_links_lead_to_files_and_headings_that_exist(page):
    for target in re.findall(r"\]\(([^)\s]+)\)", re.sub(r"```.*?```", "", text_of(page), flags=re.S)):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, heading = target.partition("#")
        file = (page.parent / path) if path else page
        assert file.exists(), f"{target}: there is no such file"
        if heading:
            assert heading in anchors(file), f"{target}: there is no such heading"


@pytest.mark.parametrize("page", PAGES, ids=IDS)
def test_commands_name_tools_options_and_experiments_that_exist(page):
    for tool, *words in commands(page):
        assert (ROOT / tool).is_file(), f"there is no {tool}"
        for word in words:
            if re.match(r"--?[a-z]", word):
                assert word.partition("=")[0] in options(tool), f"{tool} has no {word}"
            if re.fullmatch(r"experiments/[\w/]+\.yaml", word):
                assert (ROOT / word).is_file(), f"there is no {word}"


@pytest.mark.parametrize("page", PAGES, ids=IDS)
def test_source_files_that_a_page_names_exist(page):
    for name in re.findall(r"`((?:accel|ops|tests|tools|docs|experiments)/[\w/]+\.(?:py|md|yaml))`", text_of(page)):
        assert (ROOT / name).is_file(), f"there is no {name}"


def test_the_reference_has_every_public_name():
    reference = text_of(ROOT / "docs/api/index.md")
    assert [name for name in accel.__all__ if f":: accel.{name}\n" not in reference] == []


def _to_rest(text: str) -> str:
    spec = importlib.util.spec_from_file_location("docstrings", ROOT / "docs/site/docstrings.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return "\n".join(module.to_rest(text.split("\n")))


@pytest.mark.parametrize(
    ("docstring", "rest"),
    [
        ("One *line* of `code`.", r"One \*line\* of ``code``."),
        ("note: a summary is no list.", "note: a summary is no list."),
        ("Sum.\n\na, b: two\n    lines.  c: one.", "Sum.\n\n* **a, b**: two lines.\n* **c**: one."),
        ("Sum.\n\nRaises:\n    ValueError: if not.", "Sum.\n\n**Raises:**\n\n* **ValueError**: if not."),
        ("Sum.\n\n    y = x * 2", "Sum.\n\n::\n\n        y = x * 2"),
        ("Sum:\n\n- one\n  more\n- two", "Sum:\n\n* one more\n* two"),
    ],
)
def test_docstrings_become_restructuredtext(docstring, rest):
    assert _to_rest(docstring).strip() == rest
