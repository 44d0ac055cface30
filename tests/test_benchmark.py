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
from accel.benchmark.models import (
    Contender,
    FrameTimes,
    benchmark_models,
    image_contenders,
    peak_memory,
    profile_model,
    time_mxnet,
    video_contenders,
)
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
    times = FrameTimes.of([0.4, 0.5, 0.9], [0.1, 0.1, 0.1, 0.2], 5)
    assert times.mean == pytest.approx((0.5 + 4 * 0.1) / 5) and times.frames_per_second == pytest.approx(1 / times.mean)
    assert (times.key, times.current, times.p50) == (0.5, 0.1, 0.2)
    assert FrameTimes.of([0.3], [], 5).mean == pytest.approx(0.3)


def test_every_operator_has_its_counterpart_beside_it():
    results = benchmark_operators((64, 96), CPU, 2)
    assert {name.split(",")[0] for name in results} == {"warp", "deform_conv", "upsample_argmax"}
    for row in results.values():
        assert row["ratio"] == pytest.approx(row["counterpart_milliseconds"] / row["milliseconds"])


def test_models_are_timed_optimised_and_as_they_are():
    contenders = video_contenders("small", lively(published("published_accel")), (64, 96), torch.float32, eager=True)
    plain, fast = contenders["small, eager float32"], contenders["small"]
    assert fast.preparation > 0 and fast.key_gflop == pytest.approx(plain.key_gflop, rel=0.01)
    assert fast.current_gflop < plain.current_gflop  # what algebra saves
    times = benchmark_models(contenders, 3, 2, CPU, 100.0)
    assert set(times) == {"small", "small, eager float32"}
    assert times["small"].gflop == pytest.approx((fast.key_gflop + 2 * fast.current_gflop) / 3)
    assert times["small"].share_of_matrix_rate == pytest.approx(times["small"].gflop / times["small"].mean / 100)


def test_every_round_has_a_key_frame_and_the_current_ones_of_an_interval():
    called = []
    contenders = {
        "video": Contender(lambda: called.append("k"), lambda: called.append("c")),
        "image": Contender(lambda: called.append("i")),
    }
    benchmark_models(contenders, 3, 1, CPU, 1.0)
    assert called == ["k", "c", "c", "i"] * 2


@pytest.mark.slow
def test_what_a_user_would_otherwise_take_is_timed_eager_and_compiled():
    contenders = image_contenders((64, 96), CPU)
    assert len(contenders) == 4 and all(c.current is None and c.key_gflop > 0 for c in contenders.values())


def test_the_profile_accounts_for_all_time():
    found = profile_model(make("frame_by_frame").eval(), (64, 96), 2, optimised=False)
    assert set(found) == {"key frame", "current frame"}
    assert any("conv" in name for name in found["key frame"])
    assert {"all others", "by the clock"} <= set(found["key frame"]) and peak_memory(CPU) > 0


def test_streams_are_measured():
    model = make("accel").eval()
    flat = latencies(model, (32, 48), 3, flat=True, frames=12)
    assert flat["slowest"] >= flat["p99"] >= flat["p50"] > 0 and flat["frames"] == 12
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
    assert told["gpu"] is None and told["matrix_gflops"]["float32"] > 0
    assert told["versions"]["torch"].split("+")[0] == torch.__version__.split("+")[0]


def test_the_original_is_timed_by_its_own_interpreter(tmp_path):
    python = tmp_path / "python"
    python.write_text('#!/bin/sh\necho \'{"version": "1.9.1", "key": [4, 6], "current": [1, 1]}\'\n')
    python.chmod(0o755)
    version, times = time_mxnet(str(python), tmp_path, (64, 96), 5, 2)
    assert version == "1.9.1" and times.mean == pytest.approx((5 + 4 * 1) / 5)
    with pytest.raises(ValueError, match="--mxnet .*: No module named 'mxnet'"):
        time_mxnet(sys.executable, tmp_path, (64, 96), 5, 2)
    with pytest.raises(ValueError, match="--mxnet nowhere: cannot be run"):
        time_mxnet("nowhere", tmp_path, (64, 96), 5, 2)


def test_the_tool_writes_json_and_tells_mistakes(tmp_path):
    def run(*words):
        return subprocess.run([sys.executable, TOOL, *words], capture_output=True, text=True, check=False)

    out = tmp_path / "speed.json"
    done = run("operators", "--size", "64", "96", "--rounds", "1", "--json", str(out))
    assert done.returncode == 0, done.stderr
    assert json.loads(out.read_text())["operators"]["warp, 1024 channels"]["ratio"] > 0
    for words, told in {
        ("operator",): "no section 'operator'; there are operators, models",
        ("accuracy",): "give --cfg and --checkpoint",
        ("models", "-i", "0"): "interval 0: expected 1 or more",
        ("models", "--rounds", "0"): "rounds 0: expected 1 or more",
        ("models", "--size", "512", "-1"): "size 512 x -1: expected 3 pixels or more a side",
        ("models", "--versions", "accel-19"): "no published network 'accel-19'",
        ("models", "--dtype", "int8"): "dtype 'int8': expected bfloat16",
        ("models", "--mxnet", "python"): "give both --mxnet PYTHON and --symbols FOLDER",
    }.items():
        wrong = run(*words)
        assert wrong.returncode == 2 and told in wrong.stderr, wrong.stderr
