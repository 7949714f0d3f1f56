"""What has no place in pyproject.toml yet: the optional native part, and the wheel's tag.

The native part uses the limited API of CPython 3.11, so one wheel serves 3.11 and every later version (docs/decisions/0014).
The free-threaded build of CPython has no limited API: Penstock installs there without the native part.
PENSTOCK_NATIVE in the environment of a build chooses:

  (not set)   built where there is a C compiler; without one, Penstock installs and works without it
  required    a build that cannot compile it fails: what is released
  none        left out, and the wheel is one for every platform
"""

import os
import sys
import sysconfig

from setuptools import Extension, setup

NATIVE = os.environ.get("PENSTOCK_NATIVE", "")
if NATIVE not in ("", "required", "none"):
    sys.exit(f"PENSTOCK_NATIVE={NATIVE}: write 'required' or 'none', or leave it unset")

if NATIVE == "none" or sysconfig.get_config_var("Py_GIL_DISABLED"):
    setup()
else:
    exact = ["-ffp-contract=off"] if os.name == "posix" else []  # the same bits as numpy: a product and a sum are rounded apart
    native = Extension(
        "penstock._native", ["app/penstock/_native.c"], py_limited_api=True, optional=NATIVE != "required", extra_compile_args=exact
    )
    setup(ext_modules=[native], options={"bdist_wheel": {"py_limited_api": "cp311"}})
