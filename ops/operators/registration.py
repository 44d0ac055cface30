"""Register operators with PyTorch."""

from __future__ import annotations

import ast
from collections.abc import Callable
from pathlib import Path

import torch

library = torch.library.Library("accel_ops", "FRAGMENT")

# What csrc/schemas.cpp asks for, to find out whether Python has defined the operators.
_sign = torch.library.Library("accel_ops_python", "DEF")
_sign.define("defines() -> ()")
_sign.impl("defines", lambda: None, "CompositeImplicitAutograd")

_LIST = Path(__file__).resolve().parents[1] / "csrc" / "schemas.inc"


def _read_schemas() -> dict[str, str]:
    """Return the schema of each operator by name, such as "warp(Tensor features, Tensor flow) -> Tensor"."""
    lines = [line for line in _LIST.read_text().splitlines() if not line.startswith("//")]
    schemas = ast.literal_eval("[" + "\n".join(lines) + "]")
    return {schema.split("(")[0]: schema for schema in schemas}


_schemas = _read_schemas()


def define(operator_name: str, definition: Callable, fake: Callable) -> None:
    """Define an operator of csrc/schemas.inc by its meaning in plain PyTorch and the shapes of its results.

    The definition also serves every device that has no kernel of its own. No device has a kernel until its library is
    loaded. So the definition is called first, and it then loads the library.
    """
    name = f"accel_ops::{operator_name}"

    def without_kernel(*args):
        from accel_ops import build  # here, so that `python -m accel_ops.build` does not find itself loaded

        device = args[0].device.type
        # Only now may there be a kernel for this device, which the dispatcher prefers to this function.
        if build.load(device) == "native" and torch._C._dispatch_has_kernel_for_dispatch_key(name, device.upper()):
            return operator(*args)
        return definition(*args)

    if not _is_defined(name, _schemas[operator_name]):
        library.define(_schemas[operator_name], tags=(torch.Tag.pt2_compliant_tag,))
    library.impl(name, without_kernel, "CompositeExplicitAutograd")
    torch.library.register_fake(name, fake, lib=library)
    operator = getattr(torch.ops.accel_ops, operator_name)


def _is_defined(name: str, schema: str) -> bool:
    """Return whether a native library that was loaded in another way has already defined the operator."""
    try:
        found = torch._C._get_schema(name, "")
    except RuntimeError:
        return False
    if found != torch._C.parse_schema(f"accel_ops::{schema}"):
        raise ImportError(f"a library of another version of accel_ops is loaded: its {found} should be {schema}")
    return True


def refuse_double_backward(name: str) -> None:
    """Make derivatives of the operator `{name}_backward` an error that says what to use instead."""

    def refuse(ctx, *gradients) -> None:
        raise NotImplementedError(
            f"accel_ops.{name} has no second derivative; use accel_ops.reference.{name}, which autograd "
            "differentiates any number of times"
        )

    torch.library.register_autograd(f"accel_ops::{name}_backward", refuse, lib=library)


def keep_inputs(ctx, inputs, output) -> None:
    """Save all inputs: the `setup_context` of operators whose gradients need them."""
    ctx.save_for_backward(*inputs)
