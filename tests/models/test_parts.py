"""Networks cut into parts: the same results, in shares of like cost."""

import pytest
import torch
from torch import nn

from accel.fast.parts import Parts, Work, work_of
from accel.fast.tracing import functional, trace


class Residual(nn.Module):
    """Values from early on are needed late, and one operation gives several results."""

    def __init__(self):
        super().__init__()
        self.convs = nn.ModuleList(nn.Conv2d(3 if i == 0 else 8, 8, 3, padding=1) for i in range(6))

    def forward(self, image):
        first = x = self.convs[0](image).relu()
        for conv in self.convs[1:]:
            x = conv(x).relu_() + first
        lower, upper = x.chunk(2, 1)
        return lower * upper


def graph_of(network, *examples):
    return functional(trace(network, examples))


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    return Residual().eval().requires_grad_(False)


IMAGE = torch.randn(1, 3, 16, 24, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("count", [1, 2, 3, 5, 40])
def test_cut_networks_give_what_whole_ones_give(network, count):
    parts = Parts(graph_of(network, IMAGE), (IMAGE,), count)
    assert len(parts.parts) == count
    torch.testing.assert_close(parts(IMAGE), network(IMAGE))


@pytest.mark.parametrize("count", [2, 3, 6])
def test_parts_cost_about_the_same(network, count):
    from torch.utils.flop_counter import FlopCounterMode

    parts = Parts(graph_of(network, IMAGE), (IMAGE,), count)
    work, costs = parts.work(IMAGE), []
    for done in range(1, count + 1):
        with FlopCounterMode(display=False) as counter:
            work = work.until(done)
        costs.append(counter.get_total_flops())
    whole = sum(costs)
    largest_operation = 2 * 8 * 8 * 9 * 16 * 24
    assert max(costs) <= whole / count + 2 * largest_operation


def test_going_on_leaves_the_work_as_it_was(network):
    parts = Parts(graph_of(network, IMAGE), (IMAGE,), 3)
    start = parts.work(IMAGE)
    half = start.until(2)
    assert (start.done, half.done, half.result) == (0, 2, None)
    results = [half.until(3).result, half.until(3).result, start.until(3).result]
    for result in results:
        torch.testing.assert_close(result, network(IMAGE))


def test_work_that_is_done_is_not_done_again():
    calls = []
    parts = tuple(lambda values, i=i: calls.append(i) or {Work.RESULT: torch.tensor(i)} for i in range(3))
    work = Work(parts, {}).until(2).until(1).until(3).until(3)
    assert calls == [0, 1, 2] and work.result == 2


def test_something_can_be_done_to_the_result(network):
    for cut in (network, Parts(graph_of(network, IMAGE), (IMAGE,), 3)):
        work = work_of(cut, IMAGE).then(lambda x: 2 * x)
        torch.testing.assert_close(work.until(len(work.parts)).result, 2 * network(IMAGE))


def test_an_uncut_network_is_one_part(network):
    work = work_of(network, IMAGE)
    assert len(work.parts) == 1 and work.result is None
    torch.testing.assert_close(work.until(1).result, network(IMAGE))


def test_only_values_that_are_still_needed_are_kept(network):
    parts = Parts(graph_of(network, IMAGE), (IMAGE,), 6)
    assert all(len(leaves) <= 2 for _, leaves in parts.ends[1:])  # the chain, and the first map


def test_networks_of_two_inputs(network):
    class Difference(nn.Module):
        def __init__(self):
            super().__init__()
            self.network = network

        def forward(self, current, previous):
            return self.network(current) - self.network(previous)

    parts = Parts(graph_of(Difference(), IMAGE, 2 * IMAGE), (IMAGE, 2 * IMAGE), 4)
    torch.testing.assert_close(parts(IMAGE, 2 * IMAGE), network(IMAGE) - network(2 * IMAGE))


@pytest.mark.parametrize("count", [1, 4])
def test_networks_of_several_results(network, count):
    class Both(nn.Module):
        def __init__(self):
            super().__init__()
            self.network = network

        def forward(self, image):
            early = self.network.convs[0](image)  # is there in the first part already
            return early, self.network(image)

    parts = Parts(graph_of(Both(), IMAGE), (IMAGE,), count)
    given = parts(IMAGE)
    assert type(given) is tuple
    torch.testing.assert_close(given, (network.convs[0](IMAGE), network(IMAGE)))


def test_inputs_of_another_shape_are_refused(network):
    parts = Parts(graph_of(network, IMAGE), (IMAGE,), 2)
    with pytest.raises(ValueError, match=r"optimised for frames \[1, 3, 16, 24\], got \[1, 3, 16, 32\]"):
        parts(torch.zeros(1, 3, 16, 32))
