"""Labels that can all be read and teach nothing, or not what is meant: told by the commands before any work is done."""

import json
import re
from pathlib import Path

import cv2
import numpy as np
import pytest

SIZE = (64, 96)
CRACK = np.zeros(SIZE, np.uint8)
CRACK[20:40] = 1  # 31.25% of the pixels


def write_masks(root, masks, split="train", classes="background\ncrack\n"):
    """A folder of stills with these labels."""
    rng = np.random.default_rng(0)
    for kind in ("images", "labels"):
        (root / split / kind).mkdir(parents=True)
    for number, mask in enumerate(masks):
        cv2.imwrite(str(root / split / f"images/{number}.png"), rng.integers(0, 256, (*mask.shape, 3), np.uint8))
        cv2.imwrite(str(root / split / f"labels/{number}.png"), mask)
    (root / "classes.txt").write_text(classes)
    return root


@pytest.fixture
def run(tiny_run):
    """run(root): the arguments of a command for a small model on that folder."""

    def arguments(root, *overrides, classes=2):
        data = f"data={{name: folder, root: {root}, augmentation: {{crop: [32, 64]}}}}"
        return [*tiny_run("frame_by_frame", "train.steps=1"), data, f"model.num_classes={classes}", *overrides]

    return arguments


@pytest.fixture
def said(tool, capfd):
    """said("train", ...): the exit code of a command, and all that it printed."""

    def call(*arguments):
        capfd.readouterr()
        code = tool(*arguments)
        told = capfd.readouterr()
        return code, told.out + told.err

    return call


def advised(text):
    """classes.txt with the lines that a message names, in their places."""
    lines = dict(reversed(line.split(" = ")) for line in re.findall(r'"([0-9]+ = \w+)"', text))
    return {name: f"{value} = {name}" for name, value in lines.items()}


@pytest.mark.parametrize(
    ("classes", "value", "advice"),
    [
        ("background\ncrack\n", 255, {"crack": "255 = crack"}),
        ("crack\nbackground\n", 255, {"crack": "255 = crack", "background": "0 = background"}),
    ],
)
def test_masks_of_0_and_255_are_refused_with_the_line_that_mends_them(said, run, tmp_path, classes, value, advice):
    root = write_masks(tmp_path / "mine", [CRACK * value] * 3, classes=classes)
    code, text = said("train", *run(root), "--check-data")
    missing = classes.split()[1]
    assert code == 2 and "fit for training" not in text
    assert f"class 1 '{missing}' occurs in none of the 3 labels; 255 (ignored) has 31.25% of the pixels" in text
    assert advised(text) == advice
    code, text = said("train", *run(root), "--device", "cpu")
    assert code == 2 and len(text.splitlines()) == 1 and advised(text) == advice
    assert not (tmp_path / "run").exists()

    (root / "classes.txt").write_text("".join(f"{advice.get(name, name)}\n" for name in classes.split()))
    code, text = said("train", *run(root), "--check-data")
    assert code == 0 and "all are fit for training" in text
    share = {name: rest for _, name, *rest in map(str.split, re.findall(r"│ ([01] \w+.*) │", text.replace("│ ", "│ ")))}
    assert "31.25" in share["crack"] and "68.75" in share["background"]
    assert said("train", *run(root), "--device", "cpu")[0] == 0


@pytest.mark.parametrize("key", ["error", "warn"])
def test_labels_that_are_ignored_everywhere_are_refused(said, run, tmp_path, key):
    root = write_masks(tmp_path / "mine", [np.full(SIZE, 255, np.uint8)] * 3)
    for arguments in (["--check-data"], ["--device", "cpu"]):
        code, text = said("train", *run(root, f"data.label_check={key}"), *arguments)
        assert code == 2 and "all pixels of the 3 labels are ignored; 255 means ignored: if it is a class" in text
    assert not (tmp_path / "run").exists()


def test_a_class_that_never_occurs_is_refused_unless_the_user_knows(said, run, tmp_path):
    root = write_masks(tmp_path / "mine", [CRACK] * 3, classes="background\ncrack\nrust\nweld\n")
    nowhere = "classes 2 'rust', 3 'weld' occur in none of the 3 labels"
    for arguments in (["--check-data"], ["--device", "cpu"]):
        code, text = said("train", *run(root, classes=4), *arguments)
        assert code == 2 and f"{nowhere} (if nothing is wrong: data.label_check=warn)" in text
        code, text = said("train", *run(root, "data.label_check=warn", classes=4), *arguments)
        assert code == 0 and re.search(f"^warning: .*{nowhere}$", text, re.MULTILINE)
    assert "weights:" in text


@pytest.mark.parametrize(("share", "code"), [(0.3, 0), (0.7, 0), (0.999, 2)])
def test_many_ignored_pixels_are_told_and_nearly_all_refused(said, run, tmp_path, share, code):
    mask = CRACK.copy()
    mask.flat[np.random.default_rng(0).permutation(mask.size)[: round(share * mask.size)]] = 255
    root = write_masks(tmp_path / "mine", [mask])
    for arguments in (["--check-data"], ["--device", "cpu"]):
        returned, text = said("train", *run(root), *arguments)
        assert returned == code and ("of the pixels of the only label are ignored" in text) == (share > 0.5)
        assert ("warning: " in text) == (share == 0.7) and ('"255 = NAME"' in text) == (share > 0.5)


def test_the_check_prints_how_often_each_class_occurs(said, run, tmp_path):
    half = np.zeros(SIZE, np.uint8)
    half[:, 48:] = 255
    root = write_masks(tmp_path / "mine", [CRACK, half, half, half])
    code, text = said("train", *run(root), "--check-data")
    rows = [re.sub("[│ ]+", " ", line).split() for line in text.splitlines() if line.startswith("│")]
    assert code == 0 and rows == [
        ["0", "background", "54.69", "100.00"],
        ["1", "crack", "7.81", "25.00"],
        ["ignored", "37.50", "75.00"],
    ]


def test_what_is_validated_on_may_lack_a_class_but_not_all(said, run, tmp_path):
    root = write_masks(tmp_path / "mine", [CRACK] * 2)
    validation = "train.validation={split: val, every: 1}"
    write_masks(root, [np.zeros(SIZE, np.uint8)] * 2, "val")
    for arguments in (["--check-data"], ["--device", "cpu"]):
        code, text = said("train", *run(root, validation), *arguments)
        assert code == 0 and f"warning: folder val at {root}: class 1 'crack' occurs in none of the 2 labels" in text
    for path in (root / "val/labels").iterdir():
        cv2.imwrite(str(path), np.full(SIZE, 255, np.uint8))
    for arguments in (["--check-data"], ["--device", "cpu", "--overwrite"]):
        code, text = said("train", *run(root, validation), *arguments)
        assert code == 2 and f"folder val at {root}: all pixels of the 2 labels are ignored" in text
    assert (tmp_path / "run/weights.safetensors").is_file()  # of the first training: nothing was touched


def test_flow_is_learned_without_labels(said, run, tmp_path):
    root = write_masks(tmp_path / "mine", [CRACK * 255])
    branch = "{encoder: tu-test_resnet, head_channels: 8}"
    model = f"model={{name: deep_feature_flow, reference: {branch}, flow: {{width: 0.0625}}}}"
    flow = ["data.motion={}", "data.clip_length=2", "train.loss={name: flow}", "train.freeze=[reference]"]
    arguments = [run(root)[0], run(root)[1], model, *run(root)[2:], *flow]
    assert said("train", *arguments, "--check-data")[0] == 0
    code, text = said("train", *arguments, "--device", "cpu")
    assert code == 0 and "occurs in none" not in text


def test_published_data_that_lack_a_class_are_trained_on_with_a_warning(said, tiny_run, tiny_camvid, tmp_path):
    for path in (tiny_camvid / "trainannot").iterdir():
        labels = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
        labels[labels == 7] = 3
        cv2.imwrite(str(path), labels)
    data = f"data={{name: camvid, root: {tiny_camvid}, augmentation: {{crop: [32, 32]}}}}"
    arguments = [*tiny_run("frame_by_frame", "train.steps=1"), data, "model.num_classes=11"]
    for more in (["--check-data"], ["--device", "cpu"]):
        code, text = said("train", *arguments, *more)
        assert code == 0 and "warning: camvid train at" in text
        assert "class 7 'fence' occurs in none of the 3 labels\n" in text
        assert said("train", *arguments, "data.label_check=error", f"output={tmp_path}/other", *more)[0] == 2


def test_a_recipe_is_refused_before_its_first_stage(said, run, tmp_path):
    """The first stage learns flow, for days; the labels count in the second."""
    root = write_masks(tmp_path / "mine", [CRACK * 255])
    base = Path(run(root)[1])
    where = f"data: {{name: folder, root: {root}, motion: {{}}, clip_length: 2}}"
    model = "model: {name: deep_feature_flow, num_classes: 2, reference: {encoder: tu-test_resnet, head_channels: 8}}"
    flow = f"{{output: {tmp_path}/flow, {model}, {where}, train: {{steps: 1, batch_size: 1, loss: {{name: flow}}, "
    flow += "optimizer: {name: sgd, lr: 0.1}, freeze: [reference]}}"
    labels = f"{{base: {base.name}, output: {tmp_path}/labels, {where}, model: {{num_classes: 2}}}}"
    (tmp_path / "recipe.yaml").write_text(f"stages: [{flow}, {labels}]")
    code, text = said("train", "--cfg", tmp_path / "recipe.yaml", "--device", "cpu")
    assert code == 2 and '"255 = crack"' in text and "stage 1" not in text
    assert not (tmp_path / "flow").exists()


def test_the_key_may_change_between_resumes(said, run, tmp_path):
    root = write_masks(tmp_path / "mine", [CRACK])
    assert said("train", *run(root), "--device", "cpu")[0] == 0
    code, text = said("train", *run(root, "data.label_check=warn"), "--device", "cpu")
    assert code == 0 and "done before" in text


def test_a_score_without_a_class_says_so(said, run, tmp_path):
    """Of training's validation, evaluation, its page and the demo."""
    root = write_masks(tmp_path / "mine", [CRACK] * 2)
    write_masks(root, [CRACK * 255] * 2, "val")
    how = "--device", "cpu"
    code, text = said("train", *run(root, "train.validation={split: val, every: 1}"), *how)
    assert code == 0 and re.search(r"step 1: mIoU 0\.\d+ \(.*no label has 'crack'\), the best so far", text)
    model = [*run(root), "--checkpoint", tmp_path / "run"]
    code, text = said("evaluate", *model, "--json", "one.json", "--workers", 0, *how)
    assert code == 0 and "warning: folder val" in text and re.search(r"mIoU \d+\.\d+% \(.*no label has 'crack'\)", text)
    assert '"255 = crack"' in text
    found = json.loads((tmp_path / "one.json").read_text())
    assert found["classes_not_in_labels"] == ["crack"] and found["ignored"] == 0.3125
    code, text = said("evaluate", *model, "--sweep", 1, "--report", "report", "--workers", 0, *how)
    page = (tmp_path / "report/index.html").read_text(encoding="utf-8")
    assert code == 0 and all("no label has" in each for each in (text, page))
    demo = "--cfg", tmp_path / "run/config.yaml", "--checkpoint", tmp_path / "run", "--output", "out"
    code, text = said("demo", *demo, *how)
    assert code == 0 and re.search(r"mIoU so far \d+\.\d+% \(.*no label has 'crack'\)", text)
    shown = json.loads((tmp_path / "out/summary.json").read_text())
    assert all(shown[key] == found[key] for key in ("classes_scored", "classes_not_in_labels", "ignored"))

    for path in (root / "val/labels").iterdir():
        cv2.imwrite(str(path), np.full(SIZE, 255, np.uint8))
    code, text = said("evaluate", *model, "--workers", 0, *how)
    assert code == 2 and f"nothing to score: folder val at {root}: all pixels of the 2 labels are ignored" in text


def test_masks_of_an_annotation_program_go_from_the_check_to_evaluation(said, run, tmp_path):
    """CVAT's export: a labelmap and colours."""
    labelmap = "# label:color_rgb:parts:actions\nbackground:0,0,0::\ncrack:250,50,83::\n"
    root = write_masks(tmp_path / "mine", [CRACK] * 2, classes=labelmap)
    for path in (root / "train/labels").iterdir():
        mask = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
        cv2.imwrite(str(path), np.uint8([(0, 0, 0), (83, 50, 250)])[mask])  # in OpenCV's order
    code, text = said("train", *run(root), "--check-data")
    assert code == 0 and re.search(r"1 crack .*31\.25", text)
    assert said("train", *run(root), "--device", "cpu")[0] == 0
    model = [*run(root, "data.test_split=train"), "--checkpoint", tmp_path / "run", "--json", "one.json"]
    assert said("evaluate", *model, "--workers", 0, "--device", "cpu")[0] == 0
    assert set(json.loads((tmp_path / "one.json").read_text())["iou"]) == {"background", "crack"}
    cv2.imwrite(str(path), np.full((*SIZE, 3), 7, np.uint8))
    code, text = said("train", *run(root), "--check-data")
    assert code == 2 and "if it is to be ignored, in " in text and 'write "7 7 7 ignored"' in text
