"""Programs in processes of their own that start in a fraction of a second.

They are forked from a server that has imported PyTorch and the whole of `accel`, which takes a new interpreter ten
seconds. What importing itself does, and what is set before it, are no matter for these: they need a new interpreter.
"""

from __future__ import annotations

import multiprocessing
import os
import runpy
import signal
import sys
import tempfile
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

import torch

TOOLS = Path(__file__).parents[2] / "tools"
# Seconds: whatever ends by itself has ended by then, also on a machine with ten times as much to do as it can.
PATIENCE = 240
PRELOADED = [
    "accel.datasets.cityscapes",
    "accel.demo",
    "accel.evaluation.command",
    "accel.training.trainer",
    "accel_ops",
    "albumentations",
    "processes",
    "pytest",
    "segmentation_models_pytorch",
    "torch._dynamo",
    "torch.export",
    "torch.utils.tensorboard",
]

# Here and not where it starts: there is one server, for all who use this start method, and it starts with the first.
multiprocessing.set_forkserver_preload(PRELOADED)


class Program:
    """A Python script, such as one of `TOOLS`, in a process of its own, on one thread.

    arguments: those of the command line.
    outputs: the files that its standard output and error are added to; they may be one.
    environment: what differs from this process's.
    folder: where it runs, if not here.
    """

    def __init__(
        self,
        script: Path,
        arguments: Iterable[object],
        outputs: tuple[Path, Path],
        environment: dict[str, str] | None = None,
        folder: Path | None = None,
    ):
        context = multiprocessing.get_context("forkserver")
        self.outputs = outputs
        values = {**os.environ, **(environment or {})}
        self.process = context.Process(
            target=_main, args=(script, [*map(str, arguments)], outputs, values, folder or Path.cwd())
        )
        self.process.start()

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def said(self) -> str:
        """On standard output, so far."""
        return self.outputs[0].read_text()

    @property
    def errors(self) -> str:
        """On standard error, so far."""
        return self.outputs[1].read_text()

    def interrupt(self) -> None:
        """Ctrl-C, if it still runs."""
        with suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGINT)

    def wait(self, seconds: float = PATIENCE) -> int | None:
        """The exit code (negative: a signal's number); None if it is still running then. It is killed."""
        self.process.join(seconds)
        code = self.process.exitcode
        self.kill()
        return code

    def kill(self) -> None:
        self.process.kill()
        self.process.join()


def run_code(code: str, folder: Path, *arguments: object, **environment: str) -> Program:
    """A piece of code, at its end; `folder` is for its files. `process.exitcode` is 1 where it raised an error."""
    folder = Path(tempfile.mkdtemp(dir=folder))
    script = folder / "code.py"
    script.write_text(code)
    program = Program(script, arguments, (folder / "stdout.txt", folder / "stderr.txt"), environment)
    assert program.wait() is not None, f"it hangs: {program.said} {program.errors}"
    return program


def _main(
    script: Path, arguments: list[str], outputs: tuple[Path, Path], environment: dict[str, str], folder: Path
) -> None:
    for number, path in enumerate(outputs, 1):
        with path.open("ab", buffering=0) as file:
            os.dup2(file.fileno(), number)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    multiprocessing.set_start_method("fork", force=True)  # of data workers, as in a program from the command line
    torch.set_num_threads(1)
    sys.argv = [str(script), *arguments]
    runpy.run_path(str(script), run_name="__main__")
