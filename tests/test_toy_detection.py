"""A second task: a toy model that finds boxes goes wherever a model that segments goes.

A new branch and a new task suffice for the player, the streaming, the writer, the benchmark and the reading and
counting of the evaluation. What is about labels says so.
"""

import json
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from films import Films
from torch import Tensor, nn

from accel import tasks
from accel.benchmark.models import benchmark_models, video_contenders
from accel.benchmark.streams import frames_of, latencies, memory, throughput
from accel.evaluation.origin import Origin
from accel.evaluation.report.page import write_report
from accel.evaluation.results import SweepResult
from accel.evaluation.running.evaluator import compare
from accel.evaluation.running.reading import read_stretches
from accel.evaluation.running.sweep import sweep
from accel.evaluation.running.videos import Run, run_videos
from accel.evaluation.tables import print_result, print_sweep
from accel.inference.segmenter import Segmenter
from accel.inference.timing import timed_predictions
from accel.models import Accel, DeepFeatureFlow, DenseInverseSearch, FlowWarp, FrameByFrame, ScoreFusion
from accel.models.branch import Branch
from accel.models.prediction import Prediction
from accel.output_folder import OutputFolder
from accel.playing.player import Player
from accel.playing.schedules import Decision, FixedInterval
from accel.progress import Bar, console
from accel.recording import Recording
from accel.tasks import Score, Task, build_task, task_of
from accel.tasks.accuracy import Accuracy, Words
from accel.video.opening import open_video
from accel.video.writer import VideoWriter

SIZE, MOST = (48, 64), 4  # of frames; boxes of a frame


class Boxes(NamedTuple):
    """boxes (B, N, 4): x1, y1, x2, y2 in pixels; scores (B, N); classes (B, N); count (B,): how many of the N count."""

    boxes: Tensor
    scores: Tensor
    classes: Tensor
    count: Tensor


@dataclass(frozen=True)
class ToyDetections(Prediction):
    """Boxes at fixed places of the frame; how bright a frame is says how many count."""

    features: Tensor  # (B, 1, h, w)

    def at(self, size):
        height, width = size
        batch, device = len(self.features), self.features.device
        quarter = torch.tensor([width / 4, height / 4, width / 2, height / 2], device=device)
        shift = torch.arange(MOST, device=device)[:, None] * torch.tensor([4.0, 0, 4, 0], device=device)
        brightness = self.features.mean((1, 2, 3)).float()
        return Boxes(
            (quarter + shift).expand(batch, MOST, 4),
            torch.linspace(0.9, 0.6, MOST, device=device).expand(batch, MOST),
            torch.zeros(batch, MOST, dtype=torch.int64, device=device),
            (1 + (brightness > 0).long()).to(torch.int64),
        )


class ToyBackbone(nn.Module):
    """(B, 3, H, W) to the means (B, 1, ceil(H/16), ceil(W/16))."""

    out_channels = 1

    def __init__(self):
        super().__init__()
        self.mean = nn.Conv2d(3, 1, 1)
        nn.init.constant_(self.mean.weight, 1 / 3)
        nn.init.zeros_(self.mean.bias)

    def forward(self, image):
        return F.avg_pool2d(self.mean(image), 16, ceil_mode=True)


class ToyDetector(Branch):
    task = "toy_detection"

    def __init__(self):
        super().__init__()
        self.backbone = ToyBackbone()

    def features(self, image):
        return self.backbone(image)

    def predict(self, features):
        return ToyDetections(features)


class Truth(NamedTuple):
    labels: np.ndarray | Tensor


@dataclass(frozen=True)
class ToyAccuracy(Accuracy):
    words = Words("recall", "recall", "recall", "Toys", "finds {} kinds of toys", "A share.", "The same.")
    recall: float
    names: tuple[str, ...]

    @property
    def value(self):
        return self.recall

    @property
    def of_classes(self):
        return dict.fromkeys(self.names, self.recall)

    def brief(self):
        return {"recall": self.recall}

    columns = counts = brief

    def facts(self):
        return {"toys": "many"}


class ToyRecall(Score):
    """Of frames: the share whose first box is where it should be."""

    name = "recall"

    def __init__(self, right=0, seen=0):
        self.right, self.seen = right, seen

    def update(self, said, truth):
        height, width = truth.labels.shape
        self.right += int(torch.equal(said.boxes[0].cpu(), torch.tensor([width, height, 2 * width, 2 * height]) / 4))
        self.seen += 1

    def __add__(self, other):
        return ToyRecall(self.right + other.right, self.seen + other.seen)

    def value(self):
        return self.right / self.seen if self.seen else float("nan")

    def accuracy(self, class_names):
        return ToyAccuracy(len(class_names), self.value(), class_names)

    def emptiness(self):
        return ""


class ToyDetection(Task):
    name = "toy_detection"
    suffix = ".json"
    accuracy_type = ToyAccuracy

    def objective(self, model, loss):
        raise NotImplementedError  # nothing of it is learned

    def score(self):
        return ToyRecall()

    def truth(self, clip):
        return Truth(clip.labels)

    def picture(self, frame, said, title, view):
        picture = frame.copy()
        for x1, y1, x2, y2 in said.boxes[: said.count].astype(int):
            picture[y1:y2, [x1, x2 - 1]] = picture[[y1, y2 - 1], x1:x2] = 255
        return picture

    def save(self, path, said):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({"boxes": said.boxes[: said.count].tolist()}))


@pytest.fixture(autouse=True)
def toy_task(monkeypatch):
    monkeypatch.setitem(tasks.TASKS, ToyDetection.name, ToyDetection)


def frame_by_frame():
    return FrameByFrame(ToyDetector()).eval()


def propagating():
    return DeepFeatureFlow(ToyDetector(), FlowWarp(DenseInverseSearch("ultrafast"))).eval()


@pytest.fixture(params=[frame_by_frame, propagating])
def model(request):
    return request.param()


FIRST = [16.0, 12, 32, 24]  # its first box


def images(number):
    return [torch.from_numpy(frame).permute(2, 0, 1)[None] for frame in frames_of(SIZE, number)]


@torch.inference_mode()
def test_it_is_played(model):
    player = Player(model, FixedInterval(3))
    steps = [player.step(image) for image in images(7)]
    kinds = [step.decision for step in steps]
    assert kinds == [Decision.AFRESH, *[Decision.CURRENT] * 2, Decision.KEY, *[Decision.CURRENT] * 2, Decision.KEY]
    for step in steps:
        said = step.prediction.at(SIZE)
        assert said.boxes.shape == (1, MOST, 4) and said.boxes[0, 0].tolist() == FIRST
    assert model.task == "toy_detection"


def test_it_is_streamed(model):
    results = list(Segmenter(model, FixedInterval(3)).stream(frames_of(SIZE, 5)))
    assert [each.is_key for each in results] == [True, False, False, True, False]
    for each in results:
        assert type(each.prediction) is Boxes and all(isinstance(array, np.ndarray) for array in each.prediction)
        assert each.prediction.boxes[0].tolist() == FIRST and each.prediction.count in (1, 2)


@pytest.mark.gpu
def test_it_is_streamed_from_a_gpu(model):
    there = [each.prediction for each in Segmenter(model.cuda(), FixedInterval(3)).stream(frames_of(SIZE, 5))]
    here = [each.prediction for each in Segmenter(model.cpu(), FixedInterval(3)).stream(frames_of(SIZE, 5))]
    for one, other in zip(there, here, strict=True):
        assert type(one) is Boxes
        for a, b in zip(one, other, strict=True):
            np.testing.assert_array_equal(a, b)


def test_it_is_recorded(model, tmp_path):
    task = build_task(model.task, ["thing"], np.array([[255, 0, 0]]))
    folder = OutputFolder(tmp_path / "out", ["video.mp4"], ["labels"])
    folder.clear()
    with VideoWriter(folder.file("video.mp4"), 10) as video:
        recording = Recording(folder, video, task, Bar("", None, None))
        Segmenter(model, FixedInterval(2)).run(frames_of(SIZE, 3), recording.write)
    folder.close()
    found = sorted((tmp_path / "out" / "labels").iterdir())
    assert [path.name for path in found] == [f"{number:06d}.json" for number in range(3)]
    assert all(json.loads(path.read_text())["boxes"][0] == FIRST for path in found)
    with open_video(tmp_path / "out" / "video.mp4") as reader:
        frames = list(reader)
    assert len(frames) == 3 and frames[0].shape[:2] == SIZE
    assert frames[0][14:22, 15:18].mean() > frames[0].mean() + 20  # the left side of the box is drawn in white


def test_the_evaluation_reads_and_scores_it(model):
    dataset = Films(range(0, 9, 2))
    for stretch in read_stretches(dataset, range(len(dataset)), 2, prepare=task_of(model, dataset).truth, workers=0):
        assert type(stretch.extra) is Truth
    tally = sweep({"toy": model}, dataset, (1, 3), workers=0, quiet=True)["toy"]
    score = tally.score(2, 3)
    assert (score.seen, score.value()) == (4, 1.0)  # of frames 0, 2, 4, 6, 8 four have two before them
    with pytest.raises(ValueError, match="trimap widths: there are none in toy_detection"):
        sweep({"toy": model}, dataset, (1,), widths=(2,), workers=0, quiet=True)


def test_its_figures_make_tables_and_a_report(model, tmp_path):
    dataset = Films(range(0, 9, 2))
    results = compare({"toy": model}, dataset, (1, 3), workers=0, quiet=True)
    found = SweepResult("films", "val", dataset.class_names, ((1, 2, 3),) * 5, (1, 3), results)
    with console.capture() as shown:
        print_result(results["toy"][1])
        print_sweep(found)
    assert "recall 100.00% over 4 frames" in shown.get() and "mIoU" not in shown.get()
    origin = Origin("command", 1, "machine", None, "2026-11-21T12:00+00:00", {"toy": "weights"})
    page = write_report(tmp_path / "report", found, [], origin).read_text()
    assert "<h1>Toys on films" in page and "finds 5 kinds of toys" in page and "mIoU" not in page
    read = json.loads((tmp_path / "report/results.json").read_text())["models"]["toy"][1]
    assert read["recall"] == 1 and [*read["by_distance"]] == ["0", "1", "2"]


def test_what_is_about_labels_is_refused(model):
    dataset = Films((0, 2))
    with pytest.raises(ValueError, match="models for toy_detection give no labels"):
        run_videos({"toy": Run(model, 2)}, dataset, workers=0, quiet=True)
    with pytest.raises(ValueError, match="models for toy_detection give no labels"):
        sweep({"a": model}, dataset, (1,), workers=0, quiet=True, on_labels=lambda *_: None)


def test_models_of_two_tasks_are_not_compared():
    from films import Teller

    with pytest.raises(ValueError, match="models for segmentation and for toy_detection cannot be compared"):
        sweep({"a": Teller(), "b": frame_by_frame()}, Films((1,)), (1,), workers=0, quiet=True)


def test_it_is_timed_and_benchmarked(model):
    said = list(timed_predictions(model, [image[0] for image in images(3)], {1, 2}))
    assert [distance for distance, _, _ in said] == [0, 1, 2] and type(said[0][1]) is Boxes
    contenders = video_contenders("toy", model, SIZE, torch.float32, eager=True)
    times = benchmark_models(contenders, 2, 1, torch.device("cpu"), matrix_gflops=1.0)
    assert set(times) == {"toy", "toy, eager float32"} and all(each.mean > 0 for each in times.values())
    assert latencies(model, SIZE, 2, False, 3)["frames"] == 3
    assert {"plain_loop", "stream"} <= throughput(model, SIZE, 2, 4, 1).keys()
    assert memory(model, SIZE, 2, 20)["frames"] == 20


def test_score_fusion_needs_scores():
    with pytest.raises(ValueError, match="Accel fuses class scores; ToyDetector is for toy_detection"):
        Accel(ToyDetector(), FlowWarp(DenseInverseSearch()), ToyDetector(), ScoreFusion(2))


def test_what_was_optimised_is_for_the_same_task(model):
    assert model.optimized(compile=False).task == "toy_detection"
