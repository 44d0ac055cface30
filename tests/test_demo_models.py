"""Which models the demo shows: what came with the program, what the user has, what is trained here; and their table."""

import functools
import json
import shutil
import signal
import threading
import time

import pytest

from accel import demo_models
from accel.config import load_config
from accel.files.digests import sha256_of
from accel.output_folder import LIST
from accel.weights.checksums import write_sums

OF_TEST_SIZE = ["data.snippets={val: 1}", "data.size=[64, 128]", "data.root=data/streetscape"]


@pytest.fixture
def trained(trained_run, scenes_made_here, tool, monkeypatch):
    """The run that the demo's recipe would end in. Scenes are few and small."""
    *_, last = demo_models.load_stages(demo_models.EXPERIMENTS / "demo/demo18.yaml", OF_TEST_SIZE)
    stage = last.model_copy(update={"output": trained_run, "model": load_config(trained_run / "config.yaml").model})
    monkeypatch.setattr(demo_models, "load_stages", lambda _: [stage])
    monkeypatch.setattr(demo_models, "train_demo", lambda version, device: [stage])
    return trained_run


@pytest.fixture
def ship(tmp_path, trained, monkeypatch):
    """ship("NAME"): these weights come with the program."""
    folder = tmp_path / "shipped"
    monkeypatch.setattr("accel.weights.names.SHIPPED", folder)

    def add(name):
        folder.mkdir(exist_ok=True)
        path = folder / f"{name}.safetensors"
        shutil.copy(trained / "weights.safetensors", path)
        write_sums(folder, {each.name: sha256_of(each) for each in folder.glob("*.safetensors")})
        return path

    return add


def test_the_models_that_were_trained_stand_in_one_table(trained, tmp_path, capsys):
    compare = functools.partial(demo_models.compare_demo_models, None, 2, tmp_path / "out", "cpu", train=True)
    compare()
    table = json.loads((tmp_path / "out/table.json").read_text())
    assert table["models"][trained.name]["interval"] == 2 and table["models"][trained.name]["seconds_current"] > 0
    assert table["origin"]["checkpoints"] == {trained.name: str(trained)}
    assert "generated scenes" in capsys.readouterr().out
    compare()  # its own table is replaced
    (tmp_path / "out" / LIST).unlink()
    with pytest.raises(ValueError, match="holds files that no run .*table.json"):
        compare()
    assert json.loads((tmp_path / "out/table.json").read_text())["models"]


def test_what_came_with_the_program_is_shown_without_training(ship, tool, tmp_path, monkeypatch):
    """One file gives the table its four models; the Accel in it labels the snippets."""
    path = ship("accel-lite-scenes")
    monkeypatch.setattr(demo_models, "train_demo", lambda *_: pytest.fail("it trains"))
    assert tool("demo", "--interval", 2, "--num_ex", 1, "--device", "cpu", "--output", "out", "--compare") == 0
    assert json.loads((tmp_path / "out/summary.json").read_text())["origin"]["checkpoints"] == {"model": str(path)}
    models = json.loads((tmp_path / "out/table.json").read_text())["models"]
    assert list(models) == ["reference branch", "update branch", "Deep Feature Flow", "Accel"]
    assert [model["interval"] for model in models.values()] == [1, 1, 2, 2]
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(ValueError, match=r"accel-lite-scenes\.safetensors: damaged"):
        demo_models.compare_demo_models(None, 2, tmp_path / "out", "cpu", train=False)


@pytest.mark.parametrize(("version", "train"), [("18", False), (None, True)])
def test_scenes_are_labelled_by_a_model_trained_here_where_that_is_asked_for(ship, trained, version, train):
    ship("accel-lite-scenes")
    assert demo_models.weights_for_scenes(version, "cpu", train) == trained


def test_video_is_labelled_by_what_came_with_the_program_unless_the_user_has_weights(ship, trained, tmp_path):
    assert demo_models.weights_for_video(None, "cpu") == trained  # nothing came with it
    path = ship("accel-lite-camvid")
    assert demo_models.weights_for_video(None, "cpu") == path
    assert demo_models.weights_for_video("18", "cpu") == trained  # that of this version
    own = tmp_path / "runs/accel18_cityscapes/weights.safetensors"
    own.parent.mkdir(parents=True)
    own.touch()
    assert demo_models.weights_for_video(None, "cpu").resolve() == own


def test_ctrl_c_while_the_demo_trains_is_no_success(tiny_run, tmp_path, monkeypatch, capsys):
    """Training ends in order, with code 0; the demo has not shown anything."""
    stages = demo_models.load_stages(tiny_run("accel")[1], [f"output={tmp_path}/anew", "train.steps=1000"])
    monkeypatch.setattr(demo_models, "load_stages", lambda _: stages)
    main = threading.main_thread().ident

    def interrupt():
        log, deadline = tmp_path / "anew/log.jsonl", time.monotonic() + 60
        while not (log.is_file() and log.read_text()) and time.monotonic() < deadline:
            time.sleep(0.02)
        signal.pthread_kill(main, signal.SIGINT)

    threading.Thread(target=interrupt).start()
    with pytest.raises(KeyboardInterrupt):
        demo_models.train_demo("18", "cpu")
    said = capsys.readouterr().out
    assert "SIGINT: saved; the same command goes on" in said and "--resume" not in said
