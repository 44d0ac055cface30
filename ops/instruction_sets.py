"""Which processors the portable CPU libraries are for: one library an instruction set, chosen when it is loaded.

A wheel has all of them. One library with all sets inside would need no choice here, but C++ makes that unsafe: the
linker keeps one copy of every inline function, `std::vector`'s for example, and it may be the copy with AVX-512.
"""

from __future__ import annotations

import functools
import os
import platform
import re
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class InstructionSet:
    """name: of the library and for ACCEL_OPS_CPU. flags: of the compiler. needs: as /proc/cpuinfo calls them."""

    name: str
    flags: tuple[str, ...]
    needs: frozenset[str] = frozenset()


_AVX2 = frozenset(["avx2", "fma", "f16c", "bmi1", "bmi2", "abm", "movbe"])
_AVX512 = _AVX2 | {"avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"}

# The best first. The last is what every x86-64 processor has.
PORTABLE = (
    InstructionSet("avx512_bf16", ("-march=x86-64-v4", "-mavx512bf16"), _AVX512 | {"avx512_bf16"}),
    InstructionSet("avx512", ("-march=x86-64-v4",), _AVX512),
    InstructionSet("avx2", ("-march=x86-64-v3",), _AVX2),
    InstructionSet("x86-64", ("-march=x86-64",)),
)

# What PyTorch is told to be content with, ATEN_CPU_CAPABILITY, holds for these operators too.
_CAPPED = {"default": PORTABLE[3:], "avx2": PORTABLE[2:], "avx512": PORTABLE}


@functools.cache
def processor_flags() -> frozenset[str]:
    """What the system lets programs use of this processor; nothing where it does not say."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    words = next((line.split(":", 1)[1] for line in lines if re.match(r"(flags|Features)\s*:", line)), "")
    return frozenset(words.split())


def processor() -> str:
    """What -march=native depends on."""
    return f"{platform.machine()} {' '.join(sorted(processor_flags()))}"


def served() -> list[InstructionSet]:
    """Those that run on this processor, the best first. None where it is no x86-64."""
    if platform.machine() not in ("x86_64", "AMD64"):
        return []
    return [each for each in PORTABLE if each.needs <= processor_flags()]


def allowed() -> list[InstructionSet]:
    """Those of `served` that ATEN_CPU_CAPABILITY does not exclude."""
    cap = _CAPPED.get(os.environ.get("ATEN_CPU_CAPABILITY", ""), PORTABLE)
    return [each for each in served() if each in cap]


def asked_for() -> InstructionSet | None:
    """The one that ACCEL_OPS_CPU names, if it is set.

    Raises ValueError for one that does not run here, and for a name that there is not.
    """
    name = os.environ.get("ACCEL_OPS_CPU")
    if not name:
        return None
    here = {each.name: each for each in served()}
    if name not in here:
        known = ", ".join(each.name for each in PORTABLE)
        what = "does not run on this processor" if name in known.split(", ") else f"is none of {known}"
        raise ValueError(f"ACCEL_OPS_CPU={name} {what}; here it can be {', '.join(here) or 'none of them'}")
    return here[name]
