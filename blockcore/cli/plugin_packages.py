# SPDX-License-Identifier: MIT
"""The packages that the plugin imports, for the Python that nbdkit embeds.

The packages of this interpreter are used if the embedded one has the same version
and kind.  Otherwise their compiled modules would not load, and a private
environment gets packages for the embedded interpreter.  The plugin and the core
are pure Python, so every interpreter can use the installed ones.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path

from blockcore.bql.later import later
from blockcore.cli.embedding import Nbdkit

PACKAGES = ("bitarray", "structlog")
"""What the plugin imports, as plugin/requirements.txt lists it."""

_required_packages = later("blockcore.cli.package_metadata:required_packages")


def plugin_packages(nbdkit: Nbdkit, environ: Mapping[str, str]) -> list[Path]:
    """Return the directories with the packages that the plugin imports; may install packages.

    Raises ClickException if they cannot be had; the message says what to do.
    """
    if nbdkit.is_this_python():
        found = [_directory(name) for name in PACKAGES]
        places = [place for place in found if place is not None]
        if len(places) == len(found):
            return list(dict.fromkeys(places))
    required: list[Path] = _required_packages()(nbdkit, environ)
    return required


def _directory(package: str) -> Path | None:
    """Return the directory in which this interpreter finds a package, or None."""
    spec = find_spec(package)
    if spec is None or spec.origin is None:
        return None
    return Path(spec.origin).absolute().parents[1]
