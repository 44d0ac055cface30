"""Segmentation: one class for each pixel."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from accel import visualize
from accel.labels import IGNORED
from accel.measures.boundary import TrimapMatrix, check_widths, trimap_bands
from accel.models.video import VideoModel
from accel.reductions import shared_count
from accel.tasks.pictures import Shown, indexed
from accel.tasks.segmentation_accuracy import SegmentationAccuracy
from accel.tasks.task import Score, Task

PANEL_WIDTH = 640  # pixels of a picture in a panel, at most: three of them fit a screen and any decoder
RIGHT, WRONG = (225, 225, 225), (214, 30, 40)  # colours of pixels


class LabelTruth(NamedTuple):
    """The ground truth of a frame. labels: (H, W) uint8, 255 = ignored. bands: their `trimap_bands`, (H, W) uint8, or
    None without trimaps."""

    labels: Tensor | np.ndarray
    bands: Tensor | np.ndarray | None


class Segmentation(Task):
    """Labels (H, W), uint8, measured by mIoU and written as palette PNGs.

    widths: the widths of the trimaps that are measured too; see `accel.measures.boundary`.
    """

    name = "segmentation"
    suffix = ".png"
    accuracy_type = SegmentationAccuracy

    def __init__(self, class_names: Sequence[str], palette: np.ndarray, widths: Sequence[int] = ()):
        super().__init__(class_names, palette)
        self.widths = check_widths(widths)

    def objective(self, model, loss):
        losses = {
            "cross_entropy": lambda: CrossEntropy(loss.class_weights),
            "dice": lambda: WithOverlap(soft_dice, loss.cross_entropy, loss.class_weights),
            "lovasz": lambda: WithOverlap(lovasz_softmax, loss.cross_entropy, loss.class_weights),
            "ohem": lambda: OnlineHardExamples(loss.threshold, loss.min_kept),
        }
        if loss.name not in losses:
            raise ValueError(f"train.loss {loss.name}: is none of segmentation; there are {', '.join(losses)}")
        return SegmentationObjective(model, losses[loss.name]())

    def score(self):
        return MeanIou(TrimapMatrix(len(self.class_names), self.widths))

    def truth(self, clip):
        return LabelTruth(clip.labels, trimap_bands(clip.labels, self.widths) if self.widths else None)

    def labels(self, said):
        return said.labels

    def check_labels(self):
        pass

    def near_borders(self, widths):
        return Segmentation(self.class_names, self.palette, widths)

    def picture(self, frame, said, title, view):
        """Draw input, labels and overlay side by side, or one of the last two at full size, above a legend."""
        labels = said.labels
        if view == "panels":
            frame, labels = (visualize.shrink(each, PANEL_WIDTH) for each in (frame, labels))
            images = [
                frame,
                visualize.colourise(labels, self.palette),
                visualize.overlay(frame, labels, self.palette),
            ]
            sheet = visualize.panels(images, [f"input, {title}", "labels", "overlay"], columns=3)
        elif view == "overlay":
            sheet = visualize.overlay(frame, labels, self.palette)
        else:
            sheet = visualize.colourise(labels, self.palette)
        return np.concatenate([sheet, visualize.legend(self.class_names, self.palette, sheet.shape[1])])

    def truth_shown(self, truth, size, width):
        return indexed(visualize.shrink(truth.labels, width), self.palette)

    def shown(self, frame, said, truth, width):
        labels = visualize.shrink(said.labels, width)
        if truth is None:
            return Shown(indexed(labels, self.palette), None, "")
        true = visualize.shrink(truth.labels, width)
        right = (labels == true).astype(np.uint8)
        right[true == IGNORED] = IGNORED
        counted = truth.labels != IGNORED
        share = (said.labels != truth.labels)[counted].mean() if counted.any() else None
        note = "" if share is None else f"{100 * share:.1f} % of the pixels wrong"
        return Shown(indexed(labels, self.palette), indexed(right, np.array([WRONG, RIGHT], np.uint8)), note)

    def save(self, path, said):
        visualize.save_palette_png(path, said.labels, self.palette)


class MeanIou(Score):
    """mIoU from one confusion matrix over all frames, as cityscapesscripts computes it.

    matrix: the counts.
    """

    name = "mIoU"

    def __init__(self, matrix: TrimapMatrix):
        self.matrix = matrix

    def update(self, said, truth):
        self.matrix.update(said.labels, truth.labels, truth.bands)

    def __add__(self, other):
        return MeanIou(self.matrix + other.matrix)

    def value(self):
        return self.matrix.all_pixels().miou()

    def accuracy(self, class_names):
        return SegmentationAccuracy.of(self.matrix, class_names)

    def emptiness(self):
        return "" if self.matrix.all_pixels().labelled() else "all pixels of these frames are labelled 255 (ignored)"

    def caveats(self, class_names):
        return self.matrix.all_pixels().caveats(class_names)

    def on_host(self):
        matrix = self.matrix
        matrix.counts, matrix.strays, matrix.ignored = matrix.counts.cpu(), matrix.strays.cpu(), matrix.ignored.cpu()
        return self


class CrossEntropy(nn.Module):
    """Mean cross-entropy over the labelled pixels. With weights (K,), the mean is weighted by the true class."""

    class_weights: Tensor | None

    def __init__(self, class_weights: Sequence[float] | None = None):
        super().__init__()
        weights = None if class_weights is None else torch.tensor(class_weights, dtype=torch.float32)
        self.register_buffer("class_weights", weights, persistent=False)

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Return the scalar loss of logits (B, K, H, W) and labels (B, H, W). It is 0 if no pixel is labelled."""
        weights = self.class_weights
        if weights is not None:
            weights = weights.to(logits.dtype)
        total = F.cross_entropy(logits, labels.long(), weights, ignore_index=IGNORED, reduction="sum")
        if weights is None:
            return total / shared_count((labels != IGNORED).sum())
        counts = torch.bincount(labels.flatten(), minlength=IGNORED + 1)[: len(weights)]
        return total / shared_count((counts * weights).sum())


class WithOverlap(nn.Module):
    """A loss on the overlap of each class, plus cross-entropy times a factor. With several processes, each measures the
    overlap of its own pixels."""

    def __init__(
        self,
        overlap: Callable[[Tensor, Tensor], Tensor],
        cross_entropy: float,
        class_weights: Sequence[float] | None = None,
    ):
        super().__init__()
        self.overlap, self.factor, self.cross_entropy = overlap, cross_entropy, CrossEntropy(class_weights)

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Return the scalar loss of logits (B, K, H, W) and labels (B, H, W). It is 0 if no pixel is labelled."""
        labelled = labels != IGNORED
        chances = logits.float().softmax(1).movedim(1, -1)[labelled]  # (N, K)
        classes = labels[labelled].long()
        overlap = self.overlap(chances, classes) if len(classes) else chances.sum()
        return overlap + self.factor * self.cross_entropy(logits, labels)


def soft_dice(chances: Tensor, classes: Tensor) -> Tensor:
    """Return 1 - Dice, the mean over the classes that occur, of probabilities (N, K) for N pixels of `classes` (N,)."""
    true = F.one_hot(classes, chances.shape[1]).to(chances.dtype)
    both, sizes = (chances * true).sum(0), chances.sum(0) + true.sum(0)
    occurs = true.sum(0) > 0
    return (1 - 2 * both / sizes)[occurs].mean()


def lovasz_softmax(chances: Tensor, classes: Tensor) -> Tensor:
    """Return the Lovasz-Softmax loss, the mean over the classes that occur, of probabilities (N, K) for N pixels of
    `classes` (N,).

    It is the Lovasz extension of 1 - IoU: each pixel's error counts by how much IoU falls when it joins those with
    larger errors (Berman et al., CVPR 2018, algorithm 1).
    """
    losses = []
    for k in classes.unique().tolist():
        true = (classes == k).to(chances.dtype)
        errors, order = (true - chances[:, k]).abs().sort(descending=True)
        sorted_true = true[order]
        lost = sorted_true.cumsum(0)  # pixels of the class among the errors so far
        iou_lost = 1 - (sorted_true.sum() - lost) / (sorted_true.sum() + (1 - sorted_true).cumsum(0))
        losses.append(errors @ iou_lost.diff(prepend=iou_lost.new_zeros(1)))
    return torch.stack(losses).mean()


class OnlineHardExamples(nn.Module):
    """Cross-entropy over the hard pixels (Shrivastava et al., CVPR 2016, per pixel).

    A pixel is hard if the probability of its true class is under `threshold`. At least the hardest `min_kept` share of
    pixels is used. With several processes, each selects its own pixels.
    """

    def __init__(self, threshold: float, min_kept: float):
        super().__init__()
        self.threshold, self.min_kept = threshold, min_kept

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Return the scalar loss of logits (B, K, H, W) and labels (B, H, W). It is 0 if no pixel is labelled."""
        losses = F.cross_entropy(logits, labels.long(), ignore_index=IGNORED, reduction="none")
        losses = losses[labels != IGNORED]
        hard = losses > -torch.log(torch.tensor(self.threshold))
        kept = min(max(int(hard.sum()), int(self.min_kept * len(losses)), 1), len(losses))
        return losses.topk(kept).values.sum() / shared_count(torch.tensor(kept, device=logits.device))


class SegmentationObjective(nn.Module):
    """The loss on the clip's last frame, labelled by the whole model end to end."""

    def __init__(self, model: VideoModel, loss: nn.Module):
        super().__init__()
        self.model = model
        self.loss = loss

    def forward(
        self, frames: Tensor, labels: Tensor | None, flow: Tensor | None, refreshed: Collection[int] = ()
    ) -> Tensor:
        """Return the scalar loss of clips (B, T, 3, H, W) with labels (B, H, W). refreshed: as in
        `VideoModel.forward`."""
        if labels is None:
            raise ValueError("train.loss: these clips have no labels to train on")
        scores = self.model(frames, refreshed)
        return self.loss(scores.upsample(tuple(labels.shape[1:])), labels)
