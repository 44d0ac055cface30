"""mmtracking's names for the parts of our models, and its weights in ours."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

# Of a Deep Feature Flow on Faster R-CNN: our names, as patterns, and theirs.
_NAMES = {
    **{
        rf"reference\.backbone\.network\.stages\.{stage}\.(\d+)\.{ours}\.":
            rf"detector.backbone.layer{stage + 1}.\1.{theirs}."
        for stage in range(4)
        for ours, theirs in (
            ("conv_a", "conv1"), ("conv_b", "conv2"), ("conv_c", "conv3"),
            ("bn_a", "bn1"), ("bn_b", "bn2"), ("bn_c", "bn3"), ("shortcut", "downsample"),
        )
    },
    r"reference\.backbone\.network\.": "detector.backbone.",
    r"reference\.backbone\.last\.": "detector.neck.convs.0.conv.",
    r"reference\.proposal_head\.conv\.": "detector.rpn_head.rpn_conv.",
    r"reference\.proposal_head\.objects\.": "detector.rpn_head.rpn_cls.",
    r"reference\.proposal_head\.moves\.": "detector.rpn_head.rpn_reg.",
    r"reference\.region_head\.shared\.": "detector.roi_head.bbox_head.shared_fcs.",
    r"reference\.region_head\.classes\.": "detector.roi_head.bbox_head.fc_cls.",
    r"reference\.region_head\.boxes\.": "detector.roi_head.bbox_head.fc_reg.",
    r"propagation\.flow\.encoder\.conv(\d)\.": r"motion.conv\1.0.conv.",
    r"propagation\.flow\.encoder\.conv(\d)_1\.": r"motion.conv\1.1.conv.",
    r"propagation\.flow\.predict\.2\.": "motion.predict_flow.conv.",
    r"propagation\.flow\.predict\.(\d)\.": r"motion.predict_flow\1.conv.",
    r"propagation\.flow\.bring_up\.(\d)\.": r"motion.deconv\1.conv.",
    r"propagation\.flow\.bring_up_flow\.(\d)\.": r"motion.upsample_flow\1.conv.",
}  # fmt: skip
CLASSES = "detector.roi_head.bbox_head.fc_cls."  # the background is its last row there, and the first here


def their_name(name: str) -> str:
    """mmtracking's name of an entry of our state dict."""
    for ours, theirs in _NAMES.items():
        if found := re.match(ours, name):
            return found.expand(theirs) + name[found.end() :]
    raise KeyError(name)


def to_ours(theirs: Mapping[str, Tensor], names: Iterable[str]) -> dict[str, Tensor]:
    """The entries of our state dict with these names, from theirs."""
    return {name: _rolled(theirs[their_name(name)], their_name(name), 1) for name in names}


def to_theirs(ours: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Their state dict from ours."""
    return {their_name(name): _rolled(tensor, their_name(name), -1) for name, tensor in ours.items()}


def _rolled(tensor: Tensor, name: str, rows: int) -> Tensor:
    return torch.roll(tensor, rows, 0) if name.startswith(CLASSES) else tensor
