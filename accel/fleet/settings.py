"""How a run labels its videos: the same for all of them, and for all machines and restarts of the run."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from accel.files.whole_files import write_whole

SETTINGS = "settings.json"  # in the output folder


@dataclass(frozen=True)
class Settings:
    """What decides the results of a run.

    weights: the weights file, as an absolute path.
    model: its name and the beginning of its SHA-256, as the index tells them.
    task: the model's task.
    interval, scene_cuts, flat_latency, optimize: as in `accel label`.
    formats: the names of the formats to write.
    fps: frames a second of folders of frames, as text.
    segment: seconds. Longer videos are cut into segments of about this length.
    warm_up: intervals that the model runs before a segment's first frame, so that no seam shows.
    device: auto, cpu, cuda, cuda:1.
    threads: processor threads of a model. None leaves them to PyTorch, which takes all cores.
    """

    weights: str
    model: str
    task: str
    interval: int
    formats: tuple[str, ...]
    scene_cuts: bool = False
    flat_latency: bool = False
    optimize: bool = False
    fps: str = "25"
    segment: float = math.inf
    warm_up: int = 3
    device: str = "auto"
    threads: int | None = None

    def as_json(self) -> str:
        return json.dumps(asdict(self))

    @staticmethod
    def from_json(text: str) -> Settings:
        values = json.loads(text)
        return Settings(**values | {"formats": tuple(values["formats"])})


# Where the weights lie, and what computes, may differ between the machines of a run.
_DECIDE = [field.name for field in fields(Settings) if field.name not in ("weights", "device", "threads")]


def join_run(out: Path, settings: Settings) -> None:
    """Make the output folder that of a run with these settings, or join it.

    Raises ValueError if the folder has results of other settings, or other files.
    """
    path = out / SETTINGS
    mine = {name: value for name, value in json.loads(settings.as_json()).items() if name in _DECIDE}
    try:
        before = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        if out.exists() and (not out.is_dir() or any(not each.name.startswith(".") for each in out.iterdir())):
            raise ValueError(
                f"{out}: holds other files; expected a new or empty folder, or one of such a run"
            ) from None
        write_whole(path, f"{json.dumps(mine, indent=2)}\n".encode())
        return
    except ValueError:
        raise ValueError(f"{path}: damaged; expected the settings of a run") from None
    for name, value in mine.items():
        if before.get(name) != value:
            raise ValueError(
                f"{out}: holds results with {name} {_shown(before.get(name))}, and this run has {_shown(value)}; "
                "choose another folder"
            )


def _shown(value: object) -> str:
    return ",".join(map(str, value)) if isinstance(value, list) else str(value)
