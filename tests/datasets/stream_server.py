"""Video over HTTP from this machine, as servers and cameras send it."""

from __future__ import annotations

import io
import tempfile
import threading
import time
import wave
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import av
import numpy as np


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
