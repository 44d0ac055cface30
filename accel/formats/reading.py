"""Read back the results of a video: what was written, also by a run that was killed, up to the last whole frame."""

from __future__ import annotations

import json
import re
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple
from zipfile import BadZipFile

import numpy as np

from accel.formats import arrays, coco, frame_files
from accel.formats.files import json_lines
from accel.formats.writer import PART, VideoFacts
from accel.inference.segmenter import SegmentedFrame
from accel.tasks import Task, build_task
from accel.wording import first_line


class ReadLabels(NamedTuple):
    """labels: (H, W) uint8."""

    labels: np.ndarray


class ReadBoxes(NamedTuple):
    """As in `accel.models.detection.detections.Boxes`, for one frame."""

    boxes: np.ndarray
    scores: np.ndarray
    classes: np.ndarray
    count: int  # type: ignore[assignment] # a tuple's own `count` is asked for by nobody


Frames = Iterator[tuple[int, float, Any]]  # number, seconds, prediction


@dataclass(frozen=True)
class Results:
    """The results of a video that were read.

    video: its facts, without a frame rate.
    task: the task, with its classes.
    first: the number of the first frame. None if there is none.
    frames: a function that gives all frames, in order. They have no picture.
    """

    video: VideoFacts
    task: Task
    first: int | None
    frames: Callable[[], Iterator[SegmentedFrame]]


def read_results(path: Path) -> Results:
    """Read results in any format that has all of a frame's labels or boxes: png, npz, zarr, coco, json, jsonl.

    path: the file or folder, with `.part` if its run was killed; or the folder of a video, which holds one of them.

    Raises FileNotFoundError or ValueError.
    """
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such file or folder; expected results of accel label --write")
    for matches, read in _READERS:
        if matches(path):
            try:
                return _results(*read(path))
            except (ValueError, KeyError, TypeError, OSError, StopIteration, EOFError, zlib.error, BadZipFile) as error:
                raise ValueError(f"{path}: damaged ({type(error).__name__}: {first_line(error)})") from error
    if path.is_dir():
        inside = [each for each in sorted(path.iterdir()) if any(matches(each) for matches, _ in _READERS)]
        if inside:
            return read_results(inside[0])
    raise ValueError(f"{path}: not results that have all of each frame; expected png, npz, zarr, coco, json or jsonl")


def joined(paths: Sequence[Path]) -> Results:
    """Read the results of one video's segments, and return them as one, in the order of their frames.

    Raises ValueError if they do not belong together.
    """
    parts = [read_results(path) for path in paths]
    one = parts[0]
    for path, part in zip(paths, parts, strict=True):
        same = (part.video.size, part.task.name, part.task.class_names) == (
            one.video.size,
            one.task.name,
            one.task.class_names,
        )
        if not same:
            raise ValueError(f"{path}: frames of another size or with other classes than the first results")

    def frames() -> Iterator[SegmentedFrame]:
        last = -1
        for part in sorted(parts, key=lambda part: part.first or 0):
            for frame in part.frames():
                if frame.index <= last:
                    raise ValueError(
                        f"{one.video.name}: frame {frame.index} is there twice; expected segments of a video"
                    )
                last = frame.index
                yield frame

    return Results(one.video, one.task, one.first, frames)


def _results(info: dict, frames: Callable[[], Frames]) -> Results:
    task = build_task(info["task"], info["classes"], np.array(info["palette"], np.uint8).reshape(-1, 3))
    height, width = info["size"]
    empty = np.empty((0, 0, 3), np.uint8)

    def each() -> Iterator[SegmentedFrame]:
        for index, seconds, prediction in frames():
            yield SegmentedFrame(empty, prediction, False, 0.0, index, seconds, 0.0, 0)

    first = next(each(), None)
    return Results(VideoFacts(info["video"], (height, width), None), task, None if first is None else first.index, each)


# --- each format: whether a path is one, and how it is read: the facts, and a function that gives the frames ---------


def _listed(lines: Path) -> tuple[dict, list[tuple[int, float]]]:
    """Return the facts and the frames of a list: facts in its first line, number and time in each other."""
    rest = json_lines(lines)
    info = next(rest)
    return info, [(int(index), float(seconds)) for index, seconds in rest]


def _is_frame_files(path: Path) -> bool:
    return path.name == frame_files.FOLDER and (path.parent / frame_files.LIST).is_file()


def _read_frame_files(path: Path) -> tuple[dict, Callable[[], Frames]]:
    from PIL import Image

    info, listed = _listed(path.parent / frame_files.LIST)
    names = {name: k for k, name in enumerate(info["classes"])}

    def frames() -> Frames:
        for index, seconds in listed:
            if info["task"] == "segmentation":
                with Image.open(path / f"{index:06d}.png") as picture:
                    yield index, seconds, ReadLabels(np.asarray(picture))
            else:
                boxes = list(json_lines(path / f"{index:06d}.jsonl"))
                yield index, seconds, _boxes([(names[b["class"]], b["score"], b["box"]) for b in boxes])

    return info, frames


def _is_npz(path: Path) -> bool:
    return path.name in (arrays.NPZ, arrays.NPZ + PART)


def _read_npz(path: Path) -> tuple[dict, Callable[[], Frames]]:
    if path.name == arrays.NPZ:
        with np.load(path) as file:
            labels, numbers, times = (file[name] for name in ("labels", "frames", "seconds"))
            listed = list(zip(numbers.tolist(), times.tolist(), strict=True))
            info = {
                "task": "segmentation",
                "video": str(file["video"]),
                "size": labels.shape[1:],
                "classes": file["classes"].tolist(),
                "palette": file["palette"],
            }
    else:
        info, listed = _listed(path.with_name(arrays.NPZ_FRAMES))
        labels = arrays.read_part(path, tuple(info["size"]))

    def frames() -> Frames:
        for (index, seconds), each in zip(listed, labels, strict=False):
            yield index, seconds, ReadLabels(each)

    return info, frames


def _is_zarr(path: Path) -> bool:
    return (path / "labels" / ".zarray").is_file()


def _read_zarr(path: Path) -> tuple[dict, Callable[[], Frames]]:
    info = json.loads((path / "labels" / ".zattrs").read_text())
    count, height, width = json.loads((path / "labels" / ".zarray").read_text())["shape"]
    if "frames" in info:
        listed = list(zip(info["frames"], info["seconds"], strict=True))
    else:
        listed = [(int(index), float(seconds)) for index, seconds in json_lines(path / arrays.FRAMES)]

    def frames() -> Frames:
        for number, (index, seconds) in enumerate(listed[:count]):
            data = zlib.decompress((path / "labels" / f"{number}.0.0").read_bytes())
            yield index, seconds, ReadLabels(np.frombuffer(data, np.uint8).reshape(height, width))

    return info, frames


def _is_coco(path: Path) -> bool:
    return path.name in (coco.MASKS, coco.MASKS + PART)


def _read_coco(path: Path) -> tuple[dict, Callable[[], Frames]]:
    if path.name.endswith(PART):
        info = next(json_lines(path))

        def parts() -> Iterator[tuple[dict, list[dict]]]:
            lines = json_lines(path)
            next(lines)
            for line in lines:
                yield line["image"], line["annotations"]
    else:
        whole = json.loads(path.read_text(encoding="utf-8"))
        info = whole["info"]
        by_image: dict[int, list[dict]] = {image["id"]: [] for image in whole["images"]}
        for each in whole["annotations"]:
            by_image[each["image_id"]].append(each)

        def parts() -> Iterator[tuple[dict, list[dict]]]:
            for image in whole["images"]:
                yield image, by_image[image["id"]]

    return info, lambda: _from_coco(info, parts())


def _is_frame_json(path: Path) -> bool:
    return path.is_dir() and path.name == coco.FRAMES


def _read_frame_json(path: Path) -> tuple[dict, Callable[[], Frames]]:
    files = sorted(each for each in path.iterdir() if re.fullmatch(r"[0-9]+\.json", each.name))
    files.sort(key=lambda file: int(file.stem))
    info = json.loads(files[0].read_text())["info"] if files else {}

    def parts() -> Iterator[tuple[dict, list[dict]]]:
        for file in files:
            whole = json.loads(file.read_text())
            yield whole["images"][0], whole["annotations"]

    return info, lambda: _from_coco(info, parts())


def _from_coco(info: dict, parts: Iterator[tuple[dict, list[dict]]]) -> Frames:
    for image, found in parts:
        if info["task"] == "segmentation":
            yield image["id"], image["seconds"], ReadLabels(coco.labels_of(found, tuple(info["size"])))
        else:
            boxes = []
            for each in found:
                x, y, width, height = each["bbox"]
                boxes.append((each["category_id"] - 1, each["score"], (x, y, x + width - 1, y + height - 1)))
            yield image["id"], image["seconds"], _boxes(boxes)


def _boxes(found: Sequence[tuple[int, float, Sequence[float]]]) -> ReadBoxes:
    return ReadBoxes(
        boxes=np.array([corners for _, _, corners in found], np.float32).reshape(-1, 4),
        scores=np.array([score for _, score, _ in found], np.float32),
        classes=np.array([k for k, _, _ in found], np.int64),
        count=len(found),
    )


_READERS = (
    (_is_npz, _read_npz),
    (_is_zarr, _read_zarr),
    (_is_coco, _read_coco),
    (_is_frame_json, _read_frame_json),
    (_is_frame_files, _read_frame_files),
)
