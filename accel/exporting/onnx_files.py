"""Write traced functions as ONNX files."""

from __future__ import annotations

import operator
import re
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
        program = graph.program.run_decompositions(table)
        _divide_as_onnx(program)
        try:
            made: Any = torch.onnx.export(
                program,
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
    _name_sides(model.graph)
    with whole_path(path) as temporary:
        onnx.save(model, temporary)


def _name_sides(graph: Any) -> None:
    """Call the sides of frames of any size height and width, in place. Shapes of inner tensors are left out."""
    del graph.value_info[:]
    (frame,) = (tensor for tensor in graph.input if tensor.name == "frame")
    sides = [side.dim_param for side in frame.type.tensor_type.shape.dim[:2]]
    for tensor in (*graph.input, *graph.output):
        for side in tensor.type.tensor_type.shape.dim:
            for symbol, name in zip(sides, ("height", "width"), strict=True):
                if symbol and side.dim_param:
                    side.dim_param = re.sub(rf"\b{re.escape(symbol)}\b", name, side.dim_param)


def _divide_as_onnx(program: torch.export.ExportedProgram) -> None:
    """Make divisions of sizes exact, in place.

    ONNX rounds a quotient of whole numbers towards zero, Python rounds it down. -(-height // 16), the number of cells
    of a frame of any height, would be one too small.
    """
    graph = program.graph
    for node in graph.find_nodes(op="call_function", target=operator.floordiv):
        number, by = node.args
        with graph.inserting_before(node):
            rest = graph.call_function(operator.mod, (number, by))
            whole = graph.call_function(operator.sub, (number, rest))
        values = [each.meta["val"] if isinstance(each, torch.fx.Node) else each for each in (number, by)]
        rest.meta["val"] = values[0] % values[1]
        whole.meta["val"] = values[0] - rest.meta["val"]
        node.args = (whole, by)
    program.graph_module.recompile()
