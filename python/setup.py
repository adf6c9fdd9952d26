"""Builds the C library with cargo and puts it into the package."""

import os
import pathlib
import shutil
import subprocess

from setuptools import setup
from setuptools.command.build_py import build_py
from setuptools.dist import Distribution

ROOT = pathlib.Path(__file__).resolve().parent.parent


class BuildWithLibrary(build_py):
    def run(self):
        super().run()
        if self.editable_mode:
            target = ROOT / "python" / "src" / "holdfast"
        else:
            target = pathlib.Path(self.build_lib) / "holdfast"
        shutil.copy(self.library(), target / "libholdfast.so")

    def library(self):
        built = os.environ.get("HOLDFAST_LIBRARY")
        if built:
            return pathlib.Path(built)
        if not (ROOT / "Cargo.toml").exists():
            raise SystemExit("holdfast is installed from its checkout: pip install ./python")
        subprocess.run(["cargo", "build", "--release", "--quiet", "--package", "capi"], cwd=ROOT, check=True)
        directory = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))
        return directory / "release" / "libholdfast.so"


class BinaryDistribution(Distribution):
    """The library is of one machine, and so is the wheel."""

    def has_ext_modules(self):
        return True


setup(cmdclass={"build_py": BuildWithLibrary}, distclass=BinaryDistribution)
