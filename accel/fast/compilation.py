"""Compile networks for inputs of one shape and layout, by the engine that is wished or the fastest one; on a GPU, as
CUDA graphs."""

from __future__ import annotations

import json
import os
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, fx, nn

from accel.fast import engines
from accel.fast.eight_bits import Calibration
from accel.fast.engines import AUTO, INDUCTOR, EngineError
from accel.fast.fingerprints import UnknownError, fingerprint, form, key, surroundings
from accel.fast.graphs import CudaGraph
from accel.fast.inductor import AheadOfTime, compile_now
from accel.fast.kept import Kept
from accel.fast.parts import Parts
from accel.fast.streams import streams_of
from accel.fast.tracing import TracingError, functional, is_of_the_machine, trace
from accel.wording import first_line

TRIAL_ROUNDS, TRIAL_SECONDS = 7, 3.0  # of a trial between engines: calls of each, and after how long it ends
NETWORK, CHOICE = "network.json", "choice.json"  # files in what is kept


def cut(
    network: nn.Module,
    examples: tuple[Tensor, ...],
    compiler: Compiler,
    parts: int = 1,
    prepare: Callable[[nn.Module], nn.Module] | None = None,
    memory: Memory | None = None,
    calibration: Calibration | None = None,
) -> nn.Module:
    """Return a network as `Parts`, compiled if the compiler is on. If it cannot be traced, return it unchanged, with a
    warning.

    prepare: what to do with the network before it is traced. It is left out for a network that was kept.
    memory: where compiled networks are kept.
    calibration: the frames with which the network is brought into eight bits, later. None: it stays in float.
    """
    keys = None if memory is None else memory.keys(examples, parts, compiler, calibration)
    if memory is not None and keys is not None and (found := memory.find(keys, examples)) is not None:
        return found
    if prepare is not None:
        network = prepare(network)
    try:
        graph = functional(trace(network, examples))
    except TracingError as error:
        warnings.warn(f"a network runs uncompiled because it cannot be exported: {error}", stacklevel=2)
        return network
    if calibration is not None:
        made = calibration.network(graph, examples, parts)
        if memory is not None and keys is not None:
            memory.add_later(keys, made)
        return made
    return compiler.network(graph, examples, parts, memory, keys)


class Compiler:
    """Compile the parts of one model's networks.

    After the first failure, the other parts stay uncompiled. So each model gives only one warning, and no time is lost
    on further attempts.

    wished: whether to compile at all.
    engine: one of `accel.fast.engines.ENGINES`, or AUTO for the fastest one of those that are installed.
    """

    def __init__(self, wished: bool = True, engine: str = INDUCTOR):
        self.wished, self.engine = wished, engine
        self._failed = False  # TorchInductor

    def network(
        self,
        graph: fx.GraphModule,
        examples: tuple[Tensor, ...],
        parts: int,
        memory: Memory | None = None,
        keys: Keys | None = None,
    ) -> Parts:
        """Return a network as `Parts`, each of them compiled, and keep them."""
        # TorchInductor is last: where it fails, for want of a C++ compiler for one, others may be there already.
        names = [self.engine] if self.engine != AUTO else sorted(engines.installed(), key=INDUCTOR.__eq__)
        if examples[0].is_cuda or not self.wished:
            names = [INDUCTOR]
        if len(names) > 1 and memory is not None and keys is not None:
            chosen = memory.choice(keys)
            names = [chosen] if chosen in names else names
        keep = memory is not None and keys is not None
        made: dict[str, Parts] = {}
        for name in names:
            if name == INDUCTOR and made and self._failed:
                continue
            try:
                made[name] = Parts(graph, examples, parts, self._finish(name, keep, silent=bool(made)))
            except EngineError as error:
                if name == self.engine:
                    warnings.warn(f"a network is compiled by TorchInductor instead: {error}", stacklevel=3)
        if not made:
            made[INDUCTOR] = Parts(graph, examples, parts, self._finish(INDUCTOR, keep))
        if self._failed and len(made) > 1:
            made.pop(INDUCTOR, None)
        name = min(made, key=_seconds(made, examples).__getitem__) if len(made) > 1 else next(iter(made))
        if memory is not None and keys is not None and self.wished:
            memory.add(keys, name, made[name], len(names) > 1)
        for each in made.values():
            for part in each.parts:
                if isinstance(part, AheadOfTime):
                    part.discard()
        return made[name]

    def _finish(
        self, engine: str, keep: bool, silent: bool = False
    ) -> Callable[[fx.GraphModule, tuple[Tensor, ...]], Callable]:
        if engine == INDUCTOR:
            return lambda part, examples: self(part, examples, keep, silent)
        return lambda part, examples: engines.build(engine, part, examples)

    def __call__(
        self, part: nn.Module, examples: tuple[Tensor, ...], keep: bool = False, silent: bool = False
    ) -> Callable:
        """Return the part as a function, compiled by TorchInductor. If it is compiled, it accepts only inputs of these
        shapes and layouts.

        keep: whether it is to be kept for later starts. Compiling then takes longer.
        silent: whether to give no warning if it fails, because another engine is there.
        """
        if not self.wished or self._failed:
            return part
        from torch._dynamo.exc import BackendCompilerFailed

        try:
            return _compile(part, examples, keep)
        except (BackendCompilerFailed, OSError) as error:  # OSError: no room for the compiled code, for one
            cause = getattr(error, "inner_exception", error)
            if is_of_the_machine(cause):
                raise cause from None
            self._failed = True
            if not silent:
                warnings.warn(_why_uncompiled(cause, examples[0].is_cuda), RuntimeWarning, stacklevel=2)
            return part


@torch.no_grad()
def _seconds(made: dict[str, Parts], examples: tuple[Tensor, ...]) -> dict[str, float]:
    """Return the shortest time of a call of each, in seconds. They are called in turns. The shortest one counts because
    other programs can only make a call longer."""
    taken: dict[str, float] = dict.fromkeys(made, float("inf"))
    begin = time.perf_counter()
    for turn in range(TRIAL_ROUNDS + 1):
        for name, parts in made.items():
            start = time.perf_counter()
            parts(*examples)
            if turn:  # the first one warms up
                taken[name] = min(taken[name], time.perf_counter() - start)
        if turn > 1 and time.perf_counter() - begin > TRIAL_SECONDS:
            break
    return taken


def _why_uncompiled(error: BaseException, on_gpu: bool) -> str:
    """Explain a compiler failure to the user: what it costs, why it happened, and what helps."""
    from torch._inductor import exc

    longer = "longer" if on_gpu else "about twice as long"  # twice: Accel-18 on two AVX-512 cores, at interval 5
    costs = f"the model runs uncompiled: results are the same, but a frame takes {longer}"
    if isinstance(error, exc.InvalidCxxCompiler):
        named = os.environ.get("CXX")
        missing = f"CXX={named} cannot be run" if named else "there is no C++ compiler"
        return f"{costs}, because {missing}. Install one, such as g++, or name one in CXX; then start again"
    if isinstance(error, exc.CppCompileError):
        return (
            f"{costs}, because the C++ compiler failed ({_first_error(error.output)}). It needs the headers of Python "
            "(python3-dev on Debian and Ubuntu) and OpenMP's"
        )
    if on_gpu and isinstance(error, exc.TritonMissing):
        return f"{costs}, because Triton is missing, which compiles for the GPU. Install it (pip install triton)"
    return f"{costs}, because TorchInductor failed ({type(error).__name__}: {first_line(error)})"


def _first_error(output: str) -> str:
    """Return the most informative line of a compiler's output."""
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    return next((line for line in lines if "error" in line.lower()), lines[0] if lines else "it says nothing")


def _compile(part: nn.Module, examples: tuple[Tensor, ...], keep: bool = False) -> Callable:
    """Compile a part of a network for inputs of these shapes and layouts."""
    cuda = streams_of(examples[0].device)
    if cuda is not None:
        return CudaGraph(compile_now(part, examples), examples, cuda)
    if keep:
        try:
            return AheadOfTime.build(part, examples)
        except Exception as error:  # of its many classes, those that `compile_now` has too are told there
            if is_of_the_machine(error):
                raise
    return compile_now(part, examples)


# --- what is kept for later starts ----------------------------------------------------------------------------

Keys = tuple[str, str]  # of a compiled network, and of the choice of its engine


class Memory:
    """Keeps the compiled networks of one model, prepared for frames of one size.

    kept: the cache.
    identity: a digest of the model before it was prepared.
    structure: the same without the weights' values.
    about: the model and the size in words, for the list of what is kept.
    """

    def __init__(self, kept: Kept, identity: str, structure: str, about: str):
        self.kept, self.identity, self.structure, self.about = kept, identity, structure, about
        self._count = 0
        self._later: list[tuple[Keys, Parts]] = []

    @classmethod
    def of(cls, kept: Kept | None, model: nn.Module, about: str) -> Memory | None:
        """Make one for a model that was not prepared yet. None if there is no cache, or if nobody can tell whether such
        a model is the same next time."""
        if kept is None:
            return None
        try:
            return cls(kept, fingerprint(model), fingerprint(model, weights=False), about)
        except UnknownError:
            return None

    def keys(
        self, examples: tuple[Tensor, ...], parts: int, compiler: Compiler, calibration: Calibration | None = None
    ) -> Keys | None:
        """Return the keys of the model's next network. Networks are prepared in the same order each time."""
        self._count += 1
        if examples[0].is_cuda or not compiler.wished:
            return None
        if calibration is not None:
            place = [self._count, [form(example) for example in examples], parts, surroundings(), self.about]
            return key("eight bits", self.identity, calibration.digest(), calibration.accepts_loss, *place), ""
        names = [compiler.engine] if compiler.engine != AUTO else engines.installed()
        place = [self._count, [form(example) for example in examples], parts, names, surroundings(), self.about]
        return key("network", self.identity, *place), key("choice", self.structure, *place)

    def find(self, keys: Keys, examples: tuple[Tensor, ...]) -> Parts | None:
        """Return a network that was kept."""
        folder = self.kept.find(keys[0])
        if folder is None:
            return None
        try:
            described = json.loads((folder / NETWORK).read_bytes())
            parts = [_load(described["engine"], folder / f"{n}") for n in range(len(described["parts"]["ends"]))]
            return Parts.restored(described["parts"], parts, examples[0])
        except (OSError, RuntimeError, ValueError, LookupError, EngineError, ImportError) as error:
            if is_of_the_machine(error):
                raise
            return None  # it is made again

    def choice(self, keys: Keys) -> str | None:
        """Return the engine that won the trial for such a network."""
        folder = self.kept.find(keys[1])
        try:
            return None if folder is None else json.loads((folder / CHOICE).read_bytes())
        except (OSError, ValueError):
            return None

    def add_later(self, keys: Keys, made: Parts) -> None:
        """Remember a network that is not ready yet, until `add_ready`."""
        self._later.append((keys, made))

    def add_ready(self) -> None:
        """Keep the networks of `add_later`."""
        for keys, made in self._later:
            self.add(keys, engines.OPENVINO, made, False)
        self._later = []

    def add(self, keys: Keys, engine: str, made: Parts, tried: bool) -> None:
        """Keep a network, and which engine it is for if several were tried. If there is no room, a warning says so."""
        runners: Any = made.parts
        if not all(hasattr(runner, "save") for runner in runners):  # it runs uncompiled
            return

        def write(folder: Path) -> None:
            described = {"engine": engine, "parts": made.description()}
            (folder / NETWORK).write_text(json.dumps(described), encoding="utf-8")
            for number, runner in enumerate(runners):
                runner.save(folder / f"{number}")

        try:
            self.kept.add(keys[0], f"{self.about}, network {self._count}, by {engine}", write)
            if tried:
                name = f"{self.about}, network {self._count}: fastest by {engine}"
                self.kept.add(keys[1], name, lambda folder: (folder / CHOICE).write_text(json.dumps(engine)))
        except OSError as error:
            warnings.warn(f"a compiled network cannot be kept in {self.kept.folder}: {error}", stacklevel=4)


def _load(engine: str, path: Path) -> Callable:
    return AheadOfTime.load(path) if engine == INDUCTOR else engines.load(engine, path)
