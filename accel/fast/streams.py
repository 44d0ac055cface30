"""Work side by side on a GPU."""

from __future__ import annotations

from collections.abc import Callable

import torch

_side: dict[tuple, torch.cuda.Stream] = {}


def side_by_side(first: Callable, second: Callable, device: torch.device, name: str) -> tuple:
    """The results of both functions. On a GPU, without gradients, the second runs on a stream of its own, one for each
    `name`, beside the first; elsewhere one follows the other. Whoever uses the results need not know.
    """
    if device.type != "cuda" or torch.is_grad_enabled():
        return first(), second()
    main = torch.cuda.current_stream(device)
    which = (main.device, main.cuda_stream, name)
    if which not in _side:
        _side[which] = torch.cuda.Stream(device)
    side = _side[which]
    side.wait_stream(main)
    try:
        with torch.cuda.stream(side):
            other = second()
        one = first()
    finally:
        # Memory of the side stream is reused only after the next wait above, hence after whatever reads `other`.
        main.wait_stream(side)
    return one, other
