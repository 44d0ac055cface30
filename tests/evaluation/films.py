"""Made-up videos and a made-up model, whose labels tell how it was run."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from accel.datasets import Clip, ClipDataset
from accel.models import VideoModel
from accel.models.prediction import Labels, Prediction

CLASSES, SIZE = 5, (12, 17)


class Films(ClipDataset):
    """Videos whose pixels say which video (red) and which frame (green) it is.

    videos: the numbers of the labelled frames of each; a video begins with frame 0.
    damaged: (video, number) of frames that cannot be read; damaged_labels: of labels.
    flows: (video, number) to the (H, W, 2) flow to the frame before; zero elsewhere. None: the flow is not known.
    """

    class_names = tuple("abcde")
    palette = np.arange(3 * CLASSES, dtype=np.uint8).reshape(CLASSES, 3)

    def __init__(self, *videos, damaged=(), damaged_labels=(), flows=None):
        self.labelled = [(video, number) for video, numbers in enumerate(videos) for number in numbers]
        self.damaged, self.damaged_labels, self.flows = set(damaged), set(damaged_labels), flows
        self.knows_flow = flows is not None
        self.reads = Counter()

    def __len__(self):
        return len(self.labelled)

    def history(self, index):
        return self.labelled[index][1]

    def place(self, index):
        video, number = self.labelled[index]
        return f"film{video}", number

    def truth(self, index):
        """(H, W): random classes, some pixels ignored, class e nowhere."""
        rng = np.random.default_rng([9, *self.labelled[index]])
        labels = rng.integers(0, CLASSES - 1, SIZE).astype(np.uint8)
        labels[rng.random(SIZE) < 0.2] = 255
        return labels

    def clip(self, index, length):
        video, last = self.labelled[index]
        if (video, last) in self.damaged_labels:
            raise ValueError(f"labels{video}-{last}.png: damaged")
        numbers = range(last - length + 1, last + 1)
        for number in numbers:
            if (video, number) in self.damaged:
                raise ValueError(f"frame{video}-{number}.png: damaged")
        self.reads.update((video, number) for number in numbers)
        frames = np.zeros((length, *SIZE, 3), np.uint8)
        frames[..., 0], frames[..., 1] = video, np.array(numbers)[:, None, None]
        flow = None
        if self.knows_flow and length > 1:
            still = np.zeros((*SIZE, 2), np.float32)
            flow = np.stack([self.flows.get((video, number), still) for number in numbers[1:]])
        return Clip(frames, self.truth(index), flow, f"{video}-{last}")


def said(video, key, distance):
    """(H, W) uint8: what `Teller` says of the frame `distance` frames after key frame `key`."""
    return np.random.default_rng([video, key, distance]).integers(0, CLASSES - 1, SIZE).astype(np.uint8)


@dataclass(frozen=True)
class Told(Prediction):
    """In the place of a ScoreMap."""

    teller: Teller
    key: int
    distance: int
    video: int

    def at(self, size):
        assert size == SIZE
        self.teller.labelled[self.video, self.key, self.distance] += 1
        told = self.teller.say(self.video, self.key, self.distance)
        return Labels(torch.from_numpy(told)[None].to(self.teller.anything.device))


class Teller(VideoModel):
    """Says `said(video, key frame, distance)`, and counts what it is asked.

    steps: how often it went to (video, key frame, distance); labelled: how often the labels there were made.
    """

    def __init__(self, say=said):
        super().__init__()
        self.anything = nn.Parameter(torch.zeros(1))
        self.say = say
        self.steps, self.labelled = Counter(), Counter()

    def key_frame(self, image, state=None):
        video, number = int(image[0, 0, 0, 0]), int(image[0, 1, 0, 0])
        self.steps[video, number, 0] += 1
        state = Told(self, number, 0, video)
        return state, state

    def next_frame(self, image, state):
        state = self.advance(image, state)
        return state, state

    def advance(self, image, state):
        video, number = int(image[0, 0, 0, 0]), int(image[0, 1, 0, 0])
        assert (video, number) == (state.video, state.key + state.distance + 1), "frames out of order"
        self.steps[video, state.key, state.distance + 1] += 1
        return Told(self, state.key, state.distance + 1, video)


class Forgetful(Teller):
    """One without memory: what it says depends on the frame alone."""

    carries_state = False

    def next_frame(self, image, state):
        return self.key_frame(image)
