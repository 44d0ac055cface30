"""The compilers for the native libraries: where they are, which versions they are, and how they are called."""

from __future__ import annotations

import functools
import os
import platform
import re
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch

# The CPU library uses PyTorch's stable ABI as it was in this version, so it runs with every later one.
OLDEST_TORCH = (2, 11)

CPU_FLAGS = [
    "-std=c++20",
    "-O3",
    "-fPIC",
    "-fopenmp-simd",
    "-fno-math-errno",
    "-fno-trapping-math",
    "-fvisibility=hidden",
    f"-DTORCH_TARGET_VERSION=0x{OLDEST_TORCH[0]:02x}{OLDEST_TORCH[1]:02x}000000000000",
]
CPU_FLAGS += ["-DNDEBUG", "-w"]
NATIVE = ("-march=native",)
CUDA_FLAGS = ["-std=c++20", "-O3", "-Xcompiler=-fPIC", "--expt-relaxed-constexpr", "-DNDEBUG", "-w"]


class CannotBuild(ValueError):  # noqa: N818 - reads as the sentence it stands for
    """A native library can be neither found nor built here. The message says what is missing."""


def find_compiler() -> list[str]:
    """Return the command of the C++ compiler, such as ["/usr/bin/g++"]. Raises `CannotBuild` if there is none."""
    asked = os.environ.get("CXX") or "g++"
    try:
        words = [asked] if shutil.which(asked) else shlex.split(asked)  # a path with a blank in it, or "ccache g++"
    except ValueError as error:
        raise CannotBuild(f"CXX={asked} is not a command ({error})") from None
    path = shutil.which(words[0]) if words else None
    if path is None:
        name = words[0] if words else repr(asked)
        found = "CXX names it" if os.environ.get("CXX") else "install it (apt install g++) or set CXX"
        raise CannotBuild(f"the C++ compiler {name} was not found: {found}")
    return [path, *words[1:]]


def find_nvcc() -> str:
    """Return the path of an nvcc with the CUDA major version of torch. Raises `CannotBuild` if there is none."""
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
    release = re.search(r"release (\d+)\.\d+", _version(path))
    if release is None or release[1] != major:
        version = release[0] if release else "of an unknown version"
        raise CannotBuild(
            f"{path} is {version}, but torch was built with CUDA {torch.version.cuda}: install the "
            f"CUDA {major} toolkit and set CUDA_HOME to it"
        )
    return path


def compiler_version(device: str) -> str:
    """Return the version text of the compilers for a library on `device`. Raises `CannotBuild` if one is missing."""
    host = _version(*find_compiler())
    return host if device == "cpu" else host + _version(find_nvcc())


@functools.cache
def _version(*command: str) -> str:
    try:
        done = subprocess.run([*command, "--version"], capture_output=True, text=True, errors="replace", check=False)
    except OSError as error:
        raise CannotBuild(f"{command[0]} cannot be run ({error})") from None
    return done.stdout


def c_library() -> str:
    """Return the C library, such as "glibc 2.36". A library linked to one cannot be loaded with an older one."""
    try:
        return os.confstr("CS_GNU_LIBC_VERSION") or ""
    except (AttributeError, OSError, ValueError):  # another one, such as musl
        return "-".join(platform.libc_ver())


def compile_library(
    device: str,
    sources: Sequence[Path],
    to: Path,
    architectures: Sequence[str] = (),
    processor: Sequence[str] = NATIVE,
) -> None:
    """Compile and link `sources` for `device` to the file `to`, in a folder that exists.

    architectures: of the GPUs, for "cuda".
    processor: the flags that say which instructions there are, for "cpu".

    Raises `CannotBuild`.
    """
    cxx = find_compiler()
    torch_folder = Path(torch.__file__).parent
    lib = torch_folder / "lib"
    include = f"-I{torch_folder / 'include'}"
    with tempfile.TemporaryDirectory(prefix="building-", dir=to.parent) as folder:
        if device == "cpu":
            command = [*cxx, *CPU_FLAGS, *processor, include]
            # No path of this machine's: whoever loads it has loaded torch. Threads are torch's too.
            link = [f"-L{lib}", "-Wl,--no-undefined", "-ltorch_cpu", "-s"]
        else:
            nvcc = find_nvcc()
            host = _one_program(cxx, Path(folder))
            abi = f"-D_GLIBCXX_USE_CXX11_ABI={int(torch.compiled_with_cxx11_abi())}"
            command = [nvcc, f"-ccbin={host}", *CUDA_FLAGS, *_gencode(architectures), include, abi]
            link = [f"-L{lib}", f"-Wl,-rpath,{lib}", "-Wl,--no-undefined", "-ltorch", "-ltorch_cpu", "-lc10"]
            link += ["-lc10_cuda", _cuda_runtime(nvcc)]
        objects = [Path(folder) / f"{source.stem}.o" for source in sources]
        commands = [
            [*command, "-c", str(source), "-o", str(made)] for source, made in zip(sources, objects, strict=True)
        ]
        with ThreadPoolExecutor(_jobs()) as threads:
            list(threads.map(_run, commands))
        made = Path(folder) / to.name
        _run([*cxx, "-shared", *map(str, objects), "-o", str(made), *link])
        made.chmod(made.stat().st_mode & ~0o002)  # what everyone may change is not loaded, whatever the umask
        os.replace(made, to)  # all or nothing, whenever we are interrupted


def _jobs() -> int:
    asked = os.environ.get("MAX_JOBS", "")
    return int(asked) if asked.isdigit() and int(asked) else os.cpu_count() or 1


def _one_program(command: list[str], folder: Path) -> str:
    """Return the path of a program that does the same as this command, because nvcc accepts only a program."""
    if len(command) == 1:
        return command[0]
    program = folder / "host-compiler"
    program.write_text(f'#!/bin/sh\nexec {shlex.join(command)} "$@"\n')
    program.chmod(0o700)
    return str(program)


def _gencode(architectures: Sequence[str]) -> list[str]:
    flags = []
    for name in architectures:
        number = name.removesuffix("+PTX").replace(".", "")
        flags.append(f"-gencode=arch=compute_{number},code=sm_{number}")
        if name.endswith("+PTX"):
            flags.append(f"-gencode=arch=compute_{number},code=compute_{number}")
    return flags


def _cuda_runtime(nvcc: str) -> str:
    """Return the CUDA runtime to link to: the one that torch has loaded into this process."""
    for line in Path("/proc/self/maps").read_text().splitlines():
        path = line.split(maxsplit=5)[-1]
        if re.search(r"/libcudart[^/]*\.so", path):
            return path
    beside = sorted(Path(nvcc).resolve().parents[1].glob("lib*/libcudart.so*"))
    return str(beside[0]) if beside else "-lcudart"


def _run(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
    if done.returncode != 0:
        said = (done.stderr + done.stdout).strip()[-3000:]
        raise CannotBuild(f"{Path(command[0]).name} failed:\n  {' '.join(command)}\n{said}")
