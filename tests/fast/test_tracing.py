"""Traced networks change nothing in place, and compute what they computed."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from accel.fast.tracing import functional, trace


class Network(nn.Module):
    """Two convolutions, and between them what a test is about."""

    def __init__(self, between):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.last = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 2, 3)
        self.norm, self.between = nn.BatchNorm2d(4), between

    def forward(self, x):
        return self.last(self.between(self.norm(self.first(x))))


def relu(x):
    return F.relu(x, inplace=True)


def several(x):
    y = x.relu_()
    y += 0.5
    return y.mul_(2).add_(y.tanh())


def through_a_view(x):
    x[:, :2].relu_()
    return x


def through_dropout(x):
    y = F.dropout(x, training=False)  # the tensor itself
    y.relu_()
    return x + y


def read_again(x):
    y = torch.tanh(x)
    z = y.relu_()
    return y + z


def without_a_like(x):
    return torch.tanh(x).zero_() + x


@pytest.mark.parametrize(
    "between", [relu, several, through_a_view, through_dropout, read_again, without_a_like, lambda x: x + 1]
)
def test_no_operator_of_it_changes_a_tensor_in_place(between):
    network = Network(between).eval().requires_grad_(False)
    image = torch.randn(1, 3, 9, 11)
    given, expected = image.clone(), network(image)
    graph = functional(trace(network, (image,)))
    targets = [node.target for node in graph.graph.nodes if isinstance(node.target, torch._ops.OpOverload)]
    assert targets and not any(target._schema.is_mutable for target in targets)
    assert torch.equal(graph(image), expected) and torch.equal(image, given)


@pytest.mark.parametrize(("between", "again"), [(relu, 0), (lambda x: x.relu_().add_(1), 0), (through_a_view, 1)])
def test_it_is_traced_again_only_where_the_change_could_be_seen(between, again, monkeypatch):
    asked, decompose = [], torch.export.ExportedProgram.run_decompositions
    monkeypatch.setattr(
        torch.export.ExportedProgram, "run_decompositions", lambda *given: asked.append(1) or decompose(*given)
    )
    functional(trace(Network(between).eval(), (torch.randn(1, 3, 9, 11),)))
    assert len(asked) == again
