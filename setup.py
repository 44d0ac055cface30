"""Only what setup.cfg cannot say: the packages, since `accel_ops` lives in the folder `ops`."""

from setuptools import find_packages, setup

setup(packages=[*find_packages(include=["accel", "accel.*"]), "accel_ops"])
