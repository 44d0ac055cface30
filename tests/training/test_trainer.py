"""The training loop and the run's folder."""

from contextlib import nullcontext
from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch
from run_files import curve_of, log_of, weights_of

from accel.config import load_config
from accel.datasets import Batch
from accel.devices import has_bfloat16
from accel.models import build_model
from accel.training import loop, trainer
from accel.training.feeding import from_distance
from accel.training.run_folder import is_done
from accel.training.trainer import train
from accel.weights.checkpoints import describe_weights

STILL = (
    "data.clip_length=1",
    "data.augmentation={crop: null, flip: 0}",
)  # one frame, as it is: the same sample looks the same


def equal(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def stop_at(monkeypatch, step):
    """Training breaks off when it comes to this step."""
    rate = loop.learning_rate

    def fail(at, config):
        if at == step:
            raise KeyboardInterrupt
        return rate(at, config)

    monkeypatch.setattr(loop, "learning_rate", fail)


# --- learning -------------------------------------------------------------------------------------------------


def keep_one_sample(root):
    """Of the training split, only one labelled frame; its labels are the halves of the frame."""
    labels = sorted((root / "gtFine" / "train").rglob("*_gtFine_labelIds.png"))
    for path in (root / "gtFine" / "train").rglob("*.png"):
        if path != labels[0]:
            path.unlink()
    picture = np.full((64, 96), 7, np.uint8)  # road
    picture[:32] = 23  # sky
    cv2.imwrite(str(labels[0]), picture)


@pytest.mark.parametrize(("model", "loss"), [("frame_by_frame", "ohem"), ("accel", "cross_entropy")])
def test_the_loss_falls_on_a_repeated_sample(tiny_config, tiny_cityscapes, model, loss):
    keep_one_sample(tiny_cityscapes)
    length = 1 if model == "frame_by_frame" else 3
    overrides = [f"data.clip_length={length}", "data.augmentation={crop: null, flip: 0}", "train.steps=30"]
    config = tiny_config(model, *overrides, f"train.loss={{name: {loss}}}", "train.optimizer={name: adamw, lr: 1e-2}")
    train(config, "cpu")
    losses = [line["loss"] for line in log_of(config)]
    assert np.mean(losses[-3:]) < 0.5 * losses[0]


def test_bf16_autocast_learns_the_same(tiny_config, tiny_cityscapes, capsys):
    keep_one_sample(tiny_cityscapes)
    settings = ("data.augmentation={crop: null, flip: 0}", "train.steps=3", "train.random_distance=false")
    single = tiny_config("accel", *settings)
    half = tiny_config("accel", *settings, "train.precision=bf16", f"output={single.output}16")
    train(single, "cpu")
    train(half, "cpu")
    a, b = ([line["loss"] for line in log_of(config)] for config in (single, half))
    np.testing.assert_allclose(a, b, rtol=0.05)
    # Where the processor has no bfloat16, training stays in float32, and says so.
    assert (a != b) is has_bfloat16(torch.device("cpu"))
    assert ("no bfloat16 in hardware: training in float32" in capsys.readouterr().out) is (a == b)
    assert {tensor.dtype for tensor in weights_of(half).values()} <= {torch.float32, torch.int64}


def test_accumulated_batches_are_one_larger_batch(tiny_config, monkeypatch):
    """Up to batch normalisation, which sees the smaller batches; here it takes its running statistics."""

    def build(config):
        model = build_model(config)
        for module in model.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.train = lambda mode=True, module=module: module  # stays as it is
                module.training = False
        return model

    monkeypatch.setattr(trainer, "build_model", build)
    settings = ("train.steps=2", "train.optimizer.momentum=0", "train.clip_norm=0.5", "train.random_distance=false")
    one = tiny_config("accel", *settings, "train.batch_size=4")
    parts = tiny_config(
        "accel", *settings, "train.batch_size=1", "train.accumulate=4", f"output={one.output}-accumulated"
    )
    train(one, "cpu")
    train(parts, "cpu")
    before, together, apart = build_and_seed(one), weights_of(one), weights_of(parts)
    assert not equal(before, together)
    for name, after in together.items():
        torch.testing.assert_close(apart[name], after, atol=2e-5, rtol=1e-3, msg=name)
    # Labelled pixels differ in number from clip to clip, so the means differ a little.
    np.testing.assert_allclose(
        [line["loss"] for line in log_of(parts)], [line["loss"] for line in log_of(one)], rtol=1e-2
    )


def build_and_seed(config):
    torch.manual_seed(config.seed)
    return build_model(config.model).state_dict()


def test_frozen_parts_keep_weights_and_batch_norm_statistics(tiny_config):
    config = tiny_config("accel", "train.freeze=[reference, propagation]", "train.steps=2")
    train(config, "cpu")
    before, after = build_and_seed(config), weights_of(config)
    frozen = {name for name in before if name.startswith(("reference.", "propagation."))}
    assert all(torch.equal(before[name], after[name]) for name in frozen)
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert any("update.backbone" in name and "running_mean" in name for name in changed)
    assert {"fusion.correction.weight", "update.fc6.weight"} <= changed


def test_gradients_are_clipped(tiny_config):
    config = tiny_config(
        "frame_by_frame", "data.clip_length=1", "train.steps=1", "train.clip_norm=1e-3",
        "train.optimizer={name: sgd, lr: 1, momentum: 0, weight_decay: 0}",
    )  # fmt: skip
    train(config, "cpu")
    before, after = build_and_seed(config), weights_of(config)
    learnt = [name for name, _ in build_model(config.model).named_parameters()]
    moved = torch.cat([(after[name] - before[name]).flatten() for name in learnt]).norm()
    assert float(moved) == pytest.approx(1e-3, rel=0.02)


def test_a_loss_that_is_no_number_stops_the_run_before_the_weights_do(tiny_config):
    config = tiny_config("frame_by_frame", "data.clip_length=1", "train.optimizer.lr=1e20", "train.steps=20")
    with pytest.raises(ValueError, match=r"the loss became (nan|inf) at step \d+ \(samples .*train\.optimizer\.lr"):
        train(config, "cpu")
    assert not (config.output / "weights.safetensors").exists()


def test_flow_is_learnt_from_generated_scenes(tiny_config, scenes_made_here, tmp_path):
    config = tiny_config(
        "deep_feature_flow",
        f"data={{name: streetscape, root: {tmp_path}/scenes, size: [64, 128], snippets: {{train: 1, val: 1}}}}",
        "data.clip_length=2", "train.loss={name: flow}", "train.freeze=[reference]", "train.steps=2",
        "data.augmentation={crop: [64, 128]}", "train.batch_size=1",
    )  # fmt: skip
    train(config, "cpu")
    before, after = build_and_seed(config), weights_of(config)
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed and all(name.startswith("propagation.flow") for name in changed)
    assert all(np.isfinite(line["loss"]) for line in log_of(config))


# --- from which frame on --------------------------------------------------------------------------------------


def numbered(length):
    frames = torch.arange(length).view(1, length, 1, 1, 1).expand(2, length, 3, 4, 4)
    flow = torch.arange(1, length).view(1, length - 1, 1, 1, 1).expand(2, length - 1, 2, 4, 4).float()
    return Batch(frames, torch.zeros(2, 4, 4), flow, ("a", "b"))


@pytest.mark.parametrize(
    ("settings", "nearest"),
    [
        ((), 0),
        (("train.freeze=[reference.backbone]",), 0),
        (("train.freeze=[reference]",), 1),
        (("train.loss={name: flow}", "data.motion={}"), 1),
    ],
)
def test_the_key_frame_lies_up_to_n_minus_1_frames_before_the_label(tiny_config, settings, nearest):
    config = tiny_config("accel", "data.clip_length=5", *settings)
    counts = np.zeros(6, int)
    for step in range(400):
        batch = from_distance(numbered(5), config, step)
        frames = batch.frames[0, :, 0, 0, 0].tolist()
        assert frames == list(range(frames[0], 5))  # the label's frame stays the last
        assert batch.flow[0, :, 0, 0, 0].tolist() == frames[1:]
        counts[len(frames) - 1] += 1
    assert counts[:nearest].sum() == counts[5] == 0 and counts[nearest:5].min() > 55


def test_around_the_label_its_own_frame_is_as_rare_as_any_other(tiny_config):
    """Clips come from both sides as often: of nine frames, one is the labelled one, and two lie at each distance."""
    config = tiny_config("accel", "data.clip_length=5", "data.key_frames=around")
    lengths = [from_distance(numbered(5), config, step).frames.shape[1] for step in range(900)]
    assert [lengths.count(n) / 900 for n in range(1, 6)] == pytest.approx([1 / 9, 2 / 9, 2 / 9, 2 / 9, 2 / 9], abs=0.05)
    with pytest.raises(ValueError, match="`key_frames: around` takes stored frames"):
        tiny_config("accel", "data.key_frames=around", "data.motion={}")


def test_the_distance_is_the_same_again(tiny_config):
    config = tiny_config("accel", "data.clip_length=5")
    lengths = [[from_distance(numbered(5), config, step).frames.shape[1] for step in range(20)] for _ in range(2)]
    assert lengths[0] == lengths[1]


def test_the_distance_may_be_fixed(tiny_config):
    config = tiny_config("accel", "train.random_distance=false")
    assert {from_distance(numbered(5), config, step).frames.shape[1] for step in range(20)} == {5}
    batch = replace(numbered(1), flow=None)
    assert from_distance(batch, tiny_config("accel"), 0) is batch


# --- the run's folder -----------------------------------------------------------------------------------------


FINISHED = (*STILL, "train.steps=5", "train.log_every=2", "train.save_every=2")


@pytest.fixture
def finished(tiny_config):
    config = tiny_config("frame_by_frame", *FINISHED)
    assert train(config, "cpu") == config.output / "weights.safetensors"
    return config


def test_a_run_leaves_settings_log_curves_and_weights(finished):
    assert sorted(path.name for path in finished.output.iterdir()) == [
        "config.yaml",
        "log.jsonl",
        "sources.json",
        "tensorboard",
        "weights.safetensors",
    ]
    assert load_config(finished.output / "config.yaml") == finished
    log = log_of(finished)
    assert [line["step"] for line in log] == [2, 4, 5]
    assert all({"loss", "lr", "seconds_per_step", "waiting_for_data"} <= line.keys() for line in log)
    assert log[-1]["lr"] == pytest.approx(0.01 * 0.2**0.9)
    steps, losses = zip(*curve_of(finished), strict=True)
    assert steps == (2, 4, 5) and losses == pytest.approx([line["loss"] for line in log])


def test_a_process_that_does_not_log_keeps_no_more_losses_than_the_one_that_does(tiny_config, monkeypatch):
    """Those since the last line of the log, on the others as on the first one."""
    kept = []
    monkeypatch.setattr(trainer, "_log", lambda *_: nullcontext())  # as on the others
    step = loop.Loop.step

    def counted(self, *arguments):
        stop = step(self, *arguments)
        kept.append((len(self.progress.losses), self.total == sum(self.progress.losses)))
        return stop

    monkeypatch.setattr(loop.Loop, "step", counted)
    train(tiny_config("frame_by_frame", *FINISHED), "cpu")
    assert kept == [(1, True), (2, True), (1, True), (2, True), (1, True)]


def test_weights_describe_model_and_classes(finished):
    description = describe_weights(finished.output)
    assert description.model == finished.model and description.step == 5
    assert description.class_names[0] == "road" and len(description.class_names) == 19
    assert description.palette[0] == (128, 64, 128)


def test_a_finished_run_is_left_as_it_is(finished, capsys):
    before = (finished.output / "weights.safetensors").stat().st_mtime_ns
    assert is_done(finished) and not is_done(finished, overwrite=True)
    train(finished, "cpu")
    assert "done before" in capsys.readouterr().out
    assert (finished.output / "weights.safetensors").stat().st_mtime_ns == before


@pytest.mark.parametrize("resume", [False, True])
def test_a_run_with_other_settings_is_not_touched(finished, tiny_config, resume):
    other = tiny_config("frame_by_frame", *FINISHED, "seed=1")
    with pytest.raises(FileExistsError, match=r"other settings \(there: seed: 0; now: seed: 1\).*--overwrite"):
        train(other, "cpu", resume=resume)
    assert is_done(finished)


def test_overwriting_starts_afresh(finished, tiny_config):
    other = tiny_config("frame_by_frame", *STILL, "train.steps=1", "seed=1")
    train(other, "cpu", overwrite=True)
    assert [line["step"] for line in log_of(other)] == [1]
    assert [step for step, _ in curve_of(other)] == [1]
    assert is_done(other)


@pytest.mark.parametrize(
    "mistake", ["data.root=/nowhere", "init={reference: /nowhere}", "train.freeze=[x]", "model.num_classes=3"]
)
def test_overwriting_destroys_nothing_before_the_new_run_can_begin(finished, tiny_config, mistake):
    with pytest.raises((ValueError, FileNotFoundError)):
        train(tiny_config("frame_by_frame", mistake), "cpu", overwrite=True)
    assert is_done(finished)


def test_a_failed_start_leaves_no_folder(tiny_config):
    config = tiny_config("accel", "data.root=/nowhere")
    with pytest.raises(FileNotFoundError):
        train(config, "cpu")
    assert not config.output.exists()


@pytest.mark.parametrize(
    ("model", "optimizer", "length"),
    [("frame_by_frame", "{name: sgd, lr: 0.01}", 1), ("accel", "{name: adamw, lr: 0.001}", 3)],
)
def test_a_resumed_run_ends_like_an_undisturbed_one(tiny_config, monkeypatch, model, optimizer, length):
    settings = (
        f"data.clip_length={length}",
        "train.steps=5",
        "train.save_every=2",
        f"train.optimizer={optimizer}",
        "train.clip_norm=1",
    )
    undisturbed = tiny_config(model, *settings)
    train(undisturbed, "cpu")
    config = tiny_config(model, *settings, f"output={undisturbed.output}-resumed")
    with monkeypatch.context() as patch:
        stop_at(patch, 3)
        with pytest.raises(KeyboardInterrupt):
            train(config, "cpu")
    assert not is_done(config)
    assert [line["step"] for line in log_of(config)] == [1, 2, 3]
    with pytest.raises(FileExistsError, match="unfinished run; --resume"):
        train(config, "cpu")

    train(config, "cpu", resume=True)
    assert equal(weights_of(config), weights_of(undisturbed))
    lines = [[(line["step"], line["loss"], line["lr"]) for line in log_of(c)] for c in (config, undisturbed)]
    assert lines[0] == lines[1]  # step 3, which was lost, is there once
    assert curve_of(config) == curve_of(undisturbed)
    assert not (config.output / "checkpoints").exists()


def test_a_run_that_stopped_before_its_first_save_begins_anew(tiny_config, monkeypatch):
    config = tiny_config("frame_by_frame", *STILL, "train.steps=3")
    with monkeypatch.context() as patch:
        stop_at(patch, 2)
        with pytest.raises(KeyboardInterrupt):
            train(config, "cpu")
    train(config, "cpu", resume=True)
    assert [line["step"] for line in log_of(config)] == [1, 2, 3]


def test_the_same_seed_gives_the_same_weights(tiny_config):
    runs = [
        tiny_config("frame_by_frame", "data.clip_length=1", "train.steps=2", f"seed={seed}", f"output=OUT/{i}")
        for i, seed in enumerate((0, 0, 1))
    ]
    first = tiny_config("frame_by_frame").output
    runs = [config.model_copy(update={"output": first / str(i)}) for i, config in enumerate(runs)]
    for config in runs:
        train(config, "cpu")
    a, b, c = (weights_of(config) for config in runs)
    assert equal(a, b) and not equal(a, c)


# --- stages ---------------------------------------------------------------------------------------------------


def test_a_stage_starts_from_earlier_ones(tiny_config):
    root = tiny_config().output
    single = tiny_config("frame_by_frame", "data.clip_length=1", "train.steps=1", f"output={root}/single")
    train(single, "cpu")
    config = tiny_config(
        "accel",
        f"init={{reference: {single.output}, update: '{single.output}#reference'}}",
        "train.freeze=[reference, update]",
        "train.steps=1",
    )
    train(config, "cpu")
    stored, after = weights_of(single), weights_of(config)
    for name, tensor in stored.items():
        assert torch.equal(after[name], tensor)
        assert torch.equal(after[name.replace("reference.", "update.")], tensor)


# --- mistakes -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["model.num_classes=11"], r"model\.num_classes is 11, but cityscapes has 19 classes"),
        (["train.freeze=[refrence]"], r"train\.freeze: the model has no part 'refrence'; it has reference"),
        (["init={refrence: x}"], "init: the model has no part 'refrence'"),
        (["init={reference: /nowhere}"], r"init\.reference: no run at /nowhere"),
        (["train.lr_multipliers={fuson: 2}"], r"train\.lr_multipliers: .*fuson"),
        (["train.freeze=[reference, propagation, update, fusion]"], "leaves nothing to train"),
        (["train.loss={name: flow}"], "no exact flow"),
        (["data.clip_length=9"], "no clip of 9 frames"),
        (["data.train_split=none"], "no Cityscapes none split at .*expected leftImg8bit_sequence"),
        (["data.augmentation.crop=[0, 3]"], "crop must be"),
        (["data.augmentation.scale=[2, 1]"], "scale must be"),
    ],
)
def test_settings_that_do_not_fit_are_told(tiny_config, overrides, message):
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        train(tiny_config("accel", *overrides), "cpu")


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("damage", ["truncated", "missing", "other size"])
def test_damaged_training_data_stop_the_run_with_one_line_naming_the_file(
    tiny_config, tiny_cityscapes, workers, damage
):
    image = tiny_cityscapes / "leftImg8bit_sequence/train/ulm/ulm_000000_000098_leftImg8bit.png"
    config = tiny_config("frame_by_frame", "data.clip_length=1", f"train.workers={workers}", "train.batch_size=4")
    dataset = trainer.build_training_dataset
    if damage == "truncated":
        image.write_bytes(image.read_bytes()[:1000])
    elif damage == "other size":
        cv2.imwrite(str(image), np.zeros((32, 48, 3), np.uint8))

    def then_missing(*arguments):
        built = dataset(*arguments)
        if damage == "missing":
            image.unlink()
        return built

    with pytest.MonkeyPatch.context() as patch, pytest.raises(ValueError, match=image.name) as error:
        patch.setattr(trainer, "build_training_dataset", then_missing)
        train(config, "cpu")
    assert "\n" not in str(error.value) and "Traceback" not in str(error.value)


@pytest.mark.gpu
def test_a_run_resumes_on_the_gpu(tiny_config, monkeypatch):
    config = tiny_config("accel", "train.steps=4", "train.save_every=2", "train.precision=bf16")
    with monkeypatch.context() as patch:
        stop_at(patch, 3)
        with pytest.raises(KeyboardInterrupt):
            train(config, "cuda")
    train(config, "cuda", resume=True)
    assert [line["step"] for line in log_of(config)] == [1, 2, 3, 4]
    assert is_done(config)
