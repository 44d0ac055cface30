"""Lists of classes, one's own and those of other programs."""

import pytest

from accel.datasets.class_list import pascal_palette, read_classes


@pytest.fixture
def read(tmp_path):
    """read(text): the classes of a classes.txt."""

    def read(text):
        (tmp_path / "classes.txt").write_text(text)
        return read_classes(tmp_path / "classes.txt")

    return read


NAMES, COLOURS = ("background", "crack", "traffic light"), [[0, 0, 0], [255, 10, 9], [1, 2, 3]]


@pytest.mark.parametrize(
    "text",
    [
        "0 0 0 background\n255 10 9 crack\n1 2 3 traffic light\n",
        "# our own\n0 0 0\tbackground\n\n#\n255 10 9\tcrack\n1 2 3\ttraffic light",
        "# label:color_rgb:parts:actions\nbackground:0,0,0::\ncrack:255,10,9::\ntraffic light:1,2,3:lamp,pole:blink\n",
        "background:0,0,0::\ncrack:255,10,9::\ntraffic light:1,2,3::\n",
        "name,r,g,b\nbackground,0,0,0\ncrack,255,10,9\ntraffic light,1,2,3\n",
        'Name, R, G, B\n"background", 0, 0, 0\n"crack", 255, 10, 9\n"traffic light", 1, 2, 3\n',
        "r;g;b;class\n0;0;0;background\n255;10;9;crack\n1;2;3;traffic light\n",
        "red\tgreen\tblue\tclass_name\n0\t0\t0\tbackground\n255\t10\t9\tcrack\n1\t2\t3\ttraffic light\n",
        "background,0,0,0\ncrack,255,10,9\ntraffic light,1,2,3\n",
        "0,0,0,background\n255,10,9,crack\n1,2,3,traffic light\n",
        "id,name,note,r,g,b\n0,background,,0,0,0\n1,crack,thin,255,10,9\n2,traffic light,,1,2,3\n",
    ],
)
def test_names_and_colours_are_the_same_in_all_forms(read, text):
    classes = read(text)
    assert classes.names == NAMES and classes.palette.tolist() == COLOURS
    assert classes.values == (0, 1, 2) and classes.coloured


@pytest.mark.parametrize(
    ("text", "names", "values"),
    [
        ("road\nrobot arm\n", ("road", "robot arm"), (0, 1)),
        ("__ignore__\n_background_\nroad\n", ("_background_", "road"), (0, 1)),
        ("Pixel Value, Class\n0, background\n7, crack\n", ("background", "crack"), (0, 7)),
        ("Idx\tRatio\tName\n1\t0.15\twall\n2\t0.1\tbuilding, edifice\n", ("wall", "building, edifice"), (1, 2)),
        ("1,road\n3,sky\n", ("road", "sky"), (1, 3)),
        ("7 road\n11 traffic light\n0 sky\n", ("road", "traffic light", "sky"), (7, 11, 0)),
        ("sky\n255 = 1 2 3 crack\n", ("sky", "crack"), (0, 255)),
        ("wall; stone\nbuilding, edifice\n", ("wall; stone", "building, edifice"), (0, 1)),
        ("background:::\ncrack:::\n", ("background", "crack"), (0, 1)),
        ("lane 1\nlane 2\n3D object\n", ("lane 1", "lane 2", "3D object"), (0, 1, 2)),
    ],
)
def test_values_are_those_of_the_list(read, text, names, values):
    classes = read(text)
    assert (classes.names, classes.values, classes.coloured) == (names, values, False)


def test_what_is_called_ignored_is_no_class(read):
    classes = read("road\nignored\nsky\n9 = 1 2 3 ignored\n")
    assert (classes.names, classes.values) == (("road", "sky"), (0, 2))
    assert classes.ignored == (1, 9) and classes.ignored_colours == ((1, 2, 3),)
    assert [int(classes.table()[v]) for v in (0, 1, 2, 9, 255, 3)] == [0, 255, 1, 255, 255, 254]


FORM = r'expected "NAME" or "R G B NAME", colours up to 255, or "VALUE = NAME"'


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("road\n1 2 tree\n", "line 2: 1 2 tree: expected"),
        ("road\n1 2 256 tree\n", "line 2: .* colours up to 255"),
        ("road\n256 = tree\n", "line 2: 256 = tree: expected"),
        ("road\n3 = 1 2 tree\n", "line 2: 3 = 1 2 tree: expected"),
        ("road\n7 tree\n", "line 2: 7 tree: expected"),
        ("0: road\n1: sky\n", "line 1: 0: road: expected"),
        ("road: 0\nsky: 1\n", "line 1: road: 0: expected"),
        ("road 128 64 128\nsky 1 2 3\n", "line 1: road 128 64 128: expected"),
        ("- road\n- sky\n", "line 1: - road: expected"),
        ('["road",\n"sky"]\n', r'line 1: \["road",: expected'),
        ('{\n  "road": 0\n}\n', "line 1: {: expected"),
        ("#804080 road\n#000000 sky\n", "line 1: #804080 road: expected"),
        ("road #804080\nsky #000000\n", "line 1: road #804080: expected"),
        ("name\nroad\nsky\n", "line 1: name: expected"),
        ("name,r,g,b\nroad,1,2\nsky,1,2,3\n", "line 2: road,1,2: expected"),
        ("name,r,g,b\nroad,1,2,300\nsky,1,2,3\n", "line 2: road,1,2,300: expected"),
        ("name,r,g\nroad,1,2\nsky,1,2\n", "line 2: road,1,2: expected"),
        ("id,value,name\n0,0,road\n1,1,sky\n", "line 1: id,value,name: expected"),
        ("r,g,b\n0,0,0\n1,1,1\n", "line 1: r,g,b: expected"),
        ("road,1,2,3\nsky\n", "line 1: road,1,2,3: expected"),
        ("# label:color_rgb:parts:actions\nroad:1,2,3::\nsky:1,2,3\n", "line 2|line 3"),
        ("road\n" + "x" * 2000 + "\n", "line 2: x"),
    ],
)
def test_other_forms_are_refused_with_the_form_that_is_expected(read, text, message):
    with pytest.raises(ValueError, match=rf"classes\.txt, ({message})") as error:
        read(text)
    assert 'expected "NAME" or "R G B NAME"' in str(error.value) and len(str(error.value)) < 600


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("1 = road\nsky\n", 'line 2: the value 1 belongs to sky and to road; write both lines as "VALUE = NAME"'),
        ("road\nsky\n1 2 3 road\n", "line 3: class road occurs twice"),
        ("road\n", "1 classes; expected 2 to 254"),
        ("", "0 classes"),
        ("# nothing\n", "0 classes"),
        ("name,r,g,b\n", "0 classes"),
        ("ignored\nroad\n", "1 classes"),
        ("".join(f"c{k}\n" for k in range(300)), "300 classes|the value"),
        ("x\n" * 20_000, "20000 lines; expected 2 to 254 classes"),
    ],
)
def test_a_list_of_classes_that_is_none_is_refused(read, text, message):
    with pytest.raises(ValueError, match=message):
        read(text)


@pytest.mark.parametrize("name", ["labelmap.txt", "class_dict.csv", "_classes.csv"])
def test_a_list_of_another_name_is_pointed_at(tmp_path, name):
    (tmp_path / name).write_text("a\nb\n")
    with pytest.raises(FileNotFoundError, match=rf"no such file; .*; {name} beside it may be that list: copy it to"):
        read_classes(tmp_path / "classes.txt")


def test_the_colours_are_those_of_pascal_voc():
    known = [
        (128, 0, 0),
        (0, 128, 0),
        (128, 128, 0),
        (0, 0, 128),
        (128, 0, 128),
        (0, 128, 128),
        (128, 128, 128),
        (64, 0, 0),
    ]
    assert pascal_palette(8).tolist() == [list(colour) for colour in known]
    assert len({tuple(colour) for colour in pascal_palette(254).tolist()}) == 254
