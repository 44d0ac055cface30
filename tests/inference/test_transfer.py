"""Frames to the device and labels back."""

import threading

import numpy as np
import pytest
import torch

from accel.inference.segmenter import Segmenter
from accel.inference.transfer import HostTransfer, transfer_for
from accel.models import VideoModel
from accel.models.prediction import Labels, Prediction
from accel.playing.schedules import FixedInterval


def noise(count, size=(64, 96)):
    return list(np.random.default_rng(0).integers(0, 256, (count, *size, 3), np.uint8))


def test_on_the_cpu_nothing_is_copied():
    transfer = transfer_for(torch.device("cpu"))
    assert isinstance(transfer, HostTransfer)
    frame = noise(1)[0]
    image, start = transfer.receive(transfer.upload(frame))
    assert image.data_ptr() == frame.ctypes.data
    labels = image[..., 0].clone()
    arrays, seconds = transfer.send(Labels(labels), start).wait()
    assert arrays.labels.ctypes.data == labels.data_ptr() and seconds > 0


class Told(Prediction):
    def __init__(self, place):
        self.place = place

    def at(self, size):
        return Labels(self.place)


class OnePlace(VideoModel):
    """Labels are the red channel, all written to the same memory, as those of a replayed CUDA graph are."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(64, 64))
        self.place = None

    def key_frame(self, image, state=None):
        work = self.weight
        for _ in range(50):  # so that the next frame is given to the device before this one is done
            work = work @ self.weight
        if self.place is None:
            self.place = torch.empty_like(image[:, 0])
        self.place.copy_(image[:, 0] + work[0, 0].to(torch.uint8))
        return Told(self.place), None

    def next_frame(self, image, state):
        return self.key_frame(image)


@pytest.mark.gpu
def test_on_a_gpu_every_frame_gets_its_own_labels():
    frames = noise(200)
    found = list(Segmenter(OnePlace().cuda(), FixedInterval(3)).stream(frames))
    for number, (frame, segmented) in enumerate(zip(frames, found, strict=True)):
        assert segmented.index == number and segmented.frame is frame
        np.testing.assert_array_equal(segmented.labels, frame[..., 0])
        assert 0 < segmented.seconds < 10


@pytest.mark.gpu
def test_on_a_gpu_labels_do_not_wait_for_a_frame_that_has_not_come():
    labelled = threading.Event()

    def camera():
        first, *others = noise(3)
        yield first
        assert labelled.wait(20)
        yield from others

    stream = Segmenter(OnePlace().cuda(), FixedInterval(1)).stream(camera())
    next(stream)
    labelled.set()
    assert len(list(stream)) == 2


@pytest.mark.gpu
def test_on_a_gpu_the_labels_are_those_of_a_plain_loop():
    from accel.config import parse_model
    from accel.models import build_model

    branch = {"encoder": "tu-test_resnet", "head_channels": 8}
    values = {"name": "accel", "num_classes": 5, "reference": branch, "update": branch, "flow": {"width": 1 / 16}}
    torch.manual_seed(0)
    model = build_model(parse_model(values, "test")).eval().cuda()
    frames, state = noise(12), None
    found = list(Segmenter(model, FixedInterval(4)).stream(frames))
    for number, (frame, segmented) in enumerate(zip(frames, found, strict=True)):
        image = torch.from_numpy(frame).cuda().permute(2, 0, 1)[None]
        with torch.inference_mode():
            step = model.key_frame(image) if number % 4 == 0 else model.next_frame(image, state)
        scores, state = step
        np.testing.assert_array_equal(segmented.labels, scores.labels(frame.shape[:2])[0].cpu().numpy())
