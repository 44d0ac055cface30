"""Arrows between the rooms of the package point down only, and nothing goes in circles.

An arrow is an import, wherever it stands: at the top of a file or inside a function. Imports under
`if TYPE_CHECKING:` do not count, because they are not carried out: they only name types in annotations. Modules that
are named by strings, as in `accel/__init__.py`, are not seen.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

# The rooms of accel/, from the lowest up. A room may import only rooms that stand before it.
ORDER = (
    # what knows nothing of video models: constants, files, processes, the machine
    "_version",
    "labels",
    "wording",
    "files",
    "output_folder",
    "interrupts",
    "progress",
    "process_groups",
    "reductions",
    "threads",
    "devices",
    "clock",
    "machine",
    # exported models, without PyTorch
    "runtime",
    # models
    "playing",
    "fast",
    "models",
    # what models are made from, trained on and judged by
    "config",
    "video",
    "datasets",
    "measures",
    "visualize",
    "visualize_sampling",
    "visualize_boxes",
    "weights",
    "tasks",
    # what is done with models
    "inference",
    "recording",
    "formats",
    "fleet",
    "evaluation",
    "training",
    "exporting",
    "benchmark",
    # commands
    "acceleration",
    "demo_models",
    "demo",
    "streams",
    "cli",
    "commands",
    "__main__",
)


@cache
def modules(package: str) -> dict[str, Path]:
    """The modules of a package that lies in the checkout's root, by their full names."""
    found = {}
    for path in sorted((ROOT / package).rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imported(tree: ast.AST) -> Iterator[str]:
    """What a file imports: for `import a` it is a, for `from a import b` it is a.b, be that a module or a name in a."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING"):
            for other in node.orelse:
                yield from imported(ast.Module([other], []))
        elif isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"relative import of {node.module}"
            yield from (f"{node.module}.{name.name}" for name in node.names)
        else:
            yield from imported(node)


@cache
def arrows(package: str) -> dict[str, set[str]]:
    """For each module of a package the other modules of it that it imports."""
    known = modules(package)

    def module_of(name: str) -> str:
        """The module that a name is, or is in; empty for those of other packages."""
        while name and name not in known:
            name = name.rpartition(".")[0]
        return name

    return {
        module: {module_of(name) for name in imported(ast.parse(path.read_text()))} - {module, ""}
        for module, path in known.items()
    }


def room(module: str) -> str:
    """The folder or file in accel/ that a module belongs to."""
    return module.split(".")[1]


def circle(graph: dict[str, set[str]]) -> list[str]:
    """A circle in a graph; empty if there is none."""
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return error.args[1]
    return []


def test_every_room_has_its_place_in_the_order():
    rooms = {room(module) for module in modules("accel") if module != "accel"}
    assert rooms == set(ORDER) and len(ORDER) == len(set(ORDER))


def test_no_room_imports_one_above_it():
    place = {name: number for number, name in enumerate(ORDER)}
    upward = [
        f"{module} imports {target}"
        for module, targets in arrows("accel").items()
        for target in targets
        if "." in module and "." in target and place[room(target)] > place[room(module)]
    ]
    assert upward == []


@pytest.mark.parametrize("package", ["accel", "ops"])
def test_no_file_imports_itself_by_way_of_others(package):
    assert circle(arrows(package)) == []


def test_within_a_room_folders_and_files_do_not_import_one_another_in_circles():
    for parent in {module.rpartition(".")[0] for module in modules("accel")} - {""}:
        inside: dict[str, set[str]] = {}
        for module, targets in arrows("accel").items():
            if module.startswith(f"{parent}."):
                child = module[len(parent) + 1 :].split(".")[0]
                others = {t[len(parent) + 1 :].split(".")[0] for t in targets if t.startswith(f"{parent}.")}
                inside.setdefault(child, set()).update(others - {child})
        assert circle(inside) == [], parent


def test_the_public_names_are_all_that_the_package_itself_imports():
    """They are imported when they are first used, see `accel.__getattr__`."""
    assert arrows("accel")["accel"] == {"accel._version"}
    assert not [module for module, targets in arrows("accel").items() if "accel" in targets and module != "accel"]


def test_the_operators_know_nothing_of_the_package_and_the_package_nothing_of_its_tools():
    def tops(folder: str) -> set[str]:
        return {
            name.split(".")[0] for path in modules(folder).values() for name in imported(ast.parse(path.read_text()))
        }

    assert not tops("ops") & {"accel", "tools", "tests"}
    assert not tops("accel") & {"tools", "tests", "docs", "experiments"}


def test_imports_are_found_where_they_stand():
    """Those in functions count, those for type checkers do not."""
    tree = ast.parse(
        "import a\n"
        "from b import c\n"
        "if TYPE_CHECKING:\n    import no\nelse:\n    import d\n"
        "if typing.TYPE_CHECKING:\n    from no import no\n"
        "def f():\n    try:\n        import e.f\n    except ImportError:\n        from g import h\n"
    )
    assert list(imported(tree)) == ["a", "b.c", "d", "e.f", "g.h"]


def test_a_circle_is_found():
    assert circle({"a": {"b"}, "b": {"c"}, "c": set()}) == []
    assert set(circle({"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"a"}})) == {"a", "b", "c"}
