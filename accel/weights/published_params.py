"""The published weights: MXNet's names for the parts of our models, and the conversion in both directions."""

from __future__ import annotations

import copy
import logging
import os
import warnings
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

import numpy as np
import torch

from accel.models.detection.maps import BINS
from accel.models.published_models import (
    DETECTORS,
    MMTRACKING,
    MXNET_VERSIONS,
    build_published,
    check_version,
    published_classes,
)
from accel.models.video import VideoModel
from accel.weights.checkpoints import few
from accel.weights.mxnet_params import read_mxnet_params
from accel.weights.published_boxes import with_test_boxes, with_trained_boxes

Params = str | os.PathLike | Mapping[str, np.ndarray]

# Its name in the release's folder `model`, for all versions but the DeepLabs and the frame-by-frame detector.
BASE_FILE = "rfcn_dff_flownet_vid-0000.params"
# What the base file (Deep Feature Flow's detector) holds besides the flow network and a ResNet-101.
RFCN = ("rpn_", "rfcn_", "feat_conv_3x3_", "Convolution5_scale_")
FLOW_LAYERS = {  # FlowNetS module to MXNet layer
    **{f"encoder.conv{i}": f"conv{i}" for i in (2, 3, 4, 5, 6)},
    **{f"encoder.conv{i}_1": f"conv{i}_1" for i in (3, 4, 5, 6)},
    "encoder.conv1": "flow_conv1",
    **{f"predict.{level}": f"Convolution{7 - level}" for level in (6, 5, 4, 3, 2)},
    **{f"bring_up.{level}": f"deconv{level}" for level in (5, 4, 3, 2)},
    **{f"bring_up_flow.{level}": f"upsample_flow{level + 1}to{level}" for level in (5, 4, 3, 2)},
}
RFCN_LAYERS = {  # of `Heads`
    "objects": "rpn_cls_score",
    "moves": "rpn_bbox_pred",
    "classes": "rfcn_cls",
    "boxes": "rfcn_bbox",
}

UNUSED = ("offset",)  # what LSTS' files with normally distributed offsets hold, too

MAX_CLASSES = 255  # as many as labels can tell apart

log = logging.getLogger(__name__)


def load_published(version: str, *params: Params) -> VideoModel:
    """Return a published network with its weights, ready for inference.

    version: see `accel.models.build_published`. The number of classes is that of the weights.
    params: `.params` files, or dictionaries of arrays with MXNet's names. If several have the same name, the last one
        counts. The `arg:`, `aux:` and `_test` that MXNet programs add to names may be missing. A DeepLab may have its
        names as released alone, or with the prefix they have within Accel (`18_`, `34_`, `50_`, `curr_`).

    Raises ValueError if parameters are missing, left over or have the wrong shape. The message counts them, names some
    of each, and says which file seems to be missing or to which other version they belong. Left-over parameters of the
    R-FCN detector, which the published base file has, are counted in the log instead.
    """
    return copy.deepcopy(map_published(version, *params))


def map_published(version: str, *params: Params) -> VideoModel:
    """Do the same as `load_published`, but leave the weights in the files. They can be read, but not trained.

    The files must not change while the model is in use.
    """
    merged: dict[str, np.ndarray] = {}
    for source in params:
        merged.update(bare_names(_read(source)))
    naming = max(namings(version), key=lambda n: sum(name in merged for name in n.all()))
    num_classes = _count_classes(version, naming, merged)
    with torch.device("meta"):
        model = build_published(version, num_classes)
    state = model.state_dict()

    kernel = upsampling_kernel(num_classes)
    expected = {name: tuple(state[key].shape) for key, name in naming.parameters.items()}
    expected |= dict.fromkeys(naming.kernels, kernel.shape)
    unused = UNUSED if version in DETECTORS else ()
    left_over = sorted(merged.keys() - expected.keys() - set(unused))
    problems = {
        "missing": sorted(expected.keys() - merged.keys()),
        "left over": [name for name in left_over if not name.startswith(RFCN)],
        "misshapen": [
            f"{name} {merged[name].shape} instead of {shape}"
            for name, shape in expected.items()
            if name in merged and merged[name].shape != shape
        ],
        "not the fixed bilinear kernel": [
            name
            for name in naming.kernels
            if name in merged and merged[name].shape == kernel.shape and not np.allclose(merged[name], kernel)
        ],
    }
    found = [f"{len(names)} {what}: {few([_shown(n) for n in names])}" for what, names in problems.items() if names]
    if found:
        files = [str(source) for source in params if not isinstance(source, Mapping)]
        where = f"{' + '.join(files)}: " if files else ""
        hint = _likely_cause(version, merged.keys())
        raise ValueError(
            f"{where}these parameters are not those of {version}: {'; '.join(found)}{hint and f'; {hint}'}"
        )
    if left_over:
        log.info("%d parameters of the R-FCN detector in the base file are not needed", len(left_over))

    for key in state:
        if key in naming.parameters:
            array = np.require(merged[naming.parameters[key]], np.float32, ["C", "A"])
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", "The given NumPy array is not writable")
                state[key] = torch.from_numpy(array)
        else:
            state[key] = torch.zeros_like(state[key], device="cpu")  # counters of batches seen
    model.load_state_dict(state, assign=True)
    return model.eval()


def _read(source: Params) -> dict[str, np.ndarray]:
    if isinstance(source, Mapping):
        return with_trained_boxes(source)
    try:
        return with_trained_boxes(read_mxnet_params(source))
    except ValueError as error:
        told = str(error)
        raise ValueError(told if told.startswith(str(source)) else f"{source}: {told}") from None


def _count_classes(version: str, naming: Naming, params: Mapping[str, np.ndarray]) -> int:
    """As many as these parameters are for; as published where their shape cannot be, which is told later."""
    detects = version in DETECTORS
    layer = "heads.classes" if detects else "score_layer"
    score = params.get(naming.parameters[f"reference.{layer}.weight"])
    if score is None or score.shape[1:] != ((512, 1, 1) if detects else (1024, 1, 1)):
        return published_classes(version)
    count, rest = divmod(len(score), BINS**2) if detects else (len(score), 0)
    count -= detects  # the background
    return count if not rest and 1 <= count <= MAX_CLASSES else published_classes(version)


def _likely_cause(version: str, given: Collection[str]) -> str:
    """Return which file was forgotten, or to which other version these parameters belong. Empty if unknown."""

    def there(naming: Naming) -> int:
        return sum(name in given for name in naming.parameters.values())

    # A whole detector is what the base file is.
    others = [v for v in MXNET_VERSIONS if v != version and (version in DETECTORS or v not in DETECTORS)]
    whole = [(there(n), v) for v in others for n in namings(v) if there(n) == len(n.parameters)]
    most, other = max(whole, default=(0, ""))
    if most > max(map(there, namings(version))):
        return f"they are those of {other}"
    kind = version.partition("-")[0]
    if kind == "deeplab" or version in DETECTORS:
        return ""
    (naming,) = namings(version)
    flow = [name for key, name in naming.parameters.items() if key.startswith("propagation.")]
    own = [name for key, name in naming.parameters.items() if key.startswith(("update.", "fusion.", "reference.fc6."))]
    if not any(name in given for name in flow):
        return f"is the base file ({BASE_FILE}) missing?"
    if not any(name in given for name in own):
        return f"is the file of {version if kind == 'accel' else 'deeplab-101'} missing?"
    return ""


def mxnet_params(version: str, model: VideoModel) -> dict[str, np.ndarray]:
    """Return the weights of a published network under MXNet's names (with `arg:` and `aux:`), ready to be written to a
    file.

    They share the model's memory if possible. Raises ValueError if `model` is not built like `version`.
    """
    naming = namings(version)[0]
    state = {key: t for key, t in model.state_dict().items() if not key.endswith("num_batches_tracked")}
    if state.keys() != naming.parameters.keys():
        odd = sorted(state.keys() ^ naming.parameters.keys())
        raise ValueError(f"the model is not {version}: it differs in {len(odd)} parameters, such as {odd[0]}")
    params = {}
    for key, name in naming.parameters.items():
        kind = "aux" if name.endswith(("_moving_mean", "_moving_var")) else "arg"
        params[f"{kind}:{name}"] = state[key].detach().cpu().float().numpy()
    if version in DETECTORS:
        return with_test_boxes(params)
    kernel = upsampling_kernel(state["reference.score_layer.weight"].shape[0])
    return params | {f"arg:{name}": kernel for name in naming.kernels}


def bare_names(params: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Remove `arg:`, `aux:` and `_test` from names.

    If a parameter exists with and without `_test`, the one with it is used, as in the release: it is meant for
    inference.
    """
    bare: dict[str, np.ndarray] = {}
    for name, array in params.items():
        key = name.removeprefix("arg:").removeprefix("aux:")
        if key in bare:
            raise ValueError(f"the parameter {_shown(key)} occurs twice, with different prefixes")
        bare[key] = array
    plain = {name: array for name, array in bare.items() if not name.endswith("_test")}
    return plain | {name.removesuffix("_test"): bare[name] for name in bare.keys() - plain.keys()}


def _shown(name: str) -> str:
    """Return a name from a file in a form that is safe for a terminal."""
    return name if name.isprintable() else ascii(name)


def upsampling_kernel(num_classes: int) -> np.ndarray:
    """Return the bilinear x16 upsampling kernel as it is in the graphs: (K, 1, 32, 32). It is never trained, and our
    models do not have it as a weight."""
    taps = 1 - np.abs(np.arange(32, dtype=np.float32) - 15.5) / 16
    return np.ascontiguousarray(np.broadcast_to(np.outer(taps, taps), (num_classes, 1, 32, 32)))


@dataclass
class Naming:
    """MXNet's names for the parts of one model.

    parameters: MXNet's name for each key of our state dict.
    kernels: the names of fixed upsampling kernels.
    """

    parameters: dict[str, str] = field(default_factory=dict)
    kernels: list[str] = field(default_factory=list)

    def all(self) -> list[str]:
        return [*self.parameters.values(), *self.kernels]

    def conv(self, key: str, name: str, bias: bool = False) -> None:
        self.parameters[f"{key}.weight"] = f"{name}_weight"
        if bias:
            self.parameters[f"{key}.bias"] = f"{name}_bias"

    def norm(self, key: str, name: str, scale: str = "weight", shift: str = "bias") -> None:
        parts = {scale: "gamma", shift: "beta", "running_mean": "moving_mean", "running_var": "moving_var"}
        for ours, theirs in parts.items():
            self.parameters[f"{key}.{ours}"] = f"{name}_{theirs}"

    def branch(self, key: str, depth: str, prefix: str, head_prefix: str) -> None:
        """Name a DeepLab: backbone and head."""
        if depth in ("18", "34"):
            self.preact_resnet(f"{key}.backbone", depth, prefix)
        else:
            self.resnet_v1(f"{key}.backbone", depth, prefix)
        self.conv(f"{key}.fc6", f"{head_prefix}fc6", bias=True)
        self.conv(f"{key}.score_layer", f"{head_prefix}score", bias=True)
        self.kernels.append(f"{head_prefix}upsampling_weight")

    def detector(self, key: str) -> None:
        """An R-FCN."""
        self.resnet_v1(f"{key}.backbone.network", "101", "", deformable=False)
        self.conv(f"{key}.backbone.last", "feat_conv_3x3", bias=True)
        for ours, theirs in RFCN_LAYERS.items():
            self.conv(f"{key}.heads.{ours}", theirs, bias=True)

    def sampling(self, key: str) -> None:
        """A `LearnedSampling`. key: with a dot at its end, or empty."""
        self.parameters[f"{key}offsets"] = "init_offset"
        for i, layer in enumerate((0, 2, 4), 1):
            self.conv(f"{key}low_to_high.{layer}", f"low2high_conv{i}", bias=True)
        for ours, theirs in (("key_to_key", "key2key"), ("key_to_current", "key2cur")):
            self.conv(f"{key}{ours}.embed_memory", f"embedding_conv_feat_oldkey_{theirs}", bias=True)
            self.conv(f"{key}{ours}.embed_current", f"embedding_conv_feat_newkey_{theirs}", bias=True)
            for i in (1, 2, 3):
                self.conv(f"{key}{ours}.quality.{i - 1}", f"quality_conv{i}_{theirs}", bias=True)

    def resnet_v1(self, key: str, depth: str, prefix: str, deformable: bool = True) -> None:
        self.conv(f"{key}.conv1", f"{prefix}conv1")
        self.norm(f"{key}.bn1", f"{prefix}bn_conv1")
        depths = (3, 4, 6, 3) if depth == "50" else (3, 4, 23, 3)
        for stage, blocks in enumerate(depths):
            numbered = depth == "101" and stage in (1, 2)  # a, b1, b2, ... instead of a, b, c, ...
            for block in range(blocks):
                letter = f"b{block}" if numbered and block else "abcdef"[block]
                here = f"{key}.stages.{stage}.{block}"
                self.block(here, prefix, f"{stage + 2}{letter}", "abc")
                if stage == 3 and deformable:
                    self.offsets(here, prefix, f"5{letter}")

    def preact_resnet(self, key: str, depth: str, prefix: str) -> None:
        self.norm(f"{key}.bn_data", f"{prefix}bn_data", scale="gamma", shift="beta")
        self.conv(f"{key}.conv0", f"{prefix}conv0")
        self.norm(f"{key}.bn0", f"{prefix}bn0")
        depths = (2, 2, 2, 2) if depth == "18" else (3, 4, 6, 3)
        for stage, blocks in enumerate(depths[:3]):
            for block in range(blocks):
                here, unit = f"{key}.stages.{stage}.{block}", f"{prefix}stage{stage + 1}_unit{block + 1}"
                for i in "12":
                    self.norm(f"{here}.bn{i}", f"{unit}_bn{i}")
                    self.conv(f"{here}.conv{i}", f"{unit}_conv{i}")
                if block == 0:
                    self.conv(f"{here}.shortcut", f"{unit}_sc")
        for block in range(depths[3]):
            label = f"5{'abc'[block]}"
            self.block(f"{key}.conv5.{block}", prefix, label, "ab")
            self.offsets(f"{key}.conv5.{block}", prefix, label)
        self.conv(f"{key}.upsampling", f"{prefix}feat_upsampling")

    def block(self, key: str, prefix: str, label: str, convolutions: str) -> None:
        """A post-activated block: its convolutions a, b (, c)."""
        if label.endswith("a"):
            self.conv(f"{key}.shortcut.0", f"{prefix}res{label}_branch1")
            self.norm(f"{key}.shortcut.1", f"{prefix}bn{label}_branch1")
        for i in convolutions:
            self.conv(f"{key}.conv_{i}", f"{prefix}res{label}_branch2{i}")
            self.norm(f"{key}.bn_{i}", f"{prefix}bn{label}_branch2{i}")

    def offsets(self, key: str, prefix: str, label: str) -> None:
        """Those of a block whose b is deformable."""
        self.conv(f"{key}.conv_b.offset", f"{prefix}res{label}_branch2b_offset", bias=True)


def namings(version: str) -> list[Naming]:
    """Return the names that a version's parameters may have. The first is the one for writing."""
    check_version(version)
    if version in MMTRACKING:
        raise ValueError(f"{version} is mmtracking's, whose files are .pth: accel.weights.load_mmtracking reads them")
    kind, _, depth = version.partition("-")
    if kind == "deeplab":
        prefixes = {"18": ["18_"], "34": ["34_"], "50": ["50_", "curr_"], "101": []}[depth]
        alone = []
        for head_prefix in ["", *prefixes]:
            naming = Naming()
            naming.branch("reference", depth, f"{depth}_" if head_prefix else "", head_prefix)
            alone.append(naming)
        return alone
    naming = Naming()
    if version in DETECTORS:
        naming.detector("reference")
        if version == "rfcn":
            return [naming]
        if version.startswith("lsts-"):
            naming.sampling("propagation.")
            return [naming]
        naming.conv("propagation.flow.scale", "Convolution5_scale", bias=True)
    else:
        naming.branch("reference", "101", "", "")
    for module, layer in FLOW_LAYERS.items():
        naming.conv(f"propagation.flow.{module}", layer, bias=True)
    if kind == "accel":
        naming.conv("fusion.correction", "corr", bias=True)
        if depth != "101":
            naming.branch("update", depth, f"{depth}_", "curr_" if depth == "50" else f"{depth}_")
    return [naming]
