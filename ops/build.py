"""Where the native kernels come from: prebuilt, else compiled at first use, else not at all.

`python -m accel_ops.build` builds ahead of time into `ops/lib/` where that can be written (an editable
install), else into the cache. What is not there at the first call of an operator is compiled then and kept in
the cache. The CPU and the CUDA kernels are two libraries, made from csrc/*.cpp and csrc/*.cu and loaded when
the first tensor of their kind arrives, so that the absence of `nvcc` costs CPU tensors nothing.

Environment:
    ACCEL_OPS             `native` or `reference` forces one; the default is native where possible
    ACCEL_OPS_CACHE       the cache's folder; default $XDG_CACHE_HOME/accel_ops or ~/.cache/accel_ops
    ACCEL_OPS_CUDA        1: `python -m accel_ops.build` compiles CUDA kernels although there is no GPU here
    TORCH_CUDA_ARCH_LIST  the GPUs to compile for, such as "8.0 9.0+PTX"; default the GPUs here
    CXX, CUDA_HOME        the C++ compiler (default g++); the CUDA toolkit with bin/nvcc
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import torch

HERE = Path(__file__).resolve().parent
SOURCES = HERE / "csrc"
PREBUILT = HERE / "lib"

CPU_FLAGS = [
    "-std=c++20",
    "-O3",
    "-march=native",
    "-fPIC",
    "-fopenmp",
    "-fno-math-errno",
    "-fno-trapping-math",
]
CPU_FLAGS += ["-DNDEBUG", "-w"]
CUDA_FLAGS = ["-std=c++20", "-O3", "-Xcompiler=-fPIC", "--expt-relaxed-constexpr", "-DNDEBUG", "-w"]
CUDA_ARCHITECTURES = ("8.0", "9.0+PTX")  # where there is no GPU to ask


class CannotBuild(ValueError):  # noqa: N818 - reads as the sentence it stands for
    """A native library can be neither found nor built here; the message says what is missing."""


@dataclass(frozen=True)
class Library:
    """One library as it has to be here: what it is made of and for."""

    device: str  # "cpu" or "cuda"
    architectures: tuple[str, ...] = ()  # of the GPUs; empty for "cpu"

    @property
    def sources(self) -> list[Path]:
        return sorted(SOURCES.glob("*.cpp" if self.device == "cpu" else "*.cu"))

    @property
    def file_name(self) -> str:
        """Says all that the binary depends on, so that one made for another torch or CPU is never loaded."""
        flags = CPU_FLAGS if self.device == "cpu" else CUDA_FLAGS
        digest = hashlib.sha256()
        for part in (torch.__version__, torch.version.cuda, torch.compiled_with_cxx11_abi(), flags):
            digest.update(f"{part}\n".encode())
        for part in self.architectures if self.device == "cuda" else (_instruction_set(),):
            digest.update(f"{part}\n".encode())
        for path in [*sorted(SOURCES.glob("*.h")), *self.sources]:
            digest.update(path.name.encode() + b"\n" + path.read_bytes())
        return f"accel_ops-{self.device}-{digest.hexdigest()[:20]}.so"

    def find(self) -> Path | None:
        """The library, if it is already built. Raises `CannotBuild` if there is no prebuilt one and no cache."""
        name = self.file_name
        if _is_file(PREBUILT / name):
            return PREBUILT / name
        path = cache_folder() / name
        return path if _is_file(path) else None


def libraries_for(device: str) -> list[Library]:
    """Those that serve tensors on `device` ("cpu" or "cuda") here, the one to build first.

    Raises `CannotBuild` if there can be none.
    """
    if not sys.platform.startswith("linux"):
        raise CannotBuild(f"native operators are for Linux only, this is {sys.platform}")
    if device == "cpu":
        return [Library("cpu")]
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
    major, minor = re.match(r"(\d+)\.(\d)", architecture).groups()
    return int(major), int(minor)


def cache_folder() -> Path:
    """Where libraries compiled at first use are kept. Raises `CannotBuild` where the user has no home folder."""
    own = os.environ.get("ACCEL_OPS_CACHE")
    base = os.environ.get("XDG_CACHE_HOME")
    try:
        if own:
            return Path(own).expanduser()
        return (Path(base) if base else Path.home() / ".cache") / "accel_ops"
    except RuntimeError as error:  # a user that the system does not know, as in containers
        raise CannotBuild(f"there is no folder to keep them in ({error}): set ACCEL_OPS_CACHE to one") from None


def _is_file(path: Path) -> bool:
    """Whether we see a file there. In a folder that is closed to us, such as another user's home, we see none."""
    try:
        return path.is_file()
    except PermissionError:
        return False


@functools.cache
def _instruction_set() -> str:
    """What -march=native depends on."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    words = next((line.split(":", 1)[1] for line in lines if re.match(r"(flags|Features)\s*:", line)), "")
    return f"{platform.machine()} {' '.join(sorted(words.split()))}"


# Compiling


def find_compiler() -> str:
    """The C++ compiler's path; raises `CannotBuild` if there is none."""
    name = os.environ.get("CXX") or "g++"
    path = shutil.which(name)
    if path is None:
        found = "CXX names it" if os.environ.get("CXX") else "install it (apt install g++) or set CXX"
        raise CannotBuild(f"the C++ compiler {name} was not found: {found}")
    return path


def find_nvcc() -> str:
    """The path of an nvcc of the CUDA major version torch was built with; raises `CannotBuild` if none."""
    major = str(torch.version.cuda).split(".")[0]
    home = os.environ.get("CUDA_HOME") or os.environ.get("CUDA_PATH")
    if home:
        path = shutil.which("nvcc", path=str(Path(home) / "bin"))
        where = f"in CUDA_HOME={home}"
    else:
        path = shutil.which("nvcc") or shutil.which("nvcc", path="/usr/local/cuda/bin")
        where = "on PATH or in /usr/local/cuda"
    if path is None:
        raise CannotBuild(f"nvcc was not found {where}: install the CUDA {major} toolkit and set CUDA_HOME to it")
    said = subprocess.run([path, "--version"], capture_output=True, text=True, check=False).stdout
    release = re.search(r"release (\d+)\.\d+", said)
    if release is None or release[1] != major:
        version = release[0] if release else "of an unknown version"
        raise CannotBuild(
            f"{path} is {version}, but torch was built with CUDA {torch.version.cuda}: install the "
            f"CUDA {major} toolkit and set CUDA_HOME to it"
        )
    return path


def compile_library(library: Library, to: Path) -> None:
    """Compile and link `library` to the file `to`; its folder must exist. Raises `CannotBuild`."""
    cxx = find_compiler()
    torch_folder = Path(torch.__file__).parent
    lib = torch_folder / "lib"
    includes = [
        f"-I{torch_folder / 'include'}",
        f"-D_GLIBCXX_USE_CXX11_ABI={int(torch.compiled_with_cxx11_abi())}",
    ]
    link = [f"-L{lib}", f"-Wl,-rpath,{lib}", "-Wl,--no-undefined", "-ltorch", "-ltorch_cpu", "-lc10"]
    if library.device == "cpu":
        command = [cxx, *CPU_FLAGS, *includes]
        # torch's own OpenMP: with a second one the threads would be counted and started twice.
        link += [str(path) for path in sorted(lib.glob("libgomp*.so*"))[:1]] or ["-fopenmp"]
    else:
        nvcc = find_nvcc()
        command = [nvcc, f"-ccbin={cxx}", *CUDA_FLAGS, *_gencode(library.architectures), *includes]
        link += ["-lc10_cuda", _cuda_runtime(nvcc)]
    with tempfile.TemporaryDirectory(prefix="building-", dir=to.parent) as folder:
        objects = [Path(folder) / f"{source.stem}.o" for source in library.sources]
        commands = [
            [*command, "-c", str(source), "-o", str(made)]
            for source, made in zip(library.sources, objects, strict=True)
        ]
        with ThreadPoolExecutor(os.cpu_count()) as threads:
            list(threads.map(_run, commands))
        made = Path(folder) / to.name
        _run([cxx, "-shared", *map(str, objects), "-o", str(made), *link])
        os.replace(made, to)  # all or nothing, whenever we are interrupted


def _gencode(architectures: tuple[str, ...]) -> list[str]:
    flags = []
    for name in architectures:
        number = name.removesuffix("+PTX").replace(".", "")
        flags.append(f"-gencode=arch=compute_{number},code=sm_{number}")
        if name.endswith("+PTX"):
            flags.append(f"-gencode=arch=compute_{number},code=compute_{number}")
    return flags


def _cuda_runtime(nvcc: str) -> str:
    """The CUDA runtime to link to: the one that torch has loaded into this process."""
    for line in Path("/proc/self/maps").read_text().splitlines():
        path = line.split(maxsplit=5)[-1]
        if re.search(r"/libcudart[^/]*\.so", path):
            return path
    beside = sorted(Path(nvcc).resolve().parents[1].glob("lib*/libcudart.so*"))
    return str(beside[0]) if beside else "-lcudart"


def _run(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        said = (done.stderr + done.stdout).strip()[-3000:]
        raise CannotBuild(f"{Path(command[0]).name} failed:\n  {' '.join(command)}\n{said}")


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """One process at a time builds into `folder`. The system lets go of the lock when a process dies."""
    import fcntl  # not on Windows

    with open(folder / "lock", "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def build(library: Library, folder: Path, say=lambda text: None) -> Path:
    """The library's file, built into `folder` unless it is already there or another process builds it now.

    Raises `CannotBuild` if a tool is missing or fails.
    """
    path = folder / library.file_name
    if _is_file(path):
        return path
    find_compiler()
    if library.device == "cuda":
        find_nvcc()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with _locked(folder):
            if not _is_file(path):
                for left in folder.glob("building-*"):  # by a process that was killed
                    shutil.rmtree(left, ignore_errors=True)
                say(f"accel_ops: compiling the {library.device} operators, once for this machine ...")
                start = time.monotonic()
                compile_library(library, path)
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
                libraries = libraries_for(device)
                built = (library.find() for library in libraries)
                path = next(filter(None, built), None) or build(libraries[0], cache_folder(), _say)
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


def main() -> int:
    """`python -m accel_ops.build`: build ahead of time what this machine can use."""
    try:
        folder = PREBUILT if os.access(HERE, os.W_OK) else cache_folder()
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
            there = (folder / library.file_name).is_file()
            start = time.monotonic()
            path = build(library, folder)
            for old in folder.glob(f"accel_ops-{device}-*.so") if folder == PREBUILT else ():
                if old != path:
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
