"""Training over several processes (gloo, on the CPU): the same losses, and no silent end."""

import signal
import subprocess
import sys
import time
from itertools import chain

import numpy as np
import pytest
import torch
import torch.distributed as dist
from processes import PATIENCE
from safetensors.torch import load_file
from torch import nn
from train_processes import TRAIN, Job, course, logged, same_weights, wait_for_step

from accel.datasets import build_dataset
from accel.process_groups import Started, started
from accel.training.batch_norm import synchronise_batch_norms
from accel.training.checkpoints import Checkpoints
from accel.training.feeding import build_loader, share_out
from accel.training.trainer import train

STEPS = ("train.steps=3", "train.batch_size=6", "train.clip_norm=1")


@pytest.mark.parametrize("count", [2, pytest.param(3, marks=pytest.mark.slow)])
def test_several_processes_train_as_one(tiny_run, tmp_path, count):
    """The same global batches: the same losses to float tolerance, and weights nearly so."""
    losses, weights = [], []
    for size in (1, count):
        run = tmp_path / f"over-{size}"
        job = Job(tiny_run("accel", *STEPS, f"output={run}"), run, size)
        assert job.wait() == [0] * size, job.output()
        losses.append([line["loss"] for line in logged(run)])
        weights.append(load_file(run / "weights.safetensors"))
    np.testing.assert_allclose(losses[1], losses[0], rtol=1e-4)
    for name, one in weights[0].items():
        torch.testing.assert_close(weights[1][name], one, atol=2e-4, rtol=1e-3, msg=name)


def test_two_nodes_of_a_slurm_job_find_each_other(tiny_run, tmp_path):
    run = tmp_path / "run"
    job = Job(tiny_run("frame_by_frame", "data.clip_length=1", "train.steps=2"), run, 2, launcher="srun")
    assert job.wait() == [0, 0], job.output()
    assert len(logged(run)) == 2 and "weights:" in job.output() and "weights:" not in job.output(1)


def test_unused_and_frozen_parameters_do_not_stop_processes(tiny_run, tmp_path):
    """Clips of one frame use neither flow nor fusion."""
    run = tmp_path / "run"
    options = ("data.clip_length=1", "train.freeze=[update]", "train.accumulate=2", "train.steps=2")
    job = Job(tiny_run("accel", *options), run, 2)
    assert job.wait() == [0, 0], job.output()
    assert len(logged(run)) == 2


@pytest.mark.slow
def test_several_processes_resume_to_the_same_bits(tiny_run, tmp_path):
    arguments = tiny_run("frame_by_frame", "data.clip_length=1", "train.steps=6", "train.save_every=2")
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    assert Job([*arguments, f"output={whole}"], whole, 2).wait() == [0, 0]
    job = Job([*arguments, f"output={stopped}"], stopped, 2)
    wait_for_step(stopped, 3, job)
    job.kill()
    assert not (stopped / "weights.safetensors").exists()
    assert Job(["--resume", *arguments, f"output={stopped}"], stopped, 2).wait() == [0, 0]
    assert same_weights(stopped, whole)
    assert course(stopped) == course(whole)


@pytest.mark.parametrize("killed", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_a_rank_that_is_killed_ends_the_other(tiny_run, tmp_path, killed):
    run = tmp_path / "run"
    job = Job(tiny_run("frame_by_frame", "data.clip_length=1", "train.steps=100000"), run, 2)
    wait_for_step(run, 2, job)
    job.processes[killed].kill()
    codes = job.wait()
    assert codes[killed] == -signal.SIGKILL and codes[1 - killed] == 1
    assert f"error: process {killed} of 2" in job.output(1 - killed)
    assert "--resume goes on from the last checkpoint" in job.output(1 - killed)


@pytest.mark.slow
def test_what_one_rank_ends_for_is_told_by_the_other(tiny_run, tiny_cityscapes, tmp_path):
    """A training image that is damaged in the share of rank 1 alone."""
    run = tmp_path / "run"
    arguments = tiny_run("frame_by_frame", "data.clip_length=1", "train.steps=100000", "train.batch_size=4")
    job = Job(arguments, run, 2)
    wait_for_step(run, 1, job)
    for image in (tiny_cityscapes / "leftImg8bit_sequence/train/ulm").glob("*_000098_leftImg8bit.png"):
        image.write_bytes(b"no image")
    codes = job.wait()
    assert sorted(codes) == [1, 2]
    damaged, other = (0, 1) if codes[0] == 2 else (1, 0)
    assert "ulm_000000_000098_leftImg8bit.png" in job.output(damaged)
    assert f"error: process {damaged} of 2" in job.output(other)
    assert "ulm_000000_000098_leftImg8bit.png" in job.output(other)
    assert "--resume" not in job.output(other)  # which would come upon the same image


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        pytest.param("train.freeze=[refrence]", "train.freeze: the model has no part", marks=pytest.mark.slow),
        pytest.param("data.root=/nonexistent", "no Cityscapes train split at /nonexistent", marks=pytest.mark.slow),
        ("train.validation={split: val, every: 1, interval: 9}", "train.validation.interval: no frame of val"),
    ],
)
def test_a_mistake_is_told_once(tiny_run, tmp_path, setting, message):
    job = Job(tiny_run("frame_by_frame", setting), tmp_path / "run", 2)
    assert job.wait() == [2, 2], job.output(0) + job.output(1)
    assert job.output(0).count("error") == job.output(0).count(message) == 1
    assert "error" not in job.output(1) and "Traceback" not in job.output(0) + job.output(1)


def test_a_batch_is_shared_out_whole_or_not_at_all(tiny_config):
    config = tiny_config("accel", "train.batch_size=6", "train.accumulate=2", "train.steps=3", "data.clip_length=1")
    from accel.datasets import build_dataset

    dataset = build_dataset(config.data, "train")
    together = list(build_loader(dataset, config, 1).batch_sampler)
    shares = [list(build_loader(dataset, config, 1, rank, 3).batch_sampler) for rank in range(3)]
    assert together == [list(chain(*parts)) for parts in zip(*shares, strict=True)]
    with pytest.raises(ValueError, match=r"train\.batch_size is 6 times .* to 5 devices; expected a multiple of 5"):
        build_loader(dataset, config, 0, 0, 5)


# --- batch norm -----------------------------------------------------------------------------------------------


def _norm_worker(rank: int, file: str, results: dict) -> None:
    dist.init_process_group("gloo", init_method=f"file://{file}", rank=rank, world_size=2)
    torch.manual_seed(0)
    whole = torch.randn(5, 3, 4, 6)
    model = nn.Sequential(nn.BatchNorm2d(3), nn.Conv2d(3, 2, 1))
    synchronise_batch_norms(model, torch.device("cpu"))
    x = (whole[:2] if rank == 0 else whole[2:]).requires_grad_()
    model(x).square().sum().backward()
    gradient = model[0].weight.grad.clone()
    dist.all_reduce(gradient)
    results[rank] = (x.grad, gradient, model[0].running_mean, model[0].running_var)
    dist.destroy_process_group()


def test_synchronised_batch_norm_is_batch_norm_over_the_whole_batch(tmp_path):
    """2 and 3 images on two processes against PyTorch's batch norm on all 5."""
    with torch.multiprocessing.Manager() as manager:
        results = manager.dict()
        arguments = (str(tmp_path / "store"), results)
        torch.multiprocessing.start_processes(_norm_worker, arguments, nprocs=2, start_method="forkserver")
        first, second = results[0], results[1]
    torch.manual_seed(0)
    whole = torch.randn(5, 3, 4, 6).requires_grad_()
    model = nn.Sequential(nn.BatchNorm2d(3), nn.Conv2d(3, 2, 1))
    model(whole).square().sum().backward()
    torch.testing.assert_close(torch.cat([first[0], second[0]]), whole.grad, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(first[1], model[0].weight.grad)
    for found in (first, second):
        torch.testing.assert_close(found[2], model[0].running_mean)
        torch.testing.assert_close(found[3], model[0].running_var)


def test_one_process_keeps_its_batch_norms():
    model = nn.Sequential(nn.BatchNorm2d(3))
    synchronise_batch_norms(model, torch.device("cpu"))
    assert type(model[0]) is nn.BatchNorm2d


# --- the launcher ---------------------------------------------------------------------------------------------

LAUNCH = """
import os, signal, sys, time
from accel.training.launch import launch, launcher_is_gone
if "RANK" not in os.environ:
    sys.exit(launch(2))
assert os.environ["WORLD_SIZE"] == "2" and not launcher_is_gone()
rank = int(os.environ["RANK"])
{child}
"""


def launched(child):
    return subprocess.Popen(
        [sys.executable, "-c", LAUNCH.format(child=child)], stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )


@pytest.mark.parametrize(
    ("child", "code", "said"),
    [
        ("", 0, ""),
        ("sys.exit(2 if rank else 0)", 2, ""),
        ("os.kill(os.getpid(), 9) if rank else time.sleep(9999)", 137, "process 1 of 2 (pid"),
    ],
)
def test_the_launcher_ends_as_its_processes_do(child, code, said):
    job = launched(child)
    _, errors = job.communicate(timeout=PATIENCE)
    assert job.returncode == code and said in errors


def test_the_launcher_passes_signals_on():
    child = (
        "signal.signal(signal.SIGTERM, lambda *_: sys.exit(143 if rank == 0 else 0)); print('on', flush=True); "
        "time.sleep(9999)"
    )
    job = launched(child)
    for _ in range(2):
        job.stdout.readline()
    job.send_signal(signal.SIGTERM)
    job.communicate(timeout=PATIENCE)
    assert job.returncode == 143


@pytest.mark.slow
def test_processes_that_do_not_come_are_not_waited_for_for_ever(tiny_run, tmp_path):
    job = Job(tiny_run("frame_by_frame", "train.timeout=1"), tmp_path / "run", 2, missing=1)
    assert job.wait()[0] == 2
    assert "error: 2 processes did not find each other" in job.output()


@pytest.mark.slow
@pytest.mark.parametrize("way", ["killed", "Ctrl-C"])
def test_devices_on_the_command_line(tiny_run, tmp_path, way):
    """`--devices 2` as a user types it; a killed process ends the other one, Ctrl-C saves."""
    arguments = tiny_run("frame_by_frame", "data.clip_length=1", "train.steps=100000")
    command = [sys.executable, str(TRAIN), *arguments, "--device", "cpu", "--devices", "2"]
    job = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 200
    while time.monotonic() < deadline and len(logged(tmp_path / "run")) < 2 and job.poll() is None:
        time.sleep(0.1)
    if way == "Ctrl-C":
        job.send_signal(signal.SIGINT)
        _, errors = job.communicate(timeout=PATIENCE)
        assert job.returncode == 0 and "rror" not in errors
        assert Checkpoints(tmp_path / "run").newest() == logged(tmp_path / "run")[-1]["step"]
        return
    children = subprocess.run(["ps", "--ppid", str(job.pid), "-o", "pid="], capture_output=True, text=True, check=True)
    subprocess.run(["kill", "-KILL", children.stdout.split()[1]], check=True)
    _, errors = job.communicate(timeout=PATIENCE)
    assert job.returncode == 137
    assert "error: process 1 of 2 (pid" in errors and "was killed by SIGKILL" in errors


@pytest.mark.parametrize("job", ["bash", "train"])
def test_a_process_that_srun_did_not_start_is_alone(tiny_config, monkeypatch, job):
    """What Slurm leaves in the environment of a shell or a job script does not make it wait for others."""
    for name, value in {"NTASKS": "4", "JOB_NAME": job, "JOB_ID": "7", "PROCID": "0", "LOCALID": "0"}.items():
        monkeypatch.setenv(f"SLURM_{name}", value)
    config = tiny_config("frame_by_frame", "data.clip_length=1", "train.steps=1")
    assert train(config, "cpu").exists()
    assert started() == Started()


def test_slurm_says_how_processes_lie_on_nodes(monkeypatch):
    for name, value in {"NTASKS": "8", "STEP_NUM_TASKS": "8", "PROCID": "5", "LOCALID": "1"}.items():
        monkeypatch.setenv(f"SLURM_{name}", value)
    with pytest.raises(ValueError, match="--ntasks-per-node"):
        started()
    monkeypatch.setenv("SLURM_NTASKS_PER_NODE", "4")
    assert started() == Started("srun", 5, 8, 1, 4) and started().nodes == 2


@pytest.mark.parametrize(
    ("batch", "accumulate", "devices", "share", "parts"),
    [
        (4, 1, 1, 4, 1),
        (1, 4, 1, 1, 4),
        (1, 4, 2, 1, 2),
        (1, 4, 4, 1, 1),
        (4, 2, 4, 1, 2),
        (4, 2, 8, 1, 1),
        (2, 6, 4, 1, 3),
        (3, 4, 2, 2, 3),
    ],
)
def test_accumulated_batches_give_way_to_devices(tiny_config, batch, accumulate, devices, share, parts):
    config = tiny_config("accel", f"train.batch_size={batch}", f"train.accumulate={accumulate}")
    assert share_out(config, devices) == (share, parts) and share * parts * devices == batch * accumulate


def test_a_step_has_the_same_samples_on_any_number_of_devices(tiny_config, tiny_cityscapes):
    config = tiny_config("accel", "train.batch_size=1", "train.accumulate=4", "train.steps=2")
    dataset = build_dataset(config.data, "train")

    def samples(devices):
        """Of the second step."""
        loaders = [build_loader(dataset, config, 1, rank, devices) for rank in range(devices)]
        return sorted(number for loader in loaders for part in loader.batch_sampler for number in part)

    assert samples(1) == samples(2) == samples(4) == [4, 5, 6, 7]


def test_every_stage_is_checked_before_the_first(tool, capsys, tmp_path, tiny_run, tiny_cityscapes):
    _, path, *_ = tiny_run("frame_by_frame", "data.clip_length=1")
    stages = [f"{{base: {path}, output: one, train: {{batch_size: 4}}}}", f"{{base: {path}, output: two}}"]
    (tmp_path / "all.yaml").write_text("stages:\n" + "".join(f"  - {stage}\n" for stage in stages))
    assert tool("train", "--cfg", "all.yaml", "--devices", "4", "--device", "cpu") == 2
    error = capsys.readouterr().err
    assert "two: train.batch_size is 2, to be shared out evenly to 4 devices; expected a multiple of 4" in error
    assert not (tmp_path / "one").exists()
