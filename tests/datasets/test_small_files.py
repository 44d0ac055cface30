"""Text files as editors and shells on other systems write them."""

import codecs
import json
from pathlib import Path

import pytest

from accel.config import load_config
from accel.datasets.camvid import CamVid
from accel.datasets.camvid_original import _read_colours
from accel.datasets.class_list import read_classes
from accel.evaluation.comparing.seeds import summarize
from accel.files.small_files import read_text

TEXT = "sky\nroad\nÄste und Zweige\n"
FORMS = {
    "as here": lambda text: text.encode(),
    "Windows' editor": lambda text: codecs.BOM_UTF8 + text.replace("\n", "\r\n").encode(),
    "PowerShell": lambda text: codecs.BOM_UTF16_LE + text.replace("\n", "\r\n").encode("utf-16-le"),
    "the other order": lambda text: codecs.BOM_UTF16_BE + text.encode("utf-16-be"),
    "an old Macintosh": lambda text: text.replace("\n", "\r").encode(),
}


@pytest.fixture(params=FORMS)
def write(request, tmp_path):
    """write(name, text): a file in one of the forms."""

    def write(name, text):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(FORMS[request.param](text))
        return path

    return write


def test_the_text_is_the_same_in_all_forms(write):
    assert read_text(write("a.txt", TEXT)) == TEXT


def test_classes_have_the_same_names_and_colours(write):
    classes = read_classes(write("classes.txt", TEXT))
    assert classes.names == ("sky", "road", "Äste und Zweige")
    assert read_classes(write("colours.txt", "1 2 3 sky\n4 5 6 road\n")).palette.tolist() == [[1, 2, 3], [4, 5, 6]]


def test_lists_of_frames_and_of_colours(write, tiny_camvid):
    listing = tiny_camvid / "val.txt"
    names = listing.read_text()
    write(listing, names)
    assert [CamVid(tiny_camvid, "val").name(i) for i in range(6)] == names.split()
    colours = write("label_colors.txt", "1 2 3\tSky\n4 5 6\tRoad\n")
    assert _read_colours(colours) == {"Sky": (1, 2, 3), "Road": (4, 5, 6)}


def test_configurations_and_results(write, tiny_run):
    text = Path(tiny_run()[1]).read_text(encoding="utf-8")
    assert load_config(write("a.yaml", text)).model_dump() == load_config(tiny_run()[1]).model_dump()
    result = {"interval": 1, "by_distance": {"0": {"miou": 0.5}}, "mean": 0.5, "fps": 10.0}
    about = {"data": "camvid", "split": "val", "class_names": ["Äste"], "class_maps": {}, "simulated": None}
    path = write("a.json", json.dumps({**about, "models": {"A": [result]}}, ensure_ascii=False))
    assert summarize([path]).accuracy["A"][1].mean == 0.5


def test_other_encodings_are_refused_with_the_way_out(tmp_path):
    (tmp_path / "classes.txt").write_bytes("sky\nÄste\n".encode("latin-1"))
    with pytest.raises(ValueError, match=r"classes\.txt: not a text in UTF-8 \(byte 4\); save it as UTF-8"):
        read_classes(tmp_path / "classes.txt")
