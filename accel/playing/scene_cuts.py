"""Key frames at scene cuts: features of one scene are of no use in the next."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from accel.playing.schedules import Clue, Decider, Decision, Schedule, check_interval

SIZE = 36, 64  # (H, W) of the small frames that are compared
BLOCK = 6  # pixels of a small frame along the sides of a block that is looked for in the frame before
REACH = 7  # how far around its place it is looked for: a tenth of the frame's width a frame
SLACK = 2  # by how many pixels the motion of a block may differ from that of its neighbours
FOUND = 0.7  # correlation over which a block counts as found
NOISE = 2.0, 6.0  # standard deviations of grey that are noise rather than texture: in calm pictures, in busy ones
SAME_GREY = 6.0, 20.0  # how many grey levels apart flat blocks are no longer alike: in poor contrast, in a rich one
CONTRAST = 50.0  # standard deviation of grey over a picture of rich contrast
LIKENESS = 0.55  # the share of blocks to be found
EASE = 0.03, 0.35  # how much less for each dropped frame, and the least that is asked for
# All of these were chosen on 16 generated scenes and on CamVid: its clip, and stills of three other drives. Only tested
# on were 32 other generated scenes, CamVid's other stills (80 of the pairs come from one drive, 40 seconds apart) and
# three short videos of other makers (4, 5 and 10 seconds, with five cuts in one of them, all found).
#
#     share found            chosen on                                    only tested on
#     neighbours             0.77 or more in 564 pairs                    0.75 or more in 1,422 pairs
#     two frames dropped     0.57 or more in 322 pairs                    0.50 or more in 864 pairs
#     four frames dropped    0.43 or more in 304 pairs: no false alarm    7 false alarms in 800 pairs
#     different scenes       0.43 or less in 539 pairs, 0.63 in one       0.52 or less in 728 pairs


@dataclass(frozen=True)
class SceneCuts(Schedule):
    """A fresh start at every scene cut, and a key frame at least every `every` frames.

    every: the largest number of frames from one key frame to the next.
    likeness: the share of a frame, 0..1, that must be found again in the frame before it. If less is found, there is a
        cut. If frames were dropped in between, less is required, because more has moved.

    Moving objects, new objects and changes of light are not cuts. Fades from one scene to the next are not noticed.
    Most cuts between plain pictures of similar grey, or between nearly black ones, are not noticed either. Videos with
    a low frame rate (under about 3 frames a second) may need a smaller likeness.

    The comparison takes about 2 ms of one processor core for a frame of 512 x 1024, and 4 ms at a cut.

    Raises ValueError for `every` under 1 or a likeness outside 0..1.
    """

    every: int
    likeness: float = LIKENESS

    def __post_init__(self) -> None:
        check_interval(self.every)
        if not 0 <= self.likeness <= 1:
            raise ValueError(f"likeness {self.likeness}: expected 0 (there are no cuts) to 1")

    @property
    def interval(self) -> int:  # type: ignore[override] # of a schedule that does not change
        return self.every

    def start(self, first: Tensor) -> Decider:
        return _Watching(self, first)


class _Watching(Decider):
    def __init__(self, schedule: SceneCuts, first: Tensor):
        self.schedule = schedule
        self.last = small_grey(first)

    def decide(self, clue: Clue) -> Decision:
        before, self.last = self.last, small_grey(clue.frame)
        if is_cut(before, self.last, self.schedule.likeness, clue.dropped):
            return Decision.AFRESH
        return Decision.KEY if clue.distance >= self.schedule.every else Decision.CURRENT


def small_grey(frame: Tensor) -> Tensor:
    """Return a frame as a small grey picture of `SIZE`: float32 with whole numbers.

    frame: (B, 3, H, W), uint8, or float in 0..255. Only the first frame of the batch counts.
    """
    picture = frame[0].permute(1, 2, 0).cpu().numpy()
    if picture.dtype != np.uint8:
        picture = picture.clip(0, 255).astype(np.uint8)
    grey = cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY)
    height, width = SIZE
    while grey.shape[0] >= 4 * height and grey.shape[1] >= 4 * width:  # by halves: four times as fast as at once
        half = grey.shape[0] // 2, grey.shape[1] // 2
        grey = cv2.resize(grey[: 2 * half[0], : 2 * half[1]], half[::-1], interpolation=cv2.INTER_AREA)
    return torch.from_numpy(cv2.resize(grey, SIZE[::-1], interpolation=cv2.INTER_AREA)).float()


def is_cut(before: Tensor, after: Tensor, likeness: float = LIKENESS, dropped: int = 0) -> bool:
    """Return whether two small frames show different scenes. dropped: the number of frames dropped between them."""
    ease, end = EASE
    enough = max(likeness - ease * dropped, min(likeness, end))
    sideways = REACH if dropped == 0 else 2 * REACH
    if share_found(before, after, sideways) >= enough:
        return False
    lit = in_the_light_of(after, before)
    return lit is None or share_found(lit, after, sideways) < enough


def in_the_light_of(after: Tensor, before: Tensor) -> Tensor | None:
    """Return the small frame `before` with the brightness and contrast of `after`.

    Return None if they differ by more than light explains. The less contrast a picture has, the less its brightness may
    change: a plain picture that goes from black to white is another picture.
    """
    (deviation, mean), (deviation_after, mean_after) = torch.std_mean(before), torch.std_mean(after)
    gain = float((deviation_after + 2) / (deviation + 2))
    change = float((mean_after - mean).abs())
    if not 0.25 <= gain <= 4 or change > 20 + 6 * float(torch.minimum(deviation, deviation_after)):
        return None
    return (before - mean) * gain + mean_after


def share_found(before: Tensor, after: Tensor, sideways: int = REACH) -> float:
    """Return the share of the blocks of a small frame, 0..1, that are found again in the frame before.

    A block is searched up to `REACH` pixels up and down, and `sideways` pixels left and right. It is found if it
    correlates with the frame before, together with the blocks around it, which must all have moved alike. Single blocks
    are found in any picture. A flat block correlates with a flat block of similar grey.
    """
    # A caller's autocast would make the correlation coarse.
    with torch.autocast("cpu", enabled=False):
        return float((_correlations(before, after, sideways) > FOUND).float().mean())


def _correlations(before: Tensor, after: Tensor, sideways: int) -> Tensor:
    """Return how well each block is found: (rows, columns), -1..1."""
    noise = float(np.clip(2 * max(_grain(before), _grain(after)), *NOISE)) ** 2
    contrast = max(float(before.std()), float(after.std())) / CONTRAST
    same_grey = float(np.clip(SAME_GREY[1] * contrast, *SAME_GREY))
    border = (sideways, sideways, REACH, REACH)
    blocks = _blocks(after)  # (N, 1, BLOCK, BLOCK)
    variance, mean = (x[:, 0] for x in torch.var_mean(blocks, (2, 3), correction=0, keepdim=True))  # (N, 1, 1)

    around = F.pad(before[None, None], border)
    mean_before = F.avg_pool2d(around, BLOCK, 1)
    variance_before = (F.avg_pool2d(around**2, BLOCK, 1) - mean_before**2).clamp(min=0)
    outside = F.pad(torch.zeros_like(before[None, None, BLOCK - 1 :, BLOCK - 1 :]), border, value=-9.0)

    y, x = 2 * REACH + 1, 2 * sideways + 1  # the displacements that are tried
    windows = _windows(around, y + BLOCK - 1, x + BLOCK - 1)
    covariance = F.conv2d(windows[None], (blocks - mean[:, None]) / BLOCK**2, groups=len(blocks))[0]  # (N, y, x)
    # Noise counts as part of each block: the same in both where their grey is the same. So flat blocks correlate, too.
    apart = (_windows(mean_before, y, x) - mean) / same_grey
    common = noise * torch.exp((-apart * apart).clamp(min=-30))  # still smaller numbers would be slow
    scale = _windows((variance_before + noise).rsqrt(), y, x) * (variance + noise).rsqrt()
    found = (covariance + common) * scale + _windows(outside, y, x)

    # Each displacement may do SLACK better; the best displacement for 3 x 3 blocks is what counts for the middle one.
    # In channels-last order, both poolings are ten times as fast.
    rows, columns = SIZE[0] // BLOCK, SIZE[1] // BLOCK
    found = found[None].contiguous(memory_format=torch.channels_last)
    found = F.max_pool2d(found, 2 * SLACK + 1, 1, SLACK)[0]
    found = found.permute(1, 2, 0).reshape(1, y * x, rows, columns).contiguous(memory_format=torch.channels_last)
    return F.avg_pool2d(found, 3, 1, 1, count_include_pad=False)[0].amax(0)


def _grain(frame: Tensor) -> float:
    """Return by how many grey levels a pixel of a small frame differs from its neighbour (the median)."""
    return float(frame.diff(dim=1).abs().median())


def _blocks(frame: Tensor) -> Tensor:
    """Return the blocks of a small frame, row by row: (N, 1, BLOCK, BLOCK)."""
    return _windows(frame[None, None], BLOCK, BLOCK)[:, None]


def _windows(maps: Tensor, height: int, width: int) -> Tensor:
    """Return the windows of size (height, width) that start at each block's corner in a map (1, 1, h, w): (N, ...)."""
    left = SIZE[1] % BLOCK // 2
    windows = maps[0, 0, :, left:].unfold(0, height, BLOCK).unfold(1, width, BLOCK)
    return windows[: SIZE[0] // BLOCK, : SIZE[1] // BLOCK].flatten(0, 1)
