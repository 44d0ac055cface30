"""Handle losses and gradients that are not finite: what to restore, and where they came from."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Buffers:
    """A copy of a model's buffers (the running statistics of batch norm), to restore after a skipped step."""

    def __init__(self, model: nn.Module):
        self.now = list(model.buffers())
        self.before = [buffer.clone() for buffer in self.now]

    @torch.no_grad()
    def remember(self) -> None:
        if self.now:
            torch._foreach_copy_(self.before, self.now)

    @torch.no_grad()
    def put_back(self) -> None:
        if self.now:
            torch._foreach_copy_(self.now, self.before)


def gradient_norm(model: nn.Module) -> Tensor:
    """Return the norm of all gradients together. It is finite only if all of them are."""
    return torch.nn.utils.get_total_norm([p.grad for p in model.parameters() if p.grad is not None])


def first_fault(objective: nn.Module, *batch: object) -> str:
    """Describe where numbers first stop being finite: a weight, a layer's output, or a gradient. Empty if nowhere.

    Runs the objective once more on the batch. Its parameters must still hold the gradients of the step.
    """
    for name, parameter in objective.named_parameters():
        if not parameter.isfinite().all():
            return f"the weight {_own(name)} is not finite"
    found: list[str] = []

    def look(name: str):
        def hook(_module: nn.Module, _inputs: object, output: object) -> None:
            if isinstance(output, Tensor) and output.is_floating_point() and not output.isfinite().all():
                found.append(name)

        return hook

    hooks = [
        module.register_forward_hook(look(name))
        for name, module in objective.named_modules()
        if not any(True for _ in module.children())
    ]
    try:
        with torch.no_grad():
            loss = objective(*batch)
    finally:
        for hook in hooks:
            hook.remove()
    if found:
        return f"the output of {_own(found[0])} is not finite"
    if not loss.isfinite():
        return "the layers' outputs are finite, the loss itself is not"
    # Backward runs from the last layer to the first: the last one with a bad gradient was the first to have it.
    bad = [name for name, p in objective.named_parameters() if p.grad is not None and not p.grad.isfinite().all()]
    return f"the gradient of {_own(bad[-1])} is not finite" if bad else ""


def _own(name: str) -> str:
    """Return the name within the model, as in the keys of the configuration."""
    return name.removeprefix("model.")
