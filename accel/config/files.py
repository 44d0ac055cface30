"""Read YAML files, their `base:` files and `key=value` overrides into an experiment, or into a recipe of several."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from accel.config.experiments import find_experiment
from accel.config.layers import give_way, lay, merge, parse_override
from accel.config.mistakes import first_mistake, shown
from accel.config.sections import Config, ModelConfig, Section
from accel.files.yaml_files import read_yaml

MAX_FILES = 500  # that an experiment or a recipe may have, counting each as often as it is taken in
MAX_DEPTH = 16  # how deep `base:` files and recipes may stand on each other


def load_config(path: str | Path, overrides: Sequence[str] = ()) -> Config:
    """Read one experiment.

    path: YAML file, or the name of one that came with the package (`camvid/accel18`). Its `base:` (one path or a list,
        relative to the file) is read first and overridden.
    overrides: `section.key=value` strings, with values in YAML.

    Raises FileNotFoundError, or ValueError with file and key for anything invalid.
    """
    stages = load_stages(path, overrides)
    if len(stages) != 1:
        raise ValueError(f"{path} is a recipe of {len(stages)} stages; give one of its stages instead")
    return stages[0]


def load_stages(path: str | Path, overrides: Sequence[str] = ()) -> list[Config]:
    """Read an experiment or a recipe. A recipe is a file whose `stages:` lists the experiments to run one after
    another.

    A stage is the path of a file, relative to the recipe, or a configuration written in place, which has an `output`:
    `{base: dff.yaml, seed: 1, output: runs/dff_seed1}`.

    overrides: settings for all stages. A recipe's `output=FOLDER` replaces the folder that contains all its runs, also
        where a stage starts from another.

    Raises the errors of `load_config`. Also raises ValueError for two stages with the same output, and for an override
    of a key that a stage written in place sets itself.
    """
    path = find_experiment(path)
    read: list[Path] = []
    values = _read(path, read)
    if "stages" not in values:
        return [_validate(values, overrides, path)]
    folders = [override for override in overrides if override.startswith("output=")]
    stages = _stages(values, path, [override for override in overrides if override not in folders], read)
    outputs = [stage.output for stage in stages]
    if twice := [output for output in outputs if outputs.count(output) > 1]:
        raise ValueError(f"{path}: two stages have the output {twice[0]}; expected one each")
    if folders and len({output.is_absolute() for output in outputs}) > 1:
        raise ValueError(f"{path}: {folders[-1]}: the outputs of its stages have no common folder")
    return _moved(stages, Path(folders[-1].partition("=")[2])) if folders and stages else stages


def _stages(values: dict, path: Path, overrides: Sequence[str], read: list[Path], depth: int = 0) -> list[Config]:
    """Return the stages of the recipe in `path`. `depth` counts the recipes around it, `read` has the files so far."""
    if depth > MAX_DEPTH:
        raise ValueError(f"{path}: more than {MAX_DEPTH} recipes in each other; do they form a circle?")
    stages = values["stages"]
    if set(values) != {"stages"} or not isinstance(stages, list) or not all(isinstance(s, str | dict) for s in stages):
        raise ValueError(f"{path}: a recipe holds one key, `stages`, a list of configuration files")
    found: list[Config] = []
    for stage in stages:
        if isinstance(stage, dict):
            found.append(_stage_in_place(stage, path, overrides, read))
            continue
        file = path.parent / stage
        inner = _read(file, read)
        if "stages" in inner:
            found += _stages(inner, file, overrides, read, depth + 1)
        else:
            found.append(_validate(inner, overrides, file))
    return found


def _stage_in_place(stage: dict, path: Path, overrides: Sequence[str], read: list[Path]) -> Config:
    if "output" not in stage:  # else it would write where the stage that it is based on does
        raise ValueError(f"{path}: a stage written in place needs an `output` of its own, got {shown(stage)}")
    own = [f"{key}." for key in _dotted(stage)]
    for override in overrides:  # such as the seed: stages that differ in nothing else would become one
        key = f"{override.partition('=')[0]}."
        if any(key.startswith(mine) or mine.startswith(key) for mine in own):
            raise ValueError(f"{path}: {override}: the stage {stage['output']} sets that itself")
    return _validate(_on_bases(stage, path, read), overrides, path, f"{path}, stage {stage['output']}")


def _dotted(values: dict) -> list[str]:
    """Return the keys of nested sections, in the form of overrides."""
    found = []
    for key, value in values.items():
        found += [f"{key}.{below}" for below in _dotted(value)] if isinstance(value, dict) else [str(key)]
    return found


def _moved(stages: list[Config], folder: Path) -> list[Config]:
    """Return the stages with their common folder replaced, in their outputs and in the runs they start from."""
    common = Path(os.path.commonpath([stage.output.parent for stage in stages]))
    places = {str(stage.output): str(folder / stage.output.relative_to(common)) for stage in stages}

    def source(text: str) -> str:
        run, mark, part = text.partition("#")
        return places.get(str(Path(run)), run) + mark + part

    return [
        stage.model_copy(
            update={
                "output": Path(places[str(stage.output)]),
                "init": {part: source(text) for part, text in stage.init.items()},
            }
        )
        for stage in stages
    ]


def dump_config(config: Config) -> str:
    """Return the resolved configuration as YAML that `load_config` can read."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False)


def replace_in_model(config: Config, model: dict[str, Any]) -> Config:
    """Return a configuration with other values in its model section. Raises ValueError if they do not fit."""
    values = config.model_dump()
    values["model"] |= model
    try:
        return Config.model_validate(values)
    except ValidationError as error:
        raise ValueError(first_mistake(error)) from None


def parse_model(values: Any, where: str) -> ModelConfig:
    """Read the model section alone, as stored with weights."""

    class Holder(Section):
        model: ModelConfig

    try:
        model = Holder.model_validate({"model": values}).model
    except ValidationError as error:
        raise ValueError(f"{where}: {first_mistake(error)}") from None
    if not model.num_classes:  # which a configuration leaves to its data
        raise ValueError(f"{where}: model.num_classes: expected 1 or more")
    return model


def _validate(values: dict, overrides: Sequence[str], path: Path, where: str | None = None) -> Config:
    where = f"{where or path} with {' '.join(overrides)}" if overrides else where or str(path)
    layer = [parse_override(override) for override in overrides]
    for override in layer:  # all of them first: two that exclude each other are a mistake
        values = give_way(values, override)
    for override in layer:
        values = merge(values, override)
    values.setdefault("output", f"runs/{path.stem}")
    try:
        return Config.model_validate(values)
    except ValidationError as error:
        raise ValueError(f"{where}: {first_mistake(error)}") from None


def _read(path: Path, read: list[Path], depth: int = 0) -> dict:
    """Read one file over its bases. `read` has the files that were read so far."""
    if depth > MAX_DEPTH:
        raise ValueError(f"{path}: more than {MAX_DEPTH} `base:` files on each other; do they form a circle?")
    if len(read) >= MAX_FILES:
        raise ValueError(f"{path}: more than {MAX_FILES} files for one experiment; do they include each other?")
    read.append(path)
    values = read_yaml(path)
    if not isinstance(values, dict):
        raise ValueError(f"{path}: expected keys and values, found {type(values).__name__}")
    return _on_bases(values, path, read, depth)


def _on_bases(values: dict, path: Path, read: list[Path], depth: int = 0) -> dict:
    """Lay the content of the file `path` over the bases that it names."""
    values = dict(values)
    bases = values.pop("base", [])
    bases = [bases] if isinstance(bases, str) else bases
    if not isinstance(bases, list) or not all(isinstance(base, str) for base in bases):
        raise ValueError(
            f"{path}: base: expected the path of a configuration file or a list of them, got {shown(bases)}"
        )
    merged: dict = {}
    for base in bases:
        merged = lay(merged, _read(path.parent / base, read, depth + 1))
    return lay(merged, values)
