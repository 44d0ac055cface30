"""Compile a part of a network by TorchInductor: just for this process, or ahead of time, as a file that can be kept."""

from __future__ import annotations

import json
import logging
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

Form = tuple[torch.dtype, tuple[int, ...]]


def compile_now(part: nn.Module, examples: tuple[Tensor, ...]) -> Callable:
    """Compile a part for inputs of these shapes and layouts."""
    from torch._inductor import compile as inductor
    from torch._inductor import config

    with config.patch(freezing=True):
        compiled = inductor(part, list(examples))  # type: ignore[arg-type] # any callable does
    return InLayout(compiled, forms_of(examples))


class InLayout:
    """Call a compiled part with inputs in the type and memory layout that it was compiled for. The part does not check
    them."""

    def __init__(self, compiled: Callable, forms: list[Form]):
        self.compiled, self.forms = compiled, forms

    def __call__(self, *given: Tensor) -> tuple[Tensor, ...]:
        return tuple(self.compiled(*map(in_form, given, self.forms)))


def forms_of(examples: tuple[Tensor, ...]) -> list[Form]:
    return [(example.dtype, example.stride()) for example in examples]


def in_form(tensor: Tensor, form: Form) -> Tensor:
    """Return the tensor with this type and these strides. It is copied only if its data lie differently in memory."""
    dtype, strides = form
    if tensor.dtype == dtype and tensor.stride() == strides:
        return tensor
    same = all(n == 1 or a == b for n, a, b in zip(tensor.shape, tensor.stride(), strides, strict=True))
    if tensor.dtype == dtype and same:  # strides of dimensions of one entry mean nothing
        return tensor.as_strided(tensor.shape, strides)
    return torch.empty_strided(tensor.shape, strides, dtype=dtype, device=tensor.device).copy_(tensor)


class AheadOfTime:
    """A part of a network compiled ahead of time. It computes what `compile_now` would, and is loaded within
    milliseconds, without TorchInductor.

    package: the file, of AOTInductor.
    forms: the type and layout of each input.
    """

    def __init__(self, package: Path, forms: list[Form]):
        import accel_ops  # noqa: F401 (compiled code calls its operators by name)

        self.forms = forms
        self.package = package
        self._loader = torch._C._aoti.AOTIModelPackageLoader(str(package), "model", False, 1, -1)

    @classmethod
    def build(cls, part: nn.Module, examples: tuple[Tensor, ...]) -> AheadOfTime:
        """Compile a part for inputs of these shapes and layouts."""
        from torch._inductor import aoti_compile_and_package

        folder = tempfile.mkdtemp(prefix="accel-")
        log = logging.getLogger("torch.utils.cpp_extension")  # it notes that there is no GPU
        before = log.level
        log.setLevel(logging.ERROR)
        try:
            with torch.no_grad():
                program = torch.export.export(part, examples)
            package = aoti_compile_and_package(
                program, package_path=f"{folder}/part.pt2", inductor_configs={"freezing": True}
            )
            made = cls(Path(package), forms_of(examples))
            with torch.no_grad():
                made(*examples)  # what fails, fails here, where there is another way
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise
        finally:
            log.setLevel(before)
        return made

    def __call__(self, *given: Tensor) -> tuple[Tensor, ...]:
        return tuple(self._loader.boxed_run(list(map(in_form, given, self.forms))))

    def save(self, path: Path) -> None:
        """Move the package to where it is kept."""
        forms = [[str(dtype).removeprefix("torch."), strides] for dtype, strides in self.forms]
        path.with_name(f"{path.name}.json").write_text(json.dumps(forms), encoding="utf-8")
        shutil.copyfile(self.package, path.with_name(f"{path.name}.pt2"))

    def discard(self) -> None:
        """Remove the file that `build` made, which is loaded."""
        shutil.rmtree(self.package.parent, ignore_errors=True)

    @classmethod
    def load(cls, path: Path) -> AheadOfTime:
        """Read what `save` wrote."""
        forms = json.loads(path.with_name(f"{path.name}.json").read_bytes())
        return cls(path.with_name(f"{path.name}.pt2"), [(getattr(torch, d), tuple(s)) for d, s in forms])
