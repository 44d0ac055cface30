"""`accel label --manifest`: every video once, each result whole, whatever happens."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from small_runs import KILLER, contents, save_small_model, write_moving

from accel.fleet.folders import UNFINISHED, UnitFolder
from accel.fleet.guard import Guard
from accel.fleet.index import ShardIndex, read_index
from accel.fleet.labelling import Labeller
from accel.fleet.manifest import Shard, find_videos
from accel.fleet.settings import Settings, join_run
from accel.fleet.shard import run_shard
from accel.fleet.starting import settle
from accel.fleet.units import VIDEOS, Row, Unit, read_row
from accel.formats.frame_files import FrameFiles

COUNTS = (7, 12, 5)  # frames of the videos


@pytest.fixture(scope="module")
def weights(tmp_path_factory) -> Path:
    return save_small_model(tmp_path_factory.mktemp("weights") / "small.safetensors")


@pytest.fixture(scope="module")
def videos(tmp_path_factory) -> list[str]:
    folder = tmp_path_factory.mktemp("videos")
    return [str(write_moving(folder / f"{n}.mp4", count, seed=n)) for n, count in enumerate(COUNTS)]


@pytest.fixture
def settings(weights) -> Settings:
    return settle(weights, 5, device="cpu", threads=1)


@pytest.fixture
def killing(tmp_path, monkeypatch) -> None:
    """Other processes die over videos whose name has `killer` in it."""
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text(KILLER)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path / "site"), os.environ.get("PYTHONPATH", "")]))


def test_a_unit_is_labelled_into_a_folder_named_by_its_path(settings, videos, tmp_path):
    unit = Unit(videos[0])
    row = Labeller(settings, tmp_path).label(unit)
    folder = tmp_path / VIDEOS / unit.id
    assert row == read_row(folder) == Row(**json.loads((folder / "result.json").read_text()))
    assert (row.path, row.frames, row.seconds, row.status, row.error) == (videos[0], 7, 7 / 25, "done", "")
    assert row.model.startswith("small@") and len(row.checksum) == 64
    assert sorted(path.name for path in (folder / "labels").iterdir()) == [f"{n:06d}.png" for n in range(7)]
    assert sorted(path.name for path in (tmp_path / VIDEOS).iterdir()) == [UNFINISHED, unit.id]
    assert not any((tmp_path / VIDEOS / UNFINISHED).iterdir())


def test_names_depend_on_the_path_alone_and_tell_videos_of_one_name_apart():
    assert Unit("a/drive 1.mp4").id == Unit("./a//drive 1.mp4").id != Unit("b/drive 1.mp4").id
    assert Unit("a/drive 1.mp4").id.startswith("drive_1.mp4-")
    assert Unit("a.mp4", 10, 20).id == f"{Unit('a.mp4').id}-0000010-0000019"
    assert "/" not in Unit("../..").id and not Unit("/").id.startswith((".", "-"))


def test_a_finished_unit_is_not_labelled_again(settings, videos, tmp_path, monkeypatch):
    labeller = Labeller(settings, tmp_path)
    row = labeller.label(Unit(videos[0]))
    monkeypatch.setattr(labeller, "_run", lambda *_: pytest.fail("labelled again"))
    assert labeller.label(Unit(videos[0])) == row


def test_damaged_and_empty_videos_end_as_failed_rows_with_what_could_be_read(settings, videos, tmp_path):
    cut, empty = tmp_path / "cut.mkv", tmp_path / "empty.mp4"
    whole = Path(write_moving(tmp_path / "long.mkv", 60)).read_bytes()
    cut.write_bytes(whole[: len(whole) // 2])
    empty.touch()
    labeller = Labeller(settings, tmp_path / "out")
    half, none, missing = (labeller.label(Unit(str(path))) for path in (cut, empty, tmp_path / "missing.mp4"))
    assert {half.status, none.status, missing.status} == {"failed"}
    assert 0 < half.frames < 60 and "cut short" in half.error and half.checksum
    assert none.frames == 0 and "0 bytes" in none.error and none.checksum == ""
    assert "no such file" in missing.error
    assert len(list((tmp_path / "out" / VIDEOS / half.id / "labels").iterdir())) == half.frames


def test_failed_units_are_labelled_again_only_if_asked(settings, tmp_path):
    path = tmp_path / "late.mp4"
    labeller = Labeller(settings, tmp_path / "out")
    assert labeller.label(Unit(str(path))).status == "failed"
    write_moving(path, 3)
    assert labeller.label(Unit(str(path))).status == "failed"
    assert labeller.label(Unit(str(path)), retry=True).status == "done"
    assert read_row(tmp_path / "out" / VIDEOS / Unit(str(path)).id).frames == 3


def test_an_error_of_writing_is_not_the_videos_fault(settings, videos, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(FrameFiles, "write", full)
    with pytest.raises(OSError, match="No space left"):
        Labeller(settings, tmp_path).label(Unit(videos[0]))
    assert list((tmp_path / VIDEOS).rglob("*")) == [tmp_path / VIDEOS / UNFINISHED]


def test_what_a_killed_process_left_is_removed_and_what_a_living_one_writes_is_not(tmp_path):
    dead = tmp_path / UNFINISHED / "video.1"
    (dead / "labels").mkdir(parents=True)
    first = UnitFolder(tmp_path / "video")
    second = UnitFolder(tmp_path / "video")
    assert not dead.exists() and first.path.exists()
    row = Row("video", "video", 0, 1, 0.1, "m", "", "done", "")
    assert first.commit(row) == row
    other = Row("video", "video", 0, 2, 0.1, "m", "", "done", "")
    assert second.commit(other) == row  # whoever is first has done it
    assert sorted(path.name for path in tmp_path.iterdir()) == [UNFINISHED, "video"]


@pytest.mark.slow
def test_a_video_that_kills_its_process_twice_fails_and_the_run_goes_on(settings, videos, tmp_path, killing):
    killer = tmp_path / "killer.mp4"
    killer.write_bytes(Path(videos[0]).read_bytes())
    rows = run_shard([videos[0], str(killer), videos[1]], Shard(0, 1), settings, tmp_path / "out")
    assert [row.status for row in rows] == ["done", "failed", "done"]
    assert rows[1].error == "the process that labelled it was killed by SIGSEGV (tried 2 times)"
    assert [row["status"] for row in read_index(tmp_path / "out/index/shard-0000-of-0001.csv")] == [
        "done",
        "failed",
        "done",
    ]


def test_a_process_that_gives_no_frame_for_long_is_killed(settings, videos, tmp_path):
    hangs = "import sys, json, time; [print(json.dumps({'ready': True}), flush=True) for _ in sys.stdin]"
    with Guard(settings, tmp_path, patience=0.3, command=(sys.executable, "-c", hangs)) as guard:
        row = guard.label(Unit(videos[0]))
    assert row.status == "failed" and row.error == "no new frame for 0.3 s (tried 2 times)"


@pytest.mark.slow
def test_the_process_ends_with_the_one_that_started_it(settings, tmp_path):
    code = (
        "import sys, os, time; from pathlib import Path; from accel.fleet.guard import Guard; "
        "from accel.fleet.settings import Settings; g = Guard(Settings.from_json(sys.argv[1]), Path(sys.argv[2])); "
        "g.plan('nothing'); print(g._process.pid, flush=True); time.sleep(60)"
    )
    parent = subprocess.Popen(
        [sys.executable, "-c", code, settings.as_json(), str(tmp_path)], stdout=subprocess.PIPE, text=True
    )
    child = int(parent.stdout.readline())
    os.kill(parent.pid, signal.SIGKILL)
    parent.wait()
    parent.stdout.close()
    for _ in range(100):
        if not Path(f"/proc/{child}").exists() or "Z" in Path(f"/proc/{child}/stat").read_text().split()[2]:
            return
        signal.sigtimedwait([], 0.1)
    pytest.fail("it goes on")


@pytest.mark.slow
def test_shards_give_the_files_of_one_run(settings, videos, tmp_path):
    whole = run_shard(videos, Shard(0, 1), settings, tmp_path / "one")
    parts = [run_shard(videos, Shard(number, 2), settings, tmp_path / "two") for number in (1, 0)]
    assert [row.path for row in parts[0]] == [videos[1]] and [row.path for row in parts[1]] == [videos[0], videos[2]]
    assert contents(tmp_path / "one" / VIDEOS) == contents(tmp_path / "two" / VIDEOS)
    assert {row.id: row for part in parts for row in part} == {row.id: row for row in whole}


@pytest.mark.slow
def test_a_killed_run_goes_on_where_it_was(weights, videos, tmp_path):
    """The same command, killed at three moments, and then left alone."""
    manifest = tmp_path / "videos.txt"
    manifest.write_text("\n".join(["# drives", *videos, ""]))
    command = [sys.executable, "-m", "accel", "label", "--manifest", manifest, "--model", weights, "--device", "cpu"]
    command += ["--threads", "1", "--output", tmp_path / "out"]

    def start() -> subprocess.Popen:
        return subprocess.Popen([*map(str, command)], stdout=subprocess.PIPE, text=True)

    run = start()
    for _ in range(600):
        if list((tmp_path / "out").glob(f"{VIDEOS}/*/result.json")):
            break
        signal.sigtimedwait([], 0.05)
    run.kill()
    run.communicate()
    done = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").glob(f"{VIDEOS}/*/result.json")}
    assert done
    run = start()
    out, _ = run.communicate()
    assert run.returncode == 0 and "3 done, 0 failed" in out and "of 3 are finished already" in out
    assert all(path.stat().st_mtime_ns == before for path, before in done.items())
    assert [row["frames"] for row in read_index(tmp_path / "out/index/shard-0000-of-0001.csv")] == [*map(str, COUNTS)]
    assert not any((tmp_path / "out" / VIDEOS / UNFINISHED).iterdir())


def test_the_index_is_readable_up_to_the_last_whole_row(tmp_path):
    row = Row("a", "with, comma.mp4", 0, 3, 0.12, "m", "c", "done", "")
    with ShardIndex(tmp_path, Shard(0, 1)) as index:
        index.add(row)
        whole = index.path.read_bytes()
        index.add(row)
    index.path.write_bytes(index.path.read_bytes()[:-5])
    assert len(read_index(index.path)) == 1 and index.path.read_bytes().startswith(whole)
    assert read_index(index.path)[0]["path"] == row.path


@pytest.mark.parametrize("key, value", [("interval", 4), ("model", "other@1"), ("formats", ("png", "npz"))])
def test_results_of_other_settings_are_not_mixed(settings, tmp_path, key, value):
    join_run(tmp_path / "out", settings)
    join_run(tmp_path / "out", Settings(**{**vars(settings), "threads": 2, "device": "cuda"}))
    with pytest.raises(ValueError, match=f"holds results with {key} .*; choose another folder"):
        join_run(tmp_path / "out", Settings(**{**vars(settings), key: value}))


def test_a_folder_with_other_files_is_refused(settings, tmp_path):
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(ValueError, match="holds other files"):
        join_run(tmp_path, settings)


def test_manifests_folders_and_patterns_name_videos(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("d/b10.mp4", "d/b2.mp4", "d/e/c.mkv", "d/notes.txt"):
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).touch()
    assert find_videos("d") == ["d/b2.mp4", "d/b10.mp4", "d/e/c.mkv"]
    assert find_videos("d/*.mp4") == ["d/b2.mp4", "d/b10.mp4"]
    Path("list.csv").write_text('id,path\n1,"x, y.mp4"\n')
    assert find_videos("list.csv") == ["x, y.mp4"]
    for name, text, error in (
        ("twice.txt", "a.mp4\n./a.mp4\n", "names a.mp4 twice"),
        ("none.txt", "# nothing\n", "no video found"),
        ("other.csv", "file\na.mp4\n", "expected one called path"),
    ):
        Path(name).write_text(text)
        with pytest.raises(ValueError, match=error):
            find_videos(name)
    with pytest.raises(ValueError, match="a video; expected a manifest"):
        find_videos("d/b2.mp4")
    with pytest.raises(FileNotFoundError):
        find_videos("gone.txt")


@pytest.mark.parametrize("text", ["3", "3/3", "-1/2", "a/b", "1/0"])
def test_a_shard_that_does_not_exist_is_refused(text):
    with pytest.raises(ValueError, match="expected NUMBER/COUNT"):
        Shard.parse(text)
