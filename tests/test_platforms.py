"""Systems that lack what Linux has: the calls and signals are taken away, and all goes on."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from accel.benchmark import resident
from accel.files.positions import open_binary, read_at, write_at
from accel.files.whole_files import write_whole
from accel.machine import describe_machine
from accel.threads import usable_cores
from accel.training.signals import StopSignals

TOOLS = Path(__file__).parents[1] / "tools"

# Other packages know which system they are on; they are imported before anything is taken away. What macOS lacks is
# the first of these.
RUN = """
import json, os, runpy, signal, sys
import albumentations, av, cv2, lightning_fabric, torch, torch.utils.tensorboard
from torch.utils.data._utils import signal_handling
signal_handling.IS_WINDOWS = True
for name in ("sched_getaffinity", "sched_setaffinity", "pread", "pwrite", "getloadavg"):
    delattr(os, name)
for name in ("SIGUSR1", "SIGUSR2", "SIGCHLD", "SIGHUP", "SIGALRM", "SIGQUIT"):
    delattr(signal, name)
sys.modules["resource"] = None
opened = os.open
def refusing(path, *arguments, **more):
    if os.path.isdir(path):
        raise PermissionError(13, "Permission denied", path)
    return opened(path, *arguments, **more)
os.open = refusing
for sys.argv in json.loads(sys.argv[1]):
    try:
        runpy.run_path(sys.argv[0], run_name="__main__")
    except SystemExit as end:
        assert not end.code, sys.argv
"""


def test_the_road_is_open_on_windows(tiny_run, tmp_path):
    settings = "train.steps=1", "train.workers=1", "train.validation={split: val, every: 1, frames: 1}"
    arguments = tiny_run("frame_by_frame", *settings, "data.clip_length=1")
    model = "--checkpoint", tmp_path / "run", "--device", "cpu"
    commands = [
        ("train", *arguments, "--device", "cpu"),
        ("evaluate", *arguments[:2], *model, "--workers", 0, "--json", "out.json"),
        ("demo", *model, "--input", frames(tmp_path), "--output", "out"),
    ]
    commands = [[str(TOOLS / f"{name}.py"), *map(str, rest)] for name, *rest in commands]
    done = subprocess.run(
        [sys.executable, "-c", RUN, json.dumps(commands)], cwd=tmp_path, capture_output=True, text=True, timeout=250
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "step 1: mIoU" in done.stdout and (tmp_path / "out.json").is_file()
    assert len(list((tmp_path / "out/labels").iterdir())) == 2


def frames(folder):
    import cv2
    import numpy as np

    (folder / "frames").mkdir()
    for number in range(2):
        cv2.imwrite(str(folder / f"frames/{number}.png"), np.zeros((64, 96, 3), np.uint8))
    return folder / "frames"


def test_all_cores_count_where_nobody_says_which(monkeypatch):
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    assert usable_cores() == os.cpu_count()


def test_signals_that_a_system_lacks_ask_for_nothing(monkeypatch):
    monkeypatch.delattr(signal, "SIGUSR1")
    with StopSignals("SIGUSR1") as signals:
        assert signals.votes() == [0, 0, 0] and signals.vote(torch.device("cpu")) is None
        signal.raise_signal(signal.SIGTERM)
        assert signals.votes() == [0, 0, 1] and signals.vote(torch.device("cpu")) is signal.SIGTERM
        assert signals.stop(signal.SIGTERM, is_main=True).code == 143
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


@pytest.mark.parametrize("lacking", [(), ("pread", "pwrite")])
def test_places_in_files_are_read_and_written(tmp_path, monkeypatch, lacking):
    for name in lacking:
        monkeypatch.delattr(os, name)
    file = open_binary(tmp_path / "a", os.O_RDWR | os.O_CREAT)
    assert write_at(file, b"a line\r\n", 0) == 8 and write_at(file, b"b", 4) == 1
    assert read_at(file, 100, 2) == b"libe\r\n"
    os.close(file)


def test_a_folder_that_cannot_be_opened_is_not_synced(tmp_path, monkeypatch):
    opened = os.open

    def refusing(path, *arguments, **more):
        if os.path.isdir(path):
            raise PermissionError(13, "Permission denied", path)
        return opened(path, *arguments, **more)

    monkeypatch.setattr(os, "open", refusing)
    write_whole(tmp_path / "a", b"content")
    assert (tmp_path / "a").read_bytes() == b"content"


def test_the_machine_is_described_and_memory_measured_as_far_as_it_goes(monkeypatch):
    here = resident.peak_resident()
    assert 10 < resident.resident() < 1.1 * here
    monkeypatch.setattr(sys, "platform", "darwin")  # which counts bytes
    assert resident.peak_resident() == pytest.approx(here / 1024, rel=0.5)
    monkeypatch.setitem(sys.modules, "resource", None)
    assert not resident.peak_resident() > 0
    monkeypatch.setattr(resident.Path, "read_text", lambda *_, **__: os.stat("/nowhere"))
    with pytest.raises(ValueError, match="memory is measured on Linux only, this is darwin"):
        resident.begin_anew()
    monkeypatch.undo()
    monkeypatch.delattr(os, "getloadavg")
    assert describe_machine(torch.device("cpu"))["load_average_before"] is None
