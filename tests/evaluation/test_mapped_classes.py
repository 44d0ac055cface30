"""A model and data of different classes: the mapped ones score as labels mapped by hand do."""

import cv2
import numpy as np
import pytest
import torch
from small_models import small, standardise_scores

from accel.config import parse_model
from accel.datasets.camvid import CLASS_NAMES as CAMVID
from accel.datasets.camvid import PALETTE as CAMVID_PALETTE
from accel.datasets.camvid import CamVid
from accel.datasets.cityscapes import CLASS_NAMES as CITYSCAPES
from accel.datasets.cityscapes import PALETTE as CITYSCAPES_PALETTE
from accel.datasets.cityscapes import Cityscapes
from accel.datasets.class_maps import find_class_map
from accel.evaluation.running.evaluator import compare, evaluate
from accel.evaluation.running.mapped_classes import MappedDataset, MappedModel, bring_together
from accel.measures.confusion import ConfusionMatrix
from accel.measures.temporal import own_flow
from accel.models import build_model
from accel.weights.checkpoints import Description, save_weights

TO_CAMVID = {"wall": "building", "traffic light": "sign", "traffic sign": "sign", "vegetation": "tree",
             "terrain": "tree", "person": "pedestrian", "rider": "bicyclist", "truck": "car", "bus": "car",
             "train": "car", "motorcycle": "bicyclist", "bicycle": "bicyclist"}  # fmt: skip


@pytest.fixture
def checkpoint(tmp_path):
    """checkpoint("camvid"): an untrained Accel for its classes, as (weights file, model)."""

    def save(kind):
        names, palette = (CAMVID, CAMVID_PALETTE) if kind == "camvid" else (CITYSCAPES, CITYSCAPES_PALETTE)
        branch = {"encoder": "tu-test_resnet", "head_channels": 8}
        values = {"name": "accel", "num_classes": len(names), "reference": branch, "update": branch}
        config = parse_model({**values, "flow": {"width": 1 / 16}}, "test")
        torch.manual_seed(0)
        model = build_model(config)
        for branch in (model.reference, model.update):
            standardise_scores(branch, (36, 48))  # so that many classes are predicted
        for parameter in model.fusion.parameters():
            torch.nn.init.normal_(parameter)
        path = tmp_path / f"{kind}.safetensors"
        save_weights(path, model, Description(config, names, tuple(map(tuple, palette.tolist())), 0))
        return path, model.eval()

    return save


def merged(labels):
    """Cityscapes' class indices as CamVid's, pixel by pixel by name."""
    target = [CAMVID.index(TO_CAMVID.get(name, name)) for name in CITYSCAPES]
    return np.array([255 if c == 255 else target[c] for c in labels.flat], np.uint8).reshape(labels.shape)


def alone(path, model, data):
    """`bring_together` of one model."""
    models, data, maps = bring_together({"it": path}, {"it": model}, data)
    return models["it"], data, maps.get("it")


def score_by_hand(model, dataset, interval, predicted_table, truth_table):
    matrix = ConfusionMatrix(11)
    for i in range(len(dataset)):
        if dataset.history(i) < interval - 1:
            continue
        clip = dataset.clip(i, interval)
        frames = torch.from_numpy(clip.frames).permute(0, 3, 1, 2)[None]
        with torch.inference_mode():
            labels = model(frames).labels(clip.labels.shape)[0].numpy()
        predicted, truth = predicted_table(labels), truth_table(clip.labels)
        matrix.update(torch.from_numpy(predicted), torch.from_numpy(truth))
    return matrix


@pytest.mark.parametrize("interval", [1, 3])
def test_a_cityscapes_model_on_camvid(checkpoint, tiny_camvid, interval):
    path, model = checkpoint("cityscapes")
    data = CamVid(tiny_camvid, "val")
    mapped_model, mapped_data, found = alone(path, model, data)
    result = evaluate(mapped_model, mapped_data, interval, workers=0, quiet=True)
    expected = score_by_hand(model, data, interval, merged, lambda labels: labels)
    assert result.accuracy.miou == pytest.approx(expected.miou(), abs=1e-12)
    assert list(result.accuracy.iou) == list(CAMVID) and found.ignored == ()
    assert (expected.counts.sum(0) > 0).sum() > 1  # more than one class was predicted


@pytest.mark.parametrize("interval", [1, 3])
def test_a_camvid_model_on_cityscapes(checkpoint, tiny_cityscapes, interval):
    path, model = checkpoint("camvid")
    data = Cityscapes(tiny_cityscapes, "val")
    mapped_model, mapped_data, found = alone(path, model, data)
    result = evaluate(mapped_model, mapped_data, interval, workers=0, quiet=True)

    def truth(labels):
        return np.where(labels == CITYSCAPES.index("train"), 255, merged(labels)).astype(np.uint8)

    expected = score_by_hand(model, data, interval, lambda labels: labels, truth)
    assert result.accuracy.miou == pytest.approx(expected.miou(), abs=1e-12)
    assert list(result.accuracy.iou) == list(CAMVID) and found.ignored == ("train",)
    assert (expected.counts.sum(1) > 0).all()


def test_equal_classes_are_left_alone(checkpoint, tiny_camvid):
    path, model = checkpoint("camvid")
    data = CamVid(tiny_camvid, "val")
    assert alone(path, model, data) == (model, data, None)


@pytest.mark.parametrize("where", ["camvid", "cityscapes"])
def test_models_of_both_score_in_the_same_classes_on_either_data(checkpoint, tiny_camvid, tiny_cityscapes, where):
    """As each does alone, but for a Cityscapes model on Cityscapes, whose labels are merged on both sides."""
    data = CamVid(tiny_camvid, "val") if where == "camvid" else Cityscapes(tiny_cityscapes, "val")
    kinds = {kind: checkpoint(kind) for kind in ("cityscapes", "camvid")}
    paths, models = ({kind: pair[i] for kind, pair in kinds.items()} for i in (0, 1))
    together, seen, maps = bring_together(paths, models, data)
    assert [*maps] == (["cityscapes"] if where == "camvid" else ["cityscapes", "camvid"])
    assert together["camvid"] is models["camvid"] and (seen is data) == (where == "camvid")

    def truth(labels):
        if where == "camvid":
            return labels
        return np.where(labels == CITYSCAPES.index("train"), 255, merged(labels)).astype(np.uint8)

    results = compare(together, seen, (3,), average=False, workers=0, quiet=True)
    for kind, said in (("cityscapes", merged), ("camvid", lambda labels: labels)):
        expected = score_by_hand(models[kind], data, 3, said, truth)
        assert results[kind][0].accuracy.miou == pytest.approx(expected.miou(), abs=1e-12)
        assert list(results[kind][0].accuracy.iou) == list(CAMVID)


def test_one_model_without_a_map_is_refused_among_others(checkpoint, tiny_camvid, tmp_path):
    path, model = checkpoint("cityscapes")
    fits, _ = checkpoint("camvid")
    with pytest.raises(ValueError, match=r"camvid\.safetensors: knows 11 classes .*but the data have 2 \(cat, dog\)"):
        data = CamVid(tiny_camvid, "val")
        data.class_names = ("cat", "dog")
        bring_together({"a": fits, "b": path}, {"a": model, "b": model}, data)


def test_classes_without_a_map_are_refused(checkpoint, tiny_camvid):
    path, model = checkpoint("cityscapes")
    data = CamVid(tiny_camvid, "val")
    data.class_names = ("cat", "dog")
    with pytest.raises(ValueError, match=r"knows 19 classes \(road, .*but the data have 2 \(cat, dog\)"):
        alone(path, model, data)


def test_a_mapped_data_set_is_the_other_but_for_its_labels(checkpoint, tiny_cityscapes):
    path, model = checkpoint("camvid")
    data = Cityscapes(tiny_cityscapes, "val")
    _, mapped, _ = alone(path, model, data)
    assert isinstance(mapped, MappedDataset) and len(mapped) == 4 and mapped.num_classes == 11
    assert np.array_equal(mapped.palette, CAMVID_PALETTE)
    for i in range(4):
        for ask in ("name", "history", "place"):
            assert getattr(mapped, ask)(i) == getattr(data, ask)(i)
        ours, theirs = mapped.clip(i, 2), data.clip(i, 2)
        assert ours.name == theirs.name and np.array_equal(ours.frames, theirs.frames)
        expected = np.where(theirs.labels == 16, 255, merged(theirs.labels))
        assert np.array_equal(ours.labels, expected) and ours.labels.dtype == np.uint8


def test_a_mapped_model_keeps_its_weights_and_its_state(checkpoint):
    _, model = checkpoint("cityscapes")
    mapped = MappedModel(model, find_class_map(CITYSCAPES, CAMVID))
    assert [n.removeprefix("model.") for n in mapped.state_dict()] == list(model.state_dict())
    frames = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (3, 1, 3, 64, 96), np.uint8))
    with torch.inference_mode():
        (_, a), (_, b) = model.key_frame(frames[0]), mapped.key_frame(frames[0])
        a, b = model.advance(frames[1], a), mapped.advance(frames[1], b)
        (plain, a), (seen, b) = model.next_frame(frames[2], a), mapped.next_frame(frames[2], b)
    assert torch.equal(a.anchor.features, b.anchor.features)
    labels = seen.at((64, 96)).labels
    assert labels.dtype == torch.uint8 and np.array_equal(labels.numpy(), merged(plain.labels((64, 96)).numpy()))


def test_a_mapped_model_renews_and_is_optimised_as_its_own_is():
    model = small("deep_feature_flow", classes=len(CITYSCAPES)).eval()
    found = find_class_map(CITYSCAPES, CAMVID)
    mapped = MappedModel(model, found)
    assert mapped.carries_state and mapped.device == torch.device("cpu")
    fast = mapped.optimized((64, 96), torch.float32, compile=False, parts=2)
    assert isinstance(fast, MappedModel) and fast.class_map is found
    frames = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (4, 1, 3, 64, 96), np.uint8))
    with torch.inference_mode():
        (_, a), (_, b) = fast.model.key_frame(frames[0]), fast.key_frame(frames[0])
        a, b = fast.model.renew(a, 2), fast.renew(b, 2)
        for frame in frames[1:]:
            (plain, a), (seen, b) = fast.model.next_frame(frame, a), fast.next_frame(frame, b)
            assert np.array_equal(seen.at((64, 96)).labels.numpy(), merged(plain.labels((64, 96)).numpy()))
    assert a.pending is None and b.pending is None


def test_a_mapped_model_remembers_key_frames_as_its_own_does(checkpoint):
    class Remembering(type(checkpoint("cityscapes")[1])):
        remembers = True

        def key_frame(self, image, state=None):
            if state is None:
                return super().key_frame(image)
            scores, _ = self.next_frame(image, state)
            return scores, "remembered"

    _, model = checkpoint("cityscapes")
    mapped = MappedModel(model, find_class_map(CITYSCAPES, CAMVID))
    assert not mapped.remembers
    model.__class__ = Remembering
    frames = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (2, 1, 3, 64, 96), np.uint8))
    with torch.inference_mode():
        _, state = mapped.key_frame(frames[0])
        (plain, _), (seen, after) = model.key_frame(frames[1], state), mapped.key_frame(frames[1], state)
    assert mapped.remembers and after == "remembered"
    assert np.array_equal(seen.at((64, 96)).labels.numpy(), merged(plain.labels((64, 96)).numpy()))


def test_a_mapped_model_is_prepared_as_its_own_is():
    sizes = []
    branch = {"encoder": "tu-test_resnet", "head_channels": 8}
    model = build_model(parse_model({"name": "frame_by_frame", "num_classes": 19, "reference": branch}, "test"))
    model.prepare = sizes.append
    MappedModel(model, find_class_map(CITYSCAPES, CAMVID)).prepare((64, 96))
    assert sizes == [(64, 96)]


def test_a_mapped_model_without_memory_says_so():
    branch = {"encoder": "tu-test_resnet", "head_channels": 8}
    model = build_model(parse_model({"name": "frame_by_frame", "num_classes": 19, "reference": branch}, "test"))
    assert not MappedModel(model, find_class_map(CITYSCAPES, CAMVID)).carries_state


def test_models_own_flow_is_found_inside(checkpoint):
    _, model = checkpoint("cityscapes")
    mapped = MappedModel(model.optimized(compile=False), find_class_map(CITYSCAPES, CAMVID))
    assert own_flow(mapped) is model.propagation.flow


@pytest.mark.gpu
def test_a_mapped_model_on_the_gpu_gives_labels_there(checkpoint):
    _, model = checkpoint("cityscapes")
    mapped = MappedModel(model.cuda(), find_class_map(CITYSCAPES, CAMVID))
    image = torch.zeros(1, 3, 64, 96, dtype=torch.uint8, device="cuda")
    with torch.inference_mode():
        labels = mapped.key_frame(image)[0].at((64, 96)).labels
        assert np.array_equal(labels.cpu().numpy(), merged(model.key_frame(image)[0].labels((64, 96)).cpu().numpy()))
    assert labels.is_cuda


def test_a_real_frame_mapped_from_cityscapes_classes_is_the_camvid_label_again(camvid_root):
    """A "perfect" Cityscapes model: it says, for each class of CamVid, one of those that lie in it."""
    back = {TO_CAMVID.get(name, name): i for i, name in enumerate(CITYSCAPES)}  # the last one that maps there
    labels = CamVid(camvid_root, "val").clip(50, 1).labels
    said = np.array([back[CAMVID[c]] if c != 255 else 0 for c in labels.flat], np.uint8).reshape(labels.shape)
    predicted = cv2.LUT(said, find_class_map(CITYSCAPES, CAMVID).predictions)
    matrix = ConfusionMatrix(11)
    matrix.update(torch.from_numpy(predicted), torch.from_numpy(labels))
    assert matrix.miou() == 1.0
