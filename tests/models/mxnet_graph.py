"""Runs a graph in MXNet's JSON (`Symbol.save`) with plain PyTorch operators: what the published networks are held to.

It knows nothing of `accel`, and of MXNet only the operators that the published graphs use. What they do was taken
from MXNet's sources and checked against MXNet 1.9.1's own outputs (`test_published.py`, golden files).
"""

import ast
import json
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor


class MxnetGraph:
    """One graph. `graph(arrays)` takes tensors by name (inputs, arguments, auxiliary states)."""

    def __init__(self, path: Path):
        content = json.loads(path.read_text())
        self.nodes = content["nodes"]
        self.heads = [self.nodes[head[0]]["name"] for head in content["heads"]]
        # The node after which a result is needed no more.
        self.last_use = {i: n for n, node in enumerate(self.nodes) for i, *_ in node["inputs"]}

    def variables(self) -> list[str]:
        return [node["name"] for node in self.nodes if node["op"] == "null"]

    @torch.no_grad()
    def __call__(self, arrays: dict[str, Tensor], *wanted: str) -> list[Tensor]:
        """The graph's outputs, or those of the nodes `wanted`."""
        wanted = wanted or tuple(self.heads)
        kept: dict[str, Tensor] = {}
        results: dict[int, Tensor] = {}
        for n, node in enumerate(self.nodes):
            if node["op"] == "null":
                results[n] = arrays[node["name"]] if node["name"] in arrays else torch.empty(0)
                continue
            inputs = [results[i] for i, *_ in node["inputs"]]
            results[n] = OPERATORS[node["op"]](Attributes(node.get("attrs", {})), *inputs)
            if node["name"] in wanted:
                kept[node["name"]] = results[n]
            for i, *_ in node["inputs"]:
                if self.last_use[i] == n:
                    results.pop(i, None)
        return [kept[name] for name in wanted]


class Attributes(dict):
    """A node's attributes, which the JSON has as strings."""

    def of(self, name: str, default):
        if name not in self:
            return default
        text = self[name]
        return text if isinstance(default, str) else ast.literal_eval(text)


def convolution(a, x, weight, bias=None):
    return F.conv2d(
        x, weight, bias, a.of("stride", (1, 1)), a.of("pad", (0, 0)), a.of("dilate", (1, 1)), a.of("num_group", 1)
    )


def deconvolution(a, x, weight, bias=None):
    return F.conv_transpose2d(x, weight, bias, a.of("stride", (1, 1)), a.of("pad", (0, 0)), 0, a.of("num_group", 1))


def batch_norm(a, x, gamma, beta, mean, var):
    if a.of("fix_gamma", True):
        gamma = torch.ones_like(gamma)
    scale = gamma / (var + a.of("eps", 1e-3)).sqrt()
    return x * scale.view(-1, 1, 1) + (beta - mean * scale).view(-1, 1, 1)


def pooling(a, x):
    kernel, stride, pad = a.of("kernel", ()), a.of("stride", (1, 1)), a.of("pad", (0, 0))
    ceil_mode = a.of("pooling_convention", "valid") == "full"
    if a.of("pool_type", "max") == "max":
        return F.max_pool2d(x, kernel, stride, pad, ceil_mode=ceil_mode)
    assert pad == (0, 0)
    return F.avg_pool2d(x, kernel, stride, ceil_mode=ceil_mode)  # an incomplete window is averaged over what it has


def crop(a, x, like):
    top, left = a.of("offset", (0, 0))
    height, width = like.shape[2:]
    assert x.shape[2] >= top + height and x.shape[3] >= left + width
    return x[:, :, top : top + height, left : left + width]


def grid_generator(a, flow):
    """Flow to positions in -1..1 from corner to corner of the flow's map."""
    assert a["transform_type"] == "warp"
    height, width = flow.shape[2:]
    x = torch.arange(width) + flow[:, 0]
    y = torch.arange(height)[:, None] + flow[:, 1]
    return torch.stack([x / ((width - 1) / 2) - 1, y / ((height - 1) / 2) - 1], 1)


def bilinear_sampler(a, x, grid):
    return F.grid_sample(x, grid.permute(0, 2, 3, 1), "bilinear", "zeros", align_corners=True)


def deformable_convolution(a, x, offset, weight):
    """Tap by tap, with the border rule of deformable_im2col.h: see `bilinear_or_zero`."""
    assert a.of("stride", (1, 1)) == (1, 1) and a.of("num_group", 1) == 1
    groups = a.of("num_deformable_group", 1)
    (pad, _), (dilation, _) = a.of("pad", (0, 0)), a.of("dilate", (1, 1))
    batch, channels, height, width = x.shape
    offset = offset.view(batch, groups, 9, 2, height, width)
    result = 0
    for tap in range(9):
        i, j = divmod(tap, 3)
        y = torch.arange(height)[:, None] - pad + i * dilation + offset[:, :, tap, 0]
        x_ = torch.arange(width) - pad + j * dilation + offset[:, :, tap, 1]
        sampled = bilinear_or_zero(x.view(batch * groups, -1, height, width), y.flatten(0, 1), x_.flatten(0, 1))
        column = sampled.view(batch, channels, height * width)
        result = result + weight[:, :, i, j] @ column
    return result.view(batch, -1, height, width)


def bilinear_or_zero(x, at_y, at_x):
    """x (N, C, h, w) at (N, h, w) positions: zero outside 0 <= y < h, 0 <= x < w; beyond the last row or column, its
    value."""
    n, c, height, width = x.shape
    inside = (at_y >= 0) & (at_y < height) & (at_x >= 0) & (at_x < width)
    at_y, at_x = at_y.clamp(0, height - 1), at_x.clamp(0, width - 1)
    top, left = at_y.floor(), at_x.floor()
    total = 0
    for row, row_weight in ((top, 1 - (at_y - top)), (top + 1, at_y - top)):
        for column, column_weight in ((left, 1 - (at_x - left)), (left + 1, at_x - left)):
            cell = (row.clamp(max=height - 1) * width + column.clamp(max=width - 1)).long()
            value = x.flatten(2).gather(2, cell.view(n, 1, -1).expand(-1, c, -1))
            total = total + value * (row_weight * column_weight * inside).view(n, 1, -1)
    return total


OPERATORS = {
    "Convolution": convolution,
    "Deconvolution": deconvolution,
    "_contrib_DeformableConvolution": deformable_convolution,
    "BatchNorm": batch_norm,
    "Activation": lambda a, x: {"relu": torch.relu}[a["act_type"]](x),
    "LeakyReLU": lambda a, x: F.leaky_relu(x, a.of("slope", 0.25)),
    "Pooling": pooling,
    "Crop": crop,
    "Concat": lambda a, *x: torch.cat(x, a.of("dim", 1)),
    "broadcast_add": lambda a, x, y: x + y,
    "elemwise_add": lambda a, x, y: x + y,
    "_div_scalar": lambda a, x: x / a.of("scalar", 1.0),
    "_mul_scalar": lambda a, x: x * a.of("scalar", 1.0),
    "GridGenerator": grid_generator,
    "BilinearSampler": bilinear_sampler,
}
