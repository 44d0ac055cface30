"""An evaluation that several processes share finds what one finds, to the last pixel."""

import json
import multiprocessing
import os
import pickle
import runpy
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch.distributed as dist
from films import Films, Forgetful, Teller
from processes import PATIENCE, TOOLS
from train_processes import Job

from accel.datasets.cityscapes import Cityscapes
from accel.evaluation.report.pictured_clips import ClipRecorder, choose_clips
from accel.evaluation.running.evaluator import compare
from accel.evaluation.running.processes import ALONE, SMALLEST_PIECE, EndedError, Processes, shares
from accel.evaluation.running.videos import Run, run_videos
from accel.tasks import task_of

EVALUATE = TOOLS / "evaluate.py"
DENSE = range(12)
FILMS = {
    "dense": (DENSE,),
    "mixed": (DENSE, (7,), (0, 1, 5, 6, 11), (0,), range(3, 60, 9)),
    "one frame": ((2,),),
}


# --- who does what ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [1, 2, 3, 7])
@pytest.mark.parametrize("context", [0, 2, None])
@pytest.mark.parametrize("films", FILMS.values(), ids=FILMS)
def test_every_labelled_frame_is_in_one_share(films, context, count):
    dataset = Films(*films)
    found = shares(dataset, range(len(dataset)), context, count)
    assert len(found) == count and sorted(i for each in found for i in each) == list(range(len(dataset)))


def test_snippets_are_spread_evenly(tiny_cityscapes):
    val = Cityscapes(tiny_cityscapes, "val")  # 4 snippets of one labelled frame
    assert [len(each) for each in shares(val, range(4), 3, 3)] == [2, 1, 1]
    assert [len(each) for each in shares(val, range(4), None, 4)] == [1, 1, 1, 1]


def test_frames_that_share_passes_stay_together_and_only_long_videos_are_cut():
    dataset = Films(range(40), range(5), range(0, 30, 3))
    groups = [set(range(40)), set(range(40, 45)), set(range(45, 55))]
    for whole in (shares(dataset, range(55), None, 3), shares(dataset, range(55), 12, 3)):
        for group in groups:
            assert sum(bool(group & set(each)) for each in whole) == 1
    cut = shares(dataset, range(55), 2, 2)
    pieces = [sorted(set(each) & groups[0]) for each in cut]
    assert all(len(piece) >= SMALLEST_PIECE * 2 and piece == list(range(piece[0], piece[-1] + 1)) for piece in pieces)


# --- what comes out ---------------------------------------------------------------------------------------------


def everything(dataset, processes):
    """All that an evaluation finds, but for the seconds; and how often each model was asked what."""
    models = {"a": Teller(), "b": Forgetful()}
    results = compare(models, dataset, (1, 2, 4), widths=(1, 3), workers=0, quiet=True, processes=processes)
    untimed = {"seconds_key": 0, "seconds_current": 0, "fps": 0}
    found = {name: [replace(r, **untimed) for r in each] for name, each in results.items()}
    shown = [("a", 4), ("b", 1)]
    recorder = ClipRecorder(dataset, choose_clips(dataset), shown, task_of(Teller(), dataset))
    runs = {(name, k): Run(models[name], k) for name, k in shown}
    temporal = run_videos(runs, dataset, "exact", watch=recorder, workers=0, quiet=True, processes=processes)
    recorder.gather(processes)
    asked = processes.collect(models["a"].labelled)
    return (found, temporal, recorder.clips(), asked) if processes.is_first else None


def part(rank, count, folder, films, damage):
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=count)
    found = everything(Films(*films, **damage), Processes(rank, count))
    if rank == 0:
        Path(folder, "found").write_bytes(pickle.dumps(found))
    dist.destroy_process_group()


def shared(tmp_path, count, films, damage):
    fork = multiprocessing.get_context("fork")
    started = [fork.Process(target=part, args=(r, count, str(tmp_path), films, damage)) for r in range(count)]
    for process in started:
        process.start()
    for process in started:
        process.join(PATIENCE)
        assert process.exitcode == 0
    return pickle.loads((tmp_path / "found").read_bytes())


@pytest.mark.parametrize("count", [2, 3, 6])
@pytest.mark.parametrize(
    ("films", "damage"),
    [
        (FILMS["mixed"], {}),
        (FILMS["mixed"], {"damaged": [(0, 5), (4, 29)], "damaged_labels": [(2, 6)]}),
        ((range(40), (3,)), {"damaged": [(0, 21)]}),  # long enough to be cut
        (((4,), (9,)), {}),  # fewer than processes
    ],
    ids=["mixed", "damaged", "cut", "few"],
)
def test_processes_find_what_one_finds(tmp_path, films, damage, count):
    flows = {"flows": {(0, 3): np.ones((12, 17, 2), np.float32)}}
    alone, together = (
        everything(Films(*films, **damage, **flows), ALONE),
        shared(tmp_path, count, films, damage | flows),
    )
    assert together[:3] == alone[:3]
    if films is FILMS["mixed"] and not damage:  # each (key frame, distance) once, but for a model's rehearsal
        asked = sum(together[3][1:], together[3][0])
        assert sum(asked.values()) <= sum(alone[3][0].values()) + 2 * count


def waits_for_the_killed(rank, count, folder):
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=count)
    if rank == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    try:
        Processes(rank, count).collect(rank)
    except EndedError as error:
        Path(folder, f"said{rank}").write_text(str(error))


def test_a_process_that_is_killed_ends_the_others(tmp_path):
    """At once: what they wait for without an end does not come."""
    fork = multiprocessing.get_context("fork")
    started = [fork.Process(target=waits_for_the_killed, args=(rank, 3, str(tmp_path))) for rank in range(3)]
    for process in started:
        process.start()
    for process in started:
        process.join(PATIENCE)
    assert [process.exitcode for process in started] == [0, -signal.SIGKILL, 0]
    for rank in (0, 2):
        assert (
            f"process {rank} of 3: another process of this evaluation is gone" in (tmp_path / f"said{rank}").read_text()
        )


# --- the command ------------------------------------------------------------------------------------------------


def evaluated_by(launch, count, folder, *arguments, script=EVALUATE):
    """The exit codes of so many processes, and what they said. launch: "torchrun", or "as torchrun" in less time."""
    environment = {"OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    if launch == "as torchrun":
        job = Job(arguments, folder / "ranks", count, script=script, **environment)
        return job.wait(), "".join(job.output(rank) for rank in range(count))
    command = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(count), str(script)]
    done = subprocess.run(
        [sys.executable, *command, *map(str, arguments), "--device", "cpu"],
        env=os.environ | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=PATIENCE,
    )
    return [done.returncode], done.stdout


LAUNCHES = pytest.mark.parametrize(
    ("launch", "count"),
    [
        ("as torchrun", 2),
        *(pytest.param(launch, 3, marks=pytest.mark.slow) for launch in ("as torchrun", "torchrun")),
    ],
)

LEAVE = """
import os
from accel.evaluation.running.processes import joined

with joined() as processes:
    import torch._dynamo
    processes.collect(1)
names = [open(f"/proc/self/task/{thread}/comm").read() for thread in os.listdir("/proc/self/task")]
assert not [name for name in names if "gloo" in name], names
"""


@LAUNCHES
def test_no_thread_of_the_process_group_is_left_to_abort_the_process_as_it_ends(tmp_path, launch, count):
    script = tmp_path / "leave.py"
    script.write_text(LEAVE)
    codes, said = evaluated_by(launch, count, tmp_path, script=script)
    assert not any(codes), said


@pytest.fixture
def untrained(tiny_config, tiny_run, tmp_path):
    """The `--cfg FILE --checkpoint RUN` of an untrained Accel."""
    from accel.datasets.cityscapes import CLASS_NAMES, PALETTE
    from accel.models import build_model
    from accel.weights.checkpoints import Description, save_weights

    config = tiny_config("accel").model
    palette = tuple(map(tuple, PALETTE.tolist()))
    save_weights(
        tmp_path / "run/weights.safetensors", build_model(config), Description(config, CLASS_NAMES, palette, 0)
    )
    return [*tiny_run("accel"), "--checkpoint", tmp_path / "run", "--workers", 0]


def figures(path):
    """A JSON file without its times and how it was made."""
    other = "seconds_key", "seconds_current", "fps", "origin"

    def untimed(value):
        if isinstance(value, dict):
            return {k: untimed(v) for k, v in value.items() if k not in other}
        return [untimed(v) for v in value] if isinstance(value, list) else value

    return untimed(json.loads(path.read_text()))


@LAUNCHES
def test_torchrun_writes_the_figures_of_one_process(
    untrained, tiny_cityscapes, tmp_path, launch, count, monkeypatch, capfd
):
    damaged = tiny_cityscapes / "leftImg8bit_sequence/val/ulm/ulm_000000_000097_leftImg8bit.png"
    damaged.write_bytes(damaged.read_bytes()[:99])
    what = ["--interval", 3, "--boundary", "--temporal", "--official"]
    files = {
        name: ["--json", tmp_path / f"{name}.json", "--predictions", tmp_path / name, "--report", tmp_path / f"r{name}"]
        for name in ("one", "all")
    }
    codes, said = evaluated_by(launch, count, tmp_path, *untrained, *what, *files["all"])
    assert not any(codes), said
    alone = [*untrained, *what, *files["one"], "--device", "cpu"]
    monkeypatch.setattr(sys, "argv", ["evaluate.py", *map(str, alone)])
    with pytest.raises(SystemExit) as stopped:
        runpy.run_path(str(EVALUATE), run_name="__main__")
    assert stopped.value.code == 0
    done = said, capfd.readouterr().out
    assert figures(tmp_path / "one.json") == figures(tmp_path / "all.json")
    for folder in ("one", "all"):
        assert len(list((tmp_path / folder).glob("*.png"))) == 3 == len(list((tmp_path / folder).iterdir()))
    for path in (tmp_path / "one").iterdir():
        assert path.read_bytes() == (tmp_path / "all" / path.name).read_bytes()
    for out in done:  # said once, whoever it was
        assert out.count("left out") == 2 and out.count("over 3 frames, 1 could not be read at interval 3") == 1
        assert out.count("equal to our own within 1e-06") == 1 and out.count("report: ") == 1
    one, both = ((tmp_path / name / "index.html").read_text() for name in ("rone", "rall"))
    clips = [page[page.index('id="clips">') :].split("</script>")[0] for page in (one, both)]
    assert clips[0] == clips[1]


def test_a_process_that_fails_ends_all_with_its_cause(untrained, tiny_cityscapes, tmp_path):
    """A submission leaves nothing out: the second of two processes comes across a damaged frame."""
    damaged = tiny_cityscapes / "leftImg8bit_sequence/val/ulm/ulm_000000_000203_leftImg8bit.png"
    damaged.write_bytes(damaged.read_bytes()[:99])
    codes, said = evaluated_by(
        "as torchrun", 2, tmp_path, *untrained, "--submission", tmp_path / "sent", "--split", "val"
    )
    lines = [line for line in said.splitlines() if line.startswith("error: ")]
    assert all(codes) and len(lines) == 1, said
    assert f"process 1 of 2: {damaged}: the PNG is cut off" in lines[0]
    assert not list((tmp_path / "sent").iterdir())


def test_what_is_wrong_for_all_processes_is_said_once(untrained, tmp_path):
    _, said = evaluated_by("as torchrun", 2, tmp_path, *untrained, "--interval", 9)
    assert [line for line in said.splitlines() if line.startswith("error: ")] == [
        "error: interval 9 needs 8 frames before a labelled one; the longest clip in this data set has 4"
    ]
