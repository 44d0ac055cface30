"""Write traced functions as ONNX files."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import torch

from accel.exporting.graphs import Graph, Graphs
from accel.exporting.operators import replacements
from accel.files.whole_files import whole_path
from accel.wording import first_line

OPSET = 18
PACKAGES = ("onnx", "onnxscript", "onnxruntime")


def check_installed() -> None:
    """Raise ValueError if a package is missing that writes or runs ONNX files."""
    from importlib.util import find_spec

    if missing := [name for name in PACKAGES if find_spec(name) is None]:
        raise ValueError(f"export to ONNX needs {', '.join(missing)}: pip install 'accel-vss[onnx]'")


def write_onnx(graphs: Graphs, graph: Graph, path: Path, grid_sample: bool = True) -> None:
    """Write a graph as one ONNX file with its weights. It has standard operators only.

    grid_sample: see `replacements`.

    Raises ValueError for an operator that ONNX lacks, and for more than the 2 GB that a file holds.
    """
    table = torch.export.default_decompositions() | replacements(grid_sample, graphs.offsets)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about what the exporter does inside
        try:
            made: Any = torch.onnx.export(
                graph.program.run_decompositions(table),
                (),
                dynamo=True,
                opset_version=OPSET,
                input_names=list(graph.inputs),
                output_names=list(graph.outputs),
                verbose=False,
            )
        except torch.onnx.errors.OnnxExporterError as error:
            raise ValueError(f"this model cannot be written as ONNX: {first_line(error)}") from error
    import onnx

    model = made.model_proto
    if custom := sorted({node.domain for node in model.graph.node} - {"", "ai.onnx"}):
        raise ValueError(f"this model has operators that ONNX lacks: {', '.join(custom)}")
    with whole_path(path) as temporary:
        onnx.save(model, temporary)
