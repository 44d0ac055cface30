"""Label videos on all machines of a Ray cluster, or on this one, with Ray Data.

Ray reads the units from a manifest in Parquet, gives each to an actor, and writes the actor's row to the index. A unit
whose row has been committed is not given to an actor again. Ray has ways of its own that are met here:

- Checkpoints do nothing, with a warning only, unless the plan begins with a read and ends with a write. So the units
  are written to a manifest first, and `check_checkpoints` looks at the plan.
- A block holds many rows, and a block is what is done again. Here a block is one unit.
- An actor that dies is started again for ever. Here a video is decoded in a process below the actor (`guard.Guard`),
  which dies in its place, and which no video gets more than twice.
- OMP_NUM_THREADS is 1, or the number of CPUs that an actor reserves. The model's threads are set to that number.
- Ray's own steps need CPUs, too: listing, passing over what is done, dividing. They wait for ever where actors have
  reserved all. So some are left to them.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from accel.files.whole_files import whole_path
from accel.fleet.guard import Guard
from accel.fleet.settings import Settings, join_run
from accel.fleet.units import COLUMNS, Row, Unit
from accel.progress import bar, console
from accel.threads import usable_cores

ROWS, CHECKPOINT, MANIFEST, INDEX = "ray/rows", "ray/checkpoint", "ray/manifest", "index.parquet"
_FOR_RAY = 3  # CPUs that no actor reserves: what passes over finished units holds one, two are for tasks
_STORE = 256 * 2**20  # bytes of Ray's memory for rows, on this machine; it takes a third of the memory otherwise
_LITTLE = 0.01  # CPUs that reading the manifest and writing a row reserve


@dataclass(frozen=True)
class Resources:
    """What the actors may use.

    address: of a Ray cluster; None starts Ray on this machine.
    cpus, gpus: what an actor reserves: CPUs by number, a GPU by fraction.
    workers: how many actors there are. None: as many as fit.
    """

    address: str | None = None
    cpus: int = 1
    gpus: float = 0.0
    workers: int | None = None

    def __post_init__(self) -> None:
        if self.cpus < 1:
            raise ValueError(f"--cpus {self.cpus}: expected 1 or more for each worker")
        if self.gpus < 0 or (self.gpus > 1 and self.gpus != int(self.gpus)):
            raise ValueError(f"--gpus {self.gpus:g}: expected a fraction of a GPU for each worker, such as 0.5, or 1")
        if self.workers is not None and self.workers < 1:
            raise ValueError(f"--workers {self.workers}: expected 1 or more")


class LabelActor:
    """Labels one unit after another; the process below it holds the model.

    Rows come and go as Ray has them: as dicts.
    """

    def __init__(self, settings: str, out: str, folder: str, retry: bool):
        # Paths are meant from the folder where the command was called.
        self._guard = Guard(Settings.from_json(settings), Path(out), folder=Path(folder))
        self._retry = retry

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        stop = int(row["stop"])
        unit = Unit(str(row["path"]), int(row["start"]), None if stop < 0 else stop)
        return self._guard.label(unit, self._retry).as_dict()


def run_fleet(
    paths: Sequence[str], settings: Settings, out: Path, resources: Resources, retry: bool = False
) -> list[Row]:
    """Label videos. Return the rows of their units, in the order of the manifest; `index.parquet` has them, too.

    out: a folder that all machines of the cluster see under this name.
    retry: whether to label units again that failed.

    Raises ValueError or OSError for mistakes, and if results cannot be written. A run that ended early, however it did,
    is continued by the same call.
    """
    ray = _import_ray()
    out = out.absolute()
    join_run(out, settings)
    units = _planned(paths, settings, out)
    if retry:  # rows of what is done are read again from its folder
        for name in (ROWS, CHECKPOINT):
            shutil.rmtree(out / name, ignore_errors=True)
    _start_ray(ray, resources)
    try:
        workers = min(resources.workers or _fitting(ray, resources), len(units))
        console.print(f"{len(units)} videos or parts of some; {workers} at a time")
        _label(ray, settings, out, resources, workers, retry)
    except ray.exceptions.RayError as error:
        raise ValueError(_cause(error)) from error
    finally:
        ray.shutdown()
    return _write_index(out, units)


def check_checkpoints(dataset: Any) -> None:
    """Raise ValueError unless Ray's plan starts by reading files: it passes over nothing otherwise, with a warning
    only."""
    from ray.data._internal.logical.operators import Read, ReadFiles

    operator = dataset._logical_plan.dag
    while operator.input_dependencies:
        (operator,) = operator.input_dependencies
        if isinstance(operator, (Read, ReadFiles)):
            return
    raise ValueError("Ray's plan does not begin with a read, so that it would keep no checkpoints")


def _import_ray() -> Any:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray
        import ray.data
    except ImportError as error:
        raise ValueError(f"Ray is not installed ({error}); pip install 'accel-vss[cluster]'") from None
    return ray


def _start_ray(ray: Any, resources: Resources) -> None:
    try:
        if resources.address is not None:
            ray.init(address=resources.address, log_to_driver=False, logging_level="warning")
            return
        ray.init(
            num_cpus=usable_cores() + _FOR_RAY,
            object_store_memory=_STORE,
            include_dashboard=False,
            log_to_driver=False,
            logging_level="warning",
        )
    except (ConnectionError, RuntimeError) as error:
        raise ValueError(f"--address {resources.address}: no Ray cluster answers ({error})") from error


def _fitting(ray: Any, resources: Resources) -> int:
    """Return how many actors fit into the cluster."""
    there = ray.cluster_resources()
    fit = (there.get("CPU", 0) - _FOR_RAY) // resources.cpus
    if resources.gpus:
        fit = min(fit, there.get("GPU", 0) / resources.gpus + 1e-6)
    if fit < 1:
        found = ", ".join(f"{there.get(name, 0):g} {name}s" for name in ("CPU", "GPU"))
        wanted = f"{resources.cpus} CPUs and {resources.gpus:g} GPUs"
        raise ValueError(
            f"no worker with {wanted} fits into the cluster ({found}, {_FOR_RAY} of the CPUs are for Ray itself)"
        )
    return int(fit)


def _label(ray: Any, settings: Settings, out: Path, resources: Resources, workers: int, retry: bool) -> None:
    from ray.data.checkpoint import CheckpointConfig

    context = ray.data.DataContext.get_current()
    context.checkpoint_config = CheckpointConfig(
        id_column="id", checkpoint_path=str(out / CHECKPOINT), delete_checkpoint_on_success=False
    )
    context.checkpoint_config.checkpoint_actor_pool_max_size = 1  # or it takes the CPUs of the steps after it
    context.enable_progress_bars = console.is_terminal
    dataset = ray.data.read_parquet(str(out / MANIFEST), num_cpus=_LITTLE)
    dataset = dataset.repartition(target_num_rows_per_block=1)
    dataset = dataset.map(
        LabelActor,
        fn_constructor_args=(settings.as_json(), str(out), os.getcwd(), retry),
        compute=ray.data.ActorPoolStrategy(size=workers, max_tasks_in_flight_per_actor=1),
        num_cpus=resources.cpus,
        num_gpus=resources.gpus or None,
    )
    check_checkpoints(dataset)
    dataset.write_parquet(str(out / ROWS), ray_remote_args={"num_cpus": _LITTLE})


def _planned(paths: Sequence[str], settings: Settings, out: Path) -> list[Unit]:
    """Return the units of all videos, and write them as a manifest that Ray reads, once for the same videos."""
    import pyarrow as pa
    from pyarrow import parquet

    path = out / MANIFEST / "units.parquet"
    named = json.dumps(list(paths)).encode()
    if path.is_file() and (parquet.read_schema(path).metadata or {}).get(b"paths") == named:
        rows = parquet.read_table(path).to_pylist()
        return [Unit(row["path"], row["start"], None if row["stop"] < 0 else row["stop"]) for row in rows]
    units: list[Unit] = []
    with Guard(settings, out) as guard, bar("looking at the videos", len(paths)) as progress:
        for number, each in enumerate(paths, 1):
            units += guard.plan(each)
            progress.update(number)
    rows = [asdict(unit) | {"id": unit.id, "stop": -1 if unit.stop is None else unit.stop} for unit in units]
    fields = [("id", pa.string()), ("path", pa.string()), ("start", pa.int64()), ("stop", pa.int64())]
    with whole_path(path) as temporary:
        parquet.write_table(pa.Table.from_pylist(rows, pa.schema(fields, {b"paths": named})), temporary)
    return units


def _write_index(out: Path, units: Sequence[Unit]) -> list[Row]:
    """Write the rows that Ray committed as one file, in the order of the manifest, and return them."""
    import pyarrow as pa
    from pyarrow import parquet

    committed = {row["id"]: row for row in parquet.read_table(out / ROWS).to_pylist()}
    missing = [unit.path for unit in units if unit.id not in committed]
    if missing:
        raise ValueError(f"{out}: Ray gave no row for {missing[0]} ({len(missing)} in all); call this again")
    rows = [Row(**{name: committed[unit.id][name] for name in COLUMNS}) for unit in units]
    with whole_path(out / INDEX) as temporary:
        parquet.write_table(pa.Table.from_pylist([row.as_dict() for row in rows]), temporary)
    return rows


def _cause(error: BaseException) -> str:
    """Return the message of what an actor raised, without Ray's account of the way it took."""
    while (inner := getattr(error, "cause", None) or error.__cause__) is not None and inner is not error:
        error = inner
    return str(error).strip().splitlines()[-1]
