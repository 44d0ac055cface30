"""The engines that can run a network on a CPU, beside TorchInductor: OpenVINO and ONNX Runtime.

An engine turns a piece of a network, a graph of PyTorch's operators for inputs of one shape, into a runner
(`accel.fast.segments.Runner`). Tensors go in and out without copies where their layout allows it.
"""

from __future__ import annotations

import copy
import importlib.util
import json
import threading
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, fx

from accel.fast.segments import Runner, Segments, segments
from accel.wording import first_line

INDUCTOR, OPENVINO, ONNXRUNTIME, AUTO = "inductor", "openvino", "onnxruntime", "auto"
ENGINES = (INDUCTOR, OPENVINO, ONNXRUNTIME)
NEEDS = {INDUCTOR: (), OPENVINO: ("openvino",), ONNXRUNTIME: ("onnx", "onnxscript", "onnxruntime")}


class EngineError(Exception):
    """An engine cannot run a network. The message gives the reason in one line."""


def installed() -> list[str]:
    """Return the names of the engines whose packages are installed."""
    return [name for name in ENGINES if all(importlib.util.find_spec(each) is not None for each in NEEDS[name])]


def check_engine(name: str, device: torch.device) -> None:
    """Raise ValueError unless the engine exists, is installed and runs on the device."""
    if name not in (*ENGINES, AUTO):
        raise ValueError(f"engine {name!r}: expected one of {', '.join((*ENGINES, AUTO))}")
    if name in NEEDS and name not in installed():
        raise ValueError(f"engine {name!r} is not installed: pip install 'accel-vss[{name}]'")
    if name in (OPENVINO, ONNXRUNTIME) and device.type != "cpu":
        raise ValueError(f"engine {name!r} runs on the CPU, and the model is on {device}; expected inductor or auto")


def build(name: str, part: fx.GraphModule, examples: tuple[Tensor, ...]) -> Segments:
    """Return a part of a network, as that engine runs it.

    name: OPENVINO or ONNXRUNTIME.

    Raises EngineError if the engine does not know an operator of PyTorch's in it, for one.
    """
    makers: dict[str, Callable[..., Runner]] = {OPENVINO: _openvino, ONNXRUNTIME: _onnxruntime}
    make = makers[name]

    def of(piece: fx.GraphModule, samples: list[tuple[Tensor, ...]], made: tuple[Tensor, ...], first: bool) -> Runner:
        given = samples[0]
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")  # about what happens inside the converters
            return make(in_float32(piece), tuple(map(wide, given)), Form.of(given, made), precision_of((*made, *given)))

    return segments(part, [examples], of)


def precision_of(tensors: tuple[Tensor, ...]) -> torch.dtype:
    """Return the type that a piece with these results and inputs computes in."""
    return next((tensor.dtype for tensor in tensors if tensor.dtype in PRECISIONS), torch.float32)


def load(name: str, path: Path) -> Segments:
    """Read a part that was written by its `save`."""
    loaders: dict[str, Callable[[Path], Runner]] = {OPENVINO: OpenVino.load, ONNXRUNTIME: OnnxRuntime.load}
    return Segments.load(path, loaders[name])


# --- what goes in and out -------------------------------------------------------------------------------------

PRECISIONS = {torch.float32: "f32", torch.bfloat16: "bf16", torch.float16: "f16"}


@dataclass(frozen=True)
class Form:
    """How tensors go in and come out.

    taken: of each input, whether it has its channels last.
    left: of each result, the same, and the type to give it.
    """

    taken: list[bool]
    left: list[tuple[bool, str]]

    @classmethod
    def of(cls, given: tuple[Tensor, ...], made: tuple[Tensor, ...]) -> Form:
        left = [(_has_channels_last(tensor), str(tensor.dtype).removeprefix("torch.")) for tensor in made]
        return cls([_has_channels_last(tensor) for tensor in given], left)

    def enter(self, given: tuple[Tensor, ...]) -> list[Any]:
        """Return inputs as numpy arrays, those with their channels last as (B, H, W, C)."""
        rows = (t.permute(0, 2, 3, 1) if last else t for t, last in zip(map(wide, given), self.taken, strict=True))
        return [tensor.contiguous().numpy() for tensor in rows]

    def leave(self, arrays: list[Any]) -> tuple[Tensor, ...]:
        """Return the engine's results as tensors."""
        made = []
        for array, (last, dtype) in zip(arrays, self.left, strict=True):
            tensor = torch.from_numpy(array)
            tensor = tensor.permute(0, 3, 1, 2) if last else tensor
            made.append(tensor.to(getattr(torch, dtype)))
        return tuple(made)

    def save(self, path: Path, **more: object) -> None:
        described = {"taken": self.taken, "left": self.left, **more}
        path.with_name(f"{path.name}.json").write_text(json.dumps(described), encoding="utf-8")

    @classmethod
    def load(cls, path: Path) -> tuple[Form, dict]:
        found = json.loads(path.with_name(f"{path.name}.json").read_bytes())
        return cls(found.pop("taken"), [(last, dtype) for last, dtype in found.pop("left")]), found


def _has_channels_last(tensor: Tensor) -> bool:
    return tensor.dim() == 4 and tensor.is_contiguous(memory_format=torch.channels_last)


def wide(tensor: Tensor) -> Tensor:
    """Return a tensor of numbers in float32: numpy has no bfloat16, and the engines' networks take no float64."""
    return tensor.detach().float() if tensor.is_floating_point() else tensor.detach()


def in_float32(piece: fx.GraphModule) -> fx.GraphModule:
    """Return a copy that computes in float32. The engine chooses the type of its own computation."""
    piece = copy.deepcopy(piece).float()

    def of_float32(argument: Any) -> Any:
        return torch.float32 if isinstance(argument, torch.dtype) and argument in PRECISIONS else argument

    for node in piece.graph.nodes:
        node.args = fx.node.map_aggregate(node.args, of_float32)
        node.kwargs = fx.node.map_aggregate(node.kwargs, of_float32)
    piece.recompile()
    return piece


# --- OpenVINO -------------------------------------------------------------------------------------------------


def openvino_model(piece: fx.GraphModule, given: tuple[Tensor, ...]) -> Any:
    """Return a piece of a network as OpenVINO's model, for inputs of these shapes. Raises EngineError."""
    import openvino

    try:
        # With static shapes it can lay out its memory beforehand.
        model = openvino.convert_model(torch.export.export(piece, given))
        shapes = {port: list(t.shape) for port, t in zip(model.inputs, given, strict=True)}
        model.reshape(shapes)
        return model
    except Exception as error:  # its classes are many, and change
        raise EngineError(f"OpenVINO: {first_line(error)}") from error


def _openvino(piece: fx.GraphModule, given: tuple[Tensor, ...], form: Form, precision: torch.dtype) -> OpenVino:
    return OpenVino(openvino_model(piece, given), form, PRECISIONS[precision])


class OpenVino:
    """A piece of a network that OpenVINO runs.

    model: OpenVINO's model, whose inputs and results have the channels first.
    form: how tensors go in and come out.
    precision: the type it computes in: f32, bf16, f16.
    """

    def __init__(self, model: Any, form: Form, precision: str):
        import openvino

        self.form, self.precision = form, precision
        around = openvino.preprocess.PrePostProcessor(model)
        for number, last in enumerate(form.taken):
            if last:
                _channels_last(around.input(number))
        for number, (last, _) in enumerate(form.left):
            if last:
                _channels_last(around.output(number))
        try:
            self._start(openvino.Core().compile_model(around.build(), "CPU", _settings(precision)))
        except RuntimeError as error:
            raise EngineError(f"OpenVINO: {first_line(error)}") from error

    def _start(self, compiled: Any) -> None:
        self.compiled = compiled
        self.request = compiled.create_infer_request()
        self.lock = threading.Lock()  # a request serves one thread at a time

    def __call__(self, *given: Tensor) -> tuple[Tensor, ...]:
        with self.lock:
            made = self.request.infer(self.form.enter(given), share_inputs=True, share_outputs=False)
            return self.form.leave([made[port] for port in self.compiled.outputs])

    def save(self, path: Path) -> None:
        self.form.save(path, precision=self.precision)
        path.with_name(f"{path.name}.blob").write_bytes(self.compiled.export_model().getvalue())

    @classmethod
    def load(cls, path: Path) -> OpenVino:
        import openvino

        self = cls.__new__(cls)
        self.form, more = Form.load(path)
        self.precision = more["precision"]
        blob = path.with_name(f"{path.name}.blob").read_bytes()
        try:
            self._start(openvino.Core().import_model(blob, "CPU", _settings(self.precision)))
        except RuntimeError as error:
            raise EngineError(f"OpenVINO: {first_line(error)}") from error
        return self


def _settings(precision: str) -> dict[str, Any]:
    return {
        "INFERENCE_PRECISION_HINT": precision,
        "INFERENCE_NUM_THREADS": torch.get_num_threads(),
        "NUM_STREAMS": 1,
        "PERFORMANCE_HINT": "LATENCY",
        "ENABLE_CPU_PINNING": False,  # bound to a core, a thread would wait for other programs there
    }


def _channels_last(end: Any) -> None:
    import openvino

    end.tensor().set_layout(openvino.Layout("NHWC"))
    end.model().set_layout(openvino.Layout("NCHW"))


# --- ONNX Runtime ---------------------------------------------------------------------------------------------


def _onnxruntime(piece: fx.GraphModule, given: tuple[Tensor, ...], form: Form, precision: torch.dtype) -> OnnxRuntime:
    if precision != torch.float32:
        raise EngineError(f"ONNX Runtime: computes in float32 on CPUs, not in {precision}")
    try:
        program: Any = torch.onnx.export(
            torch.export.export(piece, given).run_decompositions({}), (), dynamo=True, verbose=False
        )
        model = program.model_proto.SerializeToString()
    except Exception as error:  # its classes are many, and change
        raise EngineError(f"ONNX Runtime: {first_line(error)}") from error
    return OnnxRuntime(model, Form([False] * len(form.taken), [(False, dtype) for _, dtype in form.left]))


class OnnxRuntime:
    """A piece of a network that ONNX Runtime runs. model: the file's content."""

    def __init__(self, model: bytes, form: Form):
        import onnxruntime

        self.model, self.form = model, form
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # waiting threads leave their cores
        options.log_severity_level = 3  # errors alone
        try:
            self.session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        except Exception as error:
            raise EngineError(f"ONNX Runtime: {first_line(error)}") from error
        self.names = [each.name for each in self.session.get_inputs()]

    def __call__(self, *given: Tensor) -> tuple[Tensor, ...]:
        return self.form.leave(self.session.run(None, dict(zip(self.names, self.form.enter(given), strict=True))))

    def save(self, path: Path) -> None:
        self.form.save(path)
        path.with_name(f"{path.name}.onnx").write_bytes(self.model)

    @classmethod
    def load(cls, path: Path) -> OnnxRuntime:
        form, _ = Form.load(path)
        return cls(path.with_name(f"{path.name}.onnx").read_bytes(), form)
