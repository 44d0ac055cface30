"""The recipes that come with the program can be trained on several devices, or say at once that they cannot."""

import re
import shlex
from pathlib import Path

import pytest

from accel.config import load_stages
from accel.config.experiments import EXPERIMENTS
from accel.training.feeding import share_out

ROOT = Path(__file__).parents[2]
# One clip a step, as in the release; two in the demo, which is made for a small machine.
FOR_FEWER = {"published": 1, "demo": 2}
RECIPES = [
    path.relative_to(EXPERIMENTS)
    for path in sorted(EXPERIMENTS.rglob("*.yaml"))
    if not path.stem.startswith("_") and path.parent.name != "_base_"
]


@pytest.mark.parametrize("recipe", RECIPES, ids=str)
def test_every_stage_can_be_shared_out(recipe):
    for stage in load_stages(EXPERIMENTS / recipe):
        for devices in (1, 2, 4):
            if devices <= FOR_FEWER.get(recipe.parts[0], 4):
                share, parts = share_out(stage, devices)
                assert share * parts * devices == stage.train.batch_size * stage.train.accumulate


def test_the_commands_of_the_pages_can_be_shared_out():
    found = 0
    for page in (ROOT / "README.md", *(ROOT / "docs").glob("*.md")):
        text = re.sub(r" *\\\n *", " ", page.read_text(encoding="utf-8"))
        for line in re.findall(r"(?:accel train|tools/train\.py) [^`\n|]+", text):
            words = shlex.split(line, comments=True)
            cfg = words[words.index("--cfg") + 1] if "--cfg" in words else "CFG"
            given = words[words.index("--devices") + 1] if "--devices" in words else "1"
            devices = int(given) if given.isdigit() else 1  # N, in a text about any number
            if cfg in ("CFG", "CONFIGURATION") or not (EXPERIMENTS.parent / cfg).is_file():
                continue
            found += 1
            for stage in load_stages(EXPERIMENTS.parent / cfg):
                share_out(stage, devices)
    assert found > 3
