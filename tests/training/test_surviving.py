"""A run that is killed or asked to stop, at any moment, ends as one that was left alone."""

import os
import random
import re
import signal
import time
from types import SimpleNamespace

import pytest
from lightning_fabric import Fabric
from train_processes import TRAIN, Job, course, logged, same_weights, wait_for_step, waiting_at

from accel.datasets.simulation.simulated_clips import SimulatedClips
from accel.tasks.segmentation import MeanIou
from accel.training import loop, signals, trainer, validation
from accel.training.checkpoints import Checkpoints
from accel.training.run_folder import is_done
from accel.training.signals import Stopped, StopSignals, requeue
from accel.training.trainer import train
from accel.training.validation import Validation

ONE_FRAME = ("data.clip_length=1", "data.augmentation={crop: [32, 32]}", "train.batch_size=2", "train.clip_norm=1")


def being_written(folder):
    return any((folder / "checkpoints").glob(".step-*"))


def kill_at_random(job, run, chance, while_writing):
    """SIGKILL some steps on, or as soon as a checkpoint is being written (and a little later)."""
    target = max([line["step"] for line in logged(run)], default=0) + chance.randint(1, 3)
    deadline = time.monotonic() + 60
    while job.processes[0].is_alive() and time.monotonic() < deadline:
        steps = [line["step"] for line in logged(run)]
        if max(steps, default=0) >= target and (not while_writing or being_written(run)):
            break
        time.sleep(0.001 if while_writing else 0.01)
    time.sleep(chance.uniform(0, 0.01) if while_writing else chance.uniform(0, 0.2))
    job.kill()
    assert job.processes[0].exitcode == -signal.SIGKILL, job.output()


DIES = f"""
import os, runpy, signal, sys
from accel.training import checkpoints, loop

module, name, left = {{"checkpoints": checkpoints, "loop": loop}}[sys.argv[1]], sys.argv[2], int(sys.argv[3])
del sys.argv[1:4]
call = getattr(module, name)

def dies(*arguments):
    global left
    left -= 1
    if not left:
        os.kill(os.getpid(), signal.SIGKILL)
    return call(*arguments)

setattr(module, name, dies)
runpy.run_path({str(TRAIN)!r}, run_name="__main__")
"""


@pytest.fixture
def run_to_kill(tiny_run, tmp_path):
    """run_to_kill(steps, workers): the arguments of a run that saves every other step, and its folder."""

    def arguments(steps, workers):
        settings = (*ONE_FRAME, f"train.steps={steps}", "train.save_every=2", f"train.workers={workers}")
        killed = tmp_path / "killed"
        return [*tiny_run("frame_by_frame", *settings, "train.optimizer.momentum=0.9"), f"output={killed}"], killed

    return arguments


def assert_ends_as_if_left_alone(arguments, killed, tmp_path):
    """Once it has gone on: as a run that nobody killed."""
    job, whole = Job(["--resume", *arguments], tmp_path / "last"), tmp_path / "whole"
    assert job.wait() == [0], job.output()
    assert "going on at step" in job.output() and "damaged" not in job.output()
    assert Job([*arguments, f"output={whole}"], whole).wait() == [0]
    assert same_weights(killed, whole)
    assert course(killed) == course(whole)
    assert not (killed / "checkpoints").exists()


def test_a_run_that_is_killed_again_and_again_ends_with_the_same_bits(run_to_kill, tmp_path):
    """In the midst of a checkpoint, in a step, and when a checkpoint is there, but the one before not yet gone."""
    arguments, killed = run_to_kill(10, 0)
    script = tmp_path / "dies.py"
    script.write_text(DIES)
    moments = [("checkpoints", "save_state", 2), ("loop", "learning_rate", 7), ("checkpoints", "sync_folder", 1)]
    left = []
    for number, moment in enumerate(moments):
        job = Job([*moment, "--resume", *arguments], tmp_path / f"job{number}", script=script)
        assert job.wait() == [-signal.SIGKILL], job.output()
        left.append((Checkpoints(killed).steps(), being_written(killed)))
    assert left == [([2], True), ([2, 4], False), ([2, 4, 6], False)]
    assert_ends_as_if_left_alone(arguments, killed, tmp_path)


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_a_run_that_is_killed_at_any_moment_ends_with_the_same_bits(run_to_kill, tmp_path):
    arguments, killed = run_to_kill(80, 1)
    chance, torn, resumed_from = random.Random(7), 0, set()
    for number in range(20):
        job = Job(["--resume", *arguments], tmp_path / f"job{number}")
        kill_at_random(job, killed, chance, while_writing=number % 2 == 0)
        torn += being_written(killed)
        resumed_from.add(tuple(Checkpoints(killed).steps()))
    assert torn >= 4 and len(resumed_from) > 5
    assert_ends_as_if_left_alone(arguments, killed, tmp_path)


# --- signals --------------------------------------------------------------------------------------------------


@pytest.fixture
def endless(tiny_run, tmp_path):
    """`endless(SLURM_JOB_ID=...)`: a run that is under way, its folder and its arguments."""
    jobs = []

    def start(*arguments, size=1, script=TRAIN, **environment):
        run = tmp_path / "run"
        options = tiny_run("frame_by_frame", *ONE_FRAME, "train.steps=100000", "train.workers=1", *arguments)
        jobs.append(Job(options, run, size, script=script, **environment))
        wait_for_step(run, 2, jobs[-1])
        return jobs[-1], run

    yield start
    for job in jobs:
        job.kill()


@pytest.mark.parametrize(
    ("number", "code"),
    [(signal.SIGINT, 0), (signal.SIGTERM, 143), (signal.SIGUSR1, 0), (signal.SIGUSR2, -signal.SIGUSR2)],
)
def test_signals_save_and_end_the_run(endless, number, code):
    """Each in its own way; a signal that nobody asked for kills as it always does."""
    job, run = endless()
    os.kill(job.processes[0].pid, number)
    assert job.wait() == [code], job.output()
    if code >= 0:
        assert Checkpoints(run).newest() == logged(run)[-1]["step"]
        assert f"{number.name}: saved; --resume goes on" in job.output()
        assert "rror" not in job.output() and "Traceback" not in job.output()


def test_one_rank_that_is_told_stops_all(endless):
    job, run = endless(size=2)
    os.kill(job.processes[1].pid, signal.SIGTERM)
    assert job.wait() == [143, 143], job.output()
    assert Checkpoints(run).newest() == logged(run)[-1]["step"]


def test_a_checkpoint_that_cannot_be_saved_on_a_stop_ends_all_ranks_with_one_line(endless):
    """The others wait neither for a rank that has failed, nor do they say anything."""
    job, run = endless("train.save_every=1000000", size=2)
    (run / "checkpoints").write_text("no folder")
    os.kill(job.processes[1].pid, signal.SIGTERM)
    assert job.wait() == [2, 2], job.output() + job.output(1)
    assert job.output().count("rror") == 1 and "Traceback" not in job.output()
    assert re.search(r"error: .*run: no checkpoint of step \d+ \(.*\): there is none yet", job.output())
    assert "rror" not in job.output(1) and "Traceback" not in job.output(1)


def test_a_second_ctrl_c_ends_at_once(endless, tmp_path):
    """While the first waits for a step that does not come to its end."""
    script, _ = waiting_at(2, tmp_path)
    job, _ = endless(script=script)
    while job.processes[0].is_alive():
        job.ranks[0].interrupt()
        time.sleep(0.2)
    assert job.wait() == [130], job.output()


def test_a_ctrl_c_that_comes_soon_after_another_is_the_same(monkeypatch):
    """A launcher passes it on to a process that has received it already."""
    clock = SimpleNamespace(monotonic=lambda: now)
    monkeypatch.setattr(signals, "time", clock)
    with StopSignals() as received:
        now = 50.0
        signal.raise_signal(signal.SIGINT)
        now += 0.9
        signal.raise_signal(signal.SIGINT)
        assert received.received is signal.SIGINT
        now += 0.2
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)


@pytest.fixture
def scontrol(tmp_path, monkeypatch):
    """A `scontrol` on the PATH that notes what it was asked, and fails if told to."""
    folder = tmp_path / "bin"
    folder.mkdir()
    (folder / "scontrol").write_text(
        f'#!/bin/sh\necho "$@" >> {folder}/asked\n[ -z "$REFUSE" ] || (echo no >&2; exit 1)\n'
    )
    (folder / "scontrol").chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    return folder / "asked"


@pytest.mark.parametrize(("signalled", "job_code"), [(signal.SIGUSR2, 0), (signal.SIGTERM, 0)])
def test_preemption_saves_and_requeues_the_slurm_job(endless, scontrol, signalled, job_code):
    """The configured signal requeues; of SIGTERM in a Slurm job, Slurm itself knows what it is for."""
    slurm = {"SLURM_JOB_ID": "4711", "PATH": os.environ["PATH"]}
    job, run = endless("train.preempt_signal=SIGUSR2", **slurm)
    os.kill(job.processes[0].pid, signalled)
    assert job.wait() == [job_code]
    assert Checkpoints(run).newest() == logged(run)[-1]["step"]
    assert scontrol.exists() == (signalled == signal.SIGUSR2)
    if signalled == signal.SIGUSR2:
        assert scontrol.read_text() == "requeue 4711\n"


def test_requeueing_an_array_job_and_being_refused(scontrol, monkeypatch, capsys):
    assert requeue() and not scontrol.exists()  # no Slurm, nothing to ask
    for name, value in {"SLURM_JOB_ID": "5", "SLURM_ARRAY_JOB_ID": "4", "SLURM_ARRAY_TASK_ID": "1"}.items():
        monkeypatch.setenv(name, value)
    assert requeue() and scontrol.read_text() == "requeue 4_1\n"
    monkeypatch.setenv("REFUSE", "1")
    assert not requeue()
    assert "error: Slurm did not requeue job 4_1 (no)" in capsys.readouterr().err
    assert StopSignals().stop(signal.SIGUSR1, is_main=True).code == 1


def test_handlers_are_put_back():
    before = signal.getsignal(signal.SIGTERM)
    with StopSignals() as signals:
        os.kill(os.getpid(), signal.SIGTERM)
        assert signals.received is signal.SIGTERM
        assert signals.elected(signals.votes()) is signal.SIGTERM
    assert signal.getsignal(signal.SIGTERM) is before


# --- between a step and its validation ------------------------------------------------------------------------


def test_validation_is_made_up_for_and_the_best_weights_stay(tiny_run, tmp_path):
    """mIoU every other step; a run stopped just before one measures it first thing when it goes on."""
    settings = (
        *ONE_FRAME,
        "train.steps=6",
        "train.save_every=100",
        "train.validation={split: val, every: 2, interval: 2}",
    )
    arguments = tiny_run("accel", *settings, "data.clip_length=2")
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    assert Job([*arguments, f"output={whole}"], whole).wait() == [0]
    found = measured(whole)
    assert [*found] == [2, 4, 6] and all(0 <= miou <= 1 for miou in found.values())
    assert found[best_step(whole)] == max(found.values())

    job = Job([*arguments, f"output={stopped}"], stopped)
    wait_for_step(stopped, 1, job)
    os.kill(job.processes[0].pid, signal.SIGINT)
    assert job.wait() == [0]
    assert Job(["--resume", *arguments, f"output={stopped}"], stopped).wait() == [0]
    assert course(stopped) == course(whole)
    assert best_step(stopped) == best_step(whole)


@pytest.mark.slow
def test_validation_is_shared_out_to_all_processes(tiny_run, tmp_path):
    """The same figure from three processes, of which one has fewer frames, as from one; also after a stop."""
    settings = (*ONE_FRAME, "train.steps=4", "train.batch_size=3", "train.freeze_norm=true", "train.optimizer.lr=1e-9")
    arguments = tiny_run("frame_by_frame", *settings, "train.validation={split: val, every: 2}")
    one, three = tmp_path / "one", tmp_path / "three"
    assert Job([*arguments, f"output={one}"], one).wait() == [0]
    job = Job([*arguments, f"output={three}"], three, 3)
    wait_for_step(three, 1, job)
    os.kill(job.processes[2].pid, signal.SIGINT)
    assert job.wait() == [0, 0, 0], job.output()
    assert Job(["--resume", *arguments, f"output={three}"], three, 3).wait() == [0, 0, 0]
    assert [*measured(one)] == [*measured(three)] == [2, 4]
    assert measured(three) == pytest.approx(measured(one))


LAST = (*ONE_FRAME, "train.steps=2", "train.validation={split: val, every: 2, frames: 2}")


def send_before(monkeypatch, owner, name):
    """The signal comes as this is called."""
    call = getattr(owner, name)

    def sending(*arguments, **keywords):
        os.kill(os.getpid(), signal.SIGTERM)
        return call(*arguments, **keywords)

    monkeypatch.setattr(owner, name, sending)


def test_a_signal_during_the_last_step_does_not_cost_the_last_validation(tiny_config, monkeypatch):
    config = tiny_config("frame_by_frame", *LAST)
    rate = loop.learning_rate

    def last_step(step, settings):
        if step == 1 and not logged(config.output)[1:]:
            os.kill(os.getpid(), signal.SIGTERM)
        return rate(step, settings)

    monkeypatch.setattr(loop, "learning_rate", last_step)
    with pytest.raises(Stopped) as stopped:
        train(config, "cpu")
    assert stopped.value.code == 143 and is_done(config)
    assert [*measured(config.output)] == [2] and best_step(config.output) == 2


@pytest.mark.parametrize("place", [(Validation, "score"), (trainer, "_finish")])
def test_a_signal_after_the_last_step_keeps_the_next_stage_from_starting(tiny_config, monkeypatch, place):
    """The run itself is done; whoever started it is told to stop."""
    config = tiny_config("frame_by_frame", *LAST)
    send_before(monkeypatch, *place)
    with pytest.raises(Stopped) as stopped:
        train(config, "cpu")
    assert stopped.value.code == 143 and is_done(config)
    assert [*measured(config.output)] == [2]


def test_a_signal_ends_a_validation_before_the_last_and_it_is_made_up_for(tiny_config, monkeypatch):
    """After the first of its frames; the last one of a run is finished whatever comes."""
    config = tiny_config("frame_by_frame", *LAST, "train.steps=4")
    update, updated = MeanIou.update, []

    def sending(*arguments):
        updated.append(arguments)
        os.kill(os.getpid(), signal.SIGTERM)
        return update(*arguments)

    monkeypatch.setattr(validation, "VOTE_EVERY", 1)
    with monkeypatch.context() as patch:
        patch.setattr(MeanIou, "update", sending)
        with pytest.raises(Stopped):
            train(config, "cpu")
    assert len(updated) == 1 and Checkpoints(config.output).newest() == 2 and measured(config.output) == {}
    train(config, "cpu", resume=True)
    assert [*measured(config.output)] == [2, 4] and is_done(config)


def test_validation_is_on_simulated_clips_where_the_configuration_scores_on_them(tiny_config):
    simulated = tiny_config("frame_by_frame", *LAST, "data.simulated_test_frames=2")
    clips = Validation(Fabric(accelerator="cpu"), simulated).dataset
    assert isinstance(clips, SimulatedClips) and clips.length == 2


def measured(run):
    """mIoU by step."""
    return {line["step"]: line["validation_miou"] for line in course(run) if "validation_miou" in line}


def best_step(run):
    from accel.weights.checkpoints import describe_weights

    return describe_weights(run / "checkpoints" / "best").step
