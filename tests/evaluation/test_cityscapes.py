"""The official scorer: our numbers are its numbers, it leaves no trace, and what it cannot score is told clearly."""

import os
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from cityscapesscripts.evaluation import evalPixelLevelSemanticLabeling as scorer  # noqa: N813
from cityscapesscripts.helpers.labels import id2label, name2label, trainId2label

from accel.evaluation.cityscapes.official import check_agreement, official_scores, official_table
from accel.evaluation.running.predictions import Predictions
from accel.measures.confusion import ConfusionMatrix
from accel.progress import console

CLASS_OF_ID = np.array([min(id2label[i].trainId % 256, 255) for i in range(34)], np.uint8)
ID = {name: label.id for name, label in name2label.items()}


def write_truth(folder, name, ids, instances=None):
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}_gtFine_labelIds.png"
    cv2.imwrite(str(path), ids.astype(np.uint8))
    if instances is not None:
        cv2.imwrite(str(folder / f"{name}_gtFine_instanceIds.png"), instances.astype(np.uint16))
    return path


def write_prediction(folder, name, ids):
    folder.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(folder / f"{name}_pred.png"), np.asarray(ids, np.uint8))


@pytest.fixture
def scene(tmp_path):
    """scene(truth, predicted, instances=None): scores of one small frame, arrays of label names (or instance ids)."""

    def score(truth, predicted, instances=None):
        def ids(names):
            return np.array([[ID[name] for name in row.split(",")] for row in names.split("/")])

        path = write_truth(tmp_path / "gt", "a_000000_000000", ids(truth), instances)
        write_prediction(tmp_path / "pred", "a_000000_000000", ids(predicted))
        return official_scores(tmp_path / "pred", [path])

    return score


# --- agreement ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(5))
def test_our_confusion_matrix_gives_the_official_scores(tmp_path, seed):
    """Random predictions on frames with ignored regions; classes are absent from the truth, the predictions or both."""
    rng = np.random.default_rng(seed)
    true_ids = rng.choice(34, rng.integers(4, 24), replace=False)
    classes = rng.choice(19, rng.integers(2, 16), replace=False).astype(np.uint8)
    true_ids[:2] = ID["ego vehicle"], trainId2label[int(classes[0])].id  # something ignored and something not
    matrix, truths = ConfusionMatrix(19), []
    with Predictions(tmp_path / "pred") as predictions:
        for i in range(4):
            size = (24, 32 + 8 * i)
            ids = cv2.resize(rng.choice(true_ids, (6, 8)).astype(np.uint8), size[::-1], interpolation=cv2.INTER_NEAREST)
            guess = rng.choice(classes, size)
            truth = CLASS_OF_ID[ids]
            predicted = np.where((rng.random(size) < 0.6) & (truth != 255), truth, guess).astype(np.uint8)
            matrix.update(torch.from_numpy(predicted), torch.from_numpy(truth))
            predictions.write(f"a_000000_{i:06d}", predicted)
            truths.append(write_truth(tmp_path / "gt", f"a_000000_{i:06d}", ids))
        scores = official_scores(predictions.folder, truths)
    assert matrix.miou() == pytest.approx(scores.classes.mean, abs=1e-12)
    ours = [None if np.isnan(v) else v for v in matrix.iou().tolist()]
    assert list(scores.classes.each) == [trainId2label[c].name for c in range(19)]
    assert ours == pytest.approx(list(scores.classes.each.values()), abs=1e-12)
    assert None in ours  # a class was absent
    assert scores.frames == 4 and scores.instance_classes is None and scores.instance_categories is None
    assert "equal to our own" in check_agreement(matrix.miou(), scores)


def test_a_difference_above_the_tolerance_is_an_error(scene):
    scores = scene("road,road,car", "road,car,car")
    assert scores.classes.mean == pytest.approx(0.5)
    assert "official mIoU 50.00% over 1 frames" in check_agreement(0.5 + 0.9e-6, scores)
    for own in (0.5 + 1.1e-6, 0.5 - 1.1e-6):
        with pytest.raises(ValueError, match=r"own mIoU 0\.\d+ and official mIoU 0\.5.*labelTrainIds"):
            check_agreement(own, scores)


# --- what the scores mean -------------------------------------------------------------------------------------


def test_scores_by_hand(scene):
    """IoU: road 2 of 3, wall 0 of 1, building 1 of 2. By category, walls and buildings are one."""
    scores = scene("road,road,building,wall,unlabeled", "road,road,building,building,sky")
    each = scores.classes.each
    assert {k: v for k, v in each.items() if v is not None} == {"road": 1.0, "building": 0.5, "wall": 0.0}
    assert scores.classes.mean == pytest.approx(0.5)
    categories = {k: v for k, v in scores.categories.each.items() if v is not None}
    assert categories == {"flat": 1.0, "construction": 1.0} and scores.categories.mean == 1.0
    assert list(scores.categories.each) == ["flat", "construction", "object", "nature", "sky", "human", "vehicle"]


def test_predicting_a_label_that_is_not_scored_counts_as_missed(scene):
    scores = scene("road,road,road,road", "road,unlabeled,parking,road")
    assert scores.classes.each["road"] == 0.5


def test_instances_weigh_alike_in_iiou(scene):
    """Two cars of 4 and 2 pixels: 3 of the first are found, the second is called a truck; one road pixel is "car"."""
    truth = "car,car,car,car/car,car,road,road"
    instances = np.array([[26000] * 4, [26001, 26001, 7, 7]])
    scores = scene(truth, "car,car,car,road/truck,truck,car,road", instances)
    size = scorer.args.avgClassSize["car"]
    hit, missed = 3 * size / 4, 1 * size / 4 + 2 * size / 2
    assert scores.instance_classes.each["car"] == pytest.approx(hit / (hit + missed + 1), abs=1e-12)
    assert scores.instance_classes.each["truck"] == 0.0 and scores.instance_classes.each["person"] is None
    assert scores.instance_classes.mean == pytest.approx(scores.instance_classes.each["car"] / 2)
    hit, missed = hit + 2 * size / 2, 1 * size / 4  # a truck is a vehicle, too
    assert scores.instance_categories.each == {"human": None, "vehicle": pytest.approx(hit / (hit + missed + 1))}
    assert list(scores.instance_classes.each) == [
        "person", "rider", "car", "truck", "bus", "train", "motorcycle", "bicycle",
    ]  # fmt: skip


def test_without_instance_ids_beside_every_truth_there_is_no_iiou(tmp_path):
    truths = []
    for i in range(2):
        ids = np.full((4, 4), 26)
        truths.append(write_truth(tmp_path / "gt", f"a_000000_00000{i}", ids, ids * 1000 if i else None))
        write_prediction(tmp_path / "pred", f"a_000000_00000{i}", ids)
    assert official_scores(tmp_path / "pred", truths).instance_classes is None
    assert official_scores(tmp_path / "pred", truths[1:]).instance_classes.each["car"] == 1.0


def test_predictions_are_found_in_folders_and_others_do_no_harm(tmp_path):
    truth = write_truth(tmp_path / "gt", "a_000000_000001", np.full((4, 4), 7))
    write_prediction(tmp_path / "pred/a", "a_000000_000001", np.full((4, 4), 7))
    write_prediction(tmp_path / "pred/b", "b_000000_000001", np.full((9, 9), 255))
    assert official_scores(tmp_path / "pred", [truth]).classes.mean == 1.0


def test_the_table_shows_classes_categories_and_means(scene, capsys):
    with_instances = scene("car,car,road", "car,road,road", np.array([[26000, 26000, 7]]))
    for scores in (with_instances, replace(with_instances, instance_classes=None, instance_categories=None)):
        console.print(official_table(scores))
        lines = {}
        for line in capsys.readouterr().out.splitlines():
            cells = [cell.strip() for cell in line.replace("┃", "│").strip("│ ").split("│")]
            lines[cells[0]] = cells[1:]
        columns = 2 if scores.instance_classes else 1
        assert lines["class"] == ["IoU %", "iIoU %"][:columns]
        assert lines["car"] == ["50.0", "50.0"][:columns] and lines["road"] == ["50.0", "-"][:columns]
        assert lines["train"] == ["-", "-"][:columns]
        assert lines["mean of classes"] == ["50.0", "50.0"][:columns]
        assert lines["vehicle"] == lines["mean of categories"] == ["50.0", "50.0"][:columns]


# --- manners --------------------------------------------------------------------------------------------------


def test_scoring_leaves_no_trace(tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(scorer.args, "exportFile", str(tmp_path / "result.json"))
    ids = np.full((4, 4), 26)
    truth = write_truth(tmp_path / "gt", "a_000000_000001", ids, ids * 1000)
    write_prediction(tmp_path / "pred", "a_000000_000001", ids)
    before = {**vars(scorer.args)}, scorer.np, {**os.environ}, sorted(tmp_path.rglob("*"))
    a = official_scores(tmp_path / "pred", [truth])
    b = official_scores(tmp_path / "pred", [truth])
    assert a == b
    assert before == (vars(scorer.args), scorer.np, {**os.environ}, sorted(tmp_path.rglob("*")))
    assert Path.cwd() == tmp_path and capfd.readouterr() == ("", "")


def test_numpy_without_in1d_gives_the_same_iiou(scene, monkeypatch):
    """NumPy 2.4 dropped a function that the scorer of version 2.3.0 calls."""
    scenery = "car,car,person,road", "car,person,person,car", np.array([[26000, 26000, 24000, 7]])
    monkeypatch.setattr(np, "in1d", lambda a, b: np.isin(a.ravel(), b), raising=False)
    old = scene(*scenery)
    monkeypatch.delattr(np, "in1d")
    assert scene(*scenery) == old and old.instance_categories.each["human"] is not None


def test_what_the_scorer_itself_refuses_becomes_one_line(scene, tmp_path, monkeypatch):
    with pytest.raises(ValueError, match=r"^cityscapesscripts: KeyError: 'road'$"):
        scene("road,road", "road,road", np.array([[7001, 7001]]))  # roads have no instances
    (tmp_path / "gt/a_000000_000000_gtFine_instanceIds.png").write_bytes(b"damaged")
    with pytest.raises(ValueError, match=r"^cityscapesscripts: ERROR: Unable to load .*instanceIds\.png$"):
        official_scores(tmp_path / "pred", [tmp_path / "gt/a_000000_000000_gtFine_labelIds.png"])
    assert scorer.np is np


# --- mistakes -------------------------------------------------------------------------------------------------


@pytest.fixture
def three(tmp_path):
    """The truths of three frames, of which predictions are in the folder pred."""
    truths = []
    for i in range(3):
        truths.append(write_truth(tmp_path / "gt", f"a_000000_00000{i}", np.full((4, 6), 7)))
        write_prediction(tmp_path / "pred", f"a_000000_00000{i}", np.full((4, 6), 7))
    return truths


def test_an_empty_folder(three, tmp_path):
    (tmp_path / "empty/deep").mkdir(parents=True)
    with pytest.raises(ValueError, match=r"empty: holds no predictions; expected CITY_SEQ_FRAME\*\.png"):
        official_scores(tmp_path / "empty", three)
    with pytest.raises(FileNotFoundError, match=r"nowhere: no such folder"):
        official_scores(tmp_path / "nowhere", three)
    with pytest.raises(ValueError, match="no ground truth to score with"):
        official_scores(tmp_path / "pred", [])


def test_a_missing_prediction(three, tmp_path):
    (tmp_path / "pred/a_000000_000001_pred.png").unlink()
    with pytest.raises(ValueError, match=r"pred: no prediction for a_000000_000001: 1 of 3 frames has none"):
        official_scores(tmp_path / "pred", three)
    (tmp_path / "pred/a_000000_000002_pred.png").unlink()
    with pytest.raises(ValueError, match=r"a_000000_000001: 2 of 3 frames have none; expected a_000000_000001\*\.png"):
        official_scores(tmp_path / "pred", three)


@pytest.mark.parametrize("second", ["a_000000_000001.png", "a_000000_000001_other.png", "sub/a_000000_000001_pred.png"])
def test_a_second_prediction_for_a_frame(three, tmp_path, second):
    (tmp_path / "pred/sub").mkdir()
    (tmp_path / "pred" / second).write_bytes((tmp_path / "pred/a_000000_000001_pred.png").read_bytes())
    with pytest.raises(ValueError, match=r"two predictions for a_000000_000001: \S+\.png and \S+\.png; expected one"):
        official_scores(tmp_path / "pred", three)


def test_a_prediction_of_another_size(three, tmp_path):
    write_prediction(tmp_path / "pred", "a_000000_000002", np.full((6, 4), 7))
    message = r"a_000000_000002_pred\.png: 4 x 6 pixels .*gtFine_labelIds\.png has 6 x 4"
    with pytest.raises(ValueError, match=message):
        official_scores(tmp_path / "pred", three)


def test_values_that_are_no_labels(three, tmp_path):
    image = np.full((4, 6), 33)
    image[1, 1:3] = 34
    image[0, 0] = 255
    write_prediction(tmp_path / "pred", "a_000000_000002", image)
    with pytest.raises(ValueError, match=r"000002_pred\.png: label values 34, 255 on 3 pixels; expected one of 0-33"):
        official_scores(tmp_path / "pred", three)
    write_prediction(tmp_path / "pred", "a_000000_000002", np.full((4, 6), 33))
    write_truth(tmp_path / "gt", "a_000000_000000", image)
    with pytest.raises(ValueError, match=r"000000_gtFine_labelIds\.png: label values 34, 255"):
        official_scores(tmp_path / "pred", three)


def test_predictions_in_colour_and_damaged_ones(three, tmp_path):
    path = tmp_path / "pred/a_000000_000001_pred.png"
    cv2.imwrite(str(path), np.zeros((4, 6, 3), np.uint8))
    with pytest.raises(ValueError, match=r"000001_pred\.png: expected labels as one channel .* found PNG .* RGB"):
        official_scores(tmp_path / "pred", three)
    path.write_bytes(path.read_bytes()[:40])
    with pytest.raises(ValueError, match=r"000001_pred\.png: the PNG is cut off"):
        official_scores(tmp_path / "pred", three)


def test_nothing_but_ignored_labels(scene):
    with pytest.raises(ValueError, match="nothing to score: .* ignored labels only"):
        scene("unlabeled,ego vehicle,parking", "road,road,car")


def test_ground_truth_of_another_name(three, tmp_path):
    with pytest.raises(ValueError, match=r"other\.png: expected ground truth named CITY_SEQ_FRAME_gtFine_labelIds"):
        official_scores(tmp_path / "pred", [tmp_path / "other.png"])
