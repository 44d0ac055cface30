"""Where the native kernels come from: prebuilt, else compiled at first use, else not at all.

`python -m accel_ops.build` builds ahead of time into `ops/lib/` where that can be written (an editable
install), else into the cache. What is not there at the first call of an operator is compiled then and kept in
the cache. The CPU and the CUDA kernels are two libraries, made from csrc/*.cpp and csrc/*.cu and loaded when
the first tensor of their kind arrives, so that the absence of `nvcc` costs CPU tensors nothing. A library that
another user may have put there (accel_ops/places.py) is not loaded.

A wheel brings CPU libraries, one an instruction set (accel_ops/instruction_sets.py), and needs no compiler. A CPU
library runs with PyTorch 2.11 and every later version, a CUDA library with the one that it was compiled with.

Environment:
    ACCEL_OPS             `native` or `reference` forces one; the default is native where possible
    ACCEL_OPS_CPU         avx512_bf16, avx512, avx2 or x86-64 forces the CPU library for these instructions; the
                          default is the best one here, up to what ATEN_CPU_CAPABILITY says
    ACCEL_OPS_CACHE       the cache's folder; default $XDG_CACHE_HOME/accel_ops or ~/.cache/accel_ops
    ACCEL_OPS_CUDA        1: `python -m accel_ops.build` compiles CUDA kernels although there is no GPU here
    TORCH_CUDA_ARCH_LIST  the GPUs to compile for, such as "8.0 9.0+PTX"; default the GPUs here
    MAX_JOBS              how many compilers to run at a time; default as many as there are processors
    CXX, CUDA_HOME        the C++ compiler (default g++; also a command, such as "ccache g++"); the CUDA toolkit
                          with bin/nvcc
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import sys
import threading
import time
import warnings
from dataclasses import dataclass
from pathlib import Path

import torch
from accel_ops.compilers import (
    CPU_FLAGS,
    CUDA_FLAGS,
    NATIVE,
    CannotBuild,
    c_library,
    compile_library,
    compiler_version,
    find_compiler,
    find_nvcc,
)
from accel_ops.instruction_sets import InstructionSet, allowed, asked_for, processor
from accel_ops.places import cache_folder, is_file, locked, make_folder, newest, safe_path

HERE = Path(__file__).resolve().parent
SOURCES = HERE / "csrc"
SCHEMAS_FOR_CUDA = "schemas_aten.cpp"
PREBUILT = HERE / "lib"

CUDA_ARCHITECTURES = ("8.0", "9.0+PTX")  # where there is no GPU to ask


@dataclass(frozen=True)
class Library:
    """One library as it has to be here: what it is made of and for."""

    device: str  # "cpu" or "cuda"
    architectures: tuple[str, ...] = ()  # of the GPUs; empty for "cpu"
    instructions: InstructionSet | None = None  # for "cpu": of any processor that has them; None: of the one here

    @property
    def sources(self) -> list[Path]:
        if self.device == "cpu":
            return sorted(path for path in SOURCES.glob("*.cpp") if path.name != SCHEMAS_FOR_CUDA)
        return [*sorted(SOURCES.glob("*.cu")), SOURCES / SCHEMAS_FOR_CUDA]

    @property
    def processor(self) -> tuple[str, ...]:
        """The compiler's flags that say for which processor it is."""
        return self.instructions.flags if self.instructions else NATIVE

    @property
    def file_name(self) -> str:
        """Says all that the binary depends on, so that one made for another torch or CPU is never loaded.

        Raises `CannotBuild` if there is no compiler.
        """
        return self._named("" if self.instructions else _digest(compiler_version(self.device)))

    def _named(self, compiler: str) -> str:
        flags = [*CPU_FLAGS, *self.processor] if self.device == "cpu" else CUDA_FLAGS
        read = [*sorted(SOURCES.glob("*.h")), *sorted(SOURCES.glob("*.inc")), *self.sources]
        made_of = _digest(flags, *((path.name, path.read_bytes()) for path in read))
        if self.instructions:  # made elsewhere, of these sources
            return f"accel_ops-cpu-{self.instructions.name}-{made_of}.so"
        target: tuple[object, ...] = c_library(), processor()
        if self.device == "cuda":
            torch_here = torch.__version__, torch.version.cuda, torch.compiled_with_cxx11_abi()
            target = *torch_here, c_library(), *self.architectures
        return f"accel_ops-{self.device}-{_digest(*target)}-{compiler}-{made_of}.so"

    def find_in(self, folder: Path) -> Path | None:
        """The library in this folder. Without a compiler, which could make another, that of any compiler will do.

        Raises `CannotBuild` if another user may have put it there.
        """
        try:
            name = self.file_name
        except CannotBuild:
            name = self._named("*")
        path = newest(folder, name)
        return path and safe_path(path)

    def find(self) -> Path | None:
        """The library, if it is already built.

        Raises `CannotBuild` if there is none or no safe one in `PREBUILT`, and there is no cache or no safe one there.
        """
        return self.prebuilt() or self.find_in(cache_folder())

    def prebuilt(self) -> Path | None:
        """The library, if it came with the package or was built ahead of time, and is safe."""
        try:
            return self.find_in(PREBUILT)
        except CannotBuild:
            return None


def _digest(*parts: object) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(f"{part!r}\n".encode())
    return digest.hexdigest()[:12]


def libraries_for(device: str) -> list[Library]:
    """Those that serve tensors on `device` ("cpu" or "cuda") here, the one to build first.

    Raises `CannotBuild` if there can be none, ValueError if ACCEL_OPS_CPU names none that runs here.
    """
    if not sys.platform.startswith("linux"):
        raise CannotBuild(f"native operators are for Linux only, this is {sys.platform}")
    if device == "cpu":
        asked = asked_for()
        if asked:
            return [Library("cpu", instructions=asked)]
        return [Library("cpu"), *(Library("cpu", instructions=each) for each in allowed())]
    if device != "cuda" or torch.version.cuda is None:
        raise CannotBuild(f"native operators are for CPUs and CUDA GPUs only, this torch is for {device!r}")
    # A library built where there was no GPU serves these too, unless they are older than it.
    here, general = cuda_architectures(), CUDA_ARCHITECTURES
    served = all(_capability(name) >= _capability(general[0]) for name in here)
    return [Library("cuda", here)] + ([Library("cuda", general)] if served and here != general else [])


def cuda_architectures() -> tuple[str, ...]:
    """The GPUs to compile for, such as ("8.0", "9.0+PTX")."""
    listed = os.environ.get("TORCH_CUDA_ARCH_LIST", "").replace(";", " ").split()
    if listed:
        wrong = [name for name in listed if not re.fullmatch(r"\d+\.\d[af]?(\+PTX)?", name)]
        if wrong:
            raise CannotBuild(f"TORCH_CUDA_ARCH_LIST must read like '8.0 9.0+PTX', found {wrong[0]!r}")
        return tuple(listed)
    if torch.cuda.is_available():
        found = {torch.cuda.get_device_capability(i) for i in range(torch.cuda.device_count())}
        return tuple(f"{major}.{minor}" for major, minor in sorted(found))
    return CUDA_ARCHITECTURES


def _capability(architecture: str) -> tuple[int, int]:
    major, minor = architecture.split(".")  # "8.0", "9.0a", "9.0+PTX"
    return int(major), int(minor[0])


# Building


def build(library: Library, folder: Path, say=lambda text: None) -> Path:
    """The library's file, built into `folder` unless it is already there or another process builds it now.

    Raises `CannotBuild` if a tool is missing or fails, or if another user may put a library there.
    """
    built = library.find_in(folder)
    if built:
        return built
    find_compiler()
    if library.device == "cuda":
        find_nvcc()
    path = folder / library.file_name
    try:
        path = safe_path(path)
        make_folder(path.parent)
        with locked(path.parent) as alone:
            if not is_file(path):
                for left in path.parent.glob("building-*") if alone else ():  # by a process that was killed
                    shutil.rmtree(left, ignore_errors=True)
                say(f"accel_ops: compiling the {library.device} operators, once for this machine ...")
                start = time.monotonic()
                compile_library(library.device, library.sources, path, library.architectures, library.processor)
                say(f"accel_ops: compiled in {time.monotonic() - start:.0f} s to {path}")
    except OSError as error:
        raise CannotBuild(f"{folder} cannot be written ({error}): set ACCEL_OPS_CACHE to a folder that can") from None
    return path


# Loading

_lock = threading.RLock()
_missing: dict[str, str] = {}  # device to why it has no native kernels; "" where it has


def mode() -> str:
    """What ACCEL_OPS asks for: "auto", "native" or "reference"."""
    asked = os.environ.get("ACCEL_OPS") or "auto"
    if asked not in ("auto", "native", "reference"):
        raise ValueError(f"ACCEL_OPS must be native or reference (or unset), found {asked!r}")
    return asked


def library_file(device: str = "cpu") -> Path:
    """See `accel_ops.library_file`."""
    libraries = libraries_for(device)
    found = next(filter(None, (library.prebuilt() for library in libraries)), None)
    found = found or next(filter(None, (library.find_in(cache_folder()) for library in libraries)), None)
    return found or build(libraries[0], cache_folder(), _say)


def load(device: str = "cpu") -> str:
    """See `accel_ops.load`. Where native kernels cannot be had, the reference is used and one warning says
    what is missing; with ACCEL_OPS=native that is `CannotBuild` instead.
    """
    with _lock:
        asked = mode()
        if device not in _missing:
            if asked == "reference":
                return "reference"
            try:
                path = library_file(device)
                try:
                    torch.ops.load_library(path)
                except OSError as error:
                    raise CannotBuild(f"{path} cannot be loaded ({error}): delete it") from None
                _missing[device] = ""
            except CannotBuild as error:
                if asked == "auto":
                    warnings.warn(
                        f"accel_ops: no native operators for {device}, the slower reference is used: {error}",
                        RuntimeWarning,
                        stacklevel=2,
                    )
                    _missing[device] = str(error)
                else:
                    raise CannotBuild(f"ACCEL_OPS=native, but {error}") from None
        if _missing[device] and asked == "native":
            raise CannotBuild(f"ACCEL_OPS=native, but {_missing[device]}")
        return "reference" if _missing[device] else "native"


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _ahead_of_time_folder() -> Path:
    if os.access(HERE, os.W_OK):
        try:
            safe_path(PREBUILT)
            return PREBUILT
        except CannotBuild:
            pass  # what is there would not be loaded
    return cache_folder()


def main() -> int:
    """`python -m accel_ops.build`: build ahead of time what this machine can use."""
    try:
        folder = _ahead_of_time_folder()
    except CannotBuild as error:
        print(f"accel_ops: not built, the reference will be used: {error}")
        return 1 if mode() == "native" else 0
    devices = ["cpu"]
    gpu_wanted = os.environ.get("ACCEL_OPS_CUDA") == "1" or os.environ.get("TORCH_CUDA_ARCH_LIST")
    if gpu_wanted or (torch.version.cuda is not None and torch.cuda.is_available()):
        devices.append("cuda")
    said = []
    failed = False
    for device in devices:
        try:
            library = libraries_for(device)[0]
            start = time.monotonic()
            there = library.find_in(folder)
            path = build(library, folder)
            # Its older versions go; those of other machines and compilers, which may share this folder, stay.
            for old in folder.glob(path.name.rpartition("-")[0] + "-*.so") if folder == PREBUILT else ():
                if old.name != path.name:
                    old.unlink(missing_ok=True)
            took = "up to date" if there else f"built in {time.monotonic() - start:.0f} s"
            said.append(f"{device} {took}")
        except CannotBuild as error:
            failed = True
            said.append(f"{device} not built, the reference will be used: {error}")
    print(f"accel_ops: {'; '.join(said)} ({folder})")
    return 1 if failed and mode() == "native" else 0


if __name__ == "__main__":
    sys.exit(main())
