"""Fold batch norms into the convolutions before them."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

from accel.fast.tracing import TracingError, trace


@torch.no_grad()
def fold_batch_norms(network: nn.Module, examples: tuple[Tensor, ...]) -> int:
    """Fold each batch norm that directly follows a convolution into it, in place. Return how many were folded.

    network: a network in evaluation mode whose weights are still float32.
    examples: example inputs.
    """
    try:
        program = trace(network, examples)
    except TracingError:  # the network stays as it is
        return 0
    signature = program.graph_signature
    names = {**signature.inputs_to_parameters, **signature.inputs_to_buffers}  # of placeholders
    modules, folded = dict(network.named_modules()), 0
    for node in program.graph.nodes:
        if node.target is not torch.ops.aten.batch_norm.default or node.args[3] is None:  # has no statistics
            continue
        conv_node, mean_node = node.args[0], node.args[3]
        if conv_node.target is not torch.ops.aten.conv2d.default or len(conv_node.users) > 1:
            continue
        weight_node = conv_node.args[1]
        conv = modules.get(names.get(weight_node.name, "").rpartition(".")[0])
        norm = modules.get(names.get(mean_node.name, "").rpartition(".")[0])
        shared = len(weight_node.users) > 1 or len(mean_node.users) > 1
        if type(conv) is nn.Conv2d and isinstance(norm, nn.BatchNorm2d) and not shared:
            _fold(conv, norm)
            folded += 1
    return folded


def _fold(conv: nn.Conv2d, norm: nn.BatchNorm2d) -> None:
    """Move the effect of a batch norm into the convolution before it. The norm then does nothing."""
    assert norm.running_mean is not None and norm.running_var is not None, "it normalises by them, not by a batch's"
    conv.weight, conv.bias = fuse_conv_bn_weights(
        conv.weight, conv.bias, norm.running_mean, norm.running_var, norm.eps, norm.weight, norm.bias
    )
    norm.running_mean.zero_()
    norm.running_var.fill_(1 - norm.eps)
    if norm.affine:
        norm.weight.fill_(1)
        norm.bias.zero_()
