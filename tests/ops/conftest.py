"""The operators with their kernels, for the tests of each."""

import warnings

import accel_ops
import pytest


@pytest.fixture(scope="session")
def native_operators():
    """`accel_ops`, its CPU kernels loaded."""
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        used = accel_ops.load("cpu")
    if used != "native":
        pytest.skip(f"no native operators: {said[0].message if said else 'ACCEL_OPS=reference'}")
    return accel_ops


@pytest.fixture(scope="session")
def cuda_operators():
    """`accel_ops`, its CUDA kernels loaded."""
    used = accel_ops.load("cuda")
    if used != "native":
        pytest.skip("no native CUDA operators; the warning above says why")
    return accel_ops
