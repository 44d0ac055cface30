"""How much of what was carried from a key frame still holds: what an adaptive schedule of key frames asks for."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from accel.models.segmentation.score_map import ScoreMap
from accel.models.strides import STRIDE

SIGNS = 5  # numbers of a frame that the head looks at
WIDTH = 16  # of the head


class Freshness(nn.Module):
    """Predicts the share of a frame whose carried labels equal those that the reference branch would give now (the
    target of DVSNet, Xu et al., CVPR 2018).

    It looks at what a current frame leaves behind anyway: how far carried scores and the update branch's differ, how
    sure both are, and how much the picture has changed since the frame before.
    """

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Sequential(nn.Linear(SIGNS, WIDTH), nn.ReLU(), nn.Linear(WIDTH, 1))

    def forward(self, carried: ScoreMap, update: ScoreMap, image: Tensor, before: Tensor) -> Tensor:
        """Return the share (B,), 0..1, float32.

        carried: the reference scores that propagation brought.
        update: the update branch's scores.
        image, before: this frame and the one before, (B, 3, H, W), RGB minus the mean.

        Nothing that these are made from learns by it.
        """
        with torch.autocast(image.device.type, enabled=False):
            return self.head(_signs(carried, update, image.detach(), before.detach()))[:, 0].sigmoid()


def _signs(carried: ScoreMap, update: ScoreMap, image: Tensor, before: Tensor) -> Tensor:
    """Return the numbers that the head looks at, (B, `SIGNS`), each about 0..1."""
    cells = -(-image.shape[2] // STRIDE), -(-image.shape[3] // STRIDE)
    old, new = (F.adaptive_avg_pool2d(m.scores.detach().float(), cells).softmax(1) for m in (carried, update))
    differ = (old.argmax(1) != new.argmax(1)).float().mean((1, 2))
    apart = 0.5 * (old - new).abs().sum(1).mean((1, 2))
    sure = [p.amax(1).mean((1, 2)) for p in (old, new)]
    now, then = (F.adaptive_avg_pool2d(x.float(), cells) for x in (image, before))
    change = (now - then).abs().mean((1, 2, 3)) / 32
    return torch.stack([differ, apart, *sure, change], 1)
