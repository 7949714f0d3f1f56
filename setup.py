"""The optional native part: what has no place in pyproject.toml yet. Without a C compiler Penstock installs and works without it."""

from setuptools import Extension, setup

setup(ext_modules=[Extension("penstock._native", ["app/penstock/_native.c"], optional=True)])
