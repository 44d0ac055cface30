"""Write traced functions as packages of compiled code, which libtorch runs without Python."""

from __future__ import annotations

import shutil
from pathlib import Path

import accel_ops
import torch

from accel.exporting.graphs import Graph
from accel.files.whole_files import whole_path
from accel.wording import first_line

LIBRARY = "accel_ops.so"  # the native operators, which a program loads before the packages


def write_aoti(graph: Graph, path: Path) -> None:
    """Compile a graph, for processors like this one, into one `.pt2` file with its weights.

    Raises ValueError if the compiler is missing or fails.
    """
    from torch._dynamo.exc import BackendCompilerFailed
    from torch._inductor import exc

    with whole_path(path) as temporary:
        named = temporary.with_name(f"{temporary.name}.pt2")  # it insists on the ending
        try:
            torch._inductor.aoti_compile_and_package(graph.program, package_path=str(named))
        except (BackendCompilerFailed, exc.CppCompileError, exc.InvalidCxxCompiler) as error:
            raise ValueError(f"{path}: cannot be compiled ({first_line(error)})") from error
        named.replace(temporary)


def write_library(folder: Path) -> None:
    """Copy the native operators, for processors like this one, to a folder. Raises ValueError if they cannot be
    compiled."""
    accel_ops.load("cpu")
    with whole_path(folder / LIBRARY) as temporary:
        shutil.copyfile(accel_ops.library_file("cpu"), temporary)
