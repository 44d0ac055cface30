"""From a command line's words to models and data that belong together."""

import re

import pytest
import torch

from accel.evaluation.comparing.comparison import load_comparison, pair_up, run_comparison, whole_numbers
from accel.weights.checkpoints import Description, save_weights


@pytest.mark.parametrize(
    ("text", "numbers"), [("1", (1,)), ("1,2,5", (1, 2, 5)), ("10,1, 3", (1, 3, 10)), ("007", (7,))]
)
def test_whole_numbers_are_read_and_put_in_order(text, numbers):
    assert whole_numbers("--sweep", text) == numbers


@pytest.mark.parametrize("text", ["", "a", "1,,2", "1,b", "0,1", "-1", "1.5", "1;2", ","])
def test_what_is_no_list_of_whole_numbers_is_refused(text):
    with pytest.raises(ValueError, match=r"--sweep .*: expected whole numbers from 1, with commas between them"):
        whole_numbers("--sweep", text)


def test_a_number_that_stands_twice_is_refused():
    with pytest.raises(ValueError, match="--sweep 1,5,1: 1 occurs twice"):
        whole_numbers("--sweep", "1,5,1")


def test_models_are_called_like_their_configurations():
    entries = pair_up(["x/a.yaml", "y/b.yaml"], ["runs/1", "runs/2"])
    assert [(e.name, e.cfg, e.checkpoint) for e in entries] == [
        ("a", "x/a.yaml", "runs/1"),
        ("b", "y/b.yaml", "runs/2"),
    ]


def test_a_configuration_in_a_runs_folder_is_called_like_the_run():
    (entry,) = pair_up(["runs/accel18/config.yaml"], ["runs/accel18"])
    assert entry.name == "accel18"


def test_models_of_one_configuration_are_told_apart_by_their_checkpoints():
    names = [e.name for e in pair_up(["a.yaml", "b.yaml", "a.yaml"], ["runs/1", "runs/2", "runs/3"])]
    assert names == ["a (1)", "b", "a (3)"]
    assert [e.name for e in pair_up(["a.yaml"] * 2, ["x"] * 2, ["old", "new"])] == ["old", "new"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((["a", "b"], ["1"]), "2 --cfg and 1 --checkpoint: a model needs one of each, in order"),
        ((["a", "b"], ["1", "2"], ["x"]), "1 --name for 2 models"),
        ((["a", "a"], ["1", "1"]), r"two models are called 'a \(1\)': tell them apart with --name"),
        ((["a", "b"], ["1", "2"], ["x", "x"]), "two models are called 'x'"),
    ],
)
def test_what_does_not_pair_up_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        pair_up(*arguments)


@pytest.fixture
def untrained(tiny_config, tiny_run, tmp_path):
    """untrained("accel"): the configuration and the weights of a model of this kind."""
    from accel.datasets.cityscapes import CLASS_NAMES, PALETTE
    from accel.models import build_model

    def make(kind):
        torch.manual_seed(0)
        config = tiny_config(kind).model
        path = tmp_path / f"{kind}.safetensors"
        palette = tuple(map(tuple, PALETTE.tolist()))
        save_weights(path, build_model(config), Description(config, CLASS_NAMES, palette, 0))
        return tiny_run(kind)[1], str(path)

    return make


def test_models_and_intervals_come_out_with_all_their_figures(untrained):
    kinds = ("accel", "frame_by_frame")
    cfgs, checkpoints = zip(*map(untrained, kinds), strict=True)
    comparison = load_comparison(pair_up(cfgs, checkpoints), [], None, torch.device("cpu"))
    found = run_comparison(comparison, (1, 3), widths=(1, 4), flow="auto", workers=0)
    assert (found.data, found.split, found.intervals) == ("cityscapes", "val", (1, 3))
    assert [*found.models] == [*kinds] and len(found.class_names) == len(found.palette) == 19
    for results in found.models.values():
        assert [r.interval for r in results] == [1, 3]
        assert [[*r.by_distance] for r in results] == [[0], [0, 1, 2]]
        assert all(r.temporal.flow == "dis" and r.temporal.pairs == 4 * 3 for r in results)
        assert all([*r.accuracy.trimap] == [1, 4] for r in results)
    alike = found.models["frame_by_frame"]
    assert {a.value for a in alike[1].by_distance.values()} == {alike[0].value}
    assert alike[0].temporal == alike[1].temporal
    accel = found.models["accel"]
    assert accel[0].accuracy.miou != accel[1].accuracy.miou and accel[0].temporal != accel[1].temporal


def test_the_data_must_be_the_same_for_all(untrained, tmp_path):
    accel, alone = untrained("accel"), untrained("frame_by_frame")
    other = tmp_path / "other.yaml"
    other.write_text(f"base: {alone[0]}\ndata: {{test_split: train}}\n")
    entries = pair_up([accel[0], str(other)], [accel[1], alone[1]])
    with pytest.raises(
        ValueError, match=r"other.yaml and .*accel.yaml score different data \(data.test_split is train and val\)"
    ):
        load_comparison(entries, [], None, torch.device("cpu"))
    comparison = load_comparison(entries, [], "val", torch.device("cpu"))
    assert [*comparison.models] == ["accel", "other"] and comparison.split == "val"


@pytest.fixture
def with_data(untrained, tmp_path):
    """with_data("{...}", "{...}"): two models' entries, whose configurations have these data settings."""

    def make(*settings):
        cfg, checkpoint = untrained("frame_by_frame")
        for name, data in zip(("a", "b"), settings, strict=True):
            (tmp_path / f"{name}.yaml").write_text(f"base: {cfg}\ndata: {data}\n")
        return pair_up([str(tmp_path / "a.yaml"), str(tmp_path / "b.yaml")], [checkpoint] * 2)

    return make


@pytest.mark.parametrize(
    ("first", "second", "difference"),
    [
        (
            "{simulated_test_frames: 3}",
            "{simulated_test_frames: 3, motion: {pan: 0.02, noise: 0}}",
            "data.motion.pan is 0.02 and 0.005, data.motion.noise is 0.0 and 2.0",
        ),
        (
            "{motion: {pan: 0.02}, simulated_test_frames: 3}",
            "{motion: {pan: 0.01}, simulated_test_frames: 4}",
            "data.simulated_test_frames is 4 and 3, data.motion.pan is 0.01 and 0.02",
        ),
        ("{simulated_test_frames: 3}", "{}", "data.simulated_test_frames is None and 3"),
        (
            "{name: streetscape, size: [64, 128]}",
            "{name: streetscape, snippets: {train: 1, val: 2}}",
            "data.snippets.val is 2 and 20, data.size is (256, 512) and (64, 128)",
        ),
    ],
)
def test_other_clips_are_other_data(with_data, first, second, difference):
    with pytest.raises(ValueError, match=re.escape(f"a.yaml score different data ({difference}): models are")):
        load_comparison(with_data(first, second), [], None, torch.device("cpu"))


def test_the_motion_of_training_clips_changes_nothing_about_the_data(with_data):
    entries = with_data("{motion: {pan: 0.02}, clip_length: 5}", "{}")
    assert [*load_comparison(entries, [], None, torch.device("cpu")).models] == ["a", "b"]
    entries = with_data("{simulated_test_frames: 3, motion: {}}", "{simulated_test_frames: 3}")
    assert [*load_comparison(entries, [], None, torch.device("cpu")).models] == ["a", "b"]


def test_a_result_says_which_clips_were_simulated(with_data):
    entries = with_data("{simulated_test_frames: 2, motion: {pan: 0.02}}", "{}")[:1]
    found = run_comparison(load_comparison(entries, [], None, torch.device("cpu")), (1,), workers=0)
    assert found.simulated["simulated_test_frames"] == 2 and found.simulated["motion.pan"] == 0.02
    stored = ["data.simulated_test_frames=null"]
    assert (
        run_comparison(load_comparison(entries, stored, None, torch.device("cpu")), (1,), workers=0).simulated is None
    )


def test_the_models_own_flow_is_refused_before_anything_is_scored(untrained):
    entries = pair_up(*([x] for x in untrained("frame_by_frame")))
    comparison = load_comparison(entries, [], None, torch.device("cpu"))
    with pytest.raises(ValueError, match="flow model: FrameByFrame has no flow of its own"):
        run_comparison(comparison, (1,), flow="model", workers=0)


def test_optimised_models_of_other_classes_are_scored(untrained, tiny_camvid, monkeypatch):
    monkeypatch.setattr("accel.fast.compilation._compile", lambda part, *_: part)  # it takes a minute
    cfgs, checkpoints = zip(*map(untrained, ("deep_feature_flow", "frame_by_frame")), strict=True)
    where, found = ["data.name=camvid", f"data.root={tiny_camvid}"], []
    for optimize in (False, True):
        comparison = load_comparison(pair_up(cfgs, checkpoints), where, "val", torch.device("cpu"), optimize)
        assert [*comparison.class_maps] == ["deep_feature_flow", "frame_by_frame"]
        found.append(run_comparison(comparison, (1, 3), flow="dis", workers=0))
    assert found[0].class_maps == found[1].class_maps and len(found[1].class_names) == 11
    for name in found[0].models:
        for plain, fast in zip(found[0].models[name], found[1].models[name], strict=True):
            difference = torch.tensor(plain.accuracy.confusion) - torch.tensor(fast.accuracy.confusion)
            assert difference.abs().sum() < 0.02 * torch.tensor(plain.accuracy.confusion).sum()
            assert fast.temporal.pairs == plain.temporal.pairs > 0


def test_a_model_of_classes_that_nothing_leads_to_is_refused(untrained, tiny_config, tmp_path):
    from accel.models import build_model

    cfg, fits = untrained("accel")
    config = tiny_config("accel").model
    names, palette = tuple(f"class {i}" for i in range(19)), ((0, 0, 0),) * 19
    other = tmp_path / "other.safetensors"
    save_weights(other, build_model(config), Description(config, names, palette, 0))
    with pytest.raises(
        ValueError, match=r"other\.safetensors: knows 19 classes \(class 0, .*but the data have 19 \(road"
    ):
        load_comparison(pair_up([cfg, cfg], [fits, str(other)]), [], None, torch.device("cpu"))
