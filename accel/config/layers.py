"""Lay nested keys and values over each other: files over their bases, overrides over files."""

from __future__ import annotations

from accel.config.sections import INSTEAD_OF
from accel.files.yaml_files import parse_yaml


def lay(base: dict, over: dict) -> dict:
    """Lay the layer `over` on the layers below it."""
    return merge(give_way(base, over), over)


def give_way(base: dict, over: dict) -> dict:
    """Return `base` without the keys that keys of `over` replace."""
    gone = {INSTEAD_OF.get(key) for key, value in over.items() if value is not None}
    kept = {key: value for key, value in base.items() if key not in gone}
    for key, value in over.items():
        if isinstance(kept.get(key), dict) and isinstance(value, dict):
            kept[key] = give_way(kept[key], value)
    return kept


def merge(base: dict, over: dict) -> dict:
    """Merge `over` into `base`. A section that changes its `name` starts afresh, because it is another thing."""
    merged = dict(base)
    for key, value in over.items():
        old = merged.get(key)
        if isinstance(old, dict) and isinstance(value, dict) and value.get("name", old.get("name")) == old.get("name"):
            merged[key] = merge(old, value)
        else:
            merged[key] = value
    return merged


def parse_override(text: str) -> dict:
    """Return the layer for `section.key=value`, with the value in YAML. Raises ValueError for anything else."""
    key, equals, value = text.partition("=")
    if not equals or not key:
        raise ValueError(f"override {text!r}: expected key=value, such as train.steps=100")
    try:
        parsed = parse_yaml(value)
    except ValueError as error:
        raise ValueError(f"override {text!r}: the value is not valid YAML ({str(error).removeprefix(': ')})") from None
    for part in reversed(key.split(".")):
        parsed = {part: parsed}
    return parsed
