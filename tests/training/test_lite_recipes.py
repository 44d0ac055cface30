"""The recipes of the weights that come with the program: their stages fit one another."""

from pathlib import Path

import pytest

from accel.config import load_stages, without_pretrained
from accel.models import build_model
from accel.weights.checkpoints import Description, load_parts, save_weights

EXPERIMENTS = Path(__file__).parents[2] / "experiments"


@pytest.fixture(scope="module")
def stages():
    return load_stages(EXPERIMENTS / "camvid_lite/all.yaml")


@pytest.mark.parametrize("recipe", ["camvid_lite", "scenes_lite"])
def test_each_stage_starts_from_weights_that_fit(recipe, tmp_path, monkeypatch):
    """Those of the first seed; the others differ in the names of runs alone."""
    monkeypatch.chdir(tmp_path)
    for config in (s for s in load_stages(EXPERIMENTS / recipe / "all.yaml") if "seed" not in s.output.name):
        model = build_model(without_pretrained(config.model))
        load_parts(model, config.init)
        classes = config.model.num_classes
        description = Description(config.model, ("a",) * classes, ((0, 0, 0),) * classes, 1)
        save_weights(config.output / "weights.safetensors", model, description)


def test_all_other_seeds_are_trained_as_the_first(stages):
    first = {stage.output.name: stage for stage in stages if "seed" not in stage.output.name}
    others = [stage for stage in stages if "seed" in stage.output.name]
    assert len(others) == 8
    for config in others:
        name, _, seed = config.output.name.partition("_seed")
        init = {part: source.replace(f"_seed{seed}", "") for part, source in config.init.items()}
        same = config.model_copy(update={"seed": 0, "output": first[name].output, "init": init})
        assert same == first[name] and config.seed == int(seed)


def test_models_are_trained_on_the_stills_and_chosen_on_those_held_out(stages):
    for config in stages:
        assert config.data.train_split == "train/fit"
        assert config.train.validation is None or config.train.validation.split == "train/held"
