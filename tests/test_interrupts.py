"""Ctrl-C: the first is raised, or waits for what is held; the second ends the process."""

import signal
import subprocess
import sys
import threading
import time
from types import SimpleNamespace

import pytest
from processes import PATIENCE

from accel.interrupts import Interrupts


def ctrl_c():
    signal.raise_signal(signal.SIGINT)


def test_the_first_is_raised_as_ever():
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt), Interrupts():
        ctrl_c()
    assert signal.getsignal(signal.SIGINT) is before


def test_what_is_held_comes_to_its_end():
    done = []
    with Interrupts() as interrupts:
        with pytest.raises(KeyboardInterrupt), interrupts.held():
            ctrl_c()
            done.append(1)
        with interrupts.held():  # it is raised once
            done.append(2)
    assert done == [1, 2]


def test_an_error_in_what_is_held_goes_before():
    with pytest.raises(OSError), Interrupts() as interrupts, interrupts.held():
        ctrl_c()
        raise OSError


def test_a_signal_that_comes_twice_is_one(monkeypatch):
    """`timeout --signal=INT` sends one to the process and one to its group."""
    monkeypatch.setattr("accel.interrupts.time", SimpleNamespace(monotonic=lambda: 7.0))  # however busy the machine
    with Interrupts() as interrupts:
        with pytest.raises(KeyboardInterrupt):
            ctrl_c()
        ctrl_c()
        with interrupts.held():
            ctrl_c()


@pytest.mark.parametrize("held", [False, True])
def test_the_second_ends_the_process_at_once(held):
    code = f"""
import signal, time
from accel.interrupts import SAME, Interrupts

with Interrupts() as interrupts:
    try:
        signal.raise_signal(signal.SIGINT)
    except KeyboardInterrupt:
        pass
    time.sleep(SAME + 0.1)
    if {held}:
        with interrupts.held():
            signal.raise_signal(signal.SIGINT)
    signal.raise_signal(signal.SIGINT)
    print("still here", flush=True)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=PATIENCE)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "interrupted\n")


def test_other_threads_take_no_signals():
    failed = []

    def work():
        try:
            with Interrupts() as interrupts, interrupts.held():
                time.sleep(0)
        except Exception as error:
            failed.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert not failed
