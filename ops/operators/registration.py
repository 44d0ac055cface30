"""How an operator becomes known to PyTorch."""

from __future__ import annotations

from collections.abc import Callable

import torch

library = torch.library.Library("accel_ops", "DEF")


def define(schema: str, definition: Callable, fake: Callable) -> None:
    """Define an operator by its schema, its meaning in plain PyTorch, and the shapes of its results.

    The definition also serves every device that has no kernel of its own. As no device has one until its
    library is loaded, it is called first, which is when it loads it.
    """
    name = f"accel_ops::{schema.split('(')[0]}"

    def without_kernel(*args):
        from accel_ops import build  # here, so that `python -m accel_ops.build` does not find itself loaded

        device = args[0].device.type
        # Only now may there be a kernel for this device, which the dispatcher prefers to this function.
        if build.load(device) == "native" and torch._C._dispatch_has_kernel_for_dispatch_key(name, device.upper()):
            return operator(*args)
        return definition(*args)

    library.define(schema, tags=(torch.Tag.pt2_compliant_tag,))
    library.impl(name, without_kernel, "CompositeExplicitAutograd")
    torch.library.register_fake(name, fake, lib=library)
    operator = getattr(torch.ops.accel_ops, name.split("::")[1])


def refuse_double_backward(name: str) -> None:
    """Make derivatives of the operator `{name}_backward` an error that says what to use instead."""

    def refuse(ctx, *gradients) -> None:
        raise NotImplementedError(
            f"accel_ops.{name} has no second derivative; use accel_ops.reference.{name}, which autograd "
            "differentiates any number of times"
        )

    torch.library.register_autograd(f"accel_ops::{name}_backward", refuse, lib=library)


def keep_inputs(ctx, inputs, output) -> None:
    """The `setup_context` of operators whose gradients need all that they take."""
    ctx.save_for_backward(*inputs)
