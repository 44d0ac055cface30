"""Start one process for each device on this machine and supervise them: what torchrun does, with meaningful exit
codes."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress

from accel.threads import OWN, threads

LAUNCHER = "ACCEL_LAUNCHER"  # environment variable: the process that started this one, and ends it
GRACE = 10.0  # seconds that the others may take to say why they end, too
POLL = 0.1  # seconds
# What asks a run to stop; Windows has the first two.
STOPPING = tuple(getattr(signal, n) for n in ("SIGINT", "SIGTERM", "SIGUSR1", "SIGUSR2") if hasattr(signal, n))


def launch(processes: int) -> int:
    """Run the command line of this process in several processes that train together. Return their exit code.

    Signals to this process are passed on to all of them. When one dies, the others end within `GRACE` seconds.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    shared = {
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "WORLD_SIZE": str(processes),
        "LOCAL_WORLD_SIZE": str(processes),
        "GROUP_RANK": "0",
        "TORCHELASTIC_RUN_ID": "accel",  # what Fabric and PyTorch know torchrun's processes by
        LAUNCHER: str(os.getpid()),
        OWN: str(max(1, threads().count // processes)),  # together they have the cores of one
    }
    children = [
        subprocess.Popen(
            [sys.executable, *sys.orig_argv[1:]],
            env=os.environ | shared | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
            start_new_session=True,  # a Ctrl-C reaches them through this process only, once
        )
        for rank in range(processes)
    ]

    def pass_on(number: int, _: object) -> None:
        for child in children:
            if child.poll() is None:
                with suppress(ValueError):  # Windows sends Ctrl-C to all of them itself, and takes it from nobody
                    child.send_signal(number)

    before = {number: signal.signal(number, pass_on) for number in STOPPING}
    try:
        return _watch_over(children)
    finally:
        for child in children:
            if child.poll() is None:
                child.kill()
            child.wait()
        for number, handler in before.items():
            signal.signal(number, handler)


def _watch_over(children: list[subprocess.Popen]) -> int:
    """Wait until all processes end, or until the others follow a failed one. Return the exit code of the first failure,
    or 0."""
    code, deadline = 0, float("inf")
    while None in [child.poll() for child in children] and time.monotonic() < deadline:
        failed = next((rank for rank, child in enumerate(children) if child.returncode), None)
        if failed is not None and not code:
            code = children[failed].returncode
            if code < 0:
                name = signal.Signals(-code).name
                print(
                    f"error: process {failed} of {len(children)} (pid {children[failed].pid}) was killed by {name}; "
                    "ending the others. --resume goes on from the last checkpoint",
                    file=sys.stderr,
                )
                code = 128 - code
                break  # the others cannot take another step
            deadline = time.monotonic() + GRACE
        time.sleep(POLL)
    return code or next((c.returncode for c in children if c.returncode), 0)


def launcher_is_gone() -> bool:
    """Return whether this process was started by `launch` and has outlived it."""
    return LAUNCHER in os.environ and os.getppid() != int(os.environ[LAUNCHER])
