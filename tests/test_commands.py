"""The command `accel`: what it offers, and that its commands are those of tools/."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from accel import commands
from accel.commands import COMMANDS, HELP, main_of
from accel.config import parse_model
from accel.fast.kept import Kept
from accel.models import build_model
from accel.weights import names
from accel.weights.cards import Accuracy, Card, Times
from accel.weights.checkpoints import Description, save_weights

ROOT = Path(__file__).parents[1]
CONFIG = parse_model(
    {"name": "frame_by_frame", "num_classes": 3, "reference": {"encoder": "resnet18", "head_channels": 8}}, "model"
)
CARD = Card(
    trained_on="stills",
    licence="MIT",
    accuracy=(Accuracy(data="CamVid test", interval=5, measure="mIoU", value=0.615),),
    times=(Times(size=(360, 480), key=20, current=4, machine="2 cores"),),
)


@pytest.fixture
def accel(monkeypatch, tmp_path, capfd):
    """accel("label", ...): runs the command in this process, in the test's folder: its code, output and errors."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(names, "SHIPPED", tmp_path / "shipped")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["accel", *map(str, arguments)])
        code = 0
        try:
            commands.command()
        except SystemExit as stopped:
            code = stopped.code
        out, err = capfd.readouterr()
        return code, out, err

    return run


@pytest.fixture
def weights(tmp_path):
    torch.manual_seed(0)
    path = tmp_path / "model/streets.safetensors"
    save_weights(path, build_model(CONFIG), Description(CONFIG, ("a", "b", "c"), ((9, 9, 9),) * 3, 1, CARD))
    return path


@pytest.mark.parametrize("arguments", [(), ("--help",), ("-h",)])
def test_alone_it_says_what_to_try_first(accel, arguments):
    code, out, err = accel(*arguments)
    assert code == 0 and not err
    tried = re.findall(r"^  accel (\w+)", out, re.M)
    assert len(tried) == 3 and set(tried) <= set(COMMANDS)
    assert all(re.search(rf"^  {name} ", out, re.M) for name in COMMANDS)


def test_a_command_that_is_none_is_one_line(accel):
    assert accel("labl", "x.mp4") == (2, "", "error: no command 'labl'; did you mean 'label'?\n")
    assert accel("zzz")[2] == f"error: no command 'zzz'; there are {', '.join(COMMANDS)}\n"


def test_the_version(accel):
    code, out, _ = accel("--version")
    assert code == 0 and re.fullmatch(r"accel \d+\.\d+\.\d+\S*\n", out)


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_explains_itself(accel, name):
    code, out, _ = accel(name, "--help")
    assert code == 0 and out.startswith(f"usage: accel {name} ") and f"accel {name}" in out.split("\n\n", 1)[1]


@pytest.mark.parametrize("name", ["label", "train"])
def test_a_wrong_argument_is_one_line(accel, name):
    code, _, err = accel(name, "--nonsense", "x")
    assert code == 2 and err.count("\n") == 1 and f"(accel {name} --help lists the arguments)" in err


@pytest.mark.parametrize("tool", ["demo", "train", "evaluate", "benchmark", "convert_weights"])
def test_tools_are_the_same_entries(tool):
    text = (ROOT / "tools" / f"{tool}.py").read_text()
    (name,) = re.findall(r"from accel\.commands\.(\w+) import main", text)
    assert name in COMMANDS and tool.startswith(name) and "run(main)" in text


def test_as_a_module_it_is_the_same():
    done = subprocess.run([sys.executable, "-m", "accel"], capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stdout.startswith(HELP.split("\n")[0])


def test_models_are_listed(accel, weights):
    code, out, _ = accel("models")
    assert code == 0
    for said in ("streets", "model/", "stills", "61.5 (5)", "MIT"):
        assert said in out


def test_without_models_it_says_what_else_there_is(accel):
    code, out, _ = accel("models")
    assert code == 0 and out.startswith("no weights with the package") and "hf://OWNER/NAME" in out


@pytest.mark.parametrize("view", ["panels", "overlay", "labels"])
def test_a_video_is_labelled_by_the_name_of_a_model(accel, weights, tmp_path, view):
    import numpy as np

    from accel.video.opening import open_video
    from accel.video.writer import VideoWriter

    with VideoWriter(tmp_path / "drive.mp4", 10) as video:
        for number in range(3):
            video.write(np.full((64, 96, 3), 60 * number, np.uint8))
    code, out, err = accel("label", "drive.mp4", "--model", "streets", "--view", view, "--device", "cpu")
    assert code == 0, err
    assert "model: model/streets.safetensors" in out and "one frame in 5 is a key frame" in out
    assert len(list((tmp_path / "output/drive.mp4/labels").iterdir())) == 3
    with open_video(tmp_path / "output/drive.mp4/video.mp4") as video:
        shape = next(iter(video)).shape
    assert shape[1] > 3 * 96 if view == "panels" else 96 <= shape[1] < 2 * 96


def test_a_name_that_is_nowhere_is_one_line(accel, weights, tmp_path):
    (tmp_path / "drive.mp4").write_bytes(b"no video")
    code, _, err = accel("label", "nosuch.mp4", "--model", "streets")
    assert (code, err) == (2, "error: nosuch.mp4: no such video file or folder\n")


def test_kept_networks_are_listed_and_cleared(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("ACCEL_CACHE", str(tmp_path))
    Kept(tmp_path).add("a", "Accel at 32x48, float32", lambda folder: (folder / "0").write_bytes(bytes(2_000_000)))
    main_of("cache")([])
    said = capsys.readouterr().out
    assert "2.0 MB" in said and "Accel at 32x48, float32" in said and "of 4000.0 MB" in said
    main_of("cache")(["--clear"])
    assert "removed 2.0 MB" in capsys.readouterr().out and list(tmp_path.iterdir()) == []
    monkeypatch.setenv("ACCEL_CACHE", "off")
    main_of("cache")([])
    assert "no networks are kept" in capsys.readouterr().out
