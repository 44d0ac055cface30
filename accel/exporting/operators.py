"""The native operators in terms that every runtime has: what replaces them in a graph that leaves PyTorch.

Each function does for one frame (batch 1) what its namesake in `accel_ops` does. All of it is traced, so sizes may be
symbols: nothing here asks a tensor for its values.

Cells are gathered as rows: a map (1, C, H, W) becomes (H * W, C), and one index fetches all channels of a cell, which
lie side by side.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

TILE = 2**22  # logits that are computed at once while labels are made: 16 MB


def replacements(grid_sample: bool, offsets: Sequence[tuple[float, float]] = ()) -> dict[Callable, Callable]:
    """Return what replaces each operator, by operator.

    grid_sample: whether the runtime's GridSample can be trusted. If not, features are gathered.
    offsets: the offsets (dx, dy) of the model's learned sampling, if it has any. They are constants of the graph.
    """

    def attend(query: Tensor, key: Tensor, value: Tensor, _: Tensor) -> Tensor:
        return sample_attend(query, key, value, offsets)

    ops = torch.ops.accel_ops
    return {
        ops.warp.default: warp_by_grid_sample if grid_sample else warp_by_gather,
        ops.deform_conv.default: deform_conv,
        ops.sample_attend.default: attend,
        ops.upsample_argmax.default: upsample_argmax,
        torch.ops.aten.avg_pool2d.default: avg_pool2d,
    }


def warp_by_grid_sample(features: Tensor, flow: Tensor) -> Tensor:
    """`accel_ops.warp` by the operator GridSample.

    Its positions are shares of the map. They are counted from corner to corner (`align_corners=False`), not from centre
    to centre, because a map of one cell has only one centre.
    """
    height, width = features.shape[2:]
    x, y = _inside(*_positions(flow), height, width)
    grid = torch.stack([(2 * x + 1) / width - 1, (2 * y + 1) / height - 1], 3)  # (1, H, W, 2)
    return F.grid_sample(features.float(), grid, "bilinear", "zeros", align_corners=False).to(features.dtype)


def warp_by_gather(features: Tensor, flow: Tensor) -> Tensor:
    """`accel_ops.warp` by four gathers."""
    _, channels, height, width = features.shape
    x, y = _inside(*_positions(flow), height, width)
    left, upper = x.floor(), y.floor()
    right, lower = x - left, y - upper
    rows = _rows(F.pad(features.float(), (1, 2, 1, 2)))  # zeros around it, as far as positions go
    first = (upper + 1) * (width + 3) + left + 1
    out = _blended(rows, first.flatten(), right.flatten(), lower.flatten(), width + 3)
    return out.T.reshape(1, channels, height, width).to(features.dtype)


def deform_conv(
    features: Tensor,
    offset: Tensor,
    weight: Tensor,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
) -> Tensor:
    """`accel_ops.deform_conv` by gathers and one product of matrices.

    As published, a tap counts if its position is on the map, and the cells around it are then those of the map: beyond
    the last row or column, that row or column goes on.
    """
    _, channels, height, width = features.shape
    outputs, _, tall, wide = weight.shape
    rows, columns = offset.shape[2:]
    groups = offset.shape[1] // (2 * tall * wide)
    share = channels // groups
    offset = offset.float().reshape(groups, tall, wide, 2, rows, columns)
    around = F.pad(features.float(), (0, 1, 0, 1), mode="replicate")
    below = torch.arange(rows, device=offset.device) * stride[0] - padding[0]
    beside = torch.arange(columns, device=offset.device) * stride[1] - padding[1]
    of_groups = []
    for group in range(groups):
        cells = _rows(around[:, group * share : (group + 1) * share])
        samples = []
        for i in range(tall):
            for j in range(wide):
                y = offset[group, i, j, 0] + (below + i * dilation[0])[:, None]
                x = offset[group, i, j, 1] + (beside + j * dilation[1])
                on_map = (y >= 0) & (y < height) & (x >= 0) & (x < width)
                y, x = torch.where(on_map, y, 0), torch.where(on_map, x, 0)
                upper, left = y.floor(), x.floor()
                first = (upper * (width + 1) + left).flatten()
                taken = _blended(cells, first, (x - left).flatten(), (y - upper).flatten(), width + 1)
                samples.append(taken * on_map.flatten()[:, None])  # (H' * W', C / G)
        of_groups.append(torch.stack(samples, 2))  # (H' * W', C / G, kh * kw)
    stacked = torch.cat(of_groups, 1).reshape(-1, channels * tall * wide)
    out = stacked @ weight.float().flatten(1).T  # (H' * W', C')
    return out.T.reshape(1, outputs, rows, columns).to(features.dtype)


def sample_attend(query: Tensor, key: Tensor, value: Tensor, offsets: Sequence[tuple[float, float]]) -> Tensor:
    """`accel_ops.sample_attend`, for offsets that are known.

    A sample is a weighted mean of four cells, and a product with it the same mean of four products. So each whole
    offset that is next to one of `offsets` takes one product and one sum, however many samples share it. A shift by a
    whole offset is a part of a padded map.
    """
    mixing, steps = _whole_offsets(offsets)
    height, width = query.shape[2:]
    weights = torch.tensor(mixing, device=query.device)  # (K, S): what each whole offset counts in each sample
    reach = max(1, *(abs(step) for pair in steps for step in pair))
    keys, values = (F.pad(each.float(), (reach,) * 4) for each in (key, value))

    def shifted(maps: Tensor, step: tuple[int, int]) -> Tensor:
        x, y = reach + step[0], reach + step[1]
        return maps[:, :, y : y + height, x : x + width]

    products = torch.stack([(query.float() * shifted(keys, step)).sum(1) for step in steps], 3)  # (1, H, W, S)
    attention = (products @ weights.T).softmax(3) @ weights  # (1, H, W, S)
    out = None
    for number, step in enumerate(steps):
        part = attention[..., number][:, None] * shifted(values, step)
        out = part if out is None else out + part
    assert out is not None
    return out.to(value.dtype)


def upsample_argmax(
    scores: Tensor, size: Sequence[int], bias: Tensor | None = None, border: str = "replicate", stride: int = 16
) -> Tensor:
    """`accel_ops.upsample_argmax` by two products of matrices and ArgMax.

    Of a frame of known size, a few rows of pixels at a time are upsampled. Otherwise, all of them are.
    """
    scores = scores.float()
    classes = scores.shape[1]
    down, across = (
        _bilinear_weights(n, s, stride, border, scores.device) for n, s in zip(scores.shape[2:], size, strict=True)
    )
    broad = scores @ across.T  # (1, K, h, W)

    def labels(weights: Tensor) -> Tensor:
        logits = weights @ broad
        logits = logits if bias is None else logits + bias.float().view(-1, 1, 1)
        return logits.argmax(1).to(torch.uint8)

    height, width = size
    if not isinstance(height, int) or not isinstance(width, int):
        return labels(down)
    tile = max(1, TILE // (classes * width))
    return torch.cat([labels(down[top : top + tile]) for top in range(0, height, tile)], 1)


def avg_pool2d(
    x: Tensor,
    kernel: Sequence[int],
    stride: Sequence[int] = (),
    padding: Sequence[int] = (0,),
    ceil_mode: bool = False,
    *_: object,
) -> Tensor:
    """Average pooling whose last window reaches beyond the map (`ceil_mode`).

    Runtimes disagree about the number of cells that such a window divides by. Here it is that of the cells on the map.
    The map is padded by as much as a window can lack, whatever its size: of symbols, the tracer would ask whether it is
    nothing.
    """
    height, width = x.shape[2:]
    tiles = list(kernel) == list(stride or kernel) and not any(padding)
    if not ceil_mode or not tiles:
        return NotImplemented
    beyond = (0, kernel[1] - 1, 0, kernel[0] - 1)
    sums, cells = (F.avg_pool2d(F.pad(each, beyond), list(kernel)) for each in (x, x.new_ones(1, 1, height, width)))
    return sums / cells


def _positions(flow: Tensor) -> tuple[Tensor, Tensor]:
    """Return where a flow (1, 2, H, W) points, x and y, (1, H, W), in cells."""
    flow = flow.float()
    height, width = flow.shape[2:]
    x = flow[:, 0] + torch.arange(width, device=flow.device)
    y = flow[:, 1] + torch.arange(height, device=flow.device)[:, None]
    return x, y


def _inside(x: Tensor, y: Tensor, height: int, width: int) -> tuple[Tensor, Tensor]:
    """Move positions that are off the map, where all is zero, to one place there. So are positions that are no
    number."""
    near = (x >= -1) & (x <= width) & (y >= -1) & (y <= height)
    return torch.where(near, x, -1), torch.where(near, y, -1)


def _rows(maps: Tensor) -> Tensor:
    """Turn a map (1, C, H, W) into rows (H * W, C)."""
    return maps.flatten(2)[0].T.contiguous()


def _blended(rows: Tensor, first: Tensor, right: Tensor, lower: Tensor, width: int) -> Tensor:
    """Return bilinear samples (N, C) of a map of this width, given as rows.

    first: (N,), the number of the upper left cell.  right, lower: (N,), how far the sample is from that cell.
    """
    first = first.long()
    right, lower = right[:, None], lower[:, None]
    upper = rows.index_select(0, first) * (1 - right) + rows.index_select(0, first + 1) * right
    under = rows.index_select(0, first + width) * (1 - right) + rows.index_select(0, first + (width + 1)) * right
    return upper * (1 - lower) + under * lower


def _whole_offsets(offsets: Sequence[tuple[float, float]]) -> tuple[list[list[float]], list[tuple[int, int]]]:
    """Return the bilinear weight of each whole offset in each sample, and the whole offsets next to a sample."""
    taps: list[dict[tuple[int, int], float]] = []
    for x, y in offsets:
        left, upper = int(x // 1), int(y // 1)
        right, lower = x - left, y - upper
        around = {
            (left, upper): (1 - right) * (1 - lower),
            (left + 1, upper): right * (1 - lower),
            (left, upper + 1): (1 - right) * lower,
            (left + 1, upper + 1): right * lower,
        }
        taps.append({step: share for step, share in around.items() if share})
    steps = sorted({step for each in taps for step in each})
    return [[each.get(step, 0.0) for step in steps] for each in taps], steps


def _bilinear_weights(cells: int, pixels: int, stride: int, border: str, device: torch.device) -> Tensor:
    """Return the matrix (pixels, cells) of bilinear weights from the cells to the pixels of one axis."""
    position = (torch.arange(pixels, device=device) + 0.5) / stride - 0.5
    if border == "replicate":
        position = position.clamp(min=0).minimum(torch.arange(cells, device=device)[-1:].float())
    distance = position[:, None] - torch.arange(cells, device=device)
    return (1 - distance.abs()).clamp(min=0)
