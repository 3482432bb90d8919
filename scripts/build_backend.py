# SPDX-License-Identifier: MIT
"""The build backend: setuptools, on a copy of the tree, so that it may be read-only.

In the tree itself setuptools would write faultline.egg-info and build/, and would
ship files that an earlier build has left there.
"""

import os
import shutil
import tempfile

from setuptools import build_meta

SOURCES = ("LICENSE", "MANIFEST.in", "README.md", "pyproject.toml", "setup.cfg")
PACKAGES = ("blockcore", "client", "plugin")
BACKEND = "scripts/build_backend.py"

# An editable installation refers to the tree itself, so it cannot be made of a copy.
get_requires_for_build_editable = build_meta.get_requires_for_build_editable
prepare_metadata_for_build_editable = build_meta.prepare_metadata_for_build_editable
build_editable = build_meta.build_editable


def build_wheel(wheel_directory, config_settings=None, metadata_directory=None):
    return _in_copy(build_meta.build_wheel, wheel_directory, config_settings)


def build_sdist(sdist_directory, config_settings=None):
    return _in_copy(build_meta.build_sdist, sdist_directory, config_settings)


def _in_copy(hook, directory, config_settings):
    directory, tree = os.path.abspath(directory), os.getcwd()
    with tempfile.TemporaryDirectory() as copy:
        os.mkdir(os.path.join(copy, "scripts"))
        for name in (*SOURCES, BACKEND):
            shutil.copyfile(name, os.path.join(copy, name))
        for name in PACKAGES:
            _copy_tree(name, os.path.join(copy, name))
        os.chdir(copy)
        try:
            return hook(directory, config_settings)
        finally:
            os.chdir(tree)


def _copy_tree(source, target):
    """Copy a directory's files without their permissions, which may forbid writing the copy."""
    for path, directories, files in os.walk(source):
        directories[:] = [name for name in directories if name != "__pycache__"]
        place = os.path.join(target, os.path.relpath(path, source))
        os.makedirs(place, exist_ok=True)
        for name in files:
            shutil.copyfile(os.path.join(path, name), os.path.join(place, name))
