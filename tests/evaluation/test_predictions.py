"""Predictions in files: what is written, where, and what is refused."""

import shutil

import cv2
import numpy as np
import pytest
import torch
from cityscapesscripts.helpers.labels import trainId2label
from torch import nn

from accel.datasets.cityscapes import Cityscapes
from accel.evaluation.running.predictions import Predictions, predict
from accel.models import ScoreMap, VideoModel


class Counter(VideoModel):
    """Says class n on a frame that is n frames from its key frame, and notes the frames' numbers (their red)."""

    def __init__(self):
        super().__init__()
        self.anything = nn.Parameter(torch.zeros(1))
        self.clips = []

    def key_frame(self, image, state=None):
        self.clips.append([int(image[0, 0, 0, 0])])
        return self.scores(image, 0), 0

    def next_frame(self, image, state):
        state = self.advance(image, state)
        return self.scores(image, state), state

    def advance(self, image, state):
        self.clips[-1].append(int(image[0, 0, 0, 0]))
        return state + 1

    def scores(self, image, number):
        scores = torch.zeros(1, 19, *(-(-s // 16) for s in image.shape[2:]))
        scores[:, number] = 1
        return ScoreMap(scores)


def test_classes_are_written_as_the_official_label_ids(tmp_path):
    classes = np.arange(19, dtype=np.uint8).repeat(3).reshape(3, 19)
    predictions = Predictions(tmp_path / "new/folder")
    path = predictions.write("ulm_000000_000019", torch.from_numpy(classes))
    assert path.name == "ulm_000000_000019_pred_labelIds.png" and not path.parent.samefile(tmp_path / "new/folder")
    predictions.finish()
    path = tmp_path / "new/folder/ulm_000000_000019_pred_labelIds.png"
    written = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    assert written.dtype == np.uint8 and written.tolist() == [[trainId2label[c].id for c in row] for row in classes]
    assert predictions.names == ["ulm_000000_000019"] and list(path.parent.iterdir()) == [path]


def test_a_folder_that_holds_anything_is_refused_and_left_alone(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(ValueError, match=r"already holds notes\.txt; predictions need a new or an empty folder"):
        Predictions(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]
    with pytest.raises(ValueError, match=r"notes\.txt: not a folder"):
        Predictions(tmp_path / "notes.txt")


def test_a_folder_that_was_not_given_goes_at_the_end():
    with Predictions() as predictions:
        path = predictions.write("ulm_000000_000019", np.zeros((4, 4), np.uint8))
        assert path.is_file()
    assert not predictions.folder.exists()


def test_a_folder_that_was_given_stays(tmp_path):
    with Predictions(tmp_path) as predictions:
        path = predictions.write("ulm_000000_000019", np.zeros((4, 4), np.uint8))
        predictions.finish()
    assert [p.name for p in tmp_path.iterdir()] == [path.name] and predictions.folder == tmp_path


def test_a_folder_can_be_used_again_after_an_attempt_that_failed_or_was_killed(tmp_path):
    with pytest.raises(RuntimeError), Predictions(tmp_path / "sent") as predictions:
        predictions.write("ulm_000000_000019", np.zeros((4, 4), np.uint8))
        raise RuntimeError("a damaged frame")
    assert not list((tmp_path / "sent").iterdir())
    killed = Predictions(tmp_path / "sent")
    killed.write("ulm_000000_000019", np.zeros((4, 4), np.uint8))
    with Predictions(tmp_path / "sent") as predictions:
        predictions.write("ulm_000000_000020", np.zeros((4, 4), np.uint8))
        predictions.finish()
    assert [p.name for p in (tmp_path / "sent").iterdir()] == ["ulm_000000_000020_pred_labelIds.png"]


def test_another_process_adds_to_the_same_predictions(tmp_path):
    with Predictions(tmp_path / "sent") as predictions:
        Predictions.joining(predictions.folder).write("ulm_000000_000019", np.zeros((4, 4), np.uint8))
        predictions.write("ulm_000000_000020", np.zeros((4, 4), np.uint8))
        predictions.finish()
    assert len(list((tmp_path / "sent").glob("*.png"))) == 2
    with pytest.raises(ValueError, match=r"nowhere: not visible to all processes; .* folder that all can read"):
        Predictions.joining(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("name", "highest", "message"),
    [
        ("ulm_000000_000019", 19, "ulm_000000_000019: class 19 predicted; Cityscapes has 19"),
        ("ulm_000000_000019", 255, "class 255 predicted"),
        ("frame7", 0, "'frame7': .* named CITY_SEQ_FRAME"),
        ("../ulm_000000_000019", 0, "named CITY_SEQ_FRAME"),
        ("aachen_000001_000019", 0, "aachen_000001_000019: a second prediction for this frame"),
    ],
)
def test_what_the_scorer_could_not_take_is_not_written(tmp_path, name, highest, message):
    predictions = Predictions(tmp_path)
    predictions.write("aachen_000001_000019", np.zeros((4, 4), np.uint8))
    with pytest.raises(ValueError, match=message):
        predictions.write(name, np.full((4, 4), highest, np.uint8))
    assert [path.name for path in predictions.folder.iterdir()] == ["aachen_000001_000019_pred_labelIds.png"]


def test_a_file_is_there_whole_or_not_at_all(tmp_path, monkeypatch):
    def fail(*_):
        raise OSError("no space left")

    monkeypatch.setattr("accel.evaluation.running.predictions.os.replace", fail)
    predictions = Predictions(tmp_path)
    with pytest.raises(OSError, match="no space left"):
        predictions.write("ulm_000000_000019", np.zeros((4, 4), np.uint8))
    assert not list(predictions.folder.iterdir()) and not predictions.names


@pytest.mark.parametrize("interval", [1, 2, 4])
@pytest.mark.parametrize("workers", [0, 1])
def test_every_frame_is_predicted_from_a_key_frame_interval_minus_1_before_it(tiny_cityscapes, interval, workers):
    val, model = Cityscapes(tiny_cityscapes, "val"), Counter()
    found = dict(predict(model, val, interval, workers, quiet=True))
    assert list(found) == [val.name(i) for i in range(4)]
    for predicted in found.values():
        assert predicted.shape == (64, 96) and predicted.dtype == torch.uint8 and (predicted == interval - 1).all()
    assert model.clips == [list(range(last - interval + 1, last + 1)) for last in (3, 3, 98, 203)]


def test_nothing_is_left_out_of_a_submission(tiny_cityscapes):
    val = Cityscapes(tiny_cityscapes, "val")
    with pytest.raises(ValueError, match=r"aachen_000000_000003.*: 3 frames come directly before it, interval 5 needs"):
        next(predict(Counter(), val, 5, quiet=True))
    with pytest.raises(ValueError, match="interval 0: expected 1"):
        next(predict(Counter(), val, 0, quiet=True))
    damaged = val.image_path(2)
    damaged.write_bytes(damaged.read_bytes()[:500])
    for workers in (0, 1):
        with pytest.raises(ValueError, match=r"^\S*ulm_000000_000098_leftImg8bit\.png: the PNG is cut off"):
            list(predict(Counter(), val, 1, workers, quiet=True))


def test_frames_without_labels_are_predicted_where_the_stills_say_which(tiny_cityscapes):
    """Cityscapes' test split, with and without the all-ignored labels that come with it."""
    expected = {name: labels.numpy() for name, labels in predict(Counter(), Cityscapes(tiny_cityscapes, "val"), 3)}
    sequences, stills = tiny_cityscapes / "leftImg8bit_sequence/val", tiny_cityscapes / "leftImg8bit/val"
    assert len(Cityscapes(tiny_cityscapes, "val", with_labels=False)) == 4  # gtFine alone says which, too
    for name in expected:
        city = name.split("_")[0]
        (stills / city).mkdir(parents=True, exist_ok=True)
        shutil.copy(sequences / city / f"{name}_leftImg8bit.png", stills / city)
    for path in (tiny_cityscapes / "gtFine/val").glob("*/*.png"):
        path.write_bytes(b"nothing of this is read")
    for _ in range(2):  # frames named by gtFine, then by leftImg8bit
        unlabelled = Cityscapes(tiny_cityscapes, "val", with_labels=False)
        assert unlabelled.clip(0, 2).labels is None and unlabelled.clip(0, 2).frames.shape == (2, 64, 96, 3)
        found = dict(predict(Counter(), unlabelled, 3, quiet=True))
        assert found.keys() == expected.keys()
        assert all(np.array_equal(found[name], labels) for name, labels in expected.items())
        shutil.rmtree(tiny_cityscapes / "gtFine/val", ignore_errors=True)
    with pytest.raises(FileNotFoundError, match=r"gtFine/val/CITY/CITY_SEQ_FRAME_gtFine_labelIds\.png$"):
        Cityscapes(tiny_cityscapes, "val")
    shutil.rmtree(stills)
    with pytest.raises(FileNotFoundError, match=r"no Cityscapes val split .* or leftImg8bit/val in place of gtFine"):
        Cityscapes(tiny_cityscapes, "val", with_labels=False)
