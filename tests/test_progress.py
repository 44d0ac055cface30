"""What a log shows of a running task."""

import io

from accel import progress


def test_the_time_left_after_a_resume_is_that_of_the_steps_of_this_run(monkeypatch):
    now, out = 0.0, io.StringIO()
    monkeypatch.setattr(progress.time, "monotonic", lambda: now)
    monkeypatch.setattr(progress.console, "file", out)
    with progress.bar("run", 1000, before=800) as bar:
        now = 20.0
        bar.update(810)
    assert out.getvalue() == "run: 810/1000  380 s left\n"
