"""Data sets for the tests: tiny generated ones, and the real ones where they are found."""

from __future__ import annotations

import csv
import io
import os
import runpy
import tempfile
import threading
import time
import wave
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
import yaml

from accel.config import Config, load_config

_REPOSITORY = Path(__file__).resolve().parents[1]


def _real_data(folder: str) -> Path:
    places = [_REPOSITORY / "data", _REPOSITORY.parent / "shared"]
    if "ACCEL_DATA" in os.environ:
        places.insert(0, Path(os.environ["ACCEL_DATA"]))
    for place in places:
        if (place / folder).exists():
            return place / folder
    pytest.skip(f"needs real data: no {folder} in {', '.join(map(str, places))} (set ACCEL_DATA)")


@pytest.fixture(scope="session")
def camvid_root() -> Path:
    """The real CamVid; skips where it is absent."""
    return _real_data("camvid")


@pytest.fixture(scope="session")
def parity() -> Callable[[str], Path]:
    """Finds a file of the folder `parity` (graphs, weights and outputs of the published networks), or skips."""
    return lambda name: _real_data(f"parity/{name}")


@pytest.fixture(scope="session")
def published_params(parity) -> Callable[[str], dict[str, np.ndarray]]:
    """`published_params("accel-18")`: made-up parameters of a published network, by MXNet's names.

    They are a function of their names and shapes, the same that the stored outputs were made with.
    """
    arrays: dict[tuple[str, tuple[int, ...]], np.ndarray] = {}

    def make(version: str) -> dict[str, np.ndarray]:
        nonlocal arrays
        make_array = runpy.run_path(str(parity("weights.py")))["make_array"]
        with parity(f"{version}/params.csv").open() as file:
            rows = [(r["kind"], r["name"], tuple(map(int, r["shape"].split("x")))) for r in csv.DictReader(file)]
        # Versions share most parameters; those of the last one are kept.
        arrays = {key: arrays[key] if key in arrays else make_array(*key) for key in ((n, s) for _, n, s in rows)}
        return {f"{kind}:{name}": arrays[name, shape] for kind, name, shape in rows}

    return make


@pytest.fixture
def tiny_cityscapes(tmp_path: Path) -> Path:
    """Cityscapes with 2 cities of 2 snippets of 5 frames, 64 x 96 (height x width), in train and val.

    The 4th frame of each is labelled; ulm has labelTrainIds as well. Frame number f has red = f everywhere.
    The two snippets of ulm are of one long recording: frames 95-99 and 200-204 of ulm_000000.
    """
    root = tmp_path / "cityscapes"
    rng = np.random.default_rng(0)
    for split in ("train", "val"):
        for city, snippets in (
            ("aachen", (("000000", 0), ("000001", 0))),
            ("ulm", (("000000", 95), ("000000", 200))),
        ):
            images = root / "leftImg8bit_sequence" / split / city
            annotations = root / "gtFine" / split / city
            images.mkdir(parents=True)
            annotations.mkdir(parents=True)
            for sequence, first in snippets:
                for frame in range(first, first + 5):
                    image = rng.integers(0, 256, (64, 96, 3), np.uint8)
                    image[..., 2] = frame  # red, in OpenCV's order
                    cv2.imwrite(str(images / f"{city}_{sequence}_{frame:06d}_leftImg8bit.png"), image)
                stem = f"{annotations}/{city}_{sequence}_{first + 3:06d}_gtFine_"
                ids = rng.integers(0, 34, (64, 96), np.uint8)
                cv2.imwrite(stem + "labelIds.png", ids)
                cv2.imwrite(stem + "instanceIds.png", ids.astype(np.uint16) * 1000)
                if city == "ulm":
                    cv2.imwrite(stem + "labelTrainIds.png", train_ids(ids))
    return root


@pytest.fixture
def tiny_camvid(tmp_path: Path) -> Path:
    """CamVid, 36 x 48: `val` a video of 6 frames in steps of 2, `train` and `test` 3 stills each."""
    root = tmp_path / "camvid"
    rng = np.random.default_rng(1)
    splits = {
        "train": [f"0006R0_f{n:05d}" for n in (930, 960, 990)],
        "val": [f"0016E5_{n:05d}" for n in range(7959, 7971, 2)],
        "test": [f"Seq05VD_f{n:05d}" for n in (0, 30, 60)],
    }
    for split, names in splits.items():
        (root / split).mkdir(parents=True)
        (root / f"{split}annot").mkdir()
        (root / f"{split}.txt").write_text("\n".join(names) + "\n")
        for i, name in enumerate(names):
            image = rng.integers(0, 256, (36, 48, 3), np.uint8)
            image[..., 2] = i
            labels = rng.integers(0, 12, (36, 48), np.uint8)
            cv2.imwrite(str(root / split / f"{name}.png"), image)
            cv2.imwrite(str(root / f"{split}annot" / f"{name}.png"), labels)
    return root


def train_ids(ids: np.ndarray) -> np.ndarray:
    """Cityscapes' labelIds to labelTrainIds, pixel by pixel through the official table."""
    from cityscapesscripts.helpers.labels import id2label

    return np.array([id2label[int(i)].trainId % 256 for i in ids.flat], np.uint8).reshape(ids.shape)


@pytest.fixture
def tiny_run(tiny_cityscapes: Path, tmp_path: Path) -> Callable[..., list[str]]:
    """`tiny_run("accel", "train.steps=9")`: the `--cfg FILE key=value ...` of a small run on `tiny_cityscapes`.

    Its output is the folder `run` beside the data, unless overridden.
    """

    def arguments(model: str = "accel", *overrides: str) -> list[str]:
        branch = {"encoder": "resnet18", "head_channels": 16}
        parts = {"reference": branch}
        if model != "frame_by_frame":
            parts["flow"] = {"width": 1 / 16}
        if model == "accel":
            parts["update"] = branch
        values = {
            "output": str(tmp_path / "run"),
            "model": {"name": model, "num_classes": 19, **parts},
            "data": {
                "name": "cityscapes",
                "root": str(tiny_cityscapes),
                "clip_length": 3,
                "augmentation": {"crop": [32, 64]},
            },
            "train": {
                "steps": 4,
                "batch_size": 2,
                "optimizer": {"name": "sgd", "lr": 0.01},
                "workers": 0,
                "log_every": 1,
            },
        }
        path = tmp_path / f"{model}.yaml"
        path.write_text(yaml.safe_dump(values))
        return ["--cfg", str(path), *overrides]

    return arguments


@pytest.fixture
def tiny_config(tiny_run) -> Callable[..., Config]:
    """The configuration that `tiny_run` describes."""

    def load(model: str = "accel", *overrides: str) -> Config:
        _, path, *rest = tiny_run(model, *overrides)
        return load_config(path, rest)

    return load


class StreamServer:
    """Serves video over HTTP from this machine: `server("mpegts", pieces=8)` is the address of a stream.

    It holds frames of 64 x 48 at 25 a second, each all of one grey, and is sent in `pieces` 20 ms apart.

    format: "mpegts", "matroska" or "mp4".
    growing: it is sent while it is made; else it was there before, as a file.
    length_known: its size in bytes is stated.
    clean_end: how the connection ends says whether all was sent.
    stalls: the connection stays open and silent after the last frame, until the other side ends it.
    damaged: a part in the middle is lost.
    share: how much of it is sent.
    """

    def __init__(self) -> None:
        self._streams: dict[str, dict] = {"/text": {"data": b"no video " * 99}, "/sound": {"data": _sound()}}
        self.requests = 0
        self._open = 0
        self._closed = threading.Event()
        streams, server = self._streams, self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_: object) -> None: ...

            def do_GET(self) -> None:
                if self.path not in streams:
                    self.send_error(404)
                    return
                server.requests += 1
                server._open += 1
                try:
                    _send(self, server._closed, **streams[self.path])
                except OSError:
                    self.close_connection = True  # the other side has left
                finally:
                    server._open -= 1

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._http.daemon_threads = True
        self.port = self._http.server_port
        threading.Thread(target=self._http.serve_forever, args=(0.01,), daemon=True).start()

    def __call__(self, format: str, growing: bool = True, frames: int = 50, **how: object) -> str:
        path = f"/{len(self._streams)}"
        self._streams[path] = {"data": _video(format, growing, frames), **how}
        return f"http://127.0.0.1:{self.port}{path}"

    def bytes_of(self, url: str) -> bytes:
        return self._streams[url[url.rindex("/") :]]["data"]

    def all_connections_end(self, seconds: float) -> bool:
        deadline = time.monotonic() + seconds
        while self._open and time.monotonic() < deadline:
            time.sleep(0.01)
        return not self._open

    def close(self) -> None:
        self._closed.set()
        self._http.shutdown()
        self._http.server_close()


@pytest.fixture
def stream_server() -> Iterator[StreamServer]:
    server = StreamServer()
    yield server
    server.close()


def _send(
    handler: BaseHTTPRequestHandler,
    closed: threading.Event,
    data: bytes,
    pieces: int = 4,
    length_known: bool = False,
    clean_end: bool = True,
    stalls: bool = False,
    damaged: bool = False,
    share: float = 1.0,
) -> None:
    handler.send_response(200)
    if length_known:
        handler.send_header("Content-Length", str(len(data)))
    elif clean_end:
        handler.send_header("Transfer-Encoding", "chunked")
    else:
        handler.send_header("Connection", "close")
    handler.end_headers()
    if damaged:
        middle = len(data) // 2 // 188 * 188  # whole packets of an MPEG transport stream are lost
        data = data[:middle] + data[middle + 188 * 40 :]
    data = data[: int(len(data) * share)]
    size = -(-len(data) // pieces)
    for start in range(0, len(data), size):
        piece = data[start : start + size]
        if clean_end and not length_known:
            handler.wfile.write(b"%x\r\n%b\r\n" % (len(piece), piece))
        else:
            handler.wfile.write(piece)
        handler.wfile.flush()
        time.sleep(0.02)
    handler.connection.settimeout(0.01)
    while stalls and not closed.is_set():
        try:
            if not handler.connection.recv(1):
                raise ConnectionResetError
        except TimeoutError:
            continue
    if clean_end and not length_known:
        handler.wfile.write(b"0\r\n\r\n")


def _video(format: str, growing: bool, frames: int) -> bytes:
    """`growing`: as it is made for sending at once, when nobody knows yet how long it will be."""
    with tempfile.TemporaryDirectory() as folder:
        options = {"movflags": "frag_keyframe+empty_moov" if growing else "faststart"} if format == "mp4" else {}
        file = _Sent() if growing else f"{folder}/video"
        with av.open(file, "w", format=format, options=options) as container:
            stream = container.add_stream("libx264", rate=25, options={"preset": "ultrafast", "g": "5"})
            stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
            for number in range(frames):
                grey = np.full((48, 64, 3), 5 * number % 256, np.uint8)
                container.mux(stream.encode(av.VideoFrame.from_ndarray(grey, format="rgb24")))
            container.mux(stream.encode(None))
        return bytes(file.data) if growing else Path(file).read_bytes()


class _Sent:
    """A file that cannot be gone back in."""

    def __init__(self) -> None:
        self.data = bytearray()

    def write(self, data: bytes) -> int:
        self.data += data
        return len(data)


def _sound() -> bytes:
    file = io.BytesIO()
    with wave.open(file, "wb") as sound:
        sound.setparams((1, 2, 8000, 800, "NONE", None))
        sound.writeframes(bytes(1600))
    return file.getvalue()
