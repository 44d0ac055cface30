"""As many threads as the process may use, and OpenMP's are told to sleep soon, unless the user says otherwise."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest

from accel.threads import (
    OPENMP,
    OWN,
    SLURM,
    SPINS,
    WAITING,
    _fast_cores,
    cgroup_quota,
    threads,
    usable_cores,
    video_threads,
)
from accel.video.reader import VideoFileReader
from accel.video.writer import VideoWriter


def told(first, **environment):
    """What a fresh process says of its environment after `wait_briefly`."""
    kept = {key: value for key, value in os.environ.items() if key not in WAITING}
    code = f"""
import json, os, sys
{first}
from accel.threads import WAITING, wait_briefly
loaded = "torch" in sys.modules
wait_briefly()
assert ("torch" in sys.modules) == loaded
print(json.dumps({{key: os.environ[key] for key in WAITING if key in os.environ}}))
"""
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, env=kept | environment, capture_output=True, text=True, timeout=120, check=True)
    return json.loads(done.stdout)


def test_threads_are_told_before_pytorch_is_loaded():
    assert told("") == {"GOMP_SPINCOUNT": str(SPINS)}


@pytest.mark.parametrize("name", WAITING)
def test_what_the_user_has_set_stays_alone(name):
    assert told("", **{name: "0"}) == {name: "0"}


def test_once_pytorch_is_loaded_nothing_is_set_any_more():
    assert told("sys.modules['torch'] = sys") == {}  # which takes seconds to load


@pytest.mark.skipif(sys.platform != "linux", reason="GNU's OpenMP, which reads GOMP_SPINCOUNT, comes with Linux")
def test_pytorch_for_linux_reads_what_it_is_told():
    """GNU's OpenMP shows its settings when it is loaded: with PyTorch, and not before."""
    kept = {key: value for key, value in os.environ.items() if key not in WAITING}
    code = "from accel.threads import wait_briefly; wait_briefly(); import torch"
    command = [sys.executable, "-c", code]
    done = subprocess.run(
        command, env=kept | {"OMP_DISPLAY_ENV": "verbose"}, capture_output=True, text=True, timeout=120, check=True
    )
    if "GOMP_SPINCOUNT" not in done.stderr:
        pytest.skip("this PyTorch brings another OpenMP")
    assert f"GOMP_SPINCOUNT = '{SPINS}'" in done.stderr


def test_cores_are_those_this_process_may_use(monkeypatch):
    assert 1 <= usable_cores() <= os.cpu_count()
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {3}, raising=False)
    assert usable_cores() == 1
    monkeypatch.delattr(os, "sched_getaffinity")
    assert usable_cores() == os.cpu_count()  # as on macOS, which cannot say


def place(folder, path, text):
    file = folder / path
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)


@pytest.mark.parametrize(
    ("files", "quota"),
    [
        ({}, None),
        ({"proc/self/cgroup": "0::/a/b\n", "sys/fs/cgroup/a/b/cpu.max": "150000 100000\n"}, 1.5),
        ({"proc/self/cgroup": "0::/a/b\n", "sys/fs/cgroup/a/b/cpu.max": "max 100000\n"}, None),
        # a group around it grants less
        (
            {
                "proc/self/cgroup": "0::/a/b\n",
                "sys/fs/cgroup/a/b/cpu.max": "400000 100000",
                "sys/fs/cgroup/a/cpu.max": "300000 100000",
            },
            3,
        ),
        # inside a container, whose own group is mounted as the top one
        ({"proc/self/cgroup": "0::/docker/1\n", "sys/fs/cgroup/cpu.max": "200000 100000"}, 2),
        (
            {
                "proc/self/cgroup": "4:memory:/m\n2:cpu,cpuacct:/docker/1\n0::/\n",
                "sys/fs/cgroup/cpu,cpuacct/docker/1/cpu.cfs_quota_us": "50000\n",
                "sys/fs/cgroup/cpu,cpuacct/docker/1/cpu.cfs_period_us": "100000\n",
            },
            0.5,
        ),
        (
            {
                "proc/self/cgroup": "1:cpu:/\n",
                "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1\n",
                "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n",
            },
            None,
        ),
    ],
)
def test_the_quota_of_a_container_is_read(tmp_path, files, quota):
    for path, text in files.items():
        place(tmp_path, path, text)
    assert cgroup_quota(tmp_path) == quota


def test_of_two_threads_of_a_core_one_counts_and_slow_cores_do_not(tmp_path):
    for core, pair in enumerate(["0-1", "0-1", "2-3", "2-3", "4", "5"]):
        place(tmp_path, f"sys/devices/system/cpu/cpu{core}/topology/thread_siblings_list", f"{pair}\n")
    everything = list(range(6))
    assert _fast_cores(everything, tmp_path) == [0, 2, 4, 5]
    place(tmp_path, "sys/devices/cpu_atom/cpus", "4-5\n")  # as Intel's driver lists them
    assert _fast_cores(everything, tmp_path) == [0, 2]
    assert _fast_cores([4, 5], tmp_path) == [4, 5]  # bound to the slow ones


def test_slow_cores_of_arm_are_known_by_their_capacity(tmp_path):
    for core, capacity in enumerate([446, 446, 1024, 980]):
        place(tmp_path, f"sys/devices/system/cpu/cpu{core}/cpu_capacity", f"{capacity}\n")
    assert _fast_cores([0, 1, 2, 3], tmp_path) == [2, 3]


@pytest.fixture
def four_cores(monkeypatch):
    for name in (OWN, OPENMP, SLURM):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("accel.threads._chosen", None)
    monkeypatch.setattr("accel.threads.cgroup_quota", lambda: None)
    monkeypatch.setattr("accel.threads._fast_cores", lambda cores: cores)
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {0, 1, 2, 3}, raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 4)


def test_what_allows_least_decides_the_number_of_threads(four_cores, monkeypatch):
    assert str(threads()) == "4 threads (one for each core)"
    monkeypatch.setenv(SLURM, "3")
    assert str(threads()) == "3 threads (SLURM_CPUS_PER_TASK)" and usable_cores() == 3
    monkeypatch.setattr("accel.threads.cgroup_quota", lambda: 1.5)
    assert str(threads()) == "1 thread (this container may use 1.5 cores)" and usable_cores() == 1
    monkeypatch.setenv(OPENMP, "6,2")
    assert str(threads()) == "6 threads (OMP_NUM_THREADS)"
    monkeypatch.setenv(OWN, "5")
    assert str(threads()) == "5 threads (ACCEL_THREADS)"
    monkeypatch.setenv(OWN, "many")
    with pytest.raises(ValueError, match="ACCEL_THREADS many: expected a number of threads from 1 to 1024"):
        threads()


def threads_of_a_command(*arguments, **environment):
    """PyTorch's threads in a command that is given these arguments, and what decided."""
    code = """
import sys
from accel.cli import Parser, add_threads, run
def main():
    parser = Parser("")
    add_threads(parser)
    parser.parse_args(sys.argv[1:])
    import torch
    from accel.threads import threads
    print(torch.get_num_threads(), threads())
run(main)
"""
    kept = {key: value for key, value in os.environ.items() if key not in (OWN, OPENMP, SLURM)}
    command = [sys.executable, "-c", code, *arguments]
    done = subprocess.run(command, env=kept | environment, capture_output=True, text=True, timeout=120)
    return done.stdout.strip() or done.stderr.strip()


def test_a_command_computes_with_the_threads_that_it_is_told():
    assert threads_of_a_command("--threads", "1", ACCEL_THREADS="2") == "1 1 thread (--threads)"
    assert threads_of_a_command(SLURM_CPUS_PER_TASK="1").startswith("1 1 thread")
    assert threads_of_a_command("--threads", "0").startswith("error: --threads 0: expected a number of threads")
    assert threads_of_a_command(ACCEL_THREADS="x").startswith("error: ACCEL_THREADS x: expected a number of threads")


def test_videos_are_read_and_written_with_few_threads(tmp_path, monkeypatch):
    """Left alone, FFmpeg starts one thread for each core to decode and more to encode, which the model waits for."""
    monkeypatch.setattr("accel.threads.usable_cores", lambda: 8)
    assert video_threads() == 2
    path = tmp_path / "video.mp4"
    with VideoWriter(path, 10) as writer:
        writer.write(np.zeros((16, 16, 3), np.uint8))
        assert writer._stream.codec_context.thread_count == 2
    with VideoFileReader(path)._open() as container:
        assert container.streams.video[0].codec_context.thread_count == 2
