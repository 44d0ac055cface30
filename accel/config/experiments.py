"""The experiments that come with this package, found by name where there is no source tree."""

from __future__ import annotations

from pathlib import Path

_INSTALLED, _SOURCE = (Path(__file__).resolve().parents[up] / "experiments" for up in (1, 2))
EXPERIMENTS = _INSTALLED if _INSTALLED.is_dir() else _SOURCE


def find_experiment(path: str | Path) -> Path:
    """The configuration file that a path or a name stands for.

    path: as it is, if it is there. Else one of `EXPERIMENTS`: `experiments/camvid/accel18.yaml`, `camvid/accel18.yaml`
        and `camvid/accel18` are the same.

    Returns the path unchanged if it is neither.
    """
    path = Path(path)
    if path.exists() or path.is_absolute() or ".." in path.parts:
        return path
    name = path.relative_to("experiments") if path.parts[:1] == ("experiments",) else path
    shipped = EXPERIMENTS / name
    if not shipped.suffix:
        shipped = shipped.with_suffix(".yaml")
    return shipped if shipped.is_file() else path
