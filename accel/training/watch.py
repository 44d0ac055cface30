"""Supervise the run: if a step hangs or a process is gone, end the run and report the cause."""

from __future__ import annotations

import json
import os
import socket
import sys
import threading
import time
from datetime import timedelta
from typing import Any

import torch.distributed as dist
from lightning_fabric import Fabric

from accel.training.launch import launcher_is_gone
from accel.training.signals import Stopped
from accel.wording import first_line

BEAT = 1.0  # seconds between two looks
LOST = 20.0  # seconds after which a process that gives no sign of life counts as gone
SLACK = 5.0  # seconds beyond the timeout: what knows the cause better should speak first
STORE_TIMEOUT = timedelta(seconds=10)


class Watch:
    """While this context is open, a thread watches this process. In the first process, it watches all processes.

    Processes report that they are alive, and what they are doing, through a separate store. The collectives of training
    report nothing while they wait, and on the GPU they wait for ten minutes. If a process is gone, hangs for `timeout`
    seconds or has failed, all others print one line that says which and why. Then they exit with code 1. If a process
    is gone or hangs, the line also says that resuming helps. If it has failed, it does not, because the failure may
    happen again.
    """

    def __init__(self, fabric: Fabric, timeout: float):
        self.fabric, self.timeout = fabric, timeout
        self.rank, self.size = fabric.global_rank, fabric.world_size
        self.doing = ("starting", 0, float("inf"))  # what, in which step, since when
        self.store = self._open_store() if self.size > 1 else None
        self.ending = threading.Event()
        self.thread = threading.Thread(target=self._look, name="watch", daemon=True)

    def at(self, what: str, step: int) -> None:
        """Report what the run does now. From now on it may take `timeout` seconds."""
        self.doing = (what, step, time.monotonic())

    def __enter__(self) -> Watch:
        self.thread.start()
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, _: object) -> None:
        self.doing = ("ending", self.doing[1], float("inf"))
        if _is_broken_connection(error):
            time.sleep(LOST + 2 * BEAT + SLACK)  # by then the thread knows who is gone, and has ended this process
        self.ending.set()
        self.thread.join()
        if self.store is None:
            return
        if kind is None or issubclass(kind, Stopped):
            self.fabric.barrier()  # the first process holds the store that the others still look into
        elif not issubclass(kind, SystemExit):
            self._fail(" ".join(str(error).split()) or kind.__name__)

    def _fail(self, reason: str) -> None:
        """Tell the others why this process ends. If all of them fail for the same reason, only the first one tells."""
        if self.rank:
            time.sleep(BEAT)
            if (
                self.store is not None
                and self.store.check(["failed"])
                and self.store.get("failed").decode().endswith(reason)
            ):
                raise SystemExit(2)
        self._tell(f"process {self.rank} of {self.size} on {socket.gethostname()} ended: {reason}")
        time.sleep(0 if self.rank else 3 * BEAT)  # so that the others can read it

    def _open_store(self) -> dist.TCPStore:
        """Open a separate connection, because two threads must not use that of the process group."""
        store: dist.TCPStore | None = None
        address = None
        if self.rank == 0:
            host = os.environ["MASTER_ADDR"]
            store = dist.TCPStore(host, 0, self.size, is_master=True, wait_for_workers=False, timeout=STORE_TIMEOUT)
            address = host, store.port
        there: Any = self.fabric.broadcast(address)
        host, port = there
        if store is None:
            store = dist.TCPStore(host, port, self.size, is_master=False, timeout=STORE_TIMEOUT)
        store.set(str(self.rank), "{}")
        self.fabric.barrier()  # all keys are there
        return store

    def _look(self) -> None:
        signs: dict[int, tuple[dict, float]] = {}  # of each process: the last one and when it came
        number = 0
        while not self.ending.wait(BEAT):
            number += 1
            if launcher_is_gone():
                self._end("the process that started this one is gone")
            what, step, since = self.doing
            late = time.monotonic() - since
            try:
                if self.store is not None:
                    self._look_at_others(
                        self.store, signs, {"number": number, "what": what, "step": step, "late": late}
                    )
            except (dist.DistError, RuntimeError) as error:
                if not self.ending.is_set():
                    self._end(f"process 0 of {self.size} is gone ({first_line(error)})")
            if late > self.timeout + SLACK:
                others = [f"process {rank}: {_told(sign)}" for rank, (sign, _) in signs.items() if rank != self.rank]
                self._end(
                    f"no progress for {late:.0f} s (train.timeout={self.timeout:g}) at step {step}, {what}"
                    f"{_place()}{'; ' if others else ''}{'; '.join(others)}"
                )

    def _look_at_others(self, store: dist.TCPStore, signs: dict[int, tuple[dict, float]], own: dict) -> None:
        store.set(str(self.rank), json.dumps(own))
        if store.check(["failed"]):
            self._end(store.get("failed").decode(), tell=False)
        if self.rank:
            return
        now = time.monotonic()
        for rank in range(1, self.size):
            sign = json.loads(store.get(str(rank)))
            if rank not in signs or sign != signs[rank][0]:
                signs[rank] = (sign, now)
            elif now - signs[rank][1] > LOST and not self.ending.is_set():
                self._end(f"process {rank} of {self.size} has given no sign of life for {LOST:.0f} s, {_told(sign)}")

    def _tell(self, message: str) -> None:
        try:
            if self.store is not None and not self.store.check(["failed"]):
                self.store.set("failed", message)
        except (dist.DistError, RuntimeError):
            pass  # the first process is gone: the others see that themselves

    def _end(self, message: str, tell: bool = True) -> None:
        if tell:
            message += ". --resume goes on from the last checkpoint"
            self._tell(message)
            time.sleep(2 * BEAT if self.rank == 0 and self.size > 1 else 0)  # so that the others can read it
        print(f"error: {message}", file=sys.stderr, flush=True)
        os._exit(1)  # the main thread may never come back from what it waits for


def _is_broken_connection(error: BaseException | None) -> bool:
    """Return whether a collective failed. This happens to the remaining processes when one dies."""
    return isinstance(error, dist.DistError) or (isinstance(error, RuntimeError) and "gloo" in str(error).lower())


def _told(sign: dict) -> str:
    return f"step {sign['step']}, {sign['what']}" if sign else "starting"


def _place() -> str:
    """Return the place in the code where the main thread is."""
    frame = sys._current_frames().get(threading.main_thread().ident or 0)
    return f" ({frame.f_code.co_filename}:{frame.f_lineno})" if frame else ""
