"""Every operator in plain PyTorch: the definitions against which the native kernels are tested.

They run on every device and data type, and under autograd. They are used wherever there is no native kernel.
"""

from accel_ops.reference.deform_conv import (
    check_deform_conv,
    check_deform_conv_backward,
    deform_conv,
    deform_conv_backward,
)
from accel_ops.reference.psroi_pool import (
    check_psroi_pool,
    check_psroi_pool_backward,
    psroi_pool,
    psroi_pool_backward,
)
from accel_ops.reference.sample_attend import (
    check_sample_attend,
    check_sample_attend_backward,
    sample_attend,
    sample_attend_backward,
    sample_attention,
)
from accel_ops.reference.tensors import FLOATING, layout_of
from accel_ops.reference.upsample_argmax import (
    MOST_CLASSES,
    STRIDES,
    check_frame_size,
    check_upsample_argmax,
    upsample_argmax,
    upsample_argmax_margin,
)
from accel_ops.reference.warp import check_warp, check_warp_backward, warp, warp_backward

__all__ = [
    "FLOATING",
    "MOST_CLASSES",
    "STRIDES",
    "check_deform_conv",
    "check_deform_conv_backward",
    "check_frame_size",
    "check_psroi_pool",
    "check_psroi_pool_backward",
    "check_sample_attend",
    "check_sample_attend_backward",
    "check_upsample_argmax",
    "check_warp",
    "check_warp_backward",
    "deform_conv",
    "deform_conv_backward",
    "layout_of",
    "psroi_pool",
    "psroi_pool_backward",
    "sample_attend",
    "sample_attend_backward",
    "sample_attention",
    "upsample_argmax",
    "upsample_argmax_margin",
    "warp",
    "warp_backward",
]
