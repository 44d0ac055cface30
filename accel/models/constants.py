"""Small constant tensors of the models, made once for each type and device.

Making a tensor from Python numbers on a GPU has to wait for the GPU. Buffers are no solution: a change of the module's
type would round them for good, and modules built without memory would lose those that no checkpoint holds.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import is_in_torch_dispatch_mode

_kept: dict[tuple, Tensor] = {}


def constant(make: Callable[..., Tensor], *arguments: Any, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Return `make(*arguments, dtype=dtype, device=device)`, and the same tensor again the next time.

    make: a function such as `torch.eye`. It must build the tensor on the device, from nothing that lies elsewhere.

    The result must not be written to.
    """
    if _is_traced():  # the result may be no real tensor, and a real one may not be mixed with it
        return make(*arguments, dtype=dtype, device=device)
    key = (make, arguments, dtype, device)
    found = _kept.get(key)
    if found is None:
        if device.type == "cuda" and torch.cuda.is_current_stream_capturing():  # its memory is the graph's
            return make(*arguments, dtype=dtype, device=device)
        with torch.inference_mode(False):  # an inference tensor could not be used in training later
            # The copy is waited for: afterwards every stream may read it.
            found = _kept[key] = make(*arguments, dtype=dtype, device="cpu").to(device)
    return found


def per_channel(values: tuple[float, ...], like: Tensor) -> Tensor:
    """Return one number for each channel of a map, (C, 1, 1), with the type and device of `like`."""
    return constant(_column, values, dtype=like.dtype, device=like.device)


def _column(values: tuple[float, ...], dtype: torch.dtype, device: torch.device | str) -> Tensor:
    return torch.cat([torch.full((1, 1, 1), value, dtype=dtype, device=device) for value in values])


def _is_traced() -> bool:
    """Return whether operations are being recorded or simulated instead of carried out."""
    return (
        torch.compiler.is_compiling()
        or is_in_torch_dispatch_mode()
        or torch._C._functorch.peek_interpreter_stack() is not None
    )
