"""The cache of compiled networks: bounded, shared by processes, and no worse for damage."""

import os
import subprocess
import sys

import pytest

from accel.fast.kept import LIST, Kept, kept


def of(text):
    return lambda folder: (folder / "0.bin").write_text(text)


def test_what_was_added_is_found_with_all_its_files(tmp_path):
    cache = Kept(tmp_path / "new" / "folder")
    assert cache.find("a") is None and cache.entries() == [] and cache.clear() == 0
    cache.add("a", "a network", of("weights"))
    assert (cache.find("a") / "0.bin").read_text() == "weights"
    (entry,) = cache.entries()
    assert (entry.key, entry.about) == ("a", "a network") and entry.bytes > 7
    assert cache.clear() == entry.bytes and cache.find("a") is None
    assert list((tmp_path / "new" / "folder").iterdir()) == []


@pytest.mark.parametrize(
    "damage",
    [
        lambda entry: (entry / "0.bin").write_text("Weights"),
        lambda entry: (entry / "0.bin").unlink(),
        lambda entry: (entry / LIST).write_text("{"),
        lambda entry: (entry / LIST).write_text("[]"),
        lambda entry: (entry / LIST).unlink(),
    ],
    ids=["changed", "missing", "cut off", "of another form", "without its list"],
)
def test_a_damaged_entry_is_removed_and_can_be_made_again(tmp_path, damage):
    cache = Kept(tmp_path)
    cache.add("a", "a network", of("weights"))
    damage(tmp_path / "a")
    assert cache.find("a") is None and not (tmp_path / "a").exists()
    cache.add("a", "a network", of("weights"))
    assert cache.find("a") is not None


def test_the_entries_used_least_recently_make_room(tmp_path):
    cache = Kept(tmp_path, limit=3000)
    for number, key in enumerate("abc"):
        cache.add(key, key, of("x" * 800))
        os.utime(tmp_path / key / LIST, (number, number))
    assert cache.find("a") is not None  # which is a use
    cache.add("d", "d", of("x" * 800))
    assert [cache.find(key) is not None for key in "abcd"] == [True, False, True, True]
    cache.add("e", "larger than the whole cache", of("x" * 9000))
    assert [entry.key for entry in cache.entries()] == ["e"]


def test_an_entry_that_cannot_be_written_leaves_nothing(tmp_path):
    def fail(folder):
        (folder / "0.bin").write_text("a part")
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space"):
        Kept(tmp_path).add("a", "a", fail)
    assert list(tmp_path.iterdir()) == []


def test_what_a_killed_process_left_is_removed_after_a_while(tmp_path):
    (tmp_path / ".a.123").mkdir()
    (tmp_path / ".b.456").mkdir()
    os.utime(tmp_path / ".a.123", (0, 0))
    Kept(tmp_path).add("c", "c", of(""))
    assert sorted(path.name for path in tmp_path.iterdir()) == [".b.456", "c"]  # which may still be written


def test_two_processes_at_once_keep_whole_entries(tmp_path):
    """Both write the same keys again and again, and read what is there: whole or not at all."""
    code = """
import importlib.util, sys
from pathlib import Path
spec = importlib.util.spec_from_file_location("kept", sys.argv[2])  # without PyTorch, which takes seconds to load
module = sys.modules["kept"] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
cache = module.Kept(Path(sys.argv[1]), limit=20_000)
for turn in range(60):
    key = str(turn % 5)
    cache.add(key, key, lambda folder: (folder / "0.bin").write_text(key * 5000))
    found = cache.find(key)
    if found is not None:
        try:
            assert (found / "0.bin").read_text() == key * 5000
        except FileNotFoundError:
            pass  # the other one has made room just now
"""
    command = [sys.executable, "-c", code, str(tmp_path), sys.modules[Kept.__module__].__file__]
    both = [subprocess.Popen(command, stderr=subprocess.PIPE) for _ in range(2)]
    for each in both:
        assert each.communicate(timeout=120)[1] == b"" and each.returncode == 0
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


def test_the_cache_is_where_the_user_wants_it(tmp_path, monkeypatch):
    monkeypatch.setenv("ACCEL_CACHE", "off")
    assert kept() is None
    monkeypatch.setenv("ACCEL_CACHE", str(tmp_path))
    monkeypatch.setenv("ACCEL_CACHE_GB", "0.5")
    assert (kept().folder, kept().limit) == (tmp_path, 5e8)
    monkeypatch.setenv("ACCEL_CACHE_GB", "much")
    with pytest.raises(ValueError, match="ACCEL_CACHE_GB much: expected a number of gigabytes"):
        kept()


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root can give a folder away")
def test_a_folder_of_another_user_is_not_used(tmp_path, monkeypatch):
    place = tmp_path / "open to all"
    place.mkdir()
    place.chmod(0o777)
    os.chown(place, 12345, 12345)
    monkeypatch.setenv("ACCEL_CACHE", str(place))
    with pytest.warns(RuntimeWarning, match="compiled networks are not kept: .* is not safe to load"):
        assert kept() is None
