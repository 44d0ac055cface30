"""The benchmark: it measures what it says, on a small scale."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from test_optimization import lively, published
from test_video import make

from accel.benchmark.accuracy import optimisation_accuracy
from accel.benchmark.machine import describe_machine
from accel.benchmark.models import benchmark_models, frame_times, profile_model, time_mxnet
from accel.benchmark.operators import benchmark_operators
from accel.benchmark.streams import frames_of, latencies, memory, throughput
from accel.benchmark.timing import interleaved, turns
from accel.datasets.clips import Clip, ClipDataset

CPU = torch.device("cpu")
TOOL = Path(__file__).parents[1] / "tools" / "benchmark.py"


def test_functions_are_timed_in_turns_after_one_to_warm_up():
    called = []
    taken = turns({"a": lambda: called.append("a"), "b": lambda: called.append("b")}, 3, CPU)
    assert called == ["a", "b"] * 4 and {name: len(seconds) for name, seconds in taken.items()} == {"a": 3, "b": 3}


def test_medians_tell_slow_from_fast():
    def wait():
        torch.randn(400, 400) @ torch.randn(400, 400)

    medians = interleaved({"once": wait, "twenty times": lambda: [wait() for _ in range(20)]}, 5, CPU)
    assert medians["twenty times"] > 4 * medians["once"] > 0


def test_a_frame_on_average_is_the_mean_over_an_interval():
    assert frame_times(0.5, 0.1, 5).mean == pytest.approx((0.5 + 4 * 0.1) / 5)


def test_every_operator_has_its_counterpart_beside_it():
    results = benchmark_operators((64, 96), CPU, 2)
    assert {name.split(",")[0] for name in results} == {"warp", "deform_conv", "upsample_argmax"}
    for row in results.values():
        assert row["ratio"] == pytest.approx(row["counterpart_milliseconds"] / row["milliseconds"])


def test_models_are_timed_optimised_and_as_they_are():
    times = benchmark_models({"small": lively(published("published_18"))}, (64, 96), 5, 1, eager=True)
    assert set(times) == {"small", "small, eager float32", "smp DeepLabV3+ ResNet-101, eager float32"}
    assert times["small"].preparation > 0 and all(t.key > 0 and t.current > 0 for t in times.values())


def test_the_profile_names_the_operators_that_take_the_time():
    found = profile_model(make("frame_by_frame").eval(), (64, 96), 2)
    assert set(found) == {"key frame", "current frame"}
    assert any("conv" in name for name in found["key frame"])


def test_streams_are_measured():
    model = make("accel").eval()
    flat = latencies(model, (32, 48), 3, flat=True, frames=12)
    assert flat["slowest"] >= flat["median"] > 0 and flat["frames"] == 12
    rates = throughput(model, (32, 48), 3, frames=4, rounds=1)
    assert set(rates) == {"plain_loop", "stream"} and min(rates.values()) > 0
    assert memory(model, (32, 48), 3, frames=10)["last_megabytes"] > 0


def test_frames_move():
    first, second = frames_of((16, 24), 2)
    assert first.shape == (16, 24, 3) and (first[:, :-2] == second[:, 2:]).all()


class Halves(ClipDataset):
    """Two clips of three frames; class 0 above, 1 below."""

    class_names = ("a", "b", "c", "d", "e")

    def __len__(self):
        return 2

    def history(self, index):
        return 2

    def clip(self, index, length):
        frames = torch.randint(0, 256, (length, 64, 96, 3), dtype=torch.uint8).numpy()
        labels = torch.arange(64).ge(32).byte()[:, None].expand(64, 96).numpy()
        return Clip(frames, labels, None, str(index))


def test_accuracy_of_optimisation_is_measured_on_all_frames_of_the_clips():
    result = optimisation_accuracy(lively(make("deep_feature_flow")), Halves(), 3, 5)
    assert (result["frames_scored"], result["frames_compared"]) == (2, 6)
    assert result["equal_labels"] > 0.9
    with pytest.raises(ValueError, match="no labelled frame of this data set has 4 frames before it"):
        optimisation_accuracy(make("deep_feature_flow"), Halves(), 5, 5)


def test_the_machine_is_described():
    told = describe_machine(CPU)
    assert told["gpu"] is None and told["matrix_gflops"]["float32"] > 0 and told["torch"] == torch.__version__


def test_times_of_the_original_are_read_from_what_it_prints(tmp_path):
    script = tmp_path / "original.py"
    script.write_text("print('accel-18 512x1024 key frame: 4.132 s (median of 2)')\nprint('current frame: 0.735 s')\n")
    assert time_mxnet(f"{sys.executable} {script}") == (4.132, 0.735)
    with pytest.raises(ValueError, match=r"the MXNet command .* failed \(exit code 1\)"):
        time_mxnet(f"{sys.executable} -c 'raise SystemExit(1)'")


def test_the_tool_writes_json_and_tells_mistakes(tmp_path):
    def run(*words):
        return subprocess.run([sys.executable, TOOL, *words], capture_output=True, text=True, check=False)

    out = tmp_path / "speed.json"
    done = run("operators", "--size", "64", "96", "--rounds", "1", "--json", str(out))
    assert done.returncode == 0, done.stderr
    assert json.loads(out.read_text())["operators"]["warp, 1024 channels"]["ratio"] > 0
    wrong = run("operator")
    assert wrong.returncode == 2 and "error: no section 'operator'; there are operators, models" in wrong.stderr
    wrong = run("accuracy")
    assert wrong.returncode == 2 and "give --cfg and --checkpoint" in wrong.stderr
