"""The trial of a new machine: every part has its say, whatever happened to those before it."""

import json
import sys

import torch
from small_models import SIZE, enlivened, small

from accel.benchmark.captured_graphs import repeated
from accel.benchmark.first_run import JSON, Part, gpu_parts, run_parts


def python(code, *words):
    return [sys.executable, "-c", code, *words]


def test_results_are_there_after_each_part_whatever_becomes_of_it(tmp_path):
    path = tmp_path / "new" / "results.json"
    write = "import sys; open(sys.argv[1], 'w').write('{\"ms\": 3}')"
    look = f"import json; parts = json.load(open({str(path)!r}))['parts']; assert parts['figures']['outcome'] == 'well'"
    parts = [
        Part("figures", python(write, JSON), 20),
        Part("tests", python("print('1 failed, 20 passed, 3 deselected in 2.0s'); exit(1)"), 20),
        Part("hangs", python("import time; print('so far', flush=True); time.sleep(60)"), 1),
        Part("dies", python("import os; os.abort()"), 20),
        Part("cut off", python("import sys; open(sys.argv[1], 'w').write('{'); exit(3)", JSON), 20),
        Part("needs a program", python(""), 20, needs="no-such-program"),
        Part("sees the others", python(look), 20),
    ]
    found = run_parts(parts, path, {"gpu": "none"}, tmp_path)
    assert json.loads(path.read_text()) == found and found["machine"] == {"gpu": "none"}
    outcomes = {name: part["outcome"] for name, part in found["parts"].items()}
    assert outcomes == {
        "figures": "well",
        "tests": "exit 1",
        "hangs": "stopped after 1 s",
        "dies": "exit -6",
        "cut off": "exit 3",
        "needs a program": "left out: there is no no-such-program",
        "sees the others": "well",
    }
    assert found["parts"]["figures"]["figures"] == {"ms": 3} and found["parts"]["cut off"]["figures"] == "cut off"
    assert found["parts"]["tests"]["tests"] == {"failed": 1, "passed": 20, "deselected": 3}
    assert found["parts"]["hangs"]["printed"] == ["so far"]


def test_the_trial_of_a_gpu_takes_ten_minutes_at_most():
    assert sum(part.seconds for part in gpu_parts()) <= 600


def test_labels_that_change_from_time_to_time_are_found(monkeypatch):
    model = enlivened(small("accel"))
    assert repeated(model, SIZE, 1) == {"frames": 6, "that_differ": 0, "largest_share": 0.0}
    key_frame = model.key_frame

    def disturbed(image, state=None):
        return key_frame(torch.rand(image.shape) * 255, state)

    monkeypatch.setattr(model, "key_frame", disturbed)
    assert repeated(model, SIZE, 1)["that_differ"] > 0
