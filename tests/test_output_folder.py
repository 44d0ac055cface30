"""Output folders: what a run may replace and delete, and what it never touches."""

import os
import subprocess
import sys

import pytest

from accel.output_folder import LIST, OutputFolder, listed_files


def folder(path):
    return OutputFolder(path, ["video.mp4", "summary.json"], ["labels"])


def write(output, *names):
    for name in names:
        file = output.file(name)
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("ours")


def files(path):
    return sorted(p.relative_to(path).as_posix() for p in path.rglob("*") if not p.is_dir() and p.name != LIST)


@pytest.fixture
def earlier(tmp_path):
    """A folder that a run has written to."""
    output = folder(tmp_path / "out")
    output.clear()
    write(output, "video.mp4", "summary.json", "labels/000000.png", "labels/000001.png")
    output.close()
    return output.path


def test_looking_changes_nothing(tmp_path, earlier):
    before = files(earlier)
    folder(earlier)
    folder(tmp_path / "new")
    assert files(earlier) == before and not (tmp_path / "new").exists()


def test_what_earlier_runs_wrote_is_cleared_and_nothing_else(earlier):
    (earlier / "notes.txt").write_text("mine")
    (earlier / "more").mkdir()
    (earlier / "more/a.png").write_text("mine")
    folder(earlier).clear()
    assert files(earlier) == ["more/a.png", "notes.txt"]
    assert listed_files(earlier) == set()


@pytest.mark.parametrize(
    "mine", ["labels/000007.png", "labels/deep/er.png", "labels/a\nb.png", "labels/a\u2028b.png", "labels/\udcff.png"]
)
def test_a_users_file_where_a_run_writes_is_refused(earlier, mine):
    (earlier / mine).parent.mkdir(exist_ok=True)
    (earlier / mine).write_text("mine")
    with pytest.raises(ValueError, match=r"(?s)out: holds files that no run .* \(labels/.*choose another folder"):
        folder(earlier)
    assert (earlier / mine).read_text() == "mine"


@pytest.mark.parametrize("mine", ["video.mp4", "summary.json"])
@pytest.mark.parametrize("kind", ["file", "folder", "dangling link"])
def test_whatever_has_the_name_of_a_result_is_refused(tmp_path, mine, kind):
    if kind == "file":
        (tmp_path / mine).touch()
    elif kind == "folder":
        (tmp_path / mine).mkdir()
    else:
        (tmp_path / mine).symlink_to("nowhere")
    with pytest.raises(ValueError, match=mine):
        folder(tmp_path)


def test_many_are_counted(tmp_path):
    (tmp_path / "labels").mkdir()
    for number in range(9):
        (tmp_path / f"labels/{number}.png").touch()
    with pytest.raises(ValueError, match="and 6 more"):
        folder(tmp_path)


def test_hidden_files_are_no_results(tmp_path):
    (tmp_path / "labels/.ipynb_checkpoints").mkdir(parents=True)
    (tmp_path / "labels/.ipynb_checkpoints/a.png").touch()
    (tmp_path / "labels/.DS_Store").touch()
    folder(tmp_path).clear()
    assert files(tmp_path) == ["labels/.DS_Store", "labels/.ipynb_checkpoints/a.png"]


@pytest.mark.parametrize("name", ["labels/a\nb.png", "labels/a\u2028b\x85.png", "labels/\udcff.png", 'labels/"q".png'])
def test_files_of_any_name_are_known_again(tmp_path, name):
    output = folder(tmp_path)
    output.clear()
    write(output, name)
    output.close()
    assert listed_files(tmp_path) == {name}
    folder(tmp_path).clear()
    assert files(tmp_path) == []


def test_a_list_of_any_length_is_read(tmp_path):
    (tmp_path / LIST).write_text(f'"labels/{"a" * 200}.png"\n' * 100_000)
    assert len(listed_files(tmp_path)) == 1


@pytest.mark.parametrize("line", ['"../x.txt"', '"/x.txt"', '"labels/../../x.txt"', '""', "[1]", "x.txt", '"x.txt', ""])
def test_lines_that_lead_out_of_the_folder_or_are_none_are_passed_over(tmp_path, line):
    (tmp_path / LIST).write_bytes(line.encode() + b"\n\xff\xfe\n" + b'"video.mp4"\n')
    assert listed_files(tmp_path) == {"video.mp4"}


# Between looking and writing


def test_a_file_that_has_come_to_be_there_is_not_replaced(tmp_path):
    output = folder(tmp_path)
    output.clear()
    (tmp_path / "summary.json").write_text("mine")
    with pytest.raises(ValueError, match="summary.json"):
        output.file("summary.json")
    assert (tmp_path / "summary.json").read_text() == "mine"


def test_a_file_written_twice_by_a_run_is_its_own(tmp_path):
    output = folder(tmp_path)
    output.clear()
    write(output, "summary.json", "summary.json")
    output.close()
    assert (tmp_path / LIST).read_text() == '"summary.json"\n'


def test_a_file_may_be_added_to_what_a_run_wrote(earlier):
    """A table beside the labels, twice; the rest stays."""
    for _ in range(2):
        table = OutputFolder(earlier, ["table.json"])
        write(table, "table.json")
        table.close()
    assert files(earlier) == ["labels/000000.png", "labels/000001.png", "summary.json", "table.json", "video.mp4"]
    assert listed_files(earlier) == set(files(earlier))


def test_two_runs_do_not_write_to_one_folder(tmp_path):
    first, second = folder(tmp_path), folder(tmp_path)
    first.clear()
    write(first, "video.mp4")
    with pytest.raises(ValueError, match="another run is writing to this folder"):
        second.clear()
    assert files(tmp_path) == ["video.mp4"]
    first.close()
    second.clear()
    assert files(tmp_path) == []


def test_what_another_run_wrote_since_looking_is_cleared(tmp_path):
    first, second = folder(tmp_path), folder(tmp_path)
    second.clear()
    write(second, "labels/000000.png")
    second.close()
    first.clear()
    assert files(tmp_path) == []


def test_a_run_that_was_killed_leaves_nothing_that_is_not_known(tmp_path):
    """Its list, its files, and the hidden ones that were being written."""
    code = f"""
import os
from pathlib import Path
from accel.output_folder import OutputFolder

output = OutputFolder(Path({str(tmp_path)!r}), ["video.mp4"], ["labels"])
output.clear()
for name in ("video.mp4", "labels/000000.png"):
    file = output.file(name)
    file.parent.mkdir(exist_ok=True)
    file.with_name(f".{{file.name}}.{{os.getpid()}}.part").touch()
os._exit(1)
"""
    subprocess.run([sys.executable, "-c", code], check=False, timeout=60)
    (tmp_path / ".notes.12.part").touch()  # of something else
    assert len(files(tmp_path)) == 3
    folder(tmp_path).clear()
    assert files(tmp_path) == [".notes.12.part"]


# Places that cannot be


def test_a_link_in_place_of_the_sub_folder_is_refused(tmp_path):
    """The list knows 000000.png; the one that the link leads to is the user's."""
    output = folder(tmp_path / "out")
    output.clear()
    write(output, "labels/000000.png")
    output.close()
    (tmp_path / "out/labels").rename(tmp_path / "moved")
    (tmp_path / "out/labels").symlink_to(tmp_path / "moved")
    with pytest.raises(ValueError, match="labels: not a real folder"):
        folder(tmp_path / "out")
    OutputFolder(tmp_path / "out", []).clear()
    assert (tmp_path / "moved/000000.png").exists()


def test_a_link_in_the_list_is_deleted_and_not_what_it_leads_to(earlier, tmp_path):
    (tmp_path / "mine.png").write_text("mine")
    (earlier / "labels/000000.png").unlink()
    (earlier / "labels/000000.png").symlink_to(tmp_path / "mine.png")
    output = folder(earlier)
    write(output, "labels/000000.png")
    output.clear()
    assert (tmp_path / "mine.png").read_text() == "mine"


def test_the_output_folder_may_be_a_link_itself(tmp_path):
    (tmp_path / "disk").mkdir()
    (tmp_path / "out").symlink_to("disk")
    for _ in range(2):
        output = folder(tmp_path / "out")
        output.clear()
        write(output, "labels/000000.png")
        output.close()
    output.clear()
    assert files(tmp_path / "disk") == []


@pytest.mark.parametrize("place", ["file", "file/out", "out/labels", f"out/{LIST}"])
def test_a_file_or_folder_in_the_wrong_place_is_told_before_anything(tmp_path, place):
    (tmp_path / "out").mkdir()
    (tmp_path / "file").touch()
    if place == "out/labels":
        (tmp_path / place).touch()
    elif place.startswith("out"):
        (tmp_path / place).mkdir()
    with pytest.raises(ValueError, match=str(tmp_path / place.removesuffix("/out"))):
        folder(tmp_path / ("out" if place.startswith("out") else place))


def test_a_folder_in_place_of_a_listed_file_is_refused(earlier):
    (earlier / "labels/000000.png").unlink()
    (earlier / "labels/000000.png").mkdir()
    with pytest.raises(ValueError, match=r"labels/000000.png: a folder, where an earlier run wrote a file"):
        folder(earlier)
    assert (earlier / "video.mp4").exists()


def test_a_list_that_is_a_link_is_not_written_through(tmp_path):
    (tmp_path / "thesis.txt").write_text("mine")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / LIST).symlink_to("../thesis.txt")
    with pytest.raises(ValueError, match="not a file; expected the list"):
        folder(tmp_path / "out")
    assert (tmp_path / "thesis.txt").read_text() == "mine"


@pytest.mark.parametrize("what", ["folder", "list"])
def test_what_cannot_be_written_to_is_told_before_anything(earlier, monkeypatch, what):
    """Root may write anywhere, so the answer is made up."""
    closed = earlier if what == "folder" else earlier / LIST
    monkeypatch.setattr(os, "access", lambda path, mode: path != closed)
    with pytest.raises(ValueError, match="choose another folder"):
        folder(earlier)
    assert len(files(earlier)) == 4
