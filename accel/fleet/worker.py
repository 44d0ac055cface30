"""The process that holds a model and labels the units it is told, one after another.

`accel.fleet.guard` starts it, and survives it if a video kills it. Both talk in JSON lines. The first line in is the
start, each later one asks for something: `plan`, the units of a video, answered by `units`; or `unit`, answered by some
`frames` and then a `row`, after a first `ready` when the model is loaded. `mistake` is an error of the user or the
machine, after which there is nothing more to do; `broken` is one that the next process may not have.
"""

from __future__ import annotations

import json
import os
import queue
import sys
import threading
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any, TextIO

BETWEEN = 1.0  # seconds between two lines about a unit's progress


def main() -> None:
    out = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what libraries print is no line of ours
    lines = _lines(sys.stdin)
    start = json.loads(lines.get())

    def say(**what: Any) -> None:
        out.write(f"{json.dumps(what)}\n")
        out.flush()

    from accel.threads import wait_briefly

    wait_briefly()
    from accel.fleet.labelling import Labeller, plan
    from accel.fleet.settings import Settings
    from accel.fleet.units import Unit
    from accel.wording import first_line

    settings, results = Settings.from_json(json.dumps(start["settings"])), Path(start["out"])
    labeller: Labeller | None = None
    while True:
        asked = json.loads(lines.get())
        if "plan" in asked:
            say(units=[asdict(unit) for unit in plan(asked["plan"], settings, results)])
            continue
        last = time.monotonic()

        def watch(frames: int) -> None:
            nonlocal last
            if time.monotonic() - last >= BETWEEN:
                last = time.monotonic()
                say(frames=frames)

        unit = Unit(**asked["unit"])
        try:
            if labeller is None:
                try:
                    labeller = Labeller(settings, results)
                except (ValueError, OSError) as error:
                    say(mistake=first_line(error))
                    return
                say(ready=True)
            row = labeller.label(unit, watch, asked["retry"])
        except OSError as error:
            say(mistake=f"{unit.path}: its results cannot be written ({first_line(error)})")
            return
        except Exception as error:  # of PyTorch: after some of them, CUDA does nothing more in this process
            say(broken=f"{type(error).__name__}: {first_line(error)}")
            return
        say(row=row.as_dict())


def _lines(source: TextIO) -> queue.SimpleQueue[str]:
    """Read lines in a thread, which ends this process as soon as the one that asks is gone, whatever is going on."""
    lines: queue.SimpleQueue[str] = queue.SimpleQueue()

    def read() -> None:
        for line in source:
            lines.put(line)
        os._exit(0)

    threading.Thread(target=read, daemon=True).start()
    return lines


if __name__ == "__main__":
    main()
