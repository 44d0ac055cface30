"""OpenMP's threads are told to sleep soon, where that has an effect and the user has not said otherwise."""

import json
import os
import subprocess
import sys

import pytest

from accel.threads import SPINS, WAITING, usable_cores


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
