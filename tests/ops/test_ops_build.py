"""Finding, compiling and loading the native operators, mostly with stand-ins for the compilers."""

import errno
import multiprocessing
import os
import subprocess
import sys
import time
import warnings
from pathlib import Path

import pytest
import torch
from accel_ops import build, compilers, instruction_sets, places
from processes import Program, run_code

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="native operators are for Linux")


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A machine without any built library, whose cache and prebuilt folders are under `place`."""
    monkeypatch.setattr(build, "PREBUILT", tmp_path / "lib")
    monkeypatch.setattr(build, "_missing", {})
    monkeypatch.setenv("ACCEL_OPS_CACHE", str(tmp_path / "cache"))
    for name in ("ACCEL_OPS", "ACCEL_OPS_CUDA", "TORCH_CUDA_ARCH_LIST", "CXX", "CUDA_HOME", "CUDA_PATH"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


def program(path: Path, script: str) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return str(path)


@pytest.fixture
def compiler(place, monkeypatch):
    """A g++ that writes its -o file, slowly, and keeps a list of what it was called for."""
    script = f"""
    if [ "$1" = --version ]; then echo a compiler, 1.0; exit; fi
    while [ "$1" != -o ]; do shift; done
    sleep 0.2; echo made > "$2"; echo "$2" >> {place}/calls"""
    monkeypatch.setenv("CXX", program(place / "bin" / "c++", script))
    return place / "calls"


def in_another_process(code: str, place: Path, **environment: str) -> Program:
    head = "from pathlib import Path; from accel_ops import build\n"
    head += f"build.PREBUILT = Path({str(place / 'lib')!r})\n"
    head += "import torch, accel_ops; inputs = torch.ones(1, 2, 3, 4), torch.zeros(1, 2, 3, 4)\n"
    return run_code(head + code, place, **{"ACCEL_OPS_CACHE": str(place / "cache"), **environment})


def test_importing_neither_builds_nor_loads(place):
    done = in_another_process("print('accel_ops-' in open('/proc/self/maps').read())", place)
    assert (done.said, done.errors) == ("False\n", "")
    assert not (place / "cache").exists()


def test_without_a_compiler_the_reference_answers_with_one_warning(place):
    code = "for _ in range(3): assert torch.equal(accel_ops.warp(*inputs), inputs[0])\nprint(accel_ops.load())"
    done = in_another_process(code, place, PATH="", CXX="")
    assert done.said == "reference\n", done.errors
    assert done.errors.count("RuntimeWarning") == 1
    assert "the C++ compiler g++ was not found: install it (apt install g++) or set CXX" in done.errors


# A container often runs as a user whom the system does not know, with HOME set to the folder of another.
AS_A_STRANGER = """
import os
if os.geteuid() == 0:
    os.seteuid(54321)
"""
CALL = "for _ in range(2): assert torch.equal(accel_ops.warp(*inputs), inputs[0])\nprint(accel_ops.load())"


@pytest.mark.parametrize("variable", ["ACCEL_OPS_CACHE", "XDG_CACHE_HOME", "HOME"])
def test_a_cache_that_cannot_be_read_leaves_the_reference_with_one_warning(place, variable):
    closed = place / "closed"
    closed.mkdir()
    closed.chmod(0)
    environment = {"ACCEL_OPS_CACHE": "", "XDG_CACHE_HOME": "", variable: str(closed / "cache")}
    try:
        done = in_another_process(AS_A_STRANGER + CALL, place, **environment)
    finally:
        closed.chmod(0o755)
    assert done.said == "reference\n", done.errors
    assert done.errors.count("RuntimeWarning") == 1
    assert "closed/cache" in done.errors and "set ACCEL_OPS_CACHE to a folder that can" in done.errors


@pytest.mark.parametrize("cache", ["", "~nobody_of_this_name/cache"])
def test_a_user_without_a_home_gets_the_reference_with_one_warning(place, cache):
    code = "import os; os.environ.pop('HOME'); os.getuid = lambda: 54321\n" + CALL
    done = in_another_process(code, place, ACCEL_OPS_CACHE=cache, XDG_CACHE_HOME="")
    assert done.said == "reference\n", done.errors
    assert done.errors.count("RuntimeWarning") == 1
    assert "there is no folder to keep them in" in done.errors and "set ACCEL_OPS_CACHE to one" in done.errors
    with_native = in_another_process(code, place, ACCEL_OPS_CACHE=cache, XDG_CACHE_HOME="", ACCEL_OPS="native")
    assert "CannotBuild: ACCEL_OPS=native, but there is no folder" in with_native.errors.splitlines()[-1]


def test_building_ahead_without_a_home_prints_one_line(place, monkeypatch, capsys):
    monkeypatch.setattr(build, "HERE", place / "nowhere")
    monkeypatch.setenv("ACCEL_OPS_CACHE", "~nobody_of_this_name")
    assert build.main() == 0
    assert "not built, the reference will be used: there is no folder" in capsys.readouterr().out
    monkeypatch.setenv("ACCEL_OPS", "native")
    assert build.main() == 1


def test_native_without_a_compiler_is_an_error_that_names_it(place):
    done = in_another_process("accel_ops.warp(*inputs)", place, PATH="", CXX="", ACCEL_OPS="native")
    assert done.process.exitcode == 1
    assert "ACCEL_OPS=native, but the C++ compiler g++ was not found" in done.errors.splitlines()[-1]


def test_reference_is_quiet_and_the_same_operator(place):
    code = "print(torch.equal(torch.ops.accel_ops.warp(*inputs), inputs[0]), accel_ops.load())"
    done = in_another_process(code, place, PATH="", ACCEL_OPS="reference")
    assert (done.said, done.errors) == ("True reference\n", "")


def test_another_value_of_accel_ops_is_an_error(place, monkeypatch):
    monkeypatch.setenv("ACCEL_OPS", "fast")
    with pytest.raises(ValueError, match=r"ACCEL_OPS must be native or reference.*'fast'"):
        build.load()


def test_a_compiler_that_fails_is_quoted(place, monkeypatch):
    monkeypatch.setenv("CXX", program(place / "bin" / "c++", "echo no space left >&2; exit 1"))
    with pytest.warns(RuntimeWarning, match=r"(?s)c\+\+ failed.*no space left"):
        assert build.load() == "reference"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert build.load() == "reference"  # neither tried nor said again


def test_a_cache_that_cannot_be_written_is_named(place, monkeypatch, compiler):
    (place / "file").write_text("")
    monkeypatch.setenv("ACCEL_OPS_CACHE", str(place / "file" / "cache"))
    with pytest.warns(RuntimeWarning, match="file/cache cannot be written.*set ACCEL_OPS_CACHE"):
        assert build.load() == "reference"


def test_a_library_that_cannot_be_loaded_is_named(place, compiler):
    with pytest.warns(RuntimeWarning, match=r"cache/accel_ops-cpu-[\w-]+\.so cannot be loaded .* delete it"):
        assert build.load() == "reference"


def test_the_name_says_all_the_binary_depends_on(monkeypatch, tmp_path):
    monkeypatch.setattr(build, "compiler_version", lambda device: "g++ 12")
    avx2 = instruction_sets.PORTABLE[2]
    cpu, gpu, portable = build.Library("cpu"), build.Library("cuda", ("9.0",)), build.Library("cpu", (), avx2)
    names = {cpu.file_name, gpu.file_name, build.Library("cuda", ("8.0",)).file_name, portable.file_name}
    assert len(names) == 4

    def changes(*of_the_module):
        with monkeypatch.context() as changed:
            changed.setattr(*of_the_module)
            return [library for library in (cpu, gpu, portable) if library.file_name not in names]

    assert changes(torch, "__version__", "2.0") == changes(torch.version, "cuda", "1.0") == [gpu]
    assert changes(build, "processor", lambda: "another CPU") == [cpu]
    assert changes(build, "c_library", lambda: "glibc 2.17") == changes(build, "compiler_version", str) == [cpu, gpu]
    assert changes(build, "CPU_FLAGS", ["-O0"]) == [cpu, portable]
    for source in build.SOURCES.iterdir():
        (tmp_path / source.name).write_bytes(source.read_bytes())
    assert changes(build, "SOURCES", tmp_path) == []
    with open(tmp_path / "warp.h", "a") as file:
        file.write("// changed")
    assert changes(build, "SOURCES", tmp_path) == [cpu, gpu, portable]


def test_prebuilt_comes_before_the_cache(place):
    library = build.Library("cpu")
    assert library.find() is None
    for folder in (build.cache_folder(), build.PREBUILT):
        folder.mkdir()
        (folder / library.file_name).write_text("")
        assert library.find() == folder / library.file_name


def test_two_processes_at_once_compile_once(compiler):
    library, folder = build.Library("cpu"), build.cache_folder()
    fork = multiprocessing.get_context("fork")
    both = [fork.Process(target=build.build, args=(library, folder)) for _ in range(2)]
    for process in both:
        process.start()
    for process in both:
        process.join()
        assert process.exitcode == 0
    assert len(compiler.read_text().split()) == len(library.sources) + 1  # every source, and the link
    assert sorted(p.name for p in folder.iterdir()) == sorted([library.file_name, "lock"])


def test_a_killed_build_leaves_nothing_that_is_loaded_and_is_cleared_away(compiler):
    library, folder = build.Library("cpu"), build.cache_folder()
    process = multiprocessing.get_context("fork").Process(target=build.build, args=(library, folder))
    process.start()
    while not list(folder.glob("building-*")):
        time.sleep(0.01)
    process.kill()
    process.join()
    assert library.find() is None
    path = build.build(library, folder)
    assert path.read_text() == "made\n"
    assert not list(folder.glob("building-*"))


def test_building_ahead_prints_one_line_and_then_is_up_to_date(place, compiler, monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert build.main() == 0
    assert capsys.readouterr().out.count("\n") == 1
    calls = compiler.read_text()
    assert build.main() == 0
    assert capsys.readouterr().out == f"accel_ops: cpu up to date ({place / 'lib'})\n"
    assert compiler.read_text() == calls
    assert len(list(build.PREBUILT.glob("*.so"))) == 1


OTHERS = {
    "processor": ("processor", lambda: "another"),
    "C library": ("c_library", lambda: "glibc 2.17"),
    "compiler": ("compiler_version", lambda device: "another"),
}


@pytest.mark.parametrize("other", OTHERS.values(), ids=OTHERS)
def test_building_ahead_in_a_shared_checkout_leaves_the_libraries_of_other_machines(
    place, compiler, monkeypatch, other
):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with monkeypatch.context() as elsewhere:
        elsewhere.setattr(build, *other)
        assert build.main() == 0
        (theirs,) = build.PREBUILT.glob("*.so")
    assert build.main() == 0
    assert theirs.exists() and len(list(build.PREBUILT.glob("*.so"))) == 2


def test_building_ahead_removes_what_was_made_here_of_older_sources(place, compiler, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with monkeypatch.context() as earlier:
        earlier.setattr(build, "CPU_FLAGS", ["-O0"])
        assert build.main() == 0
        (old,) = build.PREBUILT.glob("*.so")
    assert build.main() == 0
    assert not old.exists() and len(list(build.PREBUILT.glob("*.so"))) == 1


def test_an_upgraded_compiler_compiles_anew_and_without_one_any_library_for_this_machine_serves(place, monkeypatch):
    def named(version):
        path = program(place / "bin" / version, f"echo {version}")
        monkeypatch.setenv("CXX", path)
        return build.Library("cpu").file_name

    first, second = named("g++-12"), named("g++-13")
    assert first != second
    build.cache_folder().mkdir()
    (build.cache_folder() / first).write_text("")
    assert build.Library("cpu").find() is None
    monkeypatch.setenv("CXX", str(place / "no_compiler"))
    assert build.Library("cpu").find() == build.cache_folder() / first
    assert build.build(build.Library("cpu"), build.cache_folder()).name == first
    monkeypatch.setattr(build, "processor", lambda: "another CPU")
    assert build.Library("cpu").find() is None


# --- the command of the compiler ------------------------------------------------------------------------------


def test_cxx_may_be_a_command(place, compiler, monkeypatch):
    launcher = program(place / "bin" / "ccache", f'echo "$@" >> {place}/launched; exec "$@"')
    monkeypatch.setenv("CXX", f"{launcher} {os.environ['CXX']} -m64")
    library = build.Library("cpu")
    assert build.build(library, build.cache_folder()).read_text() == "made\n"
    launched = (place / "launched").read_text().splitlines()
    assert len(launched) == 1 + len(library.sources) + 1  # its version, every source, the link
    assert all(line.startswith(f"{place}/bin/c++ -m64 ") for line in launched)


def test_cxx_may_be_a_path_with_a_blank(place, compiler, monkeypatch):
    (place / "bin").rename(place / "my bin")
    monkeypatch.setenv("CXX", str(place / "my bin" / "c++"))
    assert build.build(build.Library("cpu"), build.cache_folder()).read_text() == "made\n"


@pytest.mark.parametrize(
    ("cxx", "error"),
    [
        ("no_such_launcher g++", "the C\\+\\+ compiler no_such_launcher was not found: CXX names it"),
        ("g++ '", "CXX=g\\+\\+ ' is not a command"),
        (" ", "the C\\+\\+ compiler ' ' was not found"),
    ],
)
def test_a_command_that_cannot_be_is_named(place, monkeypatch, cxx, error):
    monkeypatch.setenv("CXX", cxx)
    with pytest.raises(build.CannotBuild, match=error):
        build.find_compiler()


def test_nvcc_gets_a_command_as_one_program(place):
    assert compilers._one_program(["/usr/bin/g++"], place) == "/usr/bin/g++"
    said = program(place / "bin" / "a launcher", 'printf "<%s>" "$@"')
    made = compilers._one_program([said, "g++", "-m64"], place)
    done = subprocess.run([made, "-c", "a b.cu"], capture_output=True, text=True, check=True)
    assert done.stdout == "<g++><-m64><-c><a b.cu>"


# --- where everyone can write ---------------------------------------------------------------------------------


@pytest.fixture
def library(place, compiler):
    """One that is there, in the cache."""
    return build.build(build.Library("cpu"), build.cache_folder())


def test_a_file_system_without_locks_is_built_in_all_the_same(place, compiler, monkeypatch):
    import fcntl

    def no_locks(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", no_locks)
    others = build.cache_folder() / "building-others"  # which may be at work
    others.mkdir(parents=True)
    assert build.build(build.Library("cpu"), build.cache_folder()).read_text() == "made\n"
    assert others.exists()


needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
STRANGER = 54321


def refused(match):
    with pytest.warns(RuntimeWarning, match=f"no native operators for cpu.* is not safe to load: {match}"):
        return build.load() == "reference"


@needs_root
@pytest.mark.parametrize("mode", [0o777, 0o1777], ids=["anyone", "sticky, as /tmp"])
def test_the_library_of_another_user_is_not_loaded_from_where_everyone_can_write(library, mode):
    library.parent.chmod(mode)
    os.chown(library, STRANGER, -1)
    assert refused(rf".*{library.name if mode == 0o1777 else 'cache'}")


@needs_root
def test_nor_from_a_folder_of_theirs_in_such_a_place(place, library):
    place.chmod(0o1777)
    os.chown(library.parent, STRANGER, -1)
    assert refused(f"{library.parent}, where everyone can write, belongs to user {STRANGER}: set ACCEL_OPS_CACHE")


@pytest.mark.parametrize("what", ["library", "folder"])
def test_nor_one_that_everyone_can_change(library, what):
    (library if what == "library" else library.parent).chmod(0o777)
    assert refused("everyone can write to .*chmod o-w")


@needs_root
def test_nor_is_one_built_there(place, compiler):
    (place / "cache").mkdir()
    os.chown(place / "cache", STRANGER, -1)
    place.chmod(0o1777)
    assert refused(f"{place / 'cache'}, where everyone can write, belongs to")
    assert not compiler.exists() and not list((place / "cache").iterdir())


def test_a_prebuilt_one_that_is_not_safe_gives_way_to_the_cache(place, compiler, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert build.main() == 0
    build.PREBUILT.chmod(0o777)
    assert build.Library("cpu").find() is None
    assert build.main() == 0
    assert build.Library("cpu").find().parent == build.cache_folder()


def test_one_of_our_own_is_safe_in_a_place_like_tmp_and_through_a_link(place, library):
    place.chmod(0o1777)
    (place / "link").symlink_to(library.parent)
    assert places.safe_path(place / "link" / library.name) == library
    assert places.safe_path(place / "not" / "there" / "yet") == place / "not" / "there" / "yet"


@needs_root
def test_one_of_another_user_is_loaded_from_where_only_they_can_write(place, library):
    """A home folder that a container sees, for example."""
    for path in (library.parent, library):
        os.chown(path, STRANGER, -1)
    assert build.Library("cpu").find() == library


def test_what_is_built_is_not_open_to_everyone_whatever_the_umask(place, compiler, monkeypatch):
    monkeypatch.setenv("ACCEL_OPS_CACHE", str(place / "home" / ".cache" / "accel_ops"))
    before = os.umask(0)
    try:
        made = build.build(build.Library("cpu"), build.cache_folder())
    finally:
        os.umask(before)
    assert build.Library("cpu").find() == made


needs_cuda_torch = pytest.mark.skipif(torch.version.cuda is None, reason="this torch is built without CUDA")


@needs_cuda_torch
def test_an_nvcc_of_another_major_version_is_refused(place, monkeypatch):
    program(place / "cuda" / "bin" / "nvcc", "echo Cuda compilation tools, release 7.5, V7.5.17")
    monkeypatch.setenv("CUDA_HOME", str(place / "cuda"))
    with pytest.raises(build.CannotBuild, match=r"cuda/bin/nvcc is release 7.5, but torch was built with CUDA"):
        build.find_nvcc()


@needs_cuda_torch
def test_cuda_without_nvcc_uses_the_reference_and_says_so(place, monkeypatch, compiler):
    monkeypatch.setenv("CUDA_HOME", str(place))
    monkeypatch.setenv("TORCH_CUDA_ARCH_LIST", "9.0")
    with pytest.warns(RuntimeWarning, match="no native operators for cuda.*nvcc was not found in CUDA_HOME"):
        assert build.load("cuda") == "reference"


@needs_cuda_torch
def test_gpus_are_listed_as_torch_lists_them(monkeypatch):
    monkeypatch.setenv("TORCH_CUDA_ARCH_LIST", "8.0;9.0+PTX")
    here, *general = build.libraries_for("cuda")
    assert here.architectures == ("8.0", "9.0+PTX") and not general
    assert compilers._gencode(here.architectures) == [
        "-gencode=arch=compute_80,code=sm_80",
        "-gencode=arch=compute_90,code=sm_90",
        "-gencode=arch=compute_90,code=compute_90",
    ]
    monkeypatch.setenv("TORCH_CUDA_ARCH_LIST", "9.0")
    assert [library.architectures for library in build.libraries_for("cuda")] == [
        ("9.0",),
        ("8.0", "9.0+PTX"),
    ]
    monkeypatch.setenv("TORCH_CUDA_ARCH_LIST", "7.5")
    assert [library.architectures for library in build.libraries_for("cuda")] == [("7.5",)]
    monkeypatch.setenv("TORCH_CUDA_ARCH_LIST", "Hopper")
    with pytest.raises(build.CannotBuild, match=r"TORCH_CUDA_ARCH_LIST must read like .*'Hopper'"):
        build.libraries_for("cuda")


@needs_cuda_torch
@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_cuda_sources_compile_for_sm_90_and_load_alone_and_beside_the_others(tmp_path, native_operators):
    try:
        build.find_compiler()
        build.find_nvcc()
    except build.CannotBuild as missing:
        pytest.skip(str(missing))
    made = tmp_path / "cuda.so"
    library = build.Library("cuda", ("9.0",))
    build.compile_library("cuda", library.sources, made, library.architectures)
    assert made.stat().st_size > 10_000
    for before in ("", "import accel_ops; accel_ops.load('cpu')", "torch.ops.load_library(accel_ops_cpu)"):
        code = f"import torch; accel_ops_cpu = {str(native_operators.library_file())!r}; {before}\n"
        code += f"torch.ops.load_library({str(made)!r}); import accel_ops; accel_ops.load('cpu')\n"
        code += "print(torch._C._dispatch_has_kernel_for_dispatch_key('accel_ops::warp', 'CUDA'))"
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
        assert done.stdout == "True\n", done.stderr


def test_cuda_sources_include_only_torch_core_and_c10_cuda():
    """What torch's other CUDA headers include comes with the full toolkit only (cuBLAS, cuSPARSE)."""
    for source in build.SOURCES.glob("*.cu"):
        included = [
            line.split("<")[1].split(">")[0] for line in source.read_text().splitlines() if "#include <" in line
        ]
        assert not [name for name in included if name.startswith(("ATen/cuda", "torch/extension", "torch/all"))]


def test_a_wheel_has_every_package():
    """`accel_ops` lives in the folder `ops`, so setuptools cannot find its packages alone."""
    root = Path(__file__).parents[2]
    said = subprocess.run(
        [sys.executable, "-c", "from setuptools.dist import Distribution; from distutils.core import run_setup; "
         "print(*run_setup('setup.py', stop_after='init').packages)"],
        cwd=root, capture_output=True, text=True, check=True,
    )  # fmt: skip
    there = {path.parent.relative_to(root) for top in ("ops", "accel") for path in (root / top).rglob("__init__.py")}
    names = {
        ".".join(("accel_ops" if folder.parts[0] == "ops" else folder.parts[0], *folder.parts[1:])) for folder in there
    }
    assert set(said.stdout.split()) == names | {"accel.experiments"}
