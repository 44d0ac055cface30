"""Measure the attention of learned sampling over a data set."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from accel.datasets.clips import ClipDataset, frames_to_tensor
from accel.models.images import subtract_mean
from accel.models.video import VideoModel
from accel.progress import bar
from accel.visualize_sampling import sampling_of


@dataclass(frozen=True)
class AttentionSummary:
    """Means over all cells of the examined frames.

    distance: the distance of each frame from its key frame.
    frames: the number of frames.
    strongest: the share of the weight that the strongest offset of a cell has.
    aligned: the share of the key frame's aligned features in the mix. The rest is the current frame's own.
    offsets: (dx, dy) of each offset, in cells.
    weights: the share of the weight that each offset has. They add up to 1.
    farther_half: the share of the weight that the farther half of the offsets has, rounded down.
    farther_half_evenly: the share that as many offsets would have if all weights were equal.
    """

    distance: int
    frames: int
    strongest: float
    aligned: float
    offsets: tuple[tuple[float, float], ...]
    weights: tuple[float, ...]
    farther_half: float
    farther_half_evenly: float


@torch.inference_mode()
def summarize_attention(
    model: VideoModel, dataset: ClipDataset, distance: int, quiet: bool = False
) -> AttentionSummary:
    """Summarise the attention over all labelled frames with a key frame `distance` frames before them.

    Raises ValueError for a model without learned sampling, a distance under 1 and one that no labelled frame has.
    """
    sampling = sampling_of(model)
    if distance < 1:
        raise ValueError(f"distance {distance}: expected 1 or more frames")
    chosen = [i for i in range(len(dataset)) if dataset.history(i) >= distance]
    if not chosen:
        raise ValueError(f"no labelled frame of this data set has {distance} frames before it")
    use, strongest, aligned, weights = sampling.key_to_current, [], [], []
    reference: Any = model.reference
    with bar("attention", len(chosen), quiet) as progress:
        for done, index in enumerate(chosen, 1):
            clip = frames_to_tensor(dataset.clip(index, distance + 1).frames)
            key, current = subtract_mean(torch.stack([clip[0], clip[-1]]).to(model.device)).split(1)
            features, motion = reference.features(key), sampling.motion(current, key)
            attention = use.attention(features, motion, sampling.offsets)  # (1, K, h, w)
            found = use.align(features, motion, sampling.offsets)
            strongest.append(float(attention.amax(1).mean()))
            aligned.append(1 - float(use.share_of_current(found, motion).mean()))
            weights.append(attention.mean((0, 2, 3)).double().cpu())
            progress.update(done)
    mean, offsets = torch.stack(weights).mean(0), sampling.offsets.detach().float().cpu()
    far = offsets.norm(dim=1).argsort(descending=True)[: len(offsets) // 2]
    return AttentionSummary(
        distance=distance,
        frames=len(chosen),
        strongest=sum(strongest) / len(chosen),
        aligned=sum(aligned) / len(chosen),
        offsets=tuple(map(tuple, offsets.tolist())),
        weights=tuple(mean.tolist()),
        farther_half=float(mean[far].sum()),
        farther_half_evenly=len(far) / len(offsets),
    )
