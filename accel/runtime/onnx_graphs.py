"""Graphs that ONNX Runtime runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from accel.runtime.folder import GraphInfo

CUDA, CPU = "CUDAExecutionProvider", "CPUExecutionProvider"


class OnnxGraph:
    """An ONNX file, loaded. providers, threads: see `accel.runtime.load`.

    Raises ValueError if ONNX Runtime is not installed or cannot load the file, and for a provider that it lacks.
    """

    def __init__(self, info: GraphInfo, providers: Sequence[str] | None = None, threads: int | None = None):
        try:
            import onnxruntime
        except ImportError:
            raise ValueError("models exported to ONNX need ONNX Runtime: pip install onnxruntime") from None
        available = onnxruntime.get_available_providers()
        if providers is None:
            providers = [name for name in (CUDA, CPU) if name in available]
        if missing := [name for name in providers if name not in available]:
            raise ValueError(f"this ONNX Runtime has no {missing[0]}; it has {', '.join(available)}")
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3  # errors are raised, and told in one line
        if threads is not None:
            options.intra_op_num_threads = threads
        try:
            self._session = onnxruntime.InferenceSession(str(info.path), options, providers=list(providers))
        except Exception as error:  # its own classes have no common one
            reason = " ".join(str(error).split())[:300]
            raise ValueError(
                f"{info.path}: ONNX Runtime {onnxruntime.__version__} cannot load it ({reason})"
            ) from error
        inputs, self._outputs = ([t.name for t in ts()] for ts in (self._session.get_inputs, self._session.get_outputs))
        told = [t.name for t in info.inputs], [t.name for t in info.outputs]
        if (inputs, self._outputs) != told:
            raise ValueError(
                f"{info.path}: takes {', '.join(inputs)} and gives {', '.join(self._outputs)}; model.json beside it "
                "says otherwise"
            )

    def __call__(self, arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        return dict(zip(self._outputs, self._session.run(self._outputs, dict(arrays)), strict=True))
