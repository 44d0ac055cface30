"""The benchmark: it measures what it says, on a small scale."""

import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from lightning_fabric import Fabric
from small_models import lively, make, small
from torch.utils.flop_counter import FlopCounterMode

from accel import machine
from accel.benchmark import propagation
from accel.benchmark.accuracy import optimisation_accuracy
from accel.benchmark.expectations import SIZES, Candidate, Row, expectations, instruction_sets_here
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
from accel.benchmark.operators import _sample_attend, benchmark_operators
from accel.benchmark.propagation import MODELS, learning_memory, model_operations, propagation_times
from accel.benchmark.streams import frames_of, latencies, memory, throughput
from accel.benchmark.waiting import Waiting, waiting_times
from accel.clock import interleaved, turns
from accel.datasets.clips import Clip, ClipDataset
from accel.machine import describe_machine
from accel.models import ScoreMap, VideoModel
from accel.training.checkpoints import Checkpoints

CPU = torch.device("cpu")
TOOL = Path(__file__).parents[1] / "tools" / "benchmark.py"


def test_functions_are_timed_in_turns_after_one_to_warm_up():
    called = []
    taken = turns({"a": lambda: called.append("a"), "b": lambda: called.append("b")}, 3, CPU)
    assert called == ["a", "b"] * 4 and {name: len(seconds) for name, seconds in taken.items()} == {"a": 3, "b": 3}


def test_medians_leave_out_the_warm_up_and_what_disturbed_a_call(monkeypatch):
    clock = 0.0

    def taking(*seconds):
        left = iter(seconds)

        def call():
            nonlocal clock
            clock += next(left)

        return call

    monkeypatch.setattr("accel.clock.now", lambda device: clock)
    medians = interleaved({"quick": taking(8, 1, 1, 32), "slow": taking(8, 4, 64, 4)}, 3, CPU)
    assert medians == {"quick": 1, "slow": 4}


def test_a_frame_on_average_is_the_mean_over_an_interval():
    times = FrameTimes.of([0.4, 0.5, 0.9], [0.1, 0.1, 0.1, 0.2], 5)
    assert times.mean == pytest.approx(0.18) and times.frames_per_second == pytest.approx(5.5556, rel=1e-4)
    assert (times.key, times.current, times.p50) == (0.5, 0.1, 0.2)
    assert FrameTimes.of([0.3], [], 5).mean == pytest.approx(0.3)


def test_every_operator_has_its_counterpart_beside_it(monkeypatch):
    """Whose result has the same shape; here it takes seven times as long."""

    def compared(functions, rounds, device):
        assert functions["own"]().shape == functions["other"]().shape
        return {"own": 0.002, "other": 0.014}

    monkeypatch.setattr("accel.benchmark.operators.interleaved", compared)
    results = benchmark_operators((64, 96), CPU, 2)
    assert {name.split(",")[0] for name in results} == {"warp", "deform_conv", "sample_attend", "upsample_argmax"}
    for row in results.values():
        assert row == {"milliseconds": 2, "counterpart_milliseconds": 14, "ratio": pytest.approx(7)}


def test_operators_are_timed_with_their_counterparts():
    assert all(min(row.values()) > 0 for row in benchmark_operators((32, 48), CPU, 1).values())


@pytest.mark.slow
def test_propagations_are_timed_and_their_memory_measured():
    (float32, *_) = propagation_times((64, 96), CPU, 1).values()
    ways = ("Low2High and move", "move", "the operator in it")
    assert set(float32) == {f"learned sampling: {way}" for way in ways} | {"flow: move"}
    assert min(float32.values()) > 0
    small, large = (learning_memory(size, CPU)["float32"] for size in ((64, 96), (512, 1024)))
    # At least the features, what was aligned and mixed, and their gradients: 1024 channels of 2048 cells each.
    assert large["added_megabytes"] > small["added_megabytes"] + 4 * 8 and large["peak_megabytes"] < 1024


def test_operations_of_whole_models_are_those_of_their_parts(monkeypatch):
    name = "ResNet-50, learned sampling, blocks: 2"
    monkeypatch.setattr(propagation, "MODELS", {key: propagation.MODELS[key] for key in (name, next(iter(MODELS)))})
    operations = model_operations()
    row = operations[name]
    head = row["current frame"] - sum(share for part, share in row.items() if part.startswith("of it"))
    assert head == pytest.approx(2 * 512 * (2048 * 256 + 256 * 19) / 1e9, rel=1e-3)  # fc6 and scores of 512 cells
    assert row["later key frame"] - row["key frame"] == pytest.approx(row["of it aggregation"])
    by_flow = next(other for key, other in operations.items() if key != name)
    assert by_flow["key frame"] == row["key frame"] and set(by_flow) == {"key frame", "current frame"}


def test_learned_sampling_is_timed_beside_what_gives_the_same():
    own, counterpart = _sample_attend(32, (9, 14), torch.float32, CPU)
    torch.testing.assert_close(own(), counterpart(), rtol=1e-3, atol=1e-4)


def test_models_are_timed_optimised_and_as_they_are(monkeypatch):
    """TorchInductor, which takes a minute, has tests of its own."""
    monkeypatch.setattr("accel.fast.compilation._compile", lambda part, *_: part)
    contenders = video_contenders("small", lively("published_accel"), (64, 96), torch.float32, eager=True)
    plain, fast = contenders["small, eager float32"], contenders["small"]
    assert fast.preparation > 0 and fast.key_gflop == pytest.approx(plain.key_gflop, rel=0.01)
    assert fast.current_gflop < plain.current_gflop  # what algebra saves
    times = benchmark_models(contenders, 3, 2, CPU, 100.0)
    assert set(times) == {"small", "small, eager float32"} and times["small"].mean > 0


def test_operations_and_seconds_give_the_share_of_the_machines_rate(monkeypatch):
    """10 GFLOP in 4 s, then twice 1 in 1 s: 4 a frame, in 2 s; of a machine that could do 8 in a second."""
    clock = 0.0

    def taking(seconds):
        def call():
            nonlocal clock
            clock += seconds

        return call

    monkeypatch.setattr("accel.clock.now", lambda device: clock)
    times = benchmark_models({"a": Contender(taking(4), taking(1), 10, 1)}, 3, 2, CPU, 8.0)["a"]
    assert (times.key, times.current, times.mean, times.frames_per_second) == (4, 1, 2, 0.5)
    assert (times.gflop, times.share_of_matrix_rate) == (4, 0.25)


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
    model = small("accel").eval()
    cut = model.optimized((32, 48), torch.float32, compile=False, parts=3)
    flat = latencies(cut, (32, 48), 3, flat=True, frames=12)
    assert flat["slowest"] >= flat["p99"] >= flat["p50"] > 0 and flat["frames"] == 12
    rates = throughput(model, (32, 48), 3, frames=4, rounds=1)
    assert set(rates) == {"model_alone", "plain_loop", "stream", "labelled_video"} and min(rates.values()) > 0
    assert memory(model, (32, 48), 3, frames=10)["last_megabytes"] > 0


class Noting(VideoModel):
    """Remembers key frames, and notes what it was asked for."""

    remembers = True

    def __init__(self):
        super().__init__()
        self.asked = []
        self.weight = torch.nn.Parameter(torch.zeros(1))

    def optimized(self, *_):
        return self

    def _labelled(self, kind, image):
        self.asked.append(kind)
        return ScoreMap(torch.zeros(1, 5, *(-(-side // 16) for side in image.shape[2:]))), kind

    def key_frame(self, image, state=None):
        return self._labelled("key" if state is None else "later key", image)

    def next_frame(self, image, state):
        return self._labelled("next", image)


def test_later_key_frames_build_on_those_before():
    """As when a user runs it: see `Segmenter`."""
    model = Noting()
    throughput(model, (32, 48), 2, frames=5, rounds=1)
    assert model.asked == ["key", "next", "later key", "next", "later key"] * 8
    model.asked.clear()
    optimisation_accuracy(model, Halves(), 1, 1)
    assert model.asked == ["key", "key", "later key", "later key"]


@pytest.mark.slow
def test_models_that_remember_have_a_row_for_later_key_frames():
    model = lively("learned_sampling").requires_grad_()
    contenders = video_contenders("small", model, (64, 96), torch.float32, eager=True)
    rows = [n + later for n in ("small", "small, eager float32") for later in ("", ", later key frames")]
    assert sorted(contenders) == sorted(rows)
    first, later = contenders["small"], contenders["small, later key frames"]
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        image = torch.zeros(1, 3, 64, 96)
        features = model.reference.features(image)
        before = counter.get_total_flops()
        model.propagation.update(features, features)
    assert later.key_gflop - first.key_gflop == pytest.approx((counter.get_total_flops() - before) / 1e9)
    assert later.current_gflop == first.current_gflop
    found = profile_model(model, (64, 96), 1, optimised=False)
    assert list(found) == ["key frame", "current frame", "later key frame"]


def test_frames_move():
    first, second = frames_of((16, 24), 2)
    assert first.shape == (16, 24, 3) and (first[:, :-2] == second[:, 2:]).all()


class Halves(ClipDataset):
    """Two clips of three frames; class 0 above, 1 below."""

    class_names = ("a", "b", "c", "d", "e")
    palette = np.zeros((5, 3), np.uint8)

    def __len__(self):
        return 2

    def history(self, index):
        return 2

    def clip(self, index, length):
        frames = torch.randint(0, 256, (length, 64, 96, 3), dtype=torch.uint8).numpy()
        labels = torch.arange(64).ge(32).byte()[:, None].expand(64, 96).numpy()
        return Clip(frames, labels, None, str(index))


@pytest.mark.slow
def test_accuracy_of_optimisation_is_measured_on_all_frames_of_the_clips():
    result = optimisation_accuracy(lively("deep_feature_flow"), Halves(), 3, 5)
    assert (result["frames_scored"], result["frames_compared"]) == (2, 6)
    assert result["equal_labels"] > 0.9 and "no label has" in result["caveats"]
    with pytest.raises(
        ValueError, match="interval 5 needs 4 frames before a labelled one; the longest clip in this data set has 3"
    ):
        optimisation_accuracy(make("deep_feature_flow"), Halves(), 5, 5)


def test_the_machine_is_described():
    told = describe_machine(CPU)
    assert told["gpu"] is None and told["matrix_gflops"]["float32"] > 0
    assert told["versions"]["torch"].split("+")[0] == torch.__version__.split("+")[0]


def test_the_commit_is_that_of_the_checkout_and_of_no_other_project(tmp_path, monkeypatch):
    def git(*words):
        settings = "-c", "user.name=a", "-c", "user.email=a@b"
        done = subprocess.run(["git", *settings, *words], cwd=tmp_path, capture_output=True, text=True, check=True)
        return done.stdout.strip()

    file = tmp_path / "machine.py"
    file.write_text("1")
    monkeypatch.setattr(machine, "__file__", str(file))
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert machine.commit() is None
    git("init", "--quiet")
    git("commit", "--quiet", "--allow-empty", "--message", "another project")
    assert machine.commit() is None
    git("add", file.name)
    git("commit", "--quiet", "--message", "this one")
    assert machine.commit() == git("rev-parse", "--short", "HEAD")
    file.write_text("2")
    assert machine.commit() == git("rev-parse", "--short", "HEAD") + "+"


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


@pytest.mark.slow
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


def test_guarded_and_bare_training_steps_are_timed_side_by_side(tiny_config, monkeypatch):
    """Gradients take 2 s, what the loop does besides 1 s, a checkpoint 5 s."""
    from accel.benchmark import training

    clock = 0

    def costs(owner, name, seconds):
        call = getattr(owner, name)

        def costly(*arguments, **options):
            nonlocal clock
            clock += seconds
            return call(*arguments, **options)

        monkeypatch.setattr(owner, name, costly)

    costs(Fabric, "backward", 2)
    costs(training.Loop, "step", 1)
    costs(Checkpoints, "save", 5)
    monkeypatch.setattr(training, "now", lambda device: clock)
    monkeypatch.setattr(training, "time", SimpleNamespace(monotonic=lambda: clock, process_time=lambda: 3 * clock))
    found = training.training_overhead(
        tiny_config("accel", "train.clip_norm=1", "train.save_every=10"), "cpu", rounds=2
    )
    assert found == {
        "bare_step": 2,
        "step": 3,
        "step_overhead": 0.5,
        "processor_overhead": 0.5,
        "checkpoint": 5,
        "checkpoint_overhead": 0.25,
    }


# --- expectations ---------------------------------------------------------------------------------------------


def test_rows_say_frames_a_second_and_what_company_costs():
    row = Row(2.04, {"idle": [1.0, 9.0, 1.0], "beside 1": [2.0, 2.0]}, {"idle": [0.4, 9, 0.4], "beside 1": [0.8, 0.8]})
    assert row.figures(5) == {
        "preparation_s": 2.0,
        "idle": 5.0,
        "idle, key ms": 400.0,
        "beside 1": 2.5,
        "beside 1, key ms": 800.0,
        "beside 1, times idle": 2.0,
    }
    assert Row(failure="no time left").figures(5)["failure"] == "no time left"


def test_a_processor_is_measured_with_the_instructions_that_it_has():
    assert instruction_sets_here(["avx2", "fma"]) == ["AVX2"]
    assert instruction_sets_here(["avx2", "avx512_bf16", "amx_bf16"]) == ["AVX2", "AVX-512 bf16", "AMX"]


@pytest.mark.slow
def test_a_model_is_measured_beside_busy_processes(monkeypatch):
    """And no model is begun when the time is over; what cannot be had says why."""
    monkeypatch.setitem(SIZES, "480x360", (48, 64))
    wanted = [Candidate("lite", "inductor", "480x360", "AVX2"), Candidate("lite", "tensorrt", "480x360")]
    rows = list(expectations(wanted, 2, 1, ("idle", "beside 1")).values())
    assert rows[0].figures(2)["idle"] > 0 and len(rows[0].intervals["beside 1"]) == 1
    assert "engine 'tensorrt': expected one of" in rows[1].failure
    assert expectations(wanted[:1], 2, 1, seconds=-1)[wanted[0]].failure == "no time left"


# --- waiting --------------------------------------------------------------------------------------------------


def test_settings_of_waiting_are_compared_within_a_round():
    """The machine is twice as slow in the second round, and disturbed in the third."""
    default = Waiting(alone=[0.2, 0.4, 0.3], beside=[1.0, 2.0, 1.0])
    brief = Waiting(alone=[0.22, 0.44, None], beside=[0.5, 1.0, 0.5])
    assert brief.figures(default) == {
        "alone_ms": 330.0,
        "alone_of_default": 1.1,
        "beside_ms": 500.0,
        "beside_of_default": 0.5,
        "rounds": 3,
        "disturbed": 1,
    }
    assert Waiting([None], [1.0]).figures(Waiting([0.1], [1.0]))["alone_of_default"] is None


def test_frames_are_timed_under_each_setting_alone_and_beside_others(monkeypatch):
    monkeypatch.setenv("OMP_WAIT_POLICY", "active")  # the user's: no part of the comparison
    settings = {"default": {}, "passive": {"OMP_WAIT_POLICY": "passive"}}
    times = waiting_times("deeplab-18", (64, 96), rounds=2, optimised=False, sittings=1, settings=settings)
    assert [*times] == ["default", "passive"]
    for waiting in times.values():
        assert len(waiting.alone) == len(waiting.beside) == 2 and min(waiting.beside) > 0


def test_a_process_that_cannot_measure_is_told():
    with pytest.raises(RuntimeError, match="has ended with exit code 1"):
        waiting_times("deeplab-7", (64, 96), rounds=1, settings={"default": {}})
