"""Networks compiled, and what happens where they cannot be."""

import copy

import pytest
import torch
from torch import nn
from torch._inductor import config
from torch._inductor.utils import fresh_cache

from accel.fast.batch_norms import fold_batch_norms
from accel.fast.compilation import Compiler, cut

IMAGE = torch.randn(1, 3, 16, 24, generator=torch.Generator().manual_seed(1))


def network(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU()).eval().requires_grad_(False)


def compiler_that_says(tmp_path, words):
    """A C++ compiler that is there, but fails with these words."""
    path = tmp_path / "g++"
    path.write_text(f"#!/bin/sh\n[ \"$1\" = --version ] && exec g++ --version\necho '{words}' >&2\nexit 1\n")
    path.chmod(0o755)
    return str(path)


@torch.no_grad()
def cut_with(cxx, networks):
    """Each of the networks compiled by this C++ compiler, by one `Compiler`."""
    compiler = Compiler()
    with fresh_cache(), config.patch({"cpp.cxx": (None, cxx)}):
        return [cut(copy.deepcopy(net), (IMAGE,), compiler) for net in networks]


def test_without_a_compiler_a_model_runs_uncompiled_with_one_warning(monkeypatch):
    monkeypatch.setenv("CXX", "/nowhere/g++")
    networks = [network(0), network(1)]
    with pytest.warns(RuntimeWarning) as told:
        found = cut_with("/nowhere/g++", networks)
    for net, parts in zip(networks, found, strict=True):
        torch.testing.assert_close(parts(IMAGE), net(IMAGE))
    (message,) = [str(w.message) for w in told if "uncompiled" in str(w.message)]
    assert "takes about twice as long, because CXX=/nowhere/g++ cannot be run. Install one" in message
    assert "\n" not in message


def test_a_compiler_that_fails_is_told_with_its_own_words(tmp_path):
    with pytest.warns(RuntimeWarning, match="failed .fatal error: Python.h: No such file.*python3-dev"):
        (parts,) = cut_with(compiler_that_says(tmp_path, "fatal error: Python.h: No such file"), [network()])
    torch.testing.assert_close(parts(IMAGE), network()(IMAGE))


class Fails(nn.Module):
    """Fails while it is traced."""

    def __init__(self, error):
        super().__init__()
        self.error = error

    def forward(self, image):
        raise self.error


OUT_OF_MEMORY = (
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
    MemoryError(),
    RuntimeError("[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate memory"),
    RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
)


@pytest.mark.parametrize("error", OUT_OF_MEMORY, ids=repr)
def test_memory_that_ran_out_is_not_called_something_else(error, monkeypatch, recwarn):
    with pytest.raises(type(error)) as raised:
        cut(Fails(error), (IMAGE,), Compiler(False))
    assert raised.value is error
    with pytest.raises(type(error)):
        fold_batch_norms(Fails(error), (IMAGE,))

    def compile(part, examples, keep):  # as TorchInductor passes it on
        from torch._inductor.exc import InductorError

        raise InductorError(error, None)

    monkeypatch.setattr("accel.fast.compilation._compile", compile)
    with pytest.raises(type(error)) as raised:
        cut(network(), (IMAGE,), Compiler())
    assert raised.value is error
    assert not [w for w in recwarn if "uncompiled" in str(w.message)]


def test_what_the_tracer_refuses_runs_as_it_is():
    """Of the ways in which networks ask stand-ins for tensors for what they do not have."""

    class Numbers(nn.Module):
        def forward(self, image):
            return torch.from_numpy(image.numpy() + 1)

    class Branch(nn.Module):
        def forward(self, image):
            return image + 1 if float(image.sum()) < 1e9 else image

    for net in (Numbers(), Branch()):
        with pytest.warns(UserWarning, match="runs uncompiled because it cannot be exported"):
            parts = cut(net, (IMAGE,), Compiler())
        assert parts is net and fold_batch_norms(net, (IMAGE,)) == 0


def test_an_interrupt_while_tracing_ends_it():
    for error in (KeyboardInterrupt(), OSError(28, "No space left on device")):
        with pytest.raises(type(error)):
            cut(Fails(error), (IMAGE,), Compiler())
        with pytest.raises(type(error)):
            fold_batch_norms(Fails(error), (IMAGE,))
