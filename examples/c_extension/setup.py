"""Build of the example: python setup.py build_ext --inplace."""

from setuptools import Extension, setup

import vecidx

setup(
    name="nearest",
    py_modules=[],
    ext_modules=[Extension("nearest", ["nearest.c"], include_dirs=[vecidx.get_include()])],
)
