"""Networks run by other engines than TorchInductor, with our own operators between, and what is kept of them."""

import time

import accel_ops
import pytest
import torch
from torch import nn

from accel.fast import compilation
from accel.fast.compilation import Compiler, Memory, cut
from accel.fast.engines import EngineError, installed
from accel.fast.fingerprints import UnknownError, fingerprint
from accel.fast.kept import Kept
from accel.fast.parts import Parts
from accel.models import FrameByFrame

OTHERS = ["openvino", "onnxruntime"]
IMAGE = torch.randn(1, 3, 16, 24, generator=torch.Generator().manual_seed(1)).to(memory_format=torch.channels_last)


def needs(engine):
    if engine not in installed():
        pytest.skip(f"needs {engine}")


class Warped(nn.Module):
    """Convolutions with one of our own operators between them."""

    def __init__(self, seed=0):
        super().__init__()
        torch.manual_seed(seed)
        self.before, self.after = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 4, 1)
        self.flow = nn.Conv2d(3, 2, 3, padding=1)

    def forward(self, image):
        features = self.before(image).relu()
        return self.after(accel_ops.warp(features, self.flow(image).float())), features


def network(seed=0, dtype=torch.float32):
    return Warped(seed).eval().requires_grad_(False).to(dtype=dtype, memory_format=torch.channels_last)


def memory_in(folder, identity="identity"):
    return Memory(Kept(folder), identity, "structure", "a network")


def assert_close(found, expected, **tolerance):
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, **tolerance)


@pytest.mark.parametrize("engine", OTHERS)
def test_other_engines_run_networks_with_our_own_operators_between(engine, tmp_path):
    needs(engine)
    net = network()
    parts = cut(net, (IMAGE,), Compiler(engine=engine), 2, memory=memory_in(tmp_path))
    assert isinstance(parts, Parts) and len(parts.parts) == 2
    assert_close(parts(IMAGE), net(IMAGE))
    assert_close(parts(IMAGE.contiguous()), net(IMAGE))  # in another layout
    again = cut(None, (IMAGE,), Compiler(engine=engine), 2, memory=memory_in(tmp_path))
    other = torch.randn_like(IMAGE)
    assert_close(again(other), net(other))


def test_openvino_computes_in_the_type_of_the_network():
    needs("openvino")
    net = network(dtype=torch.bfloat16)
    parts = cut(net, (IMAGE.bfloat16(),), Compiler(engine="openvino"))
    made, expected = parts(IMAGE.bfloat16()), net(IMAGE.bfloat16())
    assert {each.dtype for each in made} == {torch.bfloat16}
    assert_close(made, expected, atol=0.05, rtol=0.05)


def test_what_an_engine_cannot_run_is_run_by_another(monkeypatch):
    """`auto` leaves such an engine out. One that was asked for by name gives a warning."""

    def refuse(name, part, examples):
        raise EngineError("OpenVINO: no conversion rule for aten::strange")

    monkeypatch.setattr("accel.fast.engines.build", refuse)
    monkeypatch.setattr("accel.fast.engines.installed", lambda: ["inductor", "openvino"])
    monkeypatch.setattr("accel.fast.compilation._compile", lambda part, examples, keep: part)
    net = network()
    with pytest.warns(UserWarning, match="compiled by TorchInductor instead: OpenVINO: no conversion rule"):
        parts = cut(net, (IMAGE,), Compiler(engine="openvino"))
    assert_close(parts(IMAGE), net(IMAGE))
    assert_close(cut(net, (IMAGE,), Compiler(engine="auto"))(IMAGE), net(IMAGE))


def test_without_a_c_compiler_the_other_engines_do_all_networks(monkeypatch, recwarn):
    def fail(part, examples, keep):
        raise OSError("no compiler")

    monkeypatch.setattr("accel.fast.engines.build", lambda name, part, examples: Runs(part))
    monkeypatch.setattr("accel.fast.engines.installed", lambda: ["inductor", "openvino"])
    monkeypatch.setattr("accel.fast.compilation._compile", fail)
    compiler = Compiler(engine="auto")
    for seed in (0, 1):
        parts = cut(network(seed), (IMAGE,), compiler)
        assert isinstance(parts.parts[0], Runs)
    assert not [warning for warning in recwarn if "uncompiled" in str(warning.message)]


def test_a_part_that_cannot_be_kept_is_compiled_for_this_process(monkeypatch):
    def refuse(part, examples):
        raise RuntimeError("not ahead of time")

    monkeypatch.setattr(compilation.AheadOfTime, "build", refuse)
    monkeypatch.setattr(compilation, "compile_now", lambda part, examples: "compiled")
    assert compilation._compile(network(), (IMAGE,), keep=True) == "compiled"


class Runs:
    """A runner of a part, without an engine."""

    def __init__(self, part, seconds=0.0):
        self.part, self.seconds = part, seconds

    def __call__(self, *given):
        time.sleep(self.seconds)
        return self.part(*given)

    def save(self, path):
        path.with_name(f"{path.name}.json").write_text("[]")


def test_the_fastest_engine_is_found_once_and_remembered(monkeypatch, tmp_path):
    tried = []

    def build(name, part, examples):
        tried.append(name)
        return Runs(part, {"openvino": 0.05, "onnxruntime": 0}[name])

    monkeypatch.setattr("accel.fast.engines.build", build)
    monkeypatch.setattr("accel.fast.engines.installed", lambda: OTHERS)

    def made(identity):
        cut(network(), (IMAGE,), Compiler(engine="auto"), memory=memory_in(tmp_path, identity))
        return [tried.pop(0) for _ in list(tried)]

    assert made("weights") == ["openvino", "onnxruntime"]
    assert made("other weights") == ["onnxruntime"]  # the network is the same but for their values


def test_an_engine_that_is_not_there_is_refused(monkeypatch):
    model = FrameByFrame.__new__(FrameByFrame)
    nn.Module.__init__(model)
    with pytest.raises(ValueError, match="engine 'tensorrt': expected one of inductor, openvino, onnxruntime, auto"):
        model.optimized(engine="tensorrt")
    monkeypatch.setattr("accel.fast.engines.installed", lambda: ["inductor"])
    with pytest.raises(ValueError, match=r"'openvino' is not installed: pip install 'accel-vss\[openvino\]'"):
        model.optimized(engine="openvino")


def test_a_fingerprint_tells_networks_apart():
    class Scaled(nn.Module):
        def __init__(self, scale):
            super().__init__()
            self.scale, self.sizes = scale, {"a": (1, 2.0), "b": torch.float32}

    assert fingerprint(network()) == fingerprint(network())
    assert fingerprint(network(0)) != fingerprint(network(1))
    assert fingerprint(network(0), weights=False) == fingerprint(network(1), weights=False)
    assert fingerprint(Scaled(1.0)) != fingerprint(Scaled(2.0)) and fingerprint(Scaled(1.0)) == fingerprint(Scaled(1.0))
    assert fingerprint(nn.Sequential(nn.ReLU())) != fingerprint(nn.Sequential(nn.ReLU6()))
    for unknown in (Scaled(lambda x: x), Scaled(object())):
        with pytest.raises(UnknownError):
            fingerprint(unknown)


def test_a_network_kept_by_another_version_is_made_again(monkeypatch, tmp_path):
    made = []
    monkeypatch.setattr(compilation, "_compile", lambda part, examples, keep: Runs(made.append(part) or part))
    monkeypatch.setattr(compilation, "_load", lambda engine, path: network())

    def count():
        cut(network(), (IMAGE,), Compiler(), memory=memory_in(tmp_path))
        return len(made)

    assert (count(), count()) == (1, 1)
    monkeypatch.setattr(compilation, "surroundings", lambda: "another version of PyTorch")
    assert (count(), count()) == (2, 2)
    # It cannot be loaded, though its checksums fit.
    monkeypatch.setattr(compilation, "_load", lambda engine, path: {}["no such engine"])
    assert count() == 3


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_networks_compiled_ahead_of_time_are_found_again(tmp_path, dtype):
    net, image = network(dtype=dtype), IMAGE.to(dtype)
    tolerance = {} if dtype == torch.float32 else {"atol": 0.05, "rtol": 0.05}
    first = cut(net, (image,), Compiler(), 2, memory=memory_in(tmp_path))
    assert_close(first(image), net(image), **tolerance)
    assert len(Kept(tmp_path).entries()) == 1
    again = cut(None, (image,), Compiler(), 2, memory=memory_in(tmp_path))
    assert_close(again(image), net(image), **tolerance)
