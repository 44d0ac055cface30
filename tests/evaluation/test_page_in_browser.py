"""The page works in a browser, opened from its file: nothing is complained about, and the player steps.

What a person would do is done by a script at the end of a copy of the page, which notes what it sees.
"""

import json
import re
import shutil
import subprocess

import cv2
import pytest
from films import Films, Teller

from accel.evaluation.origin import Origin
from accel.evaluation.report.page import write_report
from accel.evaluation.report.pictured_clips import ClipRecorder, choose_clips
from accel.evaluation.results import SweepResult
from accel.evaluation.running.evaluator import compare
from accel.evaluation.running.videos import Run, run_videos
from accel.tasks import task_of

pytestmark = pytest.mark.slow
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    """A page of two clips, of 8 and of 5 frames, at interval 3. Of the second, only two frames are labelled."""
    dataset = Films(range(8), (2, 4))
    model = {"a model": Teller()}
    results = compare(model, dataset, (3,), workers=0, quiet=True)
    runs = {("a model", 3): Run(model["a model"], 3)}
    recorder = ClipRecorder(dataset, choose_clips(dataset), list(runs), task_of(Teller(), dataset))
    run_videos(runs, dataset, None, watch=recorder, workers=0, quiet=True)
    palette = tuple(map(tuple, dataset.palette.tolist()))
    sweep = SweepResult("films", "val", dataset.class_names, palette, (3,), results)
    folder = tmp_path_factory.mktemp("report")
    origin = Origin("command", 1, "machine", None, "2026-11-21T12:00+00:00", {"a model": "weights"})
    return write_report(folder, sweep, recorder.clips(), origin)


@pytest.fixture
def browse(tmp_path):
    """browse(page, *options): runs headless Chromium; what it prints, after what the page's console had to say."""
    if CHROMIUM is None:
        pytest.skip("needs Chromium (apt-get install chromium)")

    def run(address, *options):
        command = [
            CHROMIUM, "--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--enable-logging=stderr",
            f"--user-data-dir={tmp_path / 'profile'}", "--virtual-time-budget=4000", *options, address,
        ]  # fmt: skip
        done = subprocess.run(command, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stderr[-2000:]
        assert "CONSOLE" not in done.stderr, [line for line in done.stderr.splitlines() if "CONSOLE" in line]
        return done.stdout

    return run


def position(page):
    return re.search(r'<output id="where">(.*?)</output>', page)[1]


def acted(browse, address, script, tmp_path):
    """What `script`, whose `note(value)` keeps values, noted on the page."""
    page = address.read_text().replace(
        "</body>",
        f"""<p id="noted"></p><script>
        const byId = (id) => document.getElementById(id), noted = [], note = (value) => noted.push(value);
        const where = () => byId("where").textContent.match(/frame (\\d+) of (\\d+)/).slice(1).join("/");
        const press = (key) => byId("player").dispatchEvent(new KeyboardEvent("keydown", {{key, bubbles: true}}));
        const later = (milliseconds) => new Promise((done) => setTimeout(done, milliseconds));
        (async () => {{ {script}; byId("noted").textContent = JSON.stringify(noted); }})();
        </script></body>""",
    )
    copy = tmp_path / "page.html"
    copy.write_text(page)
    return json.loads(re.search(r'<p id="noted">(.*?)</p>', browse(copy.as_uri(), "--dump-dom"))[1])


def test_the_page_opens_on_a_frame_behind_a_key_frame(browse, address):
    page = browse(address.as_uri(), "--dump-dom")
    assert position(page) == "frame 8 of 8 (number 8 of the video)"
    assert "1 after its key frame" in page and 'class="controls"' in page


def test_a_complaint_on_the_console_would_be_seen(browse, address, tmp_path):
    broken = tmp_path / "broken.html"
    broken.write_text(address.read_text().replace("</body>", "<script>nothing.there</script></body>"))
    with pytest.raises(AssertionError, match="nothing is not defined"):
        browse(broken.as_uri(), "--dump-dom")


@pytest.mark.parametrize(
    ("fragment", "expected"),
    [
        ("frame=3", "frame 3 of 8"),
        ("frame=99", "frame 8 of 8"),
        ("clip=1&frame=4", "frame 4 of 5"),
        ("clip=9", "frame 5 of 5"),
        ("nonsense", "frame 8 of 8"),
    ],
)
def test_an_address_leads_to_a_frame(browse, address, fragment, expected):
    assert position(browse(f"{address.as_uri()}#{fragment}", "--dump-dom")).startswith(expected)


def test_buttons_keys_and_slider_step(browse, address, tmp_path):
    script = """
        press("Home"); note(where());
        byId("next").click(); byId("next").click(); note(where());
        byId("back").click(); note(where());
        press("ArrowRight"); press("ArrowRight"); note(where());
        press("ArrowLeft"); note(where());
        press("End"); press("ArrowRight"); note(where());
        byId("slider").value = 4; byId("slider").dispatchEvent(new Event("input")); note(where());
        document.querySelectorAll(".track i")[5].click(); note(where());
    """
    steps = ["1/8", "3/8", "2/8", "4/8", "3/8", "8/8", "5/8", "6/8"]
    assert acted(browse, address, script, tmp_path) == steps


def test_pictures_and_key_frames_follow_the_steps(browse, address, tmp_path):
    script = """
        const clips = JSON.parse(byId("clips").textContent);
        byId("clip").value = 1; byId("clip").dispatchEvent(new Event("change")); note(where());
        const images = [...document.querySelectorAll("#player img:not(.under)")].map((image) => () => image.src);
        for (const [i, frame] of clips[1].frames.entries()) {
            press(i ? "ArrowRight" : "Home");
            const [model] = frame.models;
            const sources = [frame.image, frame.truth, model.prediction, model.errors];
            note(sources.every((source, at) => source === null || images[at]() === source));
            note(document.querySelectorAll("#player .key").length);
            note([...document.querySelectorAll("figcaption")].filter((c) => c.textContent.includes("has none")).length);
        }
        note([...document.querySelectorAll(".track i")].map((cell) => cell.classList.contains("at-key")));
    """
    frames = [(True, int(i % 3 == 0), 0 if i in (2, 4) else 2) for i in range(5)]
    keys = [True, False, False, True, False]
    expected = ["5/5", *(value for frame in frames for value in frame), keys]
    assert acted(browse, address, script, tmp_path) == expected


def test_it_plays_from_the_end_to_the_beginning_and_stops(browse, address, tmp_path):
    script = """
        press("End"); byId("play").click(); note(byId("play").textContent);
        await later(400);
        note(Number(where().split("/")[0]) < 5);
        press(" "); note(byId("play").textContent);
        const stopped = where(); await later(500); note(where() === stopped);
    """
    assert acted(browse, address, script, tmp_path) == ["Pause", True, "Play", True]


@pytest.mark.parametrize("width", [390, 1280])
def test_the_page_is_as_wide_as_the_screen(browse, address, tmp_path, width):
    """Wide tables scroll by themselves. A frame stands for the phone: a window has a least width."""
    outer = tmp_path / "outer.html"
    outer.write_text(
        f"""<iframe src="{address.as_uri()}" width="{width}" height="800" style="border:0"></iframe><p id="noted"></p>
        <script>document.querySelector("iframe").addEventListener("load", (event) => {{
          const {{ scrollWidth, clientWidth }} = event.target.contentDocument.documentElement;
          document.getElementById("noted").textContent = `${{scrollWidth}} ${{clientWidth}}`;
        }});</script>"""
    )
    page = browse(outer.as_uri(), "--dump-dom", "--allow-file-access-from-files")
    assert re.search(r'<p id="noted">(.*?)</p>', page)[1] == f"{width} {width}"


def test_a_picture_of_the_page_has_its_plots_and_frames(browse, address, tmp_path):
    """Not blank: the colours of the models and those of the error maps are there."""
    browse(address.as_uri(), f"--screenshot={tmp_path / 'page.png'}", "--window-size=1280,2400")
    picture = cv2.imread(str(tmp_path / "page.png"))[..., ::-1]
    for colour in ((0, 101, 168), (214, 30, 40), (225, 225, 225)):
        assert (abs(picture.astype(int) - colour).max(axis=2) <= 3).sum() > 500, colour
