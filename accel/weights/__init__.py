"""Weights from other programs: MXNet's and mmtracking's files, and the published networks in them."""

from accel.weights.mmtracking import load_mmtracking, read_mmtracking
from accel.weights.mxnet_params import read_mxnet_params, write_mxnet_params
from accel.weights.published_params import load_published, mxnet_params

__all__ = [
    "load_mmtracking",
    "load_published",
    "mxnet_params",
    "read_mmtracking",
    "read_mxnet_params",
    "write_mxnet_params",
]
