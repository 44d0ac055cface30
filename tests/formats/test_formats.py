"""Every format gives back what was written, to the tools it is for, and after a crash up to the last whole frame."""

from __future__ import annotations

import csv
import io
import json
import os
import signal
import zipfile
from pathlib import Path
from xml.etree import ElementTree

import av
import numpy as np
import pytest
from PIL import Image
from small_runs import NAMES, PALETTE

from accel.commands.convert import main
from accel.formats import FORMATS, VideoFacts, find_formats
from accel.formats.arrays import crc32_of_both
from accel.formats.confidence import as_grey
from accel.formats.conversion import KEEP_ALL, convert
from accel.formats.masks import class_runs, regions, runs_to_mask, runs_to_string, string_to_runs
from accel.formats.reading import ReadBoxes, read_results
from accel.inference.segmenter import SegmentedFrame
from accel.models.prediction import LabelsAndConfidence
from accel.tasks import build_task

SIZE = 20, 30
INDICES = 0, 1, 2, 4, 5, 6  # frame 3 could not be read
LABELS = ("png", "npz", "zarr", "coco", "json")  # formats that are read back


def label_map(rng: np.random.Generator, size: tuple[int, int] = SIZE) -> np.ndarray:
    """Blocks with holes, single pixels, and some pixels of no class."""
    coarse = rng.integers(0, 3, (size[0] // 3 + 1, size[1] // 3 + 1))
    labels = np.kron(coarse, np.ones((3, 3), int))[: size[0], : size[1]].astype(np.uint8)
    labels[rng.random(size) < 0.05] = 1
    labels[2:5, 3:9] = 255
    return labels


def labelled(seed: int = 0, size: tuple[int, int] = SIZE) -> list[SegmentedFrame]:
    rng = np.random.default_rng(seed)
    return [
        SegmentedFrame(
            frame=rng.integers(0, 256, (*size, 3), np.uint8),
            prediction=LabelsAndConfidence(label_map(rng, size), rng.exponential(2, size).astype(np.float32)),
            is_key=index % 5 == 0,
            seconds=0.1,
            index=index,
            time=index / 25,
            latency=0.1,
            dropped=0,
        )
        for index in INDICES
    ]


def detected() -> list[SegmentedFrame]:
    rng = np.random.default_rng(1)
    frames = []
    for index, count in zip(INDICES, (2, 0, 1, 3, 0, 1), strict=True):
        corners = rng.uniform(0, 15, (5, 4)).astype(np.float32)
        corners[:, 2:] += corners[:, :2]
        said = ReadBoxes(corners, rng.random(5).astype(np.float32), rng.integers(0, 3, 5), count)
        picture = rng.integers(0, 256, (*SIZE, 3), np.uint8)
        frames.append(SegmentedFrame(picture, said, False, 0.1, index, index / 25, 0.1, 0))
    return frames


def write(folder: Path, name: str, task: str = "segmentation", frames=None, finish: bool = True):
    folder.mkdir(parents=True, exist_ok=True)
    (kind,) = find_formats(task, [name])
    writer = kind(folder.joinpath, VideoFacts("drive.mp4", SIZE, 25), build_task(task, NAMES, np.array(PALETTE)))
    frames = frames or (labelled() if task == "segmentation" else detected())
    for frame in frames:
        writer.write(frame)
    if finish:
        writer.close()
    return frames


def check_read(folder: Path, frames: list[SegmentedFrame]) -> None:
    results = read_results(folder)
    assert results.task.class_names == NAMES and results.task.palette.tolist() == [list(c) for c in PALETTE]
    assert results.video == VideoFacts("drive.mp4", SIZE, None)
    for found, true in zip(results.frames(), frames, strict=True):
        assert (found.index, found.time) == (true.index, true.time)
        np.testing.assert_array_equal(found.labels, true.labels)


@pytest.mark.parametrize("name", LABELS)
def test_labels_are_read_back(tmp_path, name):
    check_read(tmp_path, write(tmp_path, name))


@pytest.mark.parametrize("name", [*FORMATS["segmentation"]])
def test_a_format_leaves_nothing_but_what_it_names(tmp_path, name):
    write(tmp_path, name)
    names = {path.name for path in tmp_path.iterdir()}
    known = {each.rstrip("/") for each in find_formats("segmentation", [name])[0].names()}
    assert names <= known and not any("part" in each for each in names)


def killed_after(folder: Path, name: str, frames: list[SegmentedFrame], task: str = "segmentation") -> None:
    """Write these frames in a process that is killed then, without a chance to finish anything."""
    child = os.fork()
    if child == 0:
        try:
            write(folder, name, task, frames, finish=False)
        finally:
            os.kill(os.getpid(), signal.SIGKILL)
    assert os.waitpid(child, 0)[1] == signal.SIGKILL


@pytest.mark.parametrize("name", LABELS)
def test_every_whole_frame_is_read_after_a_crash(tmp_path, name):
    killed_after(tmp_path, name, labelled()[:4])
    check_read(tmp_path, labelled()[:4])


@pytest.mark.parametrize("name, file", [("npz", "labels.npz.part"), ("coco", "coco.json.part")])
def test_a_frame_that_was_cut_off_is_passed_over(tmp_path, name, file):
    killed_after(tmp_path, name, labelled()[:4])
    path = tmp_path / file
    path.write_bytes(path.read_bytes()[:-9])
    check_read(tmp_path, labelled()[:3])


@pytest.mark.parametrize("name, file", [("overlay", "overlay.mp4"), ("side-by-side", "side_by_side.mp4")])
def test_videos_show_each_frame_at_its_time_also_after_a_crash(tmp_path, name, file):
    def times(path: Path) -> list[float]:
        with av.open(str(path)) as container:
            return [frame.time for frame in container.decode(video=0)]

    frames = write(tmp_path / "whole", name)
    assert times(tmp_path / "whole" / file) == pytest.approx([frame.time for frame in frames])
    killed_after(tmp_path / "cut", name, frames[:4])
    found = np.array(times(tmp_path / "cut" / f"{file}.part"))
    assert found - found[0] == pytest.approx([frame.time for frame in frames[:4]], abs=1e-4)


def test_npz_is_what_numpy_and_zip_expect(tmp_path):
    frames = write(tmp_path, "npz")
    with zipfile.ZipFile(tmp_path / "labels.npz") as archive:
        assert archive.testzip() is None
    with np.load(tmp_path / "labels.npz") as arrays:
        assert {name: arrays[name].shape for name in arrays} == {
            "labels": (6, *SIZE), "frames": (6,), "seconds": (6,), "classes": (3,), "palette": (3, 3), "video": (),
        }  # fmt: skip
        np.testing.assert_array_equal(arrays["labels"], [frame.labels for frame in frames])
        assert arrays["frames"].tolist() == list(INDICES)


@pytest.mark.parametrize("lengths", [(0, 5), (3, 0), (128, 1000)])
def test_checksums_of_two_pieces_give_that_of_both(lengths):
    import zlib

    first, second = (np.random.default_rng(n).bytes(n) for n in lengths)
    assert crc32_of_both(zlib.crc32(first), zlib.crc32(second), len(second)) == zlib.crc32(first + second)


def test_zarr_opens_the_array(tmp_path):
    zarr = pytest.importorskip("zarr")
    frames = write(tmp_path, "zarr")
    array = zarr.open(str(tmp_path / "labels.zarr"), mode="r")["labels"]
    np.testing.assert_array_equal(array[:], [frame.labels for frame in frames])
    assert array.attrs["frames"] == list(INDICES) and array.attrs["classes"] == list(NAMES)


def test_run_lengths_go_there_and_back():
    rng = np.random.default_rng(0)
    for size in ((1, 1), (1, 7), (9, 1), (20, 30), (300, 300)):
        labels = rng.integers(0, 2, size).astype(np.uint8) if size[0] < 300 else np.tri(*size, dtype=np.uint8)
        for k, counts in class_runs(labels).items():
            np.testing.assert_array_equal(string_to_runs(runs_to_string(counts)), counts)
            np.testing.assert_array_equal(runs_to_mask(counts, size), labels == k)
    with pytest.raises(ValueError, match="expected 3x2"):
        runs_to_mask(np.array([4, 1]), (2, 3))
    for text in ("", "\x1f", "p"):
        with pytest.raises(ValueError, match="not a compressed RLE"):
            string_to_runs(text)


def test_outlines_enclose_their_pixels_and_go_around_holes():
    ring = np.zeros((5, 5), np.uint8)
    ring[1:4, 1:4] = 1
    ring[2, 2] = 0
    hole, _, around = sorted(regions(ring, 2), key=lambda region: (region.class_index, region.area))
    assert (hole.area, around.area) == (1, 8)
    assert around.box == (1, 1, 3, 3) and around.outline.min() == 1 and around.outline.max() == 4

    def enclosed(outline: np.ndarray) -> float:
        x, y = outline.T
        return abs(float(np.dot(x, np.roll(y, 1)) - np.dot(y, np.roll(x, 1)))) / 2

    for region in regions(label_map(np.random.default_rng(3), (60, 90)), 3):
        assert enclosed(region.outline) == region.area


@pytest.fixture
def pycocotools():
    pytest.importorskip("pycocotools")
    from pycocotools import coco, mask

    return coco, mask


@pytest.mark.parametrize("name, file", [("coco", "coco.json"), ("coco-polygons", "coco_polygons.json")])
def test_pycocotools_gives_back_the_masks(tmp_path, pycocotools, name, file):
    coco, _ = pycocotools
    frames = write(tmp_path, name, frames=labelled(4))
    found = coco.COCO(str(tmp_path / file))
    assert {c["id"]: c["name"] for c in found.loadCats(found.getCatIds())} == dict(enumerate(NAMES, 1))
    for frame in frames:
        labels = np.full(SIZE, 255, np.uint8)
        for each in found.loadAnns(found.getAnnIds(imgIds=[frame.index])):
            pixels = found.annToMask(each).astype(bool)
            labels[pixels] = each["category_id"] - 1
            assert each["area"] == pixels.sum()
            ys, xs = np.nonzero(pixels)
            left, top, width, height = each["bbox"]
            assert (left, top, width, height) == (xs.min(), ys.min(), np.ptp(xs) + 1, np.ptp(ys) + 1)
        np.testing.assert_array_equal(labels, frame.labels)  # polygons too: they run along the edges of pixels


def test_frames_of_json_are_coco_files_of_their_own(tmp_path, pycocotools):
    coco, _ = pycocotools
    frames = write(tmp_path, "json")
    found = coco.COCO(str(tmp_path / "json" / "000004.json"))
    assert found.getImgIds() == [4]
    for each in found.loadAnns(found.getAnnIds(imgIds=[4])):
        np.testing.assert_array_equal(found.annToMask(each) > 0, frames[3].labels == each["category_id"] - 1)


# Of each element of CVAT for video 1.1: its elements in their order, as its documentation lists them.
TASK = ["id", "name", "size", "mode", "overlap", "bugtracker", "flipped", "created", "updated", "labels", "segments"]
TASK += ["owner", "original_size"]
SHAPE = {"frame", "outside", "occluded", "keyframe"}


def check_cvat(root: ElementTree.Element, shape: str, places: set[str]) -> None:
    """Check an XML against CVAT's description of its form."""
    assert root.tag == "annotations" and root.findtext("version") == "1.1"
    assert [each.tag for each in root][:2] == ["version", "meta"] and {each.tag for each in root[2:]} == {"track"}
    task = root.find("meta/task")
    assert [each.tag for each in task] == TASK and task.findtext("mode") == "interpolation"
    assert [each.findtext("name") for each in task.findall("labels/label")] == list(NAMES)
    assert [each.tag for each in task.find("segments/segment")] == ["id", "start", "stop", "url"]
    size = int(task.findtext("size"))
    assert (task.findtext("original_size/width"), task.findtext("original_size/height")) == ("30", "20")
    for number, track in enumerate(root.findall("track")):
        assert track.attrib == {"id": str(number), "label": track.get("label"), "source": "auto"}
        assert track.get("label") in NAMES
        frames = [int(each.get("frame")) for each in track]
        assert all(each.tag == shape and set(each.attrib) == SHAPE | places for each in track)
        assert [each.get("outside") for each in track] == ["0", "1"][: len(frames)]
        assert frames in ([frames[0], frames[0] + 1], [size - 1]) and max(frames) < size


def test_cvat_for_video_has_the_documented_form_and_the_regions(tmp_path):
    frames = write(tmp_path, "cvat")
    root = ElementTree.parse(tmp_path / "cvat.xml").getroot()
    check_cvat(root, "polygon", {"points"})
    assert root.findtext("meta/task/size") == "7"
    for frame in frames:
        shapes = [
            (track.get("label"), track[0]) for track in root.iter("track") if track[0].get("frame") == str(frame.index)
        ]
        outlines = {(label, shape.get("points")) for label, shape in shapes}
        assert outlines == {
            (NAMES[each.class_index], ";".join(f"{x:.2f},{y:.2f}" for x, y in each.outline))
            for each in regions(frame.labels, 3)
        }


def test_confidence_maps_are_the_probability_against_the_second_best(tmp_path):
    frames = write(tmp_path, "confidence")
    found = np.asarray(Image.open(tmp_path / "confidence" / "000004.png"))
    p = 1 / (1 + np.exp(-frames[3].confidence.astype(float)))
    assert found.dtype == np.uint8 and np.abs(found - 255 * (2 * p - 1)).max() <= 0.51
    assert as_grey(np.array([0, np.inf], np.float32)).tolist() == [0, 255]


def test_shares_are_those_of_the_pixels(tmp_path):
    frames = write(tmp_path, "shares")
    rows = list(csv.DictReader((tmp_path / "shares.csv").open()))
    assert [row["frame"] for row in rows] == [str(index) for index in INDICES]
    for row, frame in zip(rows, frames, strict=True):
        assert [float(row[name]) for name in NAMES] == pytest.approx(
            [float((frame.labels == k).mean()) for k in range(3)], abs=1e-6
        )


def test_boxes_are_read_back_from_coco_and_its_own_tool_reads_them(tmp_path, pycocotools):
    coco, _ = pycocotools
    frames = write(tmp_path, "coco", "detection")
    for found, true in zip(read_results(tmp_path).frames(), frames, strict=True):
        count = true.prediction.count
        np.testing.assert_allclose(found.prediction.boxes, true.prediction.boxes[:count], atol=1e-5)
        np.testing.assert_array_equal(found.prediction.scores, true.prediction.scores[:count])
        np.testing.assert_array_equal(found.prediction.classes, true.prediction.classes[:count])
    whole = coco.COCO(str(tmp_path / "coco.json"))
    results = whole.loadRes(whole.dataset["annotations"])
    assert sorted(results.getImgIds()) == list(INDICES) and len(results.anns) == 7


def test_boxes_are_read_back_from_a_table(tmp_path):
    frames = write(tmp_path, "csv", "detection")
    rows = list(csv.DictReader(io.StringIO((tmp_path / "boxes.csv").read_text())))
    for frame in frames:
        mine = [row for row in rows if row["frame"] == str(frame.index)]
        said, count = frame.prediction, frame.prediction.count
        boxes = [[float(row[name]) for name in ("x1", "y1", "x2", "y2")] for row in mine if row["class"]]
        assert len(mine) == max(count, 1)
        np.testing.assert_array_equal(np.array(boxes, np.float32).reshape(-1, 4), said.boxes[:count])
        assert [row["class"] for row in mine if row["class"]] == [NAMES[k] for k in said.classes[:count]]


def test_boxes_in_cvat_are_boxes(tmp_path):
    write(tmp_path, "cvat", "detection")
    root = ElementTree.parse(tmp_path / "cvat.xml").getroot()
    check_cvat(root, "box", {"xtl", "ytl", "xbr", "ybr"})
    assert len(root.findall("track")) == 7


@pytest.mark.parametrize("source", LABELS)
@pytest.mark.parametrize("target", ["npz", "coco", "png"])
def test_formats_that_keep_all_are_turned_into_one_another(tmp_path, source, target):
    frames = write(tmp_path / "a", source)
    assert convert([tmp_path / "a"], target, tmp_path / "b") == len(frames)
    check_read(tmp_path / "b", frames)


def test_segments_are_joined_in_the_order_of_their_frames(tmp_path):
    frames = labelled()
    write(tmp_path / "a", "npz", frames=frames[:3])
    write(tmp_path / "b", "coco", frames=frames[3:])
    convert([tmp_path / "b", tmp_path / "a"], "zarr", tmp_path / "c")
    check_read(tmp_path / "c", frames)
    with pytest.raises(ValueError, match="frame 0 is there twice"):
        convert([tmp_path / "a", tmp_path / "a"], "png", tmp_path / "d")


@pytest.mark.parametrize("task", ["segmentation", "detection"])
def test_what_would_lose_something_is_refused(tmp_path, task):
    write(tmp_path, "coco", task)
    for name in set(FORMATS[task]) - set(KEEP_ALL[task]):
        with pytest.raises(ValueError, match=f"--to {name}: would lose some"):
            convert([tmp_path], name, tmp_path / "out")
    with pytest.raises(ValueError, match="not a format of"):
        convert([tmp_path], "jpeg", tmp_path / "out")
    with pytest.raises(ValueError, match="is there already"):
        convert([tmp_path], "coco", tmp_path)


@pytest.mark.parametrize(
    "name, text", [("labels.npz", "PK"), ("coco.json", "{"), ("coco.json", '{"info": {}}'), ("coco.json.part", "")]
)
def test_damaged_results_are_a_mistake_told_in_a_line(tmp_path, name, text):
    (tmp_path / name).write_text(text)
    with pytest.raises(ValueError, match=f"{name}"):
        list(read_results(tmp_path / name).frames())


def test_other_files_are_no_results(tmp_path):
    (tmp_path / "notes.json").write_text(json.dumps({}))
    with pytest.raises(ValueError, match="not results that have all of each frame"):
        read_results(tmp_path)
    with pytest.raises(FileNotFoundError):
        read_results(tmp_path / "gone")


def test_the_command_converts_results_and_tells_them_from_weights(tmp_path, capsys):
    frames = write(tmp_path / "a", "npz")
    main([str(tmp_path / "a"), "--to", "coco", "--out", str(tmp_path / "b")])
    assert capsys.readouterr().out == f"written: {tmp_path}/b/ (6 frames, coco)\n"
    check_read(tmp_path / "b", frames)
    for arguments, error in (
        (["a", "--out", "b"], "expected --to FORMAT, for results, or --params FILES, for weights"),
        (["a", "--out", "b", "--to", "npz", "--params", "p"], "expected --to FORMAT"),
        (
            ["a", "--out", "b", "--to", "npz", "--overwrite"],
            "and --overwrite are for weights",
        ),
        (["dff", "rfcn", "--out", "b", "--params", "p"], "--params: expected one network"),
    ):
        with pytest.raises(SystemExit):
            main(arguments)
        assert error in capsys.readouterr().err
