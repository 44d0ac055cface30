"""accel_ops: the operators that Accel needs and PyTorch lacks, native on CPUs and CUDA GPUs.

Every operator is one `torch.library` operator, so `torch.compile` and `torch.export` treat it as one unit. The first
call loads its kernels and, if necessary, compiles them (`accel_ops.build`). Without kernels, `accel_ops.reference`,
plain PyTorch, does the same more slowly.

To add an operator, add its schema to csrc/schemas.inc, its definition to reference/, its kernels to csrc/, and a file
to operators/. A CPU kernel includes csrc/tensor.h, and nothing of ATen.
"""

from __future__ import annotations

from pathlib import Path

from accel_ops import reference
from accel_ops.operators.deform_conv import deform_conv
from accel_ops.operators.psroi_pool import psroi_pool
from accel_ops.operators.sample_attend import sample_attend
from accel_ops.operators.upsample_argmax import upsample_argmax, upsample_argmax_margin
from accel_ops.operators.warp import warp

__all__ = [
    "deform_conv",
    "library_file",
    "load",
    "psroi_pool",
    "reference",
    "sample_attend",
    "upsample_argmax",
    "upsample_argmax_margin",
    "warp",
]


def load(device: str = "cpu") -> str:
    """Prepare the kernels for tensors on `device` ("cpu" or "cuda") now. They are compiled if necessary.

    Otherwise the first call of an operator does this. Return which kernels are used from now on: "native" or
    "reference". `accel_ops.build` explains where they are searched, and which environment variables matter.

    Raises:
        ValueError: with ACCEL_OPS=native, if they can be neither found nor compiled. The message names what is
            missing. Also if ACCEL_OPS is neither native nor reference.
    """
    from accel_ops import build  # here, so that `python -m accel_ops.build` does not find itself loaded

    return build.load(device)


def library_file(device: str = "cpu") -> Path:
    """Return the library with the kernels for tensors on `device` ("cpu" or "cuda"). It is compiled if necessary.

    This is for programs that have libtorch and no Python. Loaded with `dlopen`, the library defines the operators and
    their kernels. It runs on this kind of processor or GPU: one for CPUs with torch 2.11 and later, one for GPUs with
    this version.

    Raises:
        ValueError: if it can be neither found nor compiled. The message names what is missing.
    """
    from accel_ops import build

    return build.library_file(device)
