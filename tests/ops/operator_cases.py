"""What every operator is tested with."""

from collections.abc import Sequence

import pytest
import torch

LAYOUTS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}
TYPES = [torch.float64, torch.float32, torch.bfloat16, torch.float16]
layouts = pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
dtypes = pytest.mark.parametrize("dtype", TYPES, ids=lambda d: str(d)[6:])
gpu = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")]


def opcheck(operator: torch._ops.OpOverload, inputs: Sequence[object], dtype: torch.dtype, **tolerances: float) -> None:
    """What `torch.library.opcheck` looks at. How the operator is traced, which takes most of the time and asks nothing
    of the type, in float32 alone."""
    looks = ("test_schema", "test_autograd_registration", "test_faketensor")
    if dtype == torch.float32:
        looks += ("test_aot_dispatch_dynamic",)
    torch.library.opcheck(operator, inputs, test_utils=looks, **tolerances)
