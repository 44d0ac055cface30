"""The reader of MXNet's `.params` files: right on good files, a clear error on all others."""

import os
import struct
import tracemalloc
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from accel.weights.mxnet_params import DTYPES, MAX_ARRAYS, read_mxnet_params, write_mxnet_params

LAYOUTS = ("legacy", "v1", "v2")


def encode(arrays: dict[str, np.ndarray], layout: str) -> bytes:
    """The file that MXNet would have written, spelled out a second time."""
    out = struct.pack("<QQQ", 0x112, 0, len(arrays))
    for array in arrays.values():
        if layout == "legacy":
            out += struct.pack("<I", array.ndim) + np.array(array.shape, "<u4").tobytes()
        else:
            out += struct.pack("<I", 0xF993FAC8) if layout == "v1" else struct.pack("<Ii", 0xF993FAC9, 0)
            out += struct.pack("<I", array.ndim) + np.array(array.shape, "<i8").tobytes()
        out += struct.pack("<iii", 2, 1, DTYPES.index(array.dtype.newbyteorder("<"))) + array.tobytes()
    out += struct.pack("<Q", len(arrays))
    for name in arrays:
        out += struct.pack("<Q", len(name.encode())) + name.encode()
    return out


def small(layout: str = "v2") -> bytes:
    return encode({"arg:a": np.arange(6, dtype="<f4").reshape(2, 3), "aux:b": np.arange(3, dtype="u1")}, layout)


def read_bytes(folder: Path, content: bytes) -> dict[str, np.ndarray]:
    path = folder / "some.params"
    path.write_bytes(content)
    return read_mxnet_params(path)


def equal(a: dict[str, np.ndarray], b: dict[str, np.ndarray]) -> bool:
    return list(a) == list(b) and all(
        a[n].dtype == b[n].dtype and a[n].shape == b[n].shape and a[n].tobytes() == b[n].tobytes() for n in a
    )


@pytest.mark.parametrize("layout", LAYOUTS)
def test_samples_written_by_mxnet_read_equal(layout, parity):
    with np.load(parity("sample.npz")) as expected:
        assert equal(read_mxnet_params(parity(f"sample-{layout}.params")), dict(expected))


params = st.dictionaries(
    st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=12),
    hnp.arrays(
        st.sampled_from(DTYPES),
        hnp.array_shapes(min_dims=1, max_dims=4, max_side=4),
        elements=None,
    ),
    max_size=5,
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(arrays=params, layout=st.sampled_from(LAYOUTS))
def test_any_arrays_survive_the_way_there_and_back(arrays, layout, tmp_path):
    assert equal(read_bytes(tmp_path, encode(arrays, layout)), arrays)
    write_mxnet_params(tmp_path / "written.params", arrays)
    assert equal(read_mxnet_params(tmp_path / "written.params"), arrays)


def read_or_refuse(folder: Path, content: bytes) -> None:
    """Reading ends in arrays, or in a ValueError with the file's name and a byte within it."""
    try:
        arrays = read_bytes(folder, content)
    except ValueError as error:
        name, _, rest = str(error).partition(": byte ")
        assert name == str(folder / "some.params")
        assert 0 <= int(rest.split(":")[0]) <= len(content)
    else:
        assert sum(a.nbytes for a in arrays.values()) < len(content)


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(content=st.binary(max_size=200), layout=st.sampled_from(LAYOUTS), cut=st.integers(0, 120))
def test_arbitrary_bytes_after_a_good_beginning(content, layout, cut, tmp_path):
    read_or_refuse(tmp_path, small(layout)[:cut] + content)


def test_2000_byte_flips_and_truncations(tmp_path):
    rng = np.random.default_rng(3)
    files = [small(layout) for layout in LAYOUTS]
    for i in range(2000):
        content = bytearray(files[i % 3])
        for at in rng.integers(0, len(content), rng.integers(1, 4)):
            content[at] ^= int(rng.integers(1, 256))
        if i % 2:
            content = content[: rng.integers(0, len(content))]
        read_or_refuse(tmp_path, bytes(content))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_truncation_is_refused(layout, tmp_path):
    whole = small(layout)
    for length in range(len(whole)):
        with pytest.raises(ValueError, match="byte"):
            read_bytes(tmp_path, whole[:length])


def corrupted(position: int, format: str, value: int) -> bytes:
    content = bytearray(small())
    struct.pack_into("<" + format, content, position, value)
    return bytes(content)


@pytest.mark.parametrize(
    ("content", "byte", "problem"),
    [
        (corrupted(0, "Q", 0x113), 0, "not an MXNet"),
        (corrupted(16, "Q", 1 << 62), 16, "arrays announced"),
        (corrupted(16, "Q", MAX_ARRAYS + 1) + bytes(30 * MAX_ARRAYS), 16, "arrays announced"),
        (corrupted(28, "i", 1), 24, "row-sparse storage"),
        (corrupted(28, "i", 2), 24, "compressed sparse row storage"),
        (corrupted(24, "I", 0xF993FACA), 24, "V3"),
        (corrupted(32, "I", 0), 24, "0 dimensions"),
        (corrupted(32, "I", 1 << 31), 24, "dimensions"),
        (corrupted(36, "q", -2), 36, "positive sizes"),
        (corrupted(36, "q", 0), 36, "positive sizes"),
        (corrupted(36, "q", 1 << 61), 64, "truncated: an array"),
        (corrupted(60, "i", 7), 60, "unknown data type 7"),
        (small() + b"x", len(small()), "1 bytes left over"),
        (small().replace(b"aux:b", b"arg:a"), len(small()) - 13, "occurs twice"),
        (small().replace(b"aux:b", b"aux:\xff"), len(small()) - 1, "not UTF-8"),
        (b"", 0, "empty"),
    ],
)
def test_damage_is_named_with_file_and_byte(content, byte, problem, tmp_path):
    with pytest.raises(ValueError, match=problem) as caught:
        read_bytes(tmp_path, content)
    assert str(caught.value).startswith(f"{tmp_path / 'some.params'}: byte {byte}: ")


def test_absurd_sizes_allocate_nothing(tmp_path):
    long_name = encode({"\N{GRINNING FACE}" + "a" * 5_000_000: np.zeros(1, "u1")}, "v2")
    many = struct.pack("<QQQ", 0x112, 0, MAX_ARRAYS + 1) + bytes(21 * (MAX_ARRAYS + 1))
    tracemalloc.start()
    for content in (
        corrupted(36, "q", 1 << 40),
        corrupted(16, "Q", 1 << 40),
        corrupted(32, "I", 1 << 30),
        long_name,
        many,
    ):
        with pytest.raises(ValueError):
            read_bytes(tmp_path, content)
    assert tracemalloc.get_traced_memory()[1] < 100_000
    tracemalloc.stop()


def test_what_is_no_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nothing\.params: no such file"):
        read_mxnet_params(tmp_path / "nothing.params")
    with pytest.raises(ValueError, match="not a file"):
        read_mxnet_params(tmp_path)
    os.mkfifo(tmp_path / "pipe")  # opening it would wait for ever
    with pytest.raises(ValueError, match="not a file"):
        read_mxnet_params(tmp_path / "pipe")


def test_arrays_are_views_of_the_file(tmp_path):
    array = read_bytes(tmp_path, small())["arg:a"]
    assert not array.flags.owndata
    with pytest.raises(ValueError):
        array[0] = 1


@pytest.mark.parametrize("crash", [False, True])
def test_two_that_write_one_file_at_once_each_leave_a_whole_one(crash, tmp_path, monkeypatch):
    """The second begins and ends in the middle of the first, which then ends, too, or fails."""
    path = tmp_path / "out.params"
    first, second = {"arg:a": np.arange(5, dtype="f4")}, {"arg:b": np.arange(3, dtype="f4")}
    contiguous = np.ascontiguousarray

    def meanwhile(array, dtype):
        monkeypatch.setattr(np, "ascontiguousarray", contiguous)
        write_mxnet_params(path, second)
        assert equal(read_mxnet_params(path), second)
        if crash:
            raise MemoryError
        return contiguous(array, dtype)

    monkeypatch.setattr(np, "ascontiguousarray", meanwhile)
    with pytest.raises(MemoryError) if crash else nullcontext():
        write_mxnet_params(path, first)
    assert equal(read_mxnet_params(path), second if crash else first)
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("array", [np.zeros(2, bool), np.zeros(2, "c8"), np.zeros(0, "f4"), np.float32(1.0)])
def test_what_mxnet_cannot_hold_is_not_written(array, tmp_path):
    with pytest.raises(ValueError, match="arg:x"):
        write_mxnet_params(tmp_path / "out.params", {"arg:x": array})
    assert not list(tmp_path.iterdir())
