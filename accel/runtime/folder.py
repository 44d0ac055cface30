"""The folder of an exported model, and what its `model.json` says."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from accel.files.digests import sha256_of

FILE = "model.json"
FORMAT, VERSION = "accel-export", 1
SUFFIXES = {"onnx": ".onnx", "aoti": ".pt2"}
CHECK = "check"  # the folder of frames with their labels
OTHERS = ("accel_ops.so",)


@dataclass(frozen=True)
class TensorInfo:
    """A tensor of a graph. type: such as "uint8". shape: None for sides that depend on the frame."""

    name: str
    type: str
    shape: tuple[int | None, ...]


@dataclass(frozen=True)
class GraphInfo:
    """A graph in the folder.

    border, stride, bias: how its scores become labels: fixed bilinear upsampling by `stride`, beyond the map the
        outermost cells ("replicate") or zero ("zero"), then the bias.
    """

    path: Path
    sha256: str
    inputs: tuple[TensorInfo, ...]
    outputs: tuple[TensorInfo, ...]
    border: str
    stride: int
    bias: tuple[float, ...] | None


@dataclass(frozen=True)
class AnySize:
    """The frames that a model for any size takes.

    smallest: pixels of a side.
    remainders: a side divided by `cells` must not leave these.
    """

    smallest: int
    cells: int
    remainders: tuple[int, ...]


@dataclass(frozen=True)
class Exported:
    """An exported model.

    runtime: "onnx" or "aoti".
    size: (H, W) of its frames, or what any size has to be.
    interval: the recommended number of frames from key frame to key frame.
    carries_state: whether there is a graph `next`. Otherwise every frame is a key frame.
    remembers: whether key frames build on those before them (graph `later_key`).
    moves_on: whether features go from frame to frame. Otherwise, `next` starts from the key frame.
    preset: of the DIS flow that `next` takes; None if it takes none.
    about: all that `model.json` says.
    """

    folder: Path
    runtime: str
    class_names: tuple[str, ...]
    palette: tuple[tuple[int, int, int], ...]
    interval: int
    size: tuple[int, int] | AnySize
    carries_state: bool
    remembers: bool
    moves_on: bool
    preset: str | None
    library: str | None
    graphs: dict[str, GraphInfo]
    about: dict[str, Any]

    def check_size(self, size: tuple[int, int]) -> None:
        """Raise ValueError unless the model takes frames of `size` (H, W)."""
        here = f"{size[0]}x{size[1]}"
        if isinstance(self.size, AnySize):
            rule = self.size
            if min(size) < rule.smallest:
                raise ValueError(f"{self.folder}: frames of {here}; expected {rule.smallest} pixels a side or more")
            if any(side % rule.cells in rule.remainders for side in size):
                told = " or ".join(map(str, rule.remainders))
                raise ValueError(
                    f"{self.folder}: frames of {here}; expected sides that are not {told} more than a multiple of "
                    f"{rule.cells}"
                )
        elif tuple(size) != self.size:
            raise ValueError(
                f"{self.folder}: frames of {here}; this model was exported for {self.size[0]}x{self.size[1]} "
                "(height x width)"
            )


def is_exported(path: str | Path) -> bool:
    """Return whether a path is a folder with a `model.json`."""
    return (Path(path) / FILE).is_file()


def read(folder: str | Path) -> Exported:
    """Read what a folder's `model.json` says.

    Raises FileNotFoundError if there is none, and ValueError if it is damaged or of another program.
    """
    folder = Path(folder)
    path = folder / FILE
    if not path.is_file():
        raise FileNotFoundError(f"no exported model at {folder}: there is no {FILE} in it")
    try:
        about = json.loads(path.read_bytes())
    except (ValueError, RecursionError):
        raise ValueError(f"{path}: damaged: it is no JSON") from None
    if not isinstance(about, dict) or about.get("format") != FORMAT:
        raise ValueError(f"{path}: not of this program (no `format: {FORMAT}` in it)")
    if about.get("version") != VERSION:
        raise ValueError(f"{path}: version {about.get('version')!r} of the format; this program reads {VERSION}")
    try:
        return _parsed(folder, about)
    except KeyError as error:
        raise ValueError(f"{path}: damaged: there is no key {error}") from None
    except (TypeError, ValueError, AttributeError) as error:
        raise ValueError(f"{path}: damaged: {str(error).splitlines()[0]}") from None


def check_graph(info: GraphInfo) -> None:
    """Raise FileNotFoundError if a graph's file is missing, and ValueError if it is damaged."""
    if not info.path.is_file():
        raise FileNotFoundError(f"{info.path}: missing; {FILE} beside it names it")
    if sha256_of(info.path) != info.sha256:
        raise ValueError(f"{info.path}: damaged: its SHA-256 is not the one in {FILE}")


def check_free(folder: Path) -> None:
    """Raise FileExistsError unless an export may be written to this folder: it is new, empty, or holds an earlier
    one."""
    if not folder.exists():
        return
    if not folder.is_dir():
        raise FileExistsError(f"{folder}: is a file; expected a folder to export to")
    ours = (FILE, CHECK, *OTHERS)
    others = sorted(
        path.name for path in folder.iterdir() if path.name not in ours and path.suffix not in SUFFIXES.values()
    )
    if others:
        raise FileExistsError(f"{folder}: holds {others[0]}; expected a new or an empty folder, or an earlier export")


def _parsed(folder: Path, about: dict[str, Any]) -> Exported:
    runtime = about["runtime"]
    if runtime not in SUFFIXES:
        raise ValueError(f"runtime {runtime!r}; expected {' or '.join(SUFFIXES)}")
    names, palette = about["classes"], about["palette"]
    if len(names) != len(palette) or not all(isinstance(name, str) for name in names):
        raise ValueError(f"{len(names)} classes and {len(palette)} colours")
    sizes = about["any_size"]
    graphs = {name: _graph(folder, graph) for name, graph in about["graphs"].items()}
    needed = ["key", *(["next"] if about["carries_state"] else []), *(["later_key"] if about["remembers"] else [])]
    if missing := [name for name in needed if name not in graphs]:
        raise ValueError(f"there is no graph {missing[0]!r}")
    flow = about["flow"]
    if about["interval"] < 1:
        raise ValueError(f"interval {about['interval']}")
    return Exported(
        folder=folder,
        runtime=runtime,
        class_names=tuple(names),
        palette=tuple((int(r), int(g), int(b)) for r, g, b in palette),
        interval=int(about["interval"]),
        size=_pair(about["size"])
        if sizes is None
        else AnySize(int(sizes["smallest"]), int(sizes["cells"]), tuple(sizes["excluded_remainders"])),
        carries_state=bool(about["carries_state"]),
        remembers=bool(about["remembers"]),
        moves_on=bool(about["moves_on"]),
        preset=None if flow is None else str(flow["preset"]),
        library=about["library"],
        graphs=graphs,
        about=about,
    )


def _graph(folder: Path, graph: dict[str, Any]) -> GraphInfo:
    name, scores = graph["file"], graph["scores"]
    if Path(name).name != name:
        raise ValueError(f"file {name!r} is not in the folder")
    bias = scores["bias"]
    return GraphInfo(
        path=folder / name,
        sha256=graph["sha256"],
        inputs=tuple(map(_tensor, graph["inputs"])),
        outputs=tuple(map(_tensor, graph["outputs"])),
        border=scores["border"],
        stride=int(scores["stride"]),
        bias=None if bias is None else tuple(map(float, bias)),
    )


def _tensor(tensor: dict[str, Any]) -> TensorInfo:
    return TensorInfo(tensor["name"], tensor["type"], tuple(tensor["shape"]))


def _pair(size: Any) -> tuple[int, int]:
    height, width = size
    return int(height), int(width)
