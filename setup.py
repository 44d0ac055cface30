"""Only what setup.cfg cannot say: the packages, since `accel_ops` lives in the folder `ops`."""

from setuptools import find_packages, setup

operators = ["accel_ops", *(f"accel_ops.{name}" for name in find_packages("ops"))]
setup(packages=[*find_packages(include=["accel", "accel.*"]), *operators])
