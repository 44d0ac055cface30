"""Learning from the reference branch, on videos without labels."""

import numpy as np
import pytest
import torch
from PIL import Image
from small_models import CLASSES, clip_of, make

from accel.commands import main_of
from accel.config import DistillationConfig, load_config
from accel.datasets.unlabelled_videos import UnlabelledVideos
from accel.models import FlowNetS, ScoreMap
from accel.models.segmentation.freshness import Freshness
from accel.training.distillation import DistillationObjective, Heard, disagreement, photometric, share_alike
from accel.video.reader import FolderReader, VideoFileReader
from accel.video.writer import VideoWriter

SETTINGS = DistillationConfig(name="distillation")


def film(count=12, size=(48, 80), seed=0):
    """(H, W, 3) frames of a picture that moves to the left."""
    rng = np.random.default_rng(seed)
    picture = np.kron(rng.integers(0, 256, (6, 20, 3), dtype=np.uint8), np.ones((8, 8, 1), np.uint8))
    return [np.ascontiguousarray(picture[: size[0], 2 * i : 2 * i + size[1]]) for i in range(count)]


@pytest.fixture
def videos(tmp_path):
    folder = tmp_path / "videos"
    folder.mkdir()
    for number in range(2):
        with VideoWriter(folder / f"{number}.mp4", 25) as writer:
            for frame in film(seed=number):
                writer.write(frame)
    return folder


def frozen(name="accel_pyramid"):
    model = make(name).eval()
    model.reference.requires_grad_(False)
    return model


# --- the objective ------------------------------------------------------------------------------------------------


def test_two_maps_that_say_the_same_are_0_apart_also_with_cells_of_different_sizes():
    scores = torch.randn(2, CLASSES, 8, 12, generator=torch.Generator().manual_seed(0))
    teacher = ScoreMap(scores, stride=8)
    assert float(disagreement(teacher, teacher)) == pytest.approx(0, abs=1e-6)
    finer = ScoreMap(teacher.on_cells((16, 24), 4), stride=4)
    assert float(disagreement(finer, teacher)) == pytest.approx(0, abs=1e-6)
    biased = ScoreMap(scores - 1.0, bias=torch.ones(CLASSES), stride=8)
    assert float(disagreement(biased, teacher)) == pytest.approx(0, abs=1e-6)
    assert float(disagreement(ScoreMap(-scores, stride=8), teacher)) > 0.1


def test_cells_of_which_the_teacher_is_sure_count_more():
    teacher = torch.zeros(1, 2, 1, 2)
    teacher[0, 0, 0, 0] = 20  # sure of the left cell, undecided of the right one
    left, right = teacher.clone(), teacher.clone()
    left[0, :, 0, 0] += torch.tensor([-20.0, 0.0])  # undecided there
    right[0, :, 0, 1] += torch.tensor([0.0, 2.0])
    apart = disagreement(ScoreMap(left, stride=8), ScoreMap(teacher, stride=8))
    assert float(apart) == pytest.approx(np.log(2) / 1.5, rel=1e-3)  # weights 1 and 1/2


def test_the_update_branch_and_the_fusion_learn_and_the_teacher_does_not():
    model = frozen()
    loss = DistillationObjective(model, SETTINGS)(clip_of((64, 96), frames=3).float(), None, None)
    loss.backward()
    assert all(p.grad is None for p in model.reference.parameters())
    assert all(p.grad is not None for p in (*model.update.parameters(), *model.fusion.parameters()))


def test_ground_truth_is_used_where_there_is_some():
    model, clip = frozen(), clip_of((64, 96), frames=2).float()
    labels = torch.zeros(len(clip), 64, 96, dtype=torch.uint8)
    without = DistillationObjective(model, SETTINGS)(clip, labels, None)
    with_labels = DistillationObjective(model, SETTINGS.model_copy(update={"labels": 1.0}))(clip, labels, None)
    assert with_labels > without


def test_what_was_given_to_the_fusion_is_heard_and_then_no_more():
    model, clip = frozen(), clip_of((64, 96), frames=2)
    with Heard(model) as heard:
        model(clip)
    assert (heard.carried.stride, heard.update.stride) == (8, 4)
    update = heard.update
    model(clip)
    assert heard.update is update


@pytest.mark.parametrize(
    ("name", "settings", "prepare", "message"),
    [
        ("frame_by_frame", {}, lambda m: None, "needs a segmentation model that propagates"),
        ("accel", {}, lambda m: m.reference.requires_grad_(True), "expected `reference` in train.freeze"),
        ("accel", {}, lambda m: m.requires_grad_(False), "nothing in this model can learn"),
        ("accel", {"photometric": 1}, lambda m: m.propagation.requires_grad_(False), "expected 0"),
    ],
)
def test_what_cannot_be_distilled_is_told(name, settings, prepare, message):
    model = frozen(name)
    prepare(model)
    with pytest.raises(ValueError, match=message):
        DistillationObjective(model, SETTINGS.model_copy(update=settings))


def test_the_photometric_loss_is_least_at_the_true_motion():
    frames = [torch.from_numpy(f).permute(2, 0, 1)[None].float() for f in film(9, (48, 96))]
    before, now = frames[0], frames[8]  # the picture has moved by 16 pixels, one cell, to the left

    def at(dx):
        flow = torch.zeros(1, 2, 3, 6)
        flow[:, 0] = dx
        return float(photometric(flow, now, before))

    assert at(1.0) < min(at(0.0), at(0.5), at(1.5), at(-1.0))


@pytest.mark.slow
def test_a_flow_network_learns_by_the_photometric_loss():
    torch.manual_seed(0)
    network = FlowNetS(1 / 8)
    frames = [torch.from_numpy(f).permute(2, 0, 1)[None].float() - 120 for f in film(5, (64, 96))]
    optimizer = torch.optim.Adam(network.parameters(), 1e-3)
    losses = []
    for _ in range(40):
        loss = photometric(network(frames[4], frames[0]), frames[4], frames[0])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.8 * losses[0]


# --- the videos ----------------------------------------------------------------------------------------------------


def test_clips_of_a_video_file_are_its_frames(videos):
    data = UnlabelledVideos([videos], "ab")
    with VideoFileReader(videos / "1.mp4") as reader:
        frames = list(reader)
    assert len(data) == 24 and data.num_classes == 2 and data.palette.shape == (2, 3)
    for index in (12, 15, 23, 17):
        number = index - 12
        clip = data.clip(index, min(number + 1, 3))
        assert clip.labels is None and data.history(index) == number and data.place(index) == ("1", number)
        np.testing.assert_array_equal(clip.frames, frames[max(number - 2, 0) : number + 1])
    with pytest.raises(ValueError, match="a clip of 3 needs more"):
        data.clip(13, 3)


def test_clips_of_a_folder_of_frames_are_its_frames(tmp_path):
    frames = film(4)
    (tmp_path / "drive").mkdir()
    for number, frame in enumerate(frames):
        Image.fromarray(frame).save(tmp_path / "drive" / f"{number:03}.png")
    data = UnlabelledVideos([tmp_path / "drive"], "ab")
    assert len(data) == len(FolderReader(tmp_path / "drive").files) == 4
    np.testing.assert_array_equal(data.clip(3, 2).frames, frames[2:])


# --- the run -------------------------------------------------------------------------------------------------------

CONFIG = """
model:
  name: accel
  num_classes: 3
  reference: {name: smp, architecture: unet, encoder: tu-test_resnet, stride: 4}
  update: {name: pyramid, encoder: tu-test_resnet, channels: 8, stride: 8}
  flow: {name: dis}
data: {name: videos, clip_length: 3, classes: [road, car, sky], videos: nowhere, augmentation: {crop: [48, 64]}}
train:
  loss: {name: distillation}
  steps: 4
  batch_size: 2
  workers: 0
  log_every: 2
  optimizer: {name: adamw, lr: 1.0e-3}
  freeze: [reference]
"""


@pytest.fixture
def config(tmp_path):
    path = tmp_path / "distil.yaml"
    path.write_text(CONFIG)
    return path


def test_a_run_needs_only_videos(config, videos, tmp_path):
    main_of("distil")(["--cfg", str(config), "--device", "cpu", f"data.videos={videos}", f"output={tmp_path / 'run'}"])
    from accel.inference.loading import load_model
    from accel.weights.checkpoints import describe_weights

    assert describe_weights(tmp_path / "run").class_names == ("road", "car", "sky")
    model = load_model(tmp_path / "run", device="cpu")
    with torch.inference_mode():
        assert model(torch.zeros(1, 2, 3, 48, 64, dtype=torch.uint8)).labels((48, 64)).shape == (1, 48, 64)


def test_distil_refuses_what_is_trained_on_labels(config):
    config.write_text(CONFIG.replace("distillation", "cross_entropy").replace("videos: nowhere, ", "videos: x, "))
    with pytest.raises(ValueError, match="videos without labels are for train.loss distillation"):
        load_config(config)
    config.write_text(CONFIG.replace("distillation", "cross_entropy").replace("name: videos", "name: camvid"))
    text = config.read_text().replace("videos: nowhere, ", "").replace("classes: [road, car, sky], ", "")
    config.write_text(text)
    with pytest.raises(ValueError, match="expected distillation; accel train trains everything"):
        main_of("distil")(["--cfg", str(config)])


def test_data_without_labels_say_where_they_are(config):
    config.write_text(CONFIG.replace("videos: nowhere, ", ""))
    with pytest.raises(ValueError, match=r"expected data\.videos"):
        load_config(config)


def test_the_head_for_adaptive_key_frames_learns_the_share_that_holds_and_nothing_else_learns_by_it():
    torch.manual_seed(0)
    model, clip = frozen(), clip_of((64, 96), frames=2).float()
    with torch.no_grad(), Heard(model) as heard:
        model(clip)
        target = model.reference(model.reference.seen(clip[:, -1]))
    share = share_alike(heard.carried, target)
    assert share.shape == (1,) and 0 <= float(share) <= 1
    without = DistillationObjective(model, SETTINGS)(clip, None, None)
    without.backward()
    before = {name: p.grad.clone() for name, p in model.update.named_parameters()}
    model.zero_grad()
    model.freshness = Freshness()
    optimizer = torch.optim.Adam(model.freshness.parameters(), 0.05)
    objective = DistillationObjective(model, SETTINGS)
    for step in range(40):
        optimizer.zero_grad()
        objective(clip, None, None).backward()
        if step == 0:
            for name, parameter in model.update.named_parameters():
                torch.testing.assert_close(parameter.grad, before[name])
        optimizer.step()
        model.update.zero_grad()
    with torch.no_grad():
        assert float(model(clip).fresh) == pytest.approx(float(share), abs=0.05)


@pytest.mark.slow
def test_distillation_brings_a_model_closer_to_its_teacher_on_frames_it_has_not_seen():
    """Also than the teacher's own scores, only carried."""
    torch.manual_seed(0)
    from test_any_model import build, enliven

    update = {"name": "pyramid", "encoder": "tu-test_resnet", "channels": 16, "stride": 4}
    _, model = build("pooled", "accel", update=update)
    enliven(model.reference)
    model.reference.requires_grad_(False)
    model.fusion.correction.weight.data.copy_(torch.eye(11, 22)[:, :, None, None])  # begins as carried scores alone

    def clips(seeds):
        for seed in seeds:
            frames = np.stack(film(30, (48, 96), seed))[::6]  # 12 pixels from frame to frame
            yield torch.from_numpy(frames).permute(0, 3, 1, 2)[None].float()

    def agreement(playing):
        shares = []
        with torch.no_grad():
            for clip in clips(range(100, 106)):
                target = model.reference(model.reference.seen(clip[:, -1])).labels((48, 96))
                shares.append(float((playing(clip).labels((48, 96)) == target).float().mean()))
        return float(np.mean(shares))

    carried = agreement(model.eval())
    objective = DistillationObjective(model, SETTINGS)
    learning = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(learning, 2e-3)
    for clip in clips(range(80)):
        model.train()
        model.reference.eval()
        loss = objective(clip, None, None)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert agreement(model.eval()) > carried + 0.05
