"""The CPU libraries of a wheel, one an instruction set: which is chosen where, and that each computes the same."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from accel_ops import build, instruction_sets
from accel_ops.instruction_sets import PORTABLE

NAMES = [each.name for each in PORTABLE]
LINUX_ON_X86 = sys.platform.startswith("linux") and bool(instruction_sets.served())
pytestmark = pytest.mark.skipif(not LINUX_ON_X86, reason="wheels have libraries for Linux on x86-64")

# Some of what /proc/cpuinfo says of them.
PENTIUM_4 = "fpu sse sse2"
HASWELL = f"{PENTIUM_4} avx avx2 fma f16c bmi1 bmi2 abm movbe"
SKYLAKE = f"{HASWELL} avx512f avx512bw avx512cd avx512dq avx512vl"
COOPER_LAKE = f"{SKYLAKE} avx512_bf16"


@pytest.fixture
def processor(monkeypatch):
    """Make it one that has these instructions."""
    for name in ("ACCEL_OPS_CPU", "ATEN_CPU_CAPABILITY"):
        monkeypatch.delenv(name, raising=False)

    def set_flags(flags):
        monkeypatch.setattr(instruction_sets, "processor_flags", lambda: frozenset(flags.split()))

    return set_flags


@pytest.mark.parametrize(
    ("flags", "best"),
    [(PENTIUM_4, "x86-64"), (HASWELL, "avx2"), (SKYLAKE, "avx512"), (COOPER_LAKE, "avx512_bf16"), ("", "x86-64")],
    ids=["Pentium 4", "Haswell", "Skylake", "Cooper Lake", "unknown"],
)
def test_the_best_set_that_a_processor_has_comes_first(processor, flags, best):
    processor(flags)
    assert [each.name for each in instruction_sets.served()] == NAMES[NAMES.index(best) :]


def test_half_of_a_set_is_not_enough(processor):
    processor(SKYLAKE.replace(" avx512dq", "") + " avx512_bf16")
    assert instruction_sets.served()[0].name == "avx2"


def test_other_processors_have_none(monkeypatch):
    monkeypatch.setattr(instruction_sets.platform, "machine", lambda: "aarch64")
    assert instruction_sets.served() == []


@pytest.mark.parametrize(("cap", "best"), [("default", "x86-64"), ("avx2", "avx2"), ("avx512", "avx512_bf16")])
def test_what_pytorch_is_told_to_be_content_with_holds_here_too(processor, monkeypatch, cap, best):
    processor(COOPER_LAKE)
    monkeypatch.setenv("ATEN_CPU_CAPABILITY", cap)
    assert instruction_sets.allowed()[0].name == best


def test_one_that_does_not_run_here_or_is_none_is_named(processor, monkeypatch):
    processor(HASWELL)
    monkeypatch.setattr(build, "_missing", {})  # as if none were loaded yet
    monkeypatch.setenv("ACCEL_OPS_CPU", "avx512")
    with pytest.raises(ValueError, match="ACCEL_OPS_CPU=avx512 does not run on this processor.* avx2, x86-64"):
        build.library_file()
    monkeypatch.setenv("ACCEL_OPS_CPU", "fast")
    with pytest.raises(ValueError, match="ACCEL_OPS_CPU=fast is none of avx512_bf16, avx512, avx2, x86-64"):
        build.library_file()


@pytest.fixture
def wheel(tmp_path, monkeypatch):
    """The libraries folder of a wheel on a machine without a compiler."""
    monkeypatch.setattr(build, "PREBUILT", tmp_path / "lib")
    monkeypatch.setenv("ACCEL_OPS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("CXX", str(tmp_path / "no_compiler"))
    (tmp_path / "lib").mkdir()
    for each in PORTABLE:
        (tmp_path / "lib" / build.Library("cpu", instructions=each).file_name).write_text("")
    return tmp_path


@pytest.mark.parametrize(("flags", "best"), [(PENTIUM_4, "x86-64"), (HASWELL, "avx2"), (COOPER_LAKE, "avx512_bf16")])
def test_without_a_compiler_the_best_library_of_the_wheel_is_taken(processor, wheel, flags, best):
    processor(flags)
    assert re.fullmatch(rf"accel_ops-cpu-{best}-[0-9a-f]+\.so", build.library_file().name)


def test_any_library_of_the_wheel_can_be_asked_for(processor, wheel, monkeypatch):
    processor(COOPER_LAKE)
    for name in NAMES:
        monkeypatch.setenv("ACCEL_OPS_CPU", name)
        assert build.library_file().name.startswith(f"accel_ops-cpu-{name}-")


def test_a_library_of_other_sources_is_not_taken(processor, wheel, monkeypatch):
    processor(COOPER_LAKE)
    monkeypatch.setattr(build, "CPU_FLAGS", ["-O0"])
    with pytest.raises(build.CannotBuild, match="the C\\+\\+ compiler"):
        build.library_file()


def test_a_library_knows_no_path_of_this_machine_and_of_pytorch_only_the_stable_abi(native_operators):
    path = native_operators.library_file()
    dynamic = subprocess.run(["readelf", "-dW", path], capture_output=True, text=True, check=True).stdout
    assert "RPATH" not in dynamic and "RUNPATH" not in dynamic
    needed = set(re.findall(r"NEEDED.*\[(.*?)\.so", dynamic))
    assert needed <= {"libtorch_cpu", "libstdc++", "libm", "libgcc_s", "libc", "ld-linux-x86-64"}
    symbols = subprocess.run(["nm", "-DC", "--undefined-only", path], capture_output=True, text=True, check=True).stdout
    of_torch = [line.split() for line in symbols.splitlines() if "@" not in line]
    assert all(kind == "w" or re.match("(aoti_)?torch_|aoti_record_function_", name) for kind, name, *_ in of_torch)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("name", NAMES)
def test_every_set_gives_what_the_reference_gives(name, tmp_path_factory):
    """All tests of the operators, with the library for these instructions."""
    if name not in [each.name for each in instruction_sets.served()]:
        pytest.skip(f"this processor has no {name}")
    environment = {**os.environ, "ACCEL_OPS_CPU": name, "ACCEL_OPS": "native", "OMP_NUM_THREADS": "1"}
    folder = Path(__file__).parent
    operators = ("warp", "upsample_argmax", "deform_conv", "sample_attend", "psroi_pool")
    files = [folder / f"test_{each}.py" for each in operators]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *files],
        env=environment, cwd=folder.parents[1], capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-3000:]


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize(("name", "registers"), [("x86-64", "[yz]mm"), ("avx2", "zmm")])
def test_a_library_has_no_instructions_beyond_its_set(name, registers, monkeypatch):
    if name not in [each.name for each in instruction_sets.served()]:
        pytest.skip(f"this processor has no {name}")
    monkeypatch.setenv("ACCEL_OPS_CPU", name)
    path = build.library_file()
    code = subprocess.run(["objdump", "-d", path], capture_output=True, text=True, check=True).stdout
    assert len(code) > 100_000 and not re.search(rf"%{registers}\d", code)
