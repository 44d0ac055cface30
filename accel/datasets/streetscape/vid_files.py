"""Streetscape with boxes on disk: generated scenes, of thirty frames each, in the layout of ImageNet VID.

    ROOT/streetscape.json
    ROOT/Data/VID/SPLIT/streetscape_SPLIT_000000/000000.JPEG        000000 to 000029
    ROOT/Annotations/VID/SPLIT/streetscape_SPLIT_000000/000000.xml  boxes with names and track numbers
    ROOT/ImageSets/VID_SPLIT_15frames.txt                           every second frame, to train on
    ROOT/ImageSets/VID_SPLIT_videos.txt, VID_SPLIT_frames.txt       all frames, as two lists of the release have them

A scene's annotations are written last. So a scene with all its files is complete.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from xml.etree import ElementTree

import cv2
import numpy as np

from accel.datasets.streetscape.boxes import VisibleBox, visible_boxes
from accel.datasets.streetscape.files import check_request, describe, write_scenes
from accel.datasets.streetscape.scene import FRAMES, SPLITS, StreetScene
from accel.files.whole_files import write_part

GENERATOR = "accel streetscape_vid"
QUALITY = 95  # of the JPEGs


def generate_streetscape_vid(
    root: str | Path,
    snippets: dict[str, int],
    size: tuple[int, int] = (256, 512),
    seed: int = 0,
    workers: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Path:
    """Write the scenes that `root` does not have yet, and return `root`. The arguments and errors are those of
    `generate_streetscape`."""
    root = Path(root)
    check_request(snippets, size)
    describe(root, size, seed, GENERATOR, ("Data", "Annotations"))
    wanted = [(root, split, index) for split in SPLITS for index in range(snippets.get(split, 0))]
    jobs = [(*job, (size[0], size[1]), seed) for job in wanted if not all(path.exists() for path in scene_files(*job))]
    write_scenes(_write_scene, jobs, workers, progress)
    for split, count in snippets.items():
        _write_lists(root, split, count)
    return root


def video_name(split: str, index: int) -> str:
    """Return the name of a scene's video in the lists."""
    return f"{split}/streetscape_{split}_{index:06d}"


def video_number(name: str) -> int:
    """Return the number of the scene with this `video_name`. Raises ValueError for another name."""
    return int(name.rpartition("_")[2])


def scene_files(root: Path, split: str, index: int) -> Iterator[Path]:
    """Yield all files of a scene in the order of writing: its frames, then their annotations."""
    for folder, suffix in (("Data", "JPEG"), ("Annotations", "xml")):
        for frame in range(FRAMES):
            yield root / folder / "VID" / video_name(split, index) / f"{frame:06d}.{suffix}"


def _write_scene(root: Path, split: str, index: int, size: tuple[int, int], seed: int) -> None:
    scene = StreetScene(seed, split, index, size)
    files = list(scene_files(root, split, index))
    images, annotations = files[:FRAMES], files[FRAMES:]
    for old in annotations:  # boxes of half of the old frames would look whole
        old.unlink(missing_ok=True)
    for path in (images[0], annotations[0]):
        path.parent.mkdir(parents=True, exist_ok=True)
    boxes = []
    for frame, path in enumerate(images):
        rendering = scene.render(frame)
        write_part(path, _jpeg(rendering.image))
        boxes.append(visible_boxes(rendering))
    for frame, path in enumerate(annotations):
        write_part(path, _annotation(video_name(split, index), frame, size, boxes[frame]))


def _annotation(video: str, frame: int, size: tuple[int, int], boxes: list[VisibleBox]) -> bytes:
    """Return the XML of a frame, as in ImageNet VID."""
    root = ElementTree.Element("annotation")

    def add(parent: ElementTree.Element, **texts: object) -> None:
        for tag, text in texts.items():
            ElementTree.SubElement(parent, tag).text = str(text)

    add(root, folder=video, filename=f"{frame:06d}")
    add(ElementTree.SubElement(root, "source"), database="streetscape")
    add(ElementTree.SubElement(root, "size"), width=size[1], height=size[0])
    for each in boxes:
        thing = ElementTree.SubElement(root, "object")
        add(thing, trackid=each.track, name=each.name)
        x1, y1, x2, y2 = each.box
        add(ElementTree.SubElement(thing, "bndbox"), xmax=x2, xmin=x1, ymax=y2, ymin=y1)
    ElementTree.indent(root)
    return ElementTree.tostring(root) + b"\n"


def _write_lists(root: Path, split: str, count: int) -> None:
    """Write the lists of a split, unless they name so many scenes already."""
    videos = root / "ImageSets" / f"VID_{split}_videos.txt"
    if videos.is_file() and len(videos.read_text(encoding="utf-8").splitlines()) >= count:
        return
    names = [video_name(split, index) for index in range(count)]
    frames = [(name, frame) for name in names for frame in range(FRAMES)]
    chosen = [f"{name} 1 {frame} {FRAMES}" for name, frame in frames if frame % 2]
    every = [f"{name}/{frame:06d} {number}" for number, (name, frame) in enumerate(frames, 1)]
    whole = [f"{name} {number} 0 {FRAMES}" for number, name in enumerate(names, 1)]
    videos.parent.mkdir(parents=True, exist_ok=True)
    for kind, lines in (("15frames", chosen), ("frames", every), ("videos", whole)):
        write_part(videos.with_name(f"VID_{split}_{kind}.txt"), "".join(f"{line}\n" for line in lines).encode())


def _jpeg(image: np.ndarray) -> bytes:
    ok, data = cv2.imencode(".JPEG", image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, QUALITY])
    assert ok
    return data.tobytes()
