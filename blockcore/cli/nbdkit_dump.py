# SPDX-License-Identifier: MIT
"""What nbdkit tells about its Python plugin when it is run with --dump-plugin."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Mapping

import click

from blockcore.cli.known_nbdkit import Version, remember_python

PACKAGES = (
    "packages: nbdkit and nbdkit-plugin-python in Debian and Ubuntu, "
    "nbdkit and nbdkit-python-plugin in Fedora"
)


def asked_python(program: str, env: Mapping[str, str], environ: Mapping[str, str]) -> Version:
    """Run `program` with the environment `env`; return the version of the Python it embeds.

    `environ` says where the cache is, which gets the answer.  Raises ClickException if it
    cannot be run, or has no Python plugin.
    """
    try:
        dump = subprocess.run(
            [program, "python", "--dump-plugin"],
            env=env,
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
        )
    except OSError as exc:
        raise click.ClickException(f"{program}: {exc.strerror}") from exc
    found = re.search(r"^python_version=(\d+)\.(\d+)", dump.stdout, re.MULTILINE)
    if dump.returncode != 0 or found is None:
        raise click.ClickException(f"{program} has no Python plugin ({PACKAGES})")
    version = int(found[1]), int(found[2])
    plugin = re.search(r"^path=(.+)$", dump.stdout, re.MULTILINE)
    if plugin is not None:
        remember_python(program, plugin[1], version, environ)
    return version
