# SPDX-License-Identifier: MIT
"""The packages that the plugin imports, for the Python which nbdkit embeds.

This interpreter's own do if it is of the same version and kind; otherwise their
compiled modules would not load, and a private environment has others.  The
plugin and the core are pure Python: those that are installed do for all.
"""

from __future__ import annotations

import re
import shlex
import sys
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path

import click

from blockcore.cli.embedding import Nbdkit
from blockcore.cli.private_environment import PrivateEnvironment

REQUIREMENT = re.compile(r"""(.*?)\s*;\s*extra\s*==\s*["']plugin["']""")
"""A requirement of the extra "plugin", as a distribution's metadata have it."""


def plugin_packages(nbdkit: Nbdkit, environ: Mapping[str, str]) -> list[Path]:
    """Find the directories with the packages that the plugin imports; make one if need be.

    Raises ClickException when that fails, and says what to do.
    """
    try:
        listed = metadata.requires("faultline") or []
    except metadata.PackageNotFoundError as exc:
        raise click.ClickException("faultline is not installed: use pip, or scripts/run") from exc
    requirements = plugin_requirements(listed)
    if not requirements:
        raise click.ClickException(
            "the installed faultline does not say what its plugin needs: install it again"
        )
    if nbdkit.is_this_python():
        return installed_packages(requirements)
    version = metadata.version("faultline")
    environment = PrivateEnvironment.of(nbdkit, version, requirements, environ)
    environment.make(environ)
    return [environment.directory]


def plugin_requirements(listed: Sequence[str]) -> tuple[str, ...]:
    """Those of a distribution's requirements that the extra "plugin" has, as pip takes them."""
    matches = (REQUIREMENT.fullmatch(text) for text in listed)
    return tuple(sorted(re.sub(r"[\s()]", "", found[1]) for found in matches if found))


def installed_packages(requirements: Sequence[str]) -> list[Path]:
    """Where this interpreter has them; ClickException if one is not installed."""
    places = []
    for requirement in requirements:
        name = re.split(r"[^\w.-]", requirement, maxsplit=1)[0]
        try:
            places.append(Path(str(metadata.distribution(name).locate_file(""))))
        except metadata.PackageNotFoundError as exc:
            command = [sys.executable, "-m", "pip", "install", requirement]
            raise click.ClickException(
                f"the package {name} is missing: {shlex.join(command)}"
            ) from exc
    return list(dict.fromkeys(places))
