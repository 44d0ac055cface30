"""Configurations: files on files, overrides, and what is said about mistakes."""

from pathlib import Path

import pytest
import yaml
from pydantic import ValidationError

from accel.config import MotionConfig, TrainConfig, dump_config, load_config, load_stages
from accel.training.run_folder import check_starts

EXPERIMENTS = sorted((Path(__file__).resolve().parents[1] / "experiments").glob("*/*.yaml"))

WHOLE = """
model: {name: frame_by_frame, num_classes: 19, reference: {encoder: resnet18}}
data: {name: cityscapes}
train: {steps: 10, batch_size: 2, optimizer: {name: sgd, lr: 0.01}}
"""


@pytest.fixture
def write(tmp_path):
    """write(name, text): a file in the test's folder."""

    def write(name, text):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return path

    return write


def test_a_file_gives_typed_settings(write):
    config = load_config(write("run.yaml", WHOLE))
    assert config.train.optimizer.lr == 0.01 and config.train.optimizer.momentum == 0.9
    assert config.model.reference.encoder == "resnet18" and not config.model.reference.pretrained
    assert config.output == Path("runs/run")


def test_the_experiments_load():
    experiments = [path for path in EXPERIMENTS if not path.stem.startswith("_") and path.parent.name != "_base_"]
    assert len(experiments) > 20
    for path in experiments:
        own = {"folder": (2,), "own_boxes": (1,), "camvid_boxes": (3,)}
        own |= {"streetscape_vid": (6,), "streetscape_faster": (6,)}
        counts = own.get(path.parent.name, (30,) if path.parent.name.endswith(("rfcn", "rcnn")) else (11, 19))
        assert all(stage.model.num_classes in counts for stage in load_stages(path)), path


@pytest.mark.parametrize("name", ["experiments/camvid/accel18.yaml", "camvid/accel18.yaml", "camvid/accel18"])
def test_the_experiments_are_found_by_name_from_anywhere(write, tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    there = next(path for path in EXPERIMENTS if path.parts[-2:] == ("camvid", "accel18.yaml"))
    assert load_config(name) == load_config(there.resolve())
    write(name, WHOLE)  # a file of one's own comes first
    assert load_config(name).data.name == "cityscapes"


@pytest.mark.parametrize("name", ["camvid/accel180", "experiments", "../experiments/camvid/accel18.yaml"])
def test_what_is_neither_a_file_nor_the_name_of_an_experiment_is_named(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError, match=f"no configuration file {name}"):
        load_config(name)


def test_recipes_start_from_nothing(tmp_path, monkeypatch):
    recipes = [path.resolve() for path in EXPERIMENTS if "stages" in yaml.safe_load(path.read_text())]
    assert len(recipes) > 10
    monkeypatch.chdir(tmp_path)
    for path in recipes:
        check_starts(load_stages(path))


def test_what_is_written_beside_a_run_reads_back(write):
    for path in EXPERIMENTS:
        if path.parent.name != "_base_" and not path.stem.startswith("_"):
            for stage in load_stages(path):
                assert load_config(write("again.yaml", dump_config(stage))) == stage


def test_a_base_is_overridden_key_by_key(write):
    write("base/one.yaml", WHOLE)
    write("base/two.yaml", "base: one.yaml\ntrain: {steps: 20, optimizer: {lr: 0.5}}")
    config = load_config(write("run.yaml", "base: base/two.yaml\ntrain: {batch_size: 7}"))
    assert (config.train.steps, config.train.batch_size) == (20, 7)
    assert (config.train.optimizer.name, config.train.optimizer.lr) == ("sgd", 0.5)


def test_of_two_bases_the_later_counts(write):
    write("one.yaml", WHOLE)
    write("two.yaml", "train: {steps: 20}")
    assert load_config(write("run.yaml", "base: [one.yaml, two.yaml]")).train.steps == 20


def test_a_section_that_changes_its_name_starts_afresh(write):
    """AdamW must not inherit SGD's momentum, which it does not know."""
    path = write("run.yaml", WHOLE.replace("lr: 0.01", "lr: 0.01, momentum: 0.5"))
    config = load_config(path, ["train.optimizer={name: adamw, lr: 0.1}"])
    assert (config.train.optimizer.name, config.train.optimizer.lr) == ("adamw", 0.1)


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("train.steps=123", 123),
        ("train.steps='123'", 123),
        ("train={steps: 123}", 123),
    ],
)
def test_overrides_are_yaml(write, override, expected):
    assert load_config(write("run.yaml", WHOLE), [override]).train.steps == expected


def test_the_last_override_counts_and_all_are_applied(write):
    config = load_config(write("run.yaml", WHOLE), ["seed=1", "train.steps=3", "seed=2", "output=elsewhere"])
    assert (config.seed, config.train.steps, config.output) == (2, 3, Path("elsewhere"))


def test_lists_and_sections_can_be_overridden(write):
    config = load_config(
        write("run.yaml", WHOLE), ["data.augmentation.crop=[32, 64]", "train.freeze=[reference]", "data.motion={}"]
    )
    assert config.data.augmentation.crop == (32, 64) and config.train.freeze == ("reference",)
    assert config.data.motion == MotionConfig()


def test_motion_means_what_the_data_set_says():
    """The two lists of settings are one."""
    import inspect

    from accel.datasets.simulation.motion import SimulatedMotion

    known = inspect.signature(SimulatedMotion).parameters
    assert set(MotionConfig.model_fields) <= set(known)
    for key, field in MotionConfig.model_fields.items():
        if known[key].default is not inspect.Parameter.empty:
            assert known[key].default == field.default, key


PROPAGATING = WHOLE.replace("frame_by_frame", "deep_feature_flow")
SAMPLING = "model.propagation={name: learned_sampling, radius: 2}"


def test_features_are_propagated_by_flow_unless_another_way_is_named(write):
    path = write("run.yaml", PROPAGATING)
    by_flow, by_sampling = load_config(path), load_config(path, [SAMPLING])
    assert by_flow.model.propagation is None and by_flow.model.flow.width == 1
    assert by_sampling.model.propagation.radius == 2 and by_sampling.model.propagation.embedding == 256
    for config in (by_flow, by_sampling):
        assert load_config(write("again.yaml", dump_config(config))) == config


def test_what_is_written_says_one_way_of_propagation(write):
    """Runs from before there were two read as they did."""
    path = write("run.yaml", PROPAGATING)
    by_flow = yaml.safe_load(dump_config(load_config(path)))["model"]
    assert list(by_flow) == ["name", "num_classes", "reference", "flow"]
    assert list(by_flow["flow"]) == ["name", "width"]
    by_sampling = yaml.safe_load(dump_config(load_config(path, [SAMPLING])))["model"]
    assert list(by_sampling) == ["name", "num_classes", "reference", "propagation"]


BY_FLOW = PROPAGATING.replace("resnet18}", "resnet18}, flow: {width: 0.5}")


def test_learned_sampling_is_a_config_line_away_from_flow(write):
    write("flow.yaml", BY_FLOW)
    by_line = load_config(write("sampling.yaml", "base: flow.yaml\nmodel: {propagation: {name: learned_sampling}}"))
    by_override = load_config(write("run.yaml", BY_FLOW), ["model.propagation={name: learned_sampling}"])
    assert by_line.model == by_override.model and by_line.model.propagation.embedding == 256
    back = load_config(write("back.yaml", "base: sampling.yaml\nmodel: {flow: {width: 0.25}}"))
    assert back.model.propagation is None and back.model.flow.width == 0.25
    assert load_config(write("same.yaml", "base: flow.yaml\nmodel: {propagation: null}")).model.flow.width == 0.5
    finer = load_config(write("finer.yaml", "base: sampling.yaml"), ["model.propagation.radius=2"])
    assert (finer.model.propagation.radius, finer.model.propagation.name) == (2, "learned_sampling")


def test_the_demos_flow_gives_way_to_learned_sampling():
    demo = next(path for path in EXPERIMENTS if (path.parent.name, path.stem) == ("demo", "dff"))
    assert load_config(demo).model.flow.width == 0.5
    assert load_config(demo, ["model.propagation={name: learned_sampling}"]).model.propagation.radius == 4


@pytest.mark.parametrize("overrides", [[SAMPLING, "model.flow.width=0.5"], ["model.flow.width=0.5", SAMPLING]])
def test_two_ways_of_propagation_at_once_are_refused(write, overrides):
    told = r"model: `propagation: learned_sampling` replaces `flow`; leave out"
    for text in (PROPAGATING, BY_FLOW):
        with pytest.raises(ValueError, match=told):
            load_config(write("run.yaml", text), overrides)
    both = BY_FLOW.replace("flow:", "propagation: {name: learned_sampling}, flow:")
    with pytest.raises(ValueError, match=told):
        load_config(write("run.yaml", both))


def test_settings_are_read_only(write):
    with pytest.raises(ValidationError, match="frozen"):
        load_config(write("run.yaml", WHOLE)).seed = 3


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("model.propagation={name: learned_sampling}", ["unknown key 'propagation'"]),
        ("train.stepz=3", ["train", "unknown key 'stepz'", "did you mean 'steps'?"]),
        ("train.optimizer.momentun=0.5", ["train.optimizer: ", "did you mean 'momentum'?"]),
        ("model.reference.encodr=resnet18", ["model.reference: ", "did you mean 'encoder'?"]),
        ("modle=3", ["did you mean 'model'?"]),
        ("xyz=3", ["unknown key 'xyz'", "known: model, data, train"]),
        ("model.name=accell", ["model.name: unknown 'accell'", "'frame_by_frame', 'deep_feature_flow', 'accel'"]),
        ("train.optimizer.name=adam", ["train.optimizer.name: unknown 'adam'", "'sgd', 'adamw'"]),
        ("train.loss={threshold: 0.5}", ["train.loss.name: Field required"]),
        ("train.loss={name: cross_entropy, class_weights: [1, 2]}", ["train.loss.class_weights: 2 weights", "19"]),
        ("train.loss={name: cross_entropy, class_weights: [1, -2]}", ["train.loss.class_weights.1", "-2"]),
        (
            "data.name=kitti",
            [
                "data.name",
                "'folder', 'coco', 'voc', 'imagenet_vid', 'streetscape_vid' or 'camvid_boxes'",
                "got 'kitti'",
            ],
        ),
        ("train.steps=0", ["train.steps", "greater than or equal to 1", "got 0"]),
        ("train.steps=abc", ["train.steps", "valid integer", "got 'abc'"]),
        ("train.steps=", ["train.steps", "valid integer"]),
        ("train.optimizer.lr=-1", ["train.optimizer.lr", "greater than 0", "got -1"]),
        ("train.optimizer.lr=.nan", ["train.optimizer.lr", "finite"]),
        ("model.num_classes=256", ["model.num_classes", "less than or equal to 255"]),
        ("data.augmentation.crop=[32]", ["data.augmentation.crop"]),
        ("train=3", ["train", "got 3"]),
        ("model=3", ["model", "got 3"]),
        ("train.freeze=reference", ["train.freeze", "got 'reference'"]),
        ("init={all: a, reference: b}", ["init", "must be the only key"]),
        ("train.steps", ["'train.steps'", "expected key=value"]),
        ("=3", ["'=3'", "expected key=value"]),
        ("train.steps=[", ["'train.steps=['", "not valid YAML"]),
    ],
)
def test_a_mistake_is_one_line_with_the_key_and_what_was_found(write, override, words):
    path = write("run.yaml", WHOLE)
    with pytest.raises(ValueError) as error:
        load_config(path, [override])
    message = str(error.value)
    assert "\n" not in message
    assert all(word in message for word in words), message
    assert override.partition("=")[0] in message


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ("{name: learned}", ["model.propagation.name", "'learned_sampling'", "got 'learned'"]),
        ("{radius: 4}", ["model.propagation.name: Field required"]),
        ("{name: learned_sampling, radius: -1}", ["model.propagation.radius", "greater than or equal to 0", "got -1"]),
        (
            "{name: learned_sampling, offsets: ring}",
            ["model.propagation.offsets", "'grid' or 'gaussian'", "got 'ring'"],
        ),
        ("{name: learned_sampling, update_ratio: 2}", ["model.propagation.update_ratio", "less than or equal to 1"]),
        ("{name: learned_sampling, pretrained: true}", ["model.propagation: `pretrained` belongs to an `encoder`"]),
        ("{name: learned_sampling, width: 2}", ["model.propagation", "unknown key 'width'"]),
    ],
)
def test_a_mistake_in_the_propagation_is_named(write, settings, words):
    with pytest.raises(ValueError) as error:
        load_config(write("run.yaml", PROPAGATING), [f"model.propagation={settings}"])
    assert all(word in str(error.value) for word in words), str(error.value)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (WHOLE.replace("steps: 10, ", ""), ["train.steps: Field required"]),
        ("train: {steps: 1", ["line 1", "not valid YAML"]),
        ("a: 1\n\tb: 2", ["line 2", "not valid YAML"]),
        (WHOLE + "seed: 1\nseed: 2", ["'seed' occurs twice"]),
        (WHOLE + "3: 4", ["key 3 is not text"]),
        ("- 1", ["expected keys and values, found list"]),
        ("", ["expected keys and values, found NoneType"]),
        ("base: run.yaml", ["circle"]),
        ("base: 3", ["base: expected the path", "got 3"]),
        ("base: [3]", ["base: expected the path", "got [3]"]),
        ("base:\n" + WHOLE, ["base: expected the path", "got None"]),
        (WHOLE + "seed: .inf", ["seed"]),
        ("base: a.yaml\ntrain: {clip_norm: .inf}", ["train.clip_norm", "finite"]),
        ("stages: [run.yaml]", ["circle"]),
        ("stages: run.yaml", ["a list of configuration files"]),
        ("stages: [1]", ["a list of configuration files"]),
        ("stages: [a.yaml]\nseed: 3", ["a recipe holds one key"]),
        ("stages: [{base: a.yaml, seed: 1}]", ["written in place needs an `output` of its own", "seed"]),
        ("stages: [{base: run.yaml, output: runs/a}]", ["stage runs/a", "stages"]),
        ("stages: [{base: a.yaml, output: runs/a, train: {step: 3}}]", ["stage runs/a: train: unknown key 'step'"]),
        ("stages: [a.yaml, {base: a.yaml, output: runs/a}]", ["two stages have the output runs/a"]),
        ("!!python/object/apply:os.getcwd []", ["not valid YAML"]),
        ("[" * 10000, [":"]),
    ],
)
def test_a_damaged_file_is_named(write, text, words):
    write("a.yaml", WHOLE)
    path = write("run.yaml", text)
    with pytest.raises(ValueError) as error:
        load_stages(path)
    message = str(error.value)
    assert "run.yaml" in message and "\n" not in message
    assert all(word in message for word in words), message


@pytest.mark.parametrize("text", ["base: none.yaml", "stages: [none.yaml]"])
def test_a_missing_file_is_named(write, text):
    with pytest.raises(FileNotFoundError, match=r"none\.yaml"):
        load_stages(write("run.yaml", text))


def test_bytes_that_are_no_text_are_refused(tmp_path):
    path = tmp_path / "run.yaml"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ValueError, match=r"run\.yaml: not a readable YAML file"):
        load_config(path)
    with pytest.raises(ValueError, match="not a readable YAML file"):
        load_config(tmp_path)


def test_a_recipe_is_its_stages_in_order_with_the_overrides_in_each(write):
    write("a.yaml", WHOLE)
    write("b.yaml", WHOLE)
    write("inner.yaml", "stages: [b.yaml]")
    recipe = write("recipe.yaml", yaml.safe_dump({"stages": ["a.yaml", "inner.yaml"]}))
    stages = load_stages(recipe, ["seed=5"])
    assert [stage.output.name for stage in stages] == ["a", "b"]
    assert {stage.seed for stage in stages} == {5}
    with pytest.raises(ValueError, match="recipe of 2 stages"):
        load_config(recipe)


def test_a_stage_may_be_written_in_place(write):
    write("a.yaml", WHOLE)
    recipe = write("recipe.yaml", "stages: [a.yaml, {base: a.yaml, seed: 1, output: runs/a_seed1}]")
    first, second = load_stages(recipe, ["train.steps=7"])
    assert (first.seed, second.seed, second.output.name) == (0, 1, "a_seed1")
    assert second.model == first.model and second.train.steps == first.train.steps == 7
    with pytest.raises(ValueError, match=r"recipe\.yaml: seed=5: the stage runs/a_seed1 sets that itself"):
        load_stages(recipe, ["seed=5"])


def test_all_runs_of_a_recipe_can_lie_elsewhere(write):
    write("a.yaml", WHOLE)
    inner = "stages: [{base: a.yaml, output: runs/x/b, init: {all: runs/x/a, }}]"
    write("inner.yaml", inner)
    last = "{base: a.yaml, output: runs/x/y/c, init: {update: 'runs/x/b#reference', flow: runs/other/flow}}"
    recipe = write("recipe.yaml", f"stages: [{{base: a.yaml, output: runs/x/a}}, inner.yaml, {last}]")
    stages = load_stages(recipe, ["output=/far/away"])
    assert [str(stage.output) for stage in stages] == ["/far/away/a", "/far/away/b", "/far/away/y/c"]
    assert stages[1].init == {"all": "/far/away/a"}
    assert stages[2].init == {"update": "/far/away/b#reference", "flow": "runs/other/flow"}


def test_one_key_stretches_the_training_of_all_stages(write):
    write("a.yaml", WHOLE)
    recipe = write("r.yaml", "stages: [a.yaml, {base: a.yaml, output: runs/b, train: {schedule: {warmup_steps: 4}}}]")
    before, after = load_stages(recipe), load_stages(recipe, ["train.stretch=2.5"])
    assert [stage.train.steps for stage in after] == [round(stage.train.steps * 2.5) for stage in before]
    assert after[1].train.schedule.warmup_steps == 10
    assert load_config(write("again.yaml", dump_config(after[0]))) == after[0]
    assert load_config(write("a.yaml", WHOLE), ["train.stretch=0.001"]).train.steps == 1
    values = load_config(write("a.yaml", WHOLE)).train.model_dump() | {"steps": 10}
    assert TrainConfig(**values | {"stretch": 3}).steps == 30
    for wrong in ("0", ".inf", "[]", "x"):
        with pytest.raises(ValueError, match=r"train\.stretch"):
            load_config(write("a.yaml", WHOLE), [f"train.stretch={wrong}"])
