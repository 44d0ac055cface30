"""accel_ops: the operators that Accel needs and PyTorch lacks, native on CPUs and CUDA GPUs.

Every operator is one `torch.library` operator, so that `torch.compile` and `torch.export` see it whole. Its
kernels are loaded, and compiled if need be, by the first call (`accel_ops.build`); where there are none,
`accel_ops.reference`, plain PyTorch, does the same more slowly.

To add an operator: its schema to csrc/schemas.inc, its definition to reference/, its kernels to csrc/, and a file to
operators/. A CPU kernel includes csrc/tensor.h, and nothing of ATen.
"""

from __future__ import annotations

from pathlib import Path

from accel_ops import reference
from accel_ops.operators.deform_conv import deform_conv
from accel_ops.operators.sample_attend import sample_attend
from accel_ops.operators.upsample_argmax import upsample_argmax, upsample_argmax_margin
from accel_ops.operators.warp import warp

__all__ = [
    "deform_conv",
    "library_file",
    "load",
    "reference",
    "sample_attend",
    "upsample_argmax",
    "upsample_argmax_margin",
    "warp",
]


def load(device: str = "cpu") -> str:
    """Make the kernels for tensors on `device` ("cpu" or "cuda") ready now, compiling them if need be.

    Without it the first call of an operator does so. Returns which are used from now on: "native" or
    "reference". `accel_ops.build` says where they are looked for, and what in the environment matters.

    Raises:
        ValueError: with ACCEL_OPS=native, if they can be neither found nor compiled; names what is missing.
            Also if ACCEL_OPS is neither native nor reference.
    """
    from accel_ops import build  # here, so that `python -m accel_ops.build` does not find itself loaded

    return build.load(device)


def library_file(device: str = "cpu") -> Path:
    """The library with the kernels for tensors on `device` ("cpu" or "cuda"), compiled if need be.

    For programs that have libtorch and no Python: loaded with `dlopen`, it defines the operators and their kernels.
    It runs on the kind of processor or GPU that is here; one for CPUs with torch 2.11 and later, one for GPUs with the
    version that is here.

    Raises:
        ValueError: if it can be neither found nor compiled; names what is missing.
    """
    from accel_ops import build

    return build.library_file(device)
