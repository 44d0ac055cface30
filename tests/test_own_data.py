"""docs/own_data.md, as a stranger types it."""

import json
import re
import shlex
import sys
from pathlib import Path

import numpy as np
import pytest

from accel import commands
from accel.files.images import read_labels

PAGE = (Path(__file__).parents[1] / "docs/own_data.md").read_text(encoding="utf-8")


def typed():
    """The commands of the page, in their order."""
    return [shlex.split(line) for line in re.findall(r"^    accel (.+)$", PAGE, re.M)]


@pytest.fixture
def accel(monkeypatch, tmp_path, capfd):
    """accel("label", ...): the exit code of a command in the test's folder, and what it printed."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("ACCEL_DATA", raising=False)

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["accel", *arguments])
        capfd.readouterr()
        code = 0
        try:
            commands.command()
        except SystemExit as stopped:
            code = stopped.code or 0
        told = capfd.readouterr()
        return code, told.out + told.err

    return run


def make_data():
    (script,) = re.findall(r"```python\n(.+?)```", PAGE, re.S)
    exec(compile(script, "own_data.md", "exec"), {})


def test_the_check_says_what_the_page_says(accel):
    make_data()
    check, *_ = typed()
    code, text = accel(*check)
    assert code == 2 and "'crack' occurs in none of the 48 labels" in text and '"255 = crack"' in text
    (lines,) = re.findall(r"^    (0 = .+\n)    (255 = .+\n)", PAGE, re.M)
    Path("mine/classes.txt").write_text("".join(lines))
    code, text = accel(*check)
    assert code == 0 and text.count("all are fit for training") == 2
    assert len(list(Path("mine").rglob("*.jpg"))) == 60


@pytest.mark.slow
def test_a_stranger_gets_from_photos_to_a_labelled_video(accel):
    make_data()
    check, train, evaluate, label = typed()
    assert accel(*check)[0] == 2
    Path("mine/classes.txt").write_text("0 = background\n255 = crack\n")
    assert accel(*check)[0] == 0
    code, text = accel(*train)
    assert code == 0 and "the best so far" in text, text
    code, text = accel(*evaluate)
    assert code == 0, text
    iou, *_ = map(float, re.search(r"crack +│ +([\d.]+) │ +([\d.]+) │ +([\d.]+) │ +([\d.]+)", text).groups())
    assert iou > 50, text
    code, text = accel(*label)
    assert code == 0 and Path("labelled/video.mp4").is_file(), text
    assert json.loads(Path("labelled/summary.json").read_text())
    labels = [read_labels(path) for path in sorted(Path("labelled/labels").rglob("*.png"))]
    assert len(labels) == 20 and 0.03 < np.mean([each == 1 for each in labels]) < 0.4


def test_the_other_commands_of_the_page_are_understood(accel, tmp_path):
    from accel.config import load_stages
    from accel.config.experiments import EXPERIMENTS, find_experiment

    for line in re.findall(r"`accel train --cfg (\S+) ([^`]+) --resume`", PAGE):
        stages = load_stages(find_experiment(line[0]), line[1].split())
        assert all(str(stage.data.root) == "mine" for stage in stages)
    (own,) = re.findall(r"((?:^    (?:base|init|init_mismatch|output): .+\n)+)", PAGE, re.M)
    (tmp_path / "own.yaml").write_text(re.sub("^ {4}", "", own, flags=re.M).replace("experiments", str(EXPERIMENTS)))
    (stage,) = load_stages(tmp_path / "own.yaml")
    assert stage.init_mismatch == "keep" and stage.model.num_classes == 0
