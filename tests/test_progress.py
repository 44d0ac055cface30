"""What a log shows of a running task."""

from accel import progress


def test_the_time_left_after_a_resume_is_that_of_the_steps_of_this_run(monkeypatch):
    now = 0.0
    monkeypatch.setattr(progress.time, "monotonic", lambda: now)
    with progress.console.capture() as printed, progress.bar("run", 1000, before=800) as bar:
        now = 20.0
        bar.update(810)
    assert printed.get() == "run: 810/1000  380 s left\n"
