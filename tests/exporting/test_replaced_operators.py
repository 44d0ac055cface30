"""What replaces the native operators in exported graphs, against those operators."""

import accel_ops
import pytest
import torch

from accel.exporting import operators


def noise(*shape):
    generator = torch.Generator().manual_seed(sum(shape))
    return torch.randn(*shape, generator=generator)


@pytest.mark.parametrize("warp", [operators.warp_by_grid_sample, operators.warp_by_gather])
@pytest.mark.parametrize("cells", [(32, 64), (1, 7), (7, 1), (1, 1), (5, 6)])
def test_warping_is_the_operators_warping(warp, cells):
    features, flow = noise(1, 3, *cells), 4 * noise(1, 2, *cells)
    flow[0, 0, 0, 0] = 0  # a position on the map in each of them
    flow[0, 1, 0, 0] = 0
    torch.testing.assert_close(warp(features, flow), accel_ops.warp(features, flow), rtol=0, atol=2e-5)


@pytest.mark.parametrize("warp", [operators.warp_by_grid_sample, operators.warp_by_gather])
@pytest.mark.parametrize("odd", [float("nan"), float("inf"), -1e30, 1e30, -1.0, 8.0])
def test_positions_off_the_map_give_zero(warp, odd):
    features, flow = noise(1, 2, 8, 8), torch.zeros(1, 2, 8, 8)
    flow[0, 0, :, 0] = odd
    torch.testing.assert_close(warp(features, flow), accel_ops.warp(features, flow), rtol=0, atol=2e-5)
    assert warp(features, flow)[..., 0].abs().max() == 0 or odd == -1.0 or odd == 8.0


@pytest.mark.parametrize(("groups", "kernel", "dilation"), [(1, 3, 2), (2, 3, 1), (4, 1, 1)])
def test_deformable_convolution_has_the_published_borders(groups, kernel, dilation):
    features, weight = noise(1, 8, 9, 11), noise(4, 8, kernel, kernel)
    padding = dilation * (kernel // 2)
    offset = 3 * noise(1, groups * kernel * kernel * 2, 9, 11)
    geometry = [1, 1], [padding, padding], [dilation, dilation]
    expected = accel_ops.deform_conv(features, offset, weight, *geometry)
    torch.testing.assert_close(operators.deform_conv(features, offset, weight, *geometry), expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize("offsets", [[(0.0, 0.0)], [(1.0, -2.0), (0.25, 3.5), (-1.75, 0.5)]])
def test_attention_over_known_offsets_is_the_operators(offsets):
    query, key, value = noise(1, 4, 6, 9), noise(1, 4, 6, 9) + 1, noise(1, 5, 6, 9)
    expected = accel_ops.sample_attend(query, key, value, torch.tensor(offsets))
    torch.testing.assert_close(operators.sample_attend(query, key, value, offsets), expected, rtol=0, atol=2e-5)


@pytest.mark.parametrize("border", ["replicate", "zero"])
@pytest.mark.parametrize(
    ("cells", "size", "stride"), [((4, 6), (61, 90), 16), ((3, 6), (50, 97), 16), ((9, 5), (33, 20), 4)]
)
def test_labels_are_the_operators_labels(border, cells, size, stride, monkeypatch):
    monkeypatch.setattr(operators, "TILE", 5000)  # several tiles
    scores, bias = noise(1, 7, *cells), noise(7)
    for added in (None, bias):
        expected = accel_ops.upsample_argmax(scores, size, added, border, stride)
        got = operators.upsample_argmax(scores, size, added, border, stride)
        assert (got == expected).float().mean() > 0.9995


@pytest.mark.parametrize("size", [(6, 8), (7, 9), (5, 5), (1, 3)])
def test_windows_beyond_the_map_average_what_is_on_it(size):
    x = noise(1, 3, *size)
    expected = torch.nn.functional.avg_pool2d(x, 2, ceil_mode=True)
    torch.testing.assert_close(operators.avg_pool2d(x, [2, 2], [2, 2], [0, 0], True, True), expected)
    assert operators.avg_pool2d(x, [2, 2], [2, 2], [0, 0], False, True) is NotImplemented
