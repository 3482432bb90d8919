# SPDX-License-Identifier: MIT
"""The packages that the plugin needs, as the metadata of the installed distributions say.

Reading metadata takes a tenth of a start; `plugin_packages` does without where it can.
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
"""A requirement of the extra "plugin", as the metadata of a distribution have it."""


def required_packages(nbdkit: Nbdkit, environ: Mapping[str, str]) -> list[Path]:
    """Return the directories with the packages that the plugin imports; may install packages.

    Raises ClickException if they cannot be had; the message says what to do.
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
    """Return the requirements of the extra "plugin" among a distribution's, as pip takes them."""
    matches = (REQUIREMENT.fullmatch(text) for text in listed)
    return tuple(sorted(re.sub(r"[\s()]", "", found[1]) for found in matches if found))


def installed_packages(requirements: Sequence[str]) -> list[Path]:
    """Return the directories in which this interpreter has packages.

    Raises ClickException if one is not installed.
    """
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
