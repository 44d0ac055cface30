"""The player of a report shows boxes over the frames, in a browser."""

import pytest
from box_films import BoxFilms
from small_detectors import small_detector
from test_page_in_browser import acted, browse  # noqa: F401 (a fixture)

from accel.evaluation.origin import Origin
from accel.evaluation.report.page import write_report
from accel.evaluation.report.pictured_clips import ClipRecorder, choose_clips
from accel.evaluation.results import SweepResult
from accel.evaluation.running.evaluator import compare
from accel.evaluation.running.videos import Run, run_videos
from accel.tasks import task_of

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    """A page of one clip of 5 frames at interval 3, of which frames 2 and 4 have boxes."""
    dataset, models = BoxFilms((2, 4)), {"a detector": small_detector("deep_feature_flow")}
    results = compare(models, dataset, (3,), workers=0, quiet=True)
    recorder = ClipRecorder(dataset, choose_clips(dataset), [("a detector", 3)], task_of(models["a detector"], dataset))
    run_videos({("a detector", 3): Run(models["a detector"], 3)}, dataset, None, watch=recorder, workers=0, quiet=True)
    palette = tuple(map(tuple, dataset.palette.tolist()))
    sweep = SweepResult("films", "val", dataset.class_names, palette, (3,), results)
    origin = Origin("command", 1, "machine", None, "2026-11-21T12:00+00:00", {"a detector": "weights"})
    return write_report(tmp_path_factory.mktemp("report"), sweep, recorder.clips(), origin)


def test_boxes_lie_over_the_frame(browse, address, tmp_path):  # noqa: F811
    script = """
    const pictures = [...document.querySelectorAll("figure")].map((figure) => [...figure.querySelectorAll("img")]);
    const kind = (image) => image.src.slice(5, image.src.indexOf(";"));
    for (const frame of [5, 4]) {
        location.hash = `#frame=${frame}`;
        await later(100);
        note(pictures.map((pair) => pair.map(kind)));
        note(document.querySelectorAll(".state")[1].textContent.includes("objects found"));
        note(pictures.every(([under, over]) => {
            const [a, b] = [under, over].map((image) => image.getBoundingClientRect());
            return Math.abs(a.width - b.width) < 1 && Math.abs(a.height - b.height) < 1 && a.top === b.top;
        }));
    }"""
    empty, frame, boxes = "image/gif", "image/jpeg", "image/svg+xml"
    over = [frame, boxes]
    assert acted(browse, address, script, tmp_path) == [
        [[empty, frame], over, over, over], True, True,
        [[empty, frame], [empty, empty], over, [empty, empty]], False, True,
    ]  # fmt: skip
