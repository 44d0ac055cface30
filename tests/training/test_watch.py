"""What goes wrong in a run ends it with the cause, in time."""

import gc
import multiprocessing
import os
import re
import signal
import threading
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from lightning_fabric import Fabric
from run_files import log_of, weights_of
from torch import nn
from train_processes import TRAIN, Job, wait_for_step

from accel.devices import has_bfloat16
from accel.tasks.segmentation import CrossEntropy
from accel.training import feeding, loop, trainer
from accel.training.finite import first_fault
from accel.training.objectives import build_objective
from accel.training.trainer import train
from accel.training.validation import Validation

ONE_FRAME = ("data.clip_length=1", "data.augmentation={crop: [32, 32]}")


class Spoilt(nn.Module):
    """An objective that is not finite at these steps."""

    def __init__(self, inner, steps, how):
        super().__init__()
        self.model, self.inner, self.steps, self.how, self.number = inner.model, inner, steps, how, 0

    def forward(self, frames, labels, flow, refreshed=()):
        number, self.number = self.number, self.number + 1
        if number in self.steps and self.how == "loss":
            return self.inner(frames.float() * torch.nan, labels, flow)
        loss = self.inner(frames, labels, flow)
        if number in self.steps:
            weight = self.model.reference.score_layer.weight
            loss = loss + (weight - weight.detach()).square().sum().sqrt() * 1  # 0, and its gradient is 0 / 0
        return loss


def spoil(monkeypatch, steps, how):
    monkeypatch.setattr(trainer, "build_objective", lambda *args: Spoilt(build_objective(*args), steps, how))


@pytest.mark.parametrize("how", ["loss", pytest.param("gradient", marks=pytest.mark.slow)])
def test_a_step_that_is_not_finite_is_left_out_and_counted(tiny_config, monkeypatch, how):
    """Neither weights nor batch-norm statistics nor momentum see it: as if the step had not been."""
    settings = (*ONE_FRAME, "train.steps=4", "train.log_every=2", "train.schedule.power=0")
    config = tiny_config("frame_by_frame", *settings)
    with monkeypatch.context() as patch:
        spoil(patch, {1, 3}, how)
        train(config, "cpu")
    assert [line["skipped"] for line in log_of(config)] == [1, 2]
    assert all(np.isfinite(line["loss"]) for line in log_of(config))
    assert all(tensor.isfinite().all() for tensor in weights_of(config).values())

    # The same without those steps: the samples of steps 0 and 2.
    sampler = feeding.StepSampler
    monkeypatch.setattr(feeding, "StepSampler", lambda start, stop, *rest: list(sampler(start, 2 * stop, *rest))[::2])
    short = tiny_config("frame_by_frame", *settings, "train.steps=2", f"output={config.output}-short")
    train(short, "cpu")
    expected = weights_of(short)
    for name, tensor in weights_of(config).items():
        assert torch.equal(tensor, expected[name]), name


def test_too_many_in_a_row_end_the_run_with_a_diagnosis(tiny_config, monkeypatch):
    config = tiny_config("frame_by_frame", *ONE_FRAME, "train.steps=9", "train.max_skipped=3")
    spoil(monkeypatch, {1, 3, 4, 5, 6}, "loss")  # the last one when it looks again
    message = (
        r"the loss became nan at step 5 \(samples \w+, \w+; learning rate 0\.00\d+\), for 3 steps in a row; "
        r"the output of reference\.backbone\.\S+ is not finite.*train\.optimizer\.lr"
    )
    with pytest.raises(ValueError, match=message):
        train(config, "cpu")


@pytest.mark.parametrize("how", ["loss", "gradient"])
def test_the_part_of_a_step_that_is_at_fault_is_the_one_that_is_diagnosed(tiny_config, monkeypatch, how):
    """The first of two batches, in the precision of the step; where only the gradient shows it, both are named."""
    settings = ("train.accumulate=2", "train.max_skipped=1", "train.precision=bf16")
    config = tiny_config("frame_by_frame", *ONE_FRAME, *settings)
    names, frames_at_fault, precisions = [], [], []
    from_distance = loop.from_distance

    def noted(batch, *arguments):
        names.append(batch.names)
        return from_distance(batch, *arguments)

    class FirstBatch(Spoilt):
        def forward(self, frames, labels, flow, refreshed=()):
            frames_at_fault[:] = frames_at_fault or [frames.clone()]
            precisions.append(torch.is_autocast_enabled("cpu"))
            self.steps = {self.number} if torch.equal(frames, frames_at_fault[0]) else ()
            return super().forward(frames, labels, flow, refreshed)

    monkeypatch.setattr(loop, "from_distance", noted)
    monkeypatch.setattr(trainer, "build_objective", lambda *args: FirstBatch(build_objective(*args), (), how))
    with pytest.raises(ValueError, match="became nan at step 0") as error:
        train(config, "cpu")
    assert len(names) == 2 and names[0] != names[1] and len(precisions) == 3
    assert all(precisions) or not has_bfloat16(torch.device("cpu"))
    named = names[0] if how == "loss" else names[0] + names[1]
    assert f"(samples {', '.join(named)}; " in str(error.value)
    where = {"loss": "the output of reference.backbone.", "gradient": "the gradient of reference.score_layer.weight"}
    assert where[how] in str(error.value)


def test_the_first_fault_is_named():
    class Objective(nn.Module):
        def __init__(self):
            super().__init__()
            self.model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU(), nn.Conv2d(4, 5, 1))
            self.loss = CrossEntropy()

        def forward(self, frames, labels, flow, refreshed=()):
            return self.loss(self.model(frames), labels)

    batch = torch.rand(1, 3, 2, 2), torch.zeros(1, 2, 2, dtype=torch.uint8), None
    objective = Objective()
    objective(*batch).backward()
    assert first_fault(objective, *batch) == ""
    objective.model[0].weight.grad[0] = torch.inf
    assert first_fault(objective, *batch) == "the gradient of 0.weight is not finite"
    objective.model[2].bias.grad[0] = torch.nan
    assert first_fault(objective, *batch) == "the gradient of 2.bias is not finite"
    frames = batch[0] * torch.inf
    assert first_fault(objective, frames, *batch[1:]) == "the output of 0 is not finite"
    objective.model[2].weight.data[0] = torch.nan
    assert first_fault(objective, *batch) == "the weight 2.weight is not finite"


def test_out_of_memory_names_the_settings_that_help(tiny_config, monkeypatch):
    class Greedy(Spoilt):
        def forward(self, *batch):
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")

    monkeypatch.setattr(trainer, "build_objective", lambda *args: Greedy(build_objective(*args), (), ""))
    with pytest.raises(ValueError, match="out of memory on cpu at step 0") as error:
        train(tiny_config("frame_by_frame", *ONE_FRAME), "cpu")
    for knob in ("train.batch_size (now 2)", "train.accumulate", "crop (now [32, 32])", "train.precision=bf16"):
        assert knob in str(error.value)
    assert "20.00 GiB" in str(error.value) and "\n" not in str(error.value)


def test_out_of_memory_while_validating_names_the_settings_that_help(tiny_config, monkeypatch):
    def greedy(*_):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")

    monkeypatch.setattr(Validation, "score", greedy)
    validation = "train.validation={split: val, every: 1, interval: 3}"
    with pytest.raises(ValueError, match=r"out of memory on cpu at step 1 .*20\.00 GiB.*validating") as error:
        train(tiny_config("frame_by_frame", *ONE_FRAME, validation), "cpu")
    assert "train.validation.interval (now 3)" in str(error.value) and "\n" not in str(error.value)
    assert "batch_size" not in str(error.value)


def test_an_operator_without_a_deterministic_algorithm_is_named(tiny_config, monkeypatch):
    class Random(Spoilt):
        def forward(self, frames, labels, flow, refreshed=()):
            assert torch.are_deterministic_algorithms_enabled()
            raise RuntimeError("some_op does not have a deterministic implementation, but you set ...")

    monkeypatch.setattr(trainer, "build_objective", lambda *args: Random(build_objective(*args), (), ""))
    try:
        with pytest.raises(ValueError, match=r"train\.deterministic: some_op does not have"):
            train(tiny_config("frame_by_frame", *ONE_FRAME, "train.deterministic=true"), "cpu")
    finally:
        torch.use_deterministic_algorithms(False)


def test_deterministic_algorithms_train_every_part_on_the_cpu(tiny_config):
    try:
        train(tiny_config("accel", "train.deterministic=true", "train.steps=2"), "cpu")
    finally:
        torch.use_deterministic_algorithms(False)


# --- data workers ---------------------------------------------------------------------------------------------


def of_worker(job):
    """The process id of the run's data worker."""
    pid = job.processes[0].pid
    with open(f"/proc/{pid}/task/{pid}/children") as file:
        return int(file.read().split()[0])


@pytest.mark.parametrize(
    ("number", "cause"),
    [
        (signal.SIGKILL, "a data worker died"),
        # The second where it was stopped while it handed over a batch.
        (signal.SIGSTOP, "no batch came from the data workers for 2 s|no progress for .*waiting for data"),
    ],
)
def test_a_data_worker_that_dies_or_hangs_ends_the_run_with_the_cause(tiny_run, tmp_path, number, cause):
    settings = (*ONE_FRAME, "train.steps=100000", "train.workers=1", "train.timeout=2")
    job = Job(tiny_run("frame_by_frame", *settings), tmp_path / "run")
    wait_for_step(tmp_path / "run", 2, job)
    os.kill(of_worker(job), number)
    assert job.wait()[0] in (1, 2), job.output()
    lines = [line for line in job.output().splitlines() if "s left" not in line]
    assert len(lines) == 1 and lines[0].startswith("error: ") and re.search(cause, lines[0])


STUCK = f"""
import runpy, time
from accel.training import feeding
read = feeding.TrainingClips.__getitem__
feeding.TrainingClips.__getitem__ = lambda self, number: read(self, number) if number < 4 else time.sleep(1000)
runpy.run_path({str(TRAIN)!r}, run_name="__main__")
"""


def test_a_step_that_hangs_ends_the_run_and_says_where(tiny_run, tmp_path):
    """Without data workers, on a disk that stops answering."""
    script = tmp_path / "stuck.py"
    script.write_text(STUCK)
    arguments = tiny_run("frame_by_frame", *ONE_FRAME, "train.steps=100000", "train.timeout=2")
    job = Job(arguments, tmp_path / "run", script=script)
    assert job.wait() == [1], job.output()
    assert "error: no progress for" in job.output() and "waiting for data" in job.output()
    assert "train.timeout=2" in job.output()


# --- the cost of it -------------------------------------------------------------------------------------------


def test_the_share_of_waiting_for_data_is_measured(tiny_config, monkeypatch):
    """A clip takes 3 s to read, and there are two in a batch; gradients take 2 s."""
    clock = 0

    def costs(owner, name, seconds):
        call = getattr(owner, name)

        def costly(*arguments):
            nonlocal clock
            clock += seconds
            return call(*arguments)

        monkeypatch.setattr(owner, name, costly)

    costs(feeding.TrainingClips, "__getitem__", 3)
    costs(Fabric, "backward", 2)
    monkeypatch.setattr(loop, "time", SimpleNamespace(monotonic=lambda: clock))
    config = tiny_config("frame_by_frame", *ONE_FRAME, "train.steps=3")
    train(config, "cpu")
    assert [(line["seconds_per_step"], line["waiting_for_data"]) for line in log_of(config)] == [(8, 0.75)] * 3


def counts():
    """Open files, threads, child processes, and living tensors of this process."""
    gc.collect()
    tensors = sum(issubclass(type(thing), torch.Tensor) for thing in gc.get_objects())
    files = len(os.listdir("/proc/self/fd"))
    return files, threading.active_count(), len(multiprocessing.active_children()), tensors


def resident():
    """Memory of this process in MB."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


def test_several_runs_and_some_hundred_steps_leave_nothing_behind(tiny_config, monkeypatch):
    """Memory, tensors, files, threads and processes after the first run, and after three more."""

    class Small(nn.Module):
        def __init__(self, inner):
            super().__init__()
            self.model = inner.model

        def forward(self, frames, labels, flow, refreshed=()):
            return self.model.reference.score_layer.weight.square().sum()  # the loop itself, hardly any model

    monkeypatch.setattr(trainer, "build_objective", lambda *args: Small(build_objective(*args)))
    settings = (*ONE_FRAME, "train.steps=60", "train.save_every=30", "train.workers=1")
    after = []
    within = []
    rate = loop.learning_rate

    def watched(step, config):
        if step in (20, 59):
            within.append(resident())
        return rate(step, config)

    monkeypatch.setattr(loop, "learning_rate", watched)
    for _ in range(4):
        train(tiny_config("frame_by_frame", *settings), "cpu", overwrite=True)
        after.append((*counts(), resident()))
    assert all(run[:4] == after[0][:4] for run in after[1:]), after
    assert after[-1][4] - after[0][4] < 60, after
    assert within[-1] - within[-3] < 20, within
