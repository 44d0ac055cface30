"""Only what setup.cfg cannot say: the packages, since `accel_ops` lives in the folder `ops`, and what a wheel with
native libraries differs in (tools/build_wheel.py)."""

import os
import shutil
from pathlib import Path

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py
from setuptools.dist import Distribution

try:
    from setuptools.command.bdist_wheel import bdist_wheel
except ImportError:  # setuptools before 70.1
    from wheel.bdist_wheel import bdist_wheel

# A folder of CPU libraries that go into the wheel, which then is for one platform.
LIBRARIES = os.environ.get("ACCEL_OPS_LIBRARIES")


class BuildWithLibraries(build_py):
    def run(self):
        super().run()
        if LIBRARIES and not self.editable_mode:
            folder = Path(self.build_lib) / "accel_ops" / "lib"
            folder.mkdir(parents=True, exist_ok=True)
            for library in Path(LIBRARIES).glob("*.so"):
                shutil.copy(library, folder)


class WheelOfAnyPython(bdist_wheel):
    """The libraries know nothing of Python."""

    def get_tag(self):
        return ("py3", "none", super().get_tag()[2])


class Platform(Distribution):
    def has_ext_modules(self):
        return bool(LIBRARIES)


operators = ["accel_ops", *(f"accel_ops.{name}" for name in find_packages("ops"))]
setup(
    packages=[*find_packages(include=["accel", "accel.*"]), "accel.experiments", *operators],
    distclass=Platform,
    cmdclass={"build_py": BuildWithLibraries, "bdist_wheel": WheelOfAnyPython},
)
