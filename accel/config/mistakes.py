"""Describe what is wrong with a configuration, in one line."""

from __future__ import annotations

from typing import Any

from pydantic import ValidationError

from accel.config.sections import CHOICES


def first_mistake(error: ValidationError) -> str:
    """Return one line about the first mistake."""
    first = error.errors()[0]
    # pydantic puts the chosen `name` of a model, optimizer or loss into the path; the user did not write it there.
    path = [part for i, part in enumerate(first["loc"]) if not (i and first["loc"][i - 1] in CHOICES)]
    path = [part for part in path if "[" not in str(part)]  # nor which of several types was tried
    key = ".".join(map(str, path))
    if first["type"] == "union_tag_invalid":
        return f"{key}.name: unknown {first['ctx']['tag']!r}; there are {first['ctx']['expected_tags']}"
    if first["type"] == "union_tag_not_found":
        return f"{key}.name: Field required"
    message = first["msg"].removeprefix("Value error, ")
    given = first.get("input")
    got = "" if isinstance(given, dict) else f", got {shown(given)}"
    return f"{key}: {message}{got}" if key else f"{message}{got}"


def shown(value: Any) -> str:
    """Return the given value, shortened to fit a line."""
    try:
        text = repr(value)
    except ValueError:  # a number of more than 4,300 digits has none
        return "a number of thousands of digits"
    return text if len(text) <= 200 else f"{text[:200]}..."
