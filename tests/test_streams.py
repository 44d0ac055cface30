"""`accel label --input ... --input ...`: several sources, one model, a folder for each."""

from __future__ import annotations

import json
from pathlib import Path

import av
import pytest
from small_runs import SIZE, save_small_model, write_moving

from accel.commands.label import main
from accel.formats.reading import read_results
from accel.streams import _Camera, listed_sources


@pytest.fixture(scope="module")
def weights(tmp_path_factory) -> Path:
    return save_small_model(tmp_path_factory.mktemp("weights") / "small.safetensors")


def test_each_source_has_a_folder_of_its_own(weights, tmp_path, capsys):
    for name, count in (("a", 6), ("b", 4)):
        write_moving(tmp_path / f"{name}.mp4", count)
    sources = tmp_path / "sources.txt"
    sources.write_text(f"# two drives\n{tmp_path / 'a.mp4'}\n\n{tmp_path / 'b.mp4'}\n")
    out = tmp_path / "out"
    given = ["--input", str(sources), "--model", str(weights), "--device", "cpu", "--output", str(out)]
    for _ in range(2):  # the files of the first time are this program's own
        assert main([*given, "--write", "npz,confidence,overlay"]) == 0
    for name, count in (("a.mp4", 6), ("b.mp4", 4)):
        summary = json.loads((out / name / "summary.json").read_text())
        assert (summary["input"], summary["frames"], summary["dropped"]) == (name, count, 0)
        assert (summary["live"], summary["breaks"], summary["error"]) == (False, [], None)
        assert len(list((out / name / "labels").iterdir())) == count
        assert len(list(read_results(out / name / "labels.npz").frames())) == count
        assert len(list((out / name / "confidence").iterdir())) == count
        assert not list((out / name).glob("*.part"))
        with av.open(str(out / name / "video.mp4")) as video:
            assert sum(1 for _ in video.decode(video=0)) == count
    assert f"written: {out}/a.mp4/" in capsys.readouterr().out


def test_files_played_live_end_and_count_what_they_drop(weights, tmp_path):
    write_moving(tmp_path / "a.mp4", 10, rate=50)
    out = tmp_path / "out"
    main(
        ["--input", str(tmp_path / "a.mp4"), "--live", "--model", str(weights), "--device", "cpu", "--output", str(out)]
    )
    summary = json.loads((out / "a.mp4" / "summary.json").read_text())
    assert summary["live"] and 1 <= summary["frames"] <= 10 and summary["dropped"] <= 10 - summary["frames"]


def test_what_is_given_twice_or_empty_is_refused(tmp_path):
    (tmp_path / "none.txt").write_text("# nothing\n")
    with pytest.raises(ValueError, match="names no source"):
        listed_sources([str(tmp_path / "none.txt")])
    with pytest.raises(ValueError, match="front.mp4: is there twice"):
        listed_sources(["a/front.mp4", "b/front.mp4"])
    with pytest.raises(FileNotFoundError):
        listed_sources([str(tmp_path / "gone.txt")])


@pytest.mark.parametrize(
    "arguments, error",
    [
        ([], "expected a VIDEO to label, or --input SOURCE"),
        (["a.mp4", "--input", "b.mp4"], "expected a VIDEO"),
        (["--input", "a.mp4", "--adaptive"], "--adaptive is for one VIDEO"),
        (["--manifest", "a.txt", "--int8"], "--int8 is for one VIDEO"),
        (["--manifest", "a.txt", "--boxes", "mot"], "--write mot is for several"),
        (["--input", "a.mp4", "--segment", "2"], "--segment is for --manifest"),
        (["a.mp4", "--shard", "0/2"], "--shard is for --manifest"),
    ],
)
def test_what_does_not_go_together_is_refused(arguments, error, capsys):
    with pytest.raises(SystemExit):
        main(arguments)
    assert error in capsys.readouterr().err


def test_a_camera_that_comes_back_with_another_size_is_not_taken(tmp_path):
    camera = _Camera(str(write_moving(tmp_path / "a.mp4", 2)))
    camera.open().close()
    write_moving(tmp_path / "a.mp4", 2, size=(SIZE[0], SIZE[1] + 16))
    with pytest.raises(ValueError, match="now gives 80x48 pixels; expected 64x48 as before"):
        camera.open()


def test_one_video_is_written_in_other_formats_too(weights, tmp_path):
    video, out = write_moving(tmp_path / "a.mp4", 6), tmp_path / "out"
    given = [str(video), "--model", str(weights), "--device", "cpu", "--output", str(out)]
    for formats in ("npz,coco,confidence,side-by-side", "zarr"):  # the files of the first time are this program's own
        assert main([*given, "--write", formats]) == 0
        frames = list(read_results(out / ("labels.npz" if "npz" in formats else "labels.zarr")).frames())
        assert [frame.index for frame in frames] == list(range(6))
    assert not (out / "labels.npz").exists() and not (out / "coco.json").exists()
    assert len(list((out / "labels").iterdir())) == 6 and (out / "video.mp4").is_file()
    with pytest.raises(ValueError, match="--write jpeg: not a format of segmentation"):
        main([*given, "--write", "jpeg"])
    assert (out / "labels.zarr").is_dir()  # nothing was cleared
