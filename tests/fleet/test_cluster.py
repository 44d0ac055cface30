"""`accel fleet` on Ray: killed as often as you like, every video is labelled once and the index is whole."""

from __future__ import annotations

import builtins
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from small_runs import KILLER, contents, save_small_model, write_moving

from accel.commands.fleet import main
from accel.fleet.cluster import INDEX, LabelActor, Resources, check_checkpoints
from accel.fleet.labelling import Labeller
from accel.fleet.manifest import Shard, find_videos
from accel.fleet.shard import run_shard
from accel.fleet.starting import settle
from accel.fleet.units import VIDEOS, Unit

PATIENCE = 1200  # seconds for a step on a busy machine


@pytest.fixture(scope="module")
def weights(tmp_path_factory) -> Path:
    return save_small_model(tmp_path_factory.mktemp("weights") / "small.safetensors")


@pytest.mark.parametrize(
    "given, error",
    [
        ({"cpus": 0}, "--cpus 0: expected 1 or more"),
        ({"gpus": 1.5}, "--gpus 1.5: expected a fraction"),
        ({"gpus": -1}, "--gpus -1"),
        ({"workers": 0}, "--workers 0"),
    ],
)
def test_resources_that_do_not_exist_are_refused(given, error):
    with pytest.raises(ValueError, match=error):
        Resources(**given)


def test_without_ray_one_line_says_what_to_install(weights, tmp_path, monkeypatch):
    def without(name, *rest, **settings):
        if name.split(".")[0] == "ray":
            raise ImportError("No module named 'ray'")
        return original(name, *rest, **settings)

    original = builtins.__import__
    monkeypatch.setattr(builtins, "__import__", without)
    write_moving(tmp_path / "a.mp4", 2)
    with pytest.raises(ValueError, match=r"Ray is not installed .*; pip install 'accel-vss\[cluster\]'"):
        main(["--videos", str(tmp_path), "--checkpoint", str(weights), "--out", str(tmp_path / "out")])
    assert not (tmp_path / "out").exists()


def test_a_models_threads_are_those_it_was_given_whatever_the_environment_says(weights, tmp_path, monkeypatch):
    """Ray sets OMP_NUM_THREADS to 1 where an actor reserves no CPU."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    before = torch.get_num_threads()
    try:
        Labeller(settle(weights, 5, device="cpu", threads=3), tmp_path)
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)


@pytest.mark.slow
def test_an_actor_passes_a_unit_on_and_gives_its_row(weights, tmp_path, monkeypatch):
    """Relative paths are meant from the folder where the command was called."""
    write_moving(tmp_path / "here" / "a.mp4", 3)
    monkeypatch.chdir(tmp_path)
    settings = settle(weights, 5, device="cpu", threads=1)
    actor = LabelActor(settings.as_json(), str(tmp_path / "out"), str(tmp_path / "here"), False)
    row = actor({"id": "", "path": "a.mp4", "start": 0, "stop": -1})
    actor._guard.close()
    assert row["id"] == Unit("a.mp4").id and row["frames"] == 3 and row["status"] == "done"


class Run:
    """`accel fleet` in a process of its own, which can be killed with all that belongs to it."""

    def __init__(self, arguments: list, site: Path, folder: Path):
        environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(site), os.environ.get("PYTHONPATH", "")])}
        self.log = folder / f"log-{time.monotonic_ns()}"
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "accel", "fleet", *map(str, arguments)],
                stdout=log, stderr=log, env=environment, cwd=folder, start_new_session=True,
            )  # fmt: skip

    def wait(self) -> str:
        self.process.wait(PATIENCE)
        return self.log.read_text()

    def actors(self) -> list[int]:
        """Ray's processes that hold an actor of ours."""
        found = []
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                try:
                    name, parents = (entry / "cmdline").read_bytes(), _ancestors(int(entry.name))
                except OSError:
                    continue
                if b"MapWorker" in name and self.process.pid in parents:
                    found.append(int(entry.name))
        return found


def _ancestors(pid: int) -> list[int]:
    found = []
    while pid > 1:
        pid = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
        found.append(pid)
    return found


def finished(out: Path) -> int:
    return len(list(out.glob(f"{VIDEOS}/*/result.json")))


@pytest.mark.slow
@pytest.mark.timeout(3 * PATIENCE)
def test_a_run_that_is_killed_again_and_again_gives_what_an_undisturbed_one_gives(weights, tmp_path):
    """Twelve videos, and a damaged, an empty and a decoder-killing one; the driver and actors are killed five times."""
    pytest.importorskip("ray")
    from pyarrow import parquet

    site, videos = tmp_path / "site", tmp_path / "videos"
    site.mkdir()
    (site / "sitecustomize.py").write_text(KILLER)
    for number in range(12):
        write_moving(videos / f"{number}.mp4", 5 + 2 * number, seed=number)
    whole = write_moving(tmp_path / "whole.mkv", 60).read_bytes()  # of which half can be read
    (videos / "damaged.mkv").write_bytes(whole[: len(whole) // 2])
    (videos / "empty.mp4").touch()
    shutil.copy(videos / "0.mp4", videos / "killer.mp4")
    arguments = ["--videos", "videos", "--checkpoint", weights, "--out", "out", "--workers", 2, "--cpus", 1]

    out, moments = tmp_path / "out", random.Random(0)
    kept: dict[Path, int] = {}
    for kill in ("actor", "driver", "actor", "driver", "driver"):
        run, wanted = Run(arguments, site, tmp_path), finished(out) + 1
        start = time.monotonic()
        while run.process.poll() is None and finished(out) < wanted and time.monotonic() - start < PATIENCE:
            time.sleep(0.02)
        time.sleep(moments.random())
        if run.process.poll() is not None:  # it was faster
            break
        if kill == "actor":
            actors = run.actors()
            assert actors, run.log.read_text()
            for pid in actors:
                os.kill(pid, signal.SIGKILL)
            time.sleep(5 * moments.random())
        run.process.kill()
        run.process.wait()
        now = {path: path.stat().st_mtime_ns for path in out.glob(f"{VIDEOS}/*/result.json")}
        assert all(now[path] == before for path, before in kept.items())  # nothing was done twice
        kept = now
        time.sleep(3)  # Ray's processes notice that the driver is gone
    assert Run(arguments, site, tmp_path).wait().count("written: out/videos/ (12 done, 3 failed") == 1
    assert all(path.stat().st_mtime_ns == before for path, before in kept.items())

    rows = parquet.read_table(out / INDEX).to_pylist()
    errors = {Path(row["path"]).name: row["error"] for row in rows if row["status"] == "failed"}
    assert "cut short" in errors["damaged.mkv"] and "0 bytes" in errors["empty.mp4"]
    assert errors["killer.mp4"] == "the process that labelled it was killed by SIGSEGV (tried 2 times)"
    assert len(errors) == 3 and [row["path"] for row in rows] == find_in(tmp_path, "videos")

    # The same by shards, one after another: the same files, and the same rows.
    os.environ["PYTHONPATH"], before = f"{site}{os.pathsep}{os.environ['PYTHONPATH']}", os.environ["PYTHONPATH"]
    here = Path.cwd()
    try:
        os.chdir(tmp_path)
        settings, paths = settle(weights, 5, device="cpu", threads=1), find_videos("videos")
        parts = [run_shard(paths, Shard(number, 3), settings, tmp_path / "shards") for number in range(3)]
    finally:
        os.chdir(here)
        os.environ["PYTHONPATH"] = before
    assert contents(out / VIDEOS) == contents(tmp_path / "shards" / VIDEOS)
    assert {row["id"]: row for row in rows} == {row.id: row.as_dict() for part in parts for row in part}


def find_in(folder: Path, name: str) -> list[str]:
    here = Path.cwd()
    os.chdir(folder)
    try:
        return find_videos(name)
    finally:
        os.chdir(here)


@pytest.mark.slow
def test_a_plan_that_would_keep_no_checkpoints_is_refused(tmp_path):
    ray = pytest.importorskip("ray.data") and sys.modules["ray"]
    ray.init(num_cpus=1, include_dashboard=False, log_to_driver=False, object_store_memory=2**27)
    try:
        made = ray.data.from_items([{"id": "a"}])
        with pytest.raises(ValueError, match="does not begin with a read"):
            check_checkpoints(made.map(lambda row: row))
        made.write_parquet(str(tmp_path / "rows"))
        check_checkpoints(ray.data.read_parquet(str(tmp_path / "rows")).map(lambda row: row))
    finally:
        ray.shutdown()
