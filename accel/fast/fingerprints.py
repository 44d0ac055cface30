"""Tell from a network, its inputs and the machine whether something made for them before still fits."""

from __future__ import annotations

import enum
import functools
import hashlib
import json
import os
import platform
import types
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

# What decides how a network is computed, beside its own code.
PACKAGES = ("torch", "torchvision", "segmentation-models-pytorch", "timm", "numpy", "openvino", "nncf", "onnxruntime")
SWITCHES = ("ATEN_CPU_CAPABILITY", "ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA", "ACCEL_OPS", "ACCEL_OPS_CPU", "CXX")
PLAIN = (bool, int, float, complex, str, bytes, enum.Enum, Path, torch.dtype, torch.device, torch.memory_format)
FLAGS = ("flags", "Features", "model name")  # in /proc/cpuinfo


class UnknownError(Exception):
    """A network has something of which nobody can say whether it is the same next time."""


def fingerprint(network: nn.Module, weights: bool = True) -> str:
    """Return a digest of a network: its classes, its settings and, unless `weights` is False, its weights' values.

    Raises UnknownError for networks with settings that are no plain values, such as a function made on the spot.
    """
    digest = hashlib.sha256()
    for name, module in network.named_modules():
        digest.update(f"{name}:{_name(type(module))}{_settings(module)}\n".encode())
    tensors = [*network.named_parameters(remove_duplicate=False), *network.named_buffers(remove_duplicate=False)]
    for name, tensor in tensors:
        digest.update(f"{name}:{form(tensor)}\n".encode())
        if weights:
            digest.update(_bytes(tensor))
    return digest.hexdigest()


def form(tensor: Tensor) -> str:
    """Return what compiled code depends on in an input: type, shape and layout."""
    return f"{tensor.dtype} {tuple(tensor.shape)} {tensor.stride()} {tensor.device.type}"


def key(*parts: object) -> str:
    """Return a digest of these parts, all of which have a text that says everything about them."""
    return hashlib.sha256(json.dumps([str(part) for part in parts]).encode()).hexdigest()[:40]


def surroundings() -> str:
    """Return what a compiled network depends on beside itself: the processor, the number of threads, the versions of
    packages, and the code of this one."""
    switches = {name: os.environ.get(name) for name in SWITCHES}
    return key(_processor(), _versions(), _code(), switches, torch.get_num_threads())


def _settings(module: nn.Module) -> str:
    """Return the plain settings of a module, without what it inherits from PyTorch and without its parts."""
    found = []
    for name, value in sorted(vars(module).items()):
        if name in ("_parameters", "_buffers", "_modules"):
            continue
        if name.endswith("hooks") or name.startswith("_forward_") or name.startswith("_backward_"):
            if value:
                raise UnknownError(f"{type(module).__name__} has {name}")
            continue
        found.append(f"{name}={_plain(value)}")
    return ";".join(found)


def _plain(value: Any, within: tuple[int, ...] = ()) -> str:
    """Return a text that says everything about a value. within: the identities of the objects that it lies in."""
    if value is None or isinstance(value, PLAIN):
        return repr(value)
    if isinstance(value, type):
        return _name(value)
    if isinstance(value, types.FunctionType | types.BuiltinFunctionType):
        if "<" in value.__qualname__:  # made on the spot: what it remembers is not seen
            raise UnknownError(value.__qualname__)
        return _name(value)
    if id(value) in within:
        return "again"

    def plain(part: Any) -> str:
        return _plain(part, (*within, id(value)))

    if isinstance(value, Tensor):
        return f"{form(value)} {hashlib.sha256(_bytes(value)).hexdigest()}"
    if isinstance(value, np.ndarray | np.generic):
        return f"{value.dtype} {value.shape} {hashlib.sha256(value.tobytes()).hexdigest()}"
    if isinstance(value, nn.Module):
        return f"{_name(type(value))} {fingerprint(value)}"
    if isinstance(value, tuple | list):
        return f"{_name(type(value))}[{','.join(map(plain, value))}]"
    if isinstance(value, set | frozenset):
        return f"{{{','.join(sorted(map(plain, value)))}}}"
    if isinstance(value, dict):
        return f"{{{','.join(f'{plain(k)}:{plain(v)}' for k, v in value.items())}}}"
    if isinstance(value, functools.partial):
        return f"partial {plain(value.func)} {plain(value.args)} {plain(value.keywords)}"
    if isinstance(value, types.MethodType):
        return f"method {plain(value.__func__)}"  # of an object that is looked at elsewhere
    if hasattr(value, "__dict__") and not isinstance(value, types.ModuleType):
        return f"{_name(type(value))} {plain(vars(value))}"
    raise UnknownError(f"a {_name(type(value))}")


def _name(thing: Any) -> str:
    return f"{thing.__module__}.{thing.__qualname__}"


def _bytes(tensor: Tensor) -> memoryview | bytes:
    flat = tensor.detach().cpu().contiguous().reshape(-1)
    return flat.view(torch.uint8).numpy().data if flat.numel() else b""


@functools.cache
def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").split("\n\n", 1)[0].splitlines()
        return ";".join(line for line in lines if line.startswith(FLAGS))
    except OSError:
        return f"{platform.machine()} {platform.processor()} {platform.node()}"


@functools.cache
def _versions() -> str:
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return json.dumps(found)


@functools.cache
def _code() -> str:
    """Return a digest of the code that makes networks: models, what makes them fast, and the operators."""
    import accel_ops

    accel, operators = Path(__file__).parents[1], Path(accel_ops.__file__).parent
    digest = hashlib.sha256()
    for path in _sources(accel / "models", accel / "fast", operators):
        digest.update(path.name.encode() + path.read_bytes())
    return digest.hexdigest()


def _sources(*folders: Path) -> Iterable[Path]:
    for folder in folders:
        yield from sorted(path for path in folder.rglob("*") if path.suffix in (".py", ".cpp", ".h"))
