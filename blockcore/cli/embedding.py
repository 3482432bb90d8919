# SPDX-License-Identifier: MIT
"""nbdkit, the Python it embeds, and the environment in which that one finds its modules.

The embedded interpreter belongs to nbdkit's package.  It need not be the one
that runs `faultline`, and takes its standard library from where the first
python3 on PATH is.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import click

PYTHON_MIN = (3, 11)
"""The oldest Python that can run the plugin."""

PACKAGES = (
    "packages: nbdkit and nbdkit-plugin-python in Debian and Ubuntu, "
    "nbdkit and nbdkit-python-plugin in Fedora"
)


@dataclass(frozen=True, slots=True)
class Nbdkit:
    """An nbdkit: its program, and the version (major, minor) of the Python it embeds."""

    program: Path
    python: tuple[int, int]

    @property
    def python_name(self) -> str:
        """What an interpreter of that version is called: python3.11."""
        return f"python{self.python[0]}.{self.python[1]}"

    def is_this_python(self) -> bool:
        """Whether compiled modules of the interpreter that runs load in the embedded one."""
        tag = f"cpython-{self.python[0]}{self.python[1]}"
        return sys.implementation.cache_tag == tag and not sys.abiflags

    def interpreter(self, environ: Mapping[str, str]) -> str | None:
        """A program of that Python, the distribution's own before others; None without one."""
        return shutil.which(self.python_name, path=_search_path(self.program, environ))


def find_nbdkit(environ: Mapping[str, str]) -> Nbdkit:
    """Look for nbdkit and its Python; ClickException without one that can run the plugin."""
    program = shutil.which("nbdkit", path=environ.get("PATH", os.defpath))
    if program is None:
        raise click.ClickException(f"there is no nbdkit on PATH ({PACKAGES})")
    try:
        dump = subprocess.run(
            [program, "python", "--dump-plugin"],
            env=embedded_environment(Path(program), [], environ),
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
    nbdkit = Nbdkit(Path(program), (int(found[1]), int(found[2])))
    if nbdkit.python < PYTHON_MIN:
        raise click.ClickException(
            f"{program} embeds Python {found[1]}.{found[2]}, "
            f"the plugin needs {PYTHON_MIN[0]}.{PYTHON_MIN[1]} or newer"
        )
    return nbdkit


def embedded_environment(
    program: Path, packages: Iterable[Path], environ: Mapping[str, str]
) -> dict[str, str]:
    """What nbdkit's Python needs to find its own modules, and those in `packages`.

    Its standard library and libnbd's module are the distribution's.  A python3
    of somebody else on PATH leads it elsewhere: in an environment that hides
    the system's packages `import nbd` fails, and the compiled modules of
    another build of the same version do not load.  PYTHONHOME, where set, is
    for the interpreter that runs now.

    The embedded one takes the encoding of file names from the locale, has no
    UTF-8 mode (PYTHONUTF8 is not read), and where the user's locale is C, or
    is not installed, it could open ASCII names only.
    """
    env = {name: value for name, value in environ.items() if name != "PYTHONHOME"}
    env["PATH"] = _search_path(program, environ)
    env["PYTHONPATH"] = _join(*packages, environ.get("PYTHONPATH"))
    env["LC_ALL"] = "C.UTF-8"
    return env


def _search_path(program: Path, environ: Mapping[str, str]) -> str:
    """PATH with the directories first in which the python3 that goes with nbdkit is."""
    beside = program.resolve().parent.parent / "bin"
    return _join(beside, "/usr/bin", environ.get("PATH", os.defpath))


def _join(*entries: Path | str | None) -> str:
    return os.pathsep.join(dict.fromkeys(str(entry) for entry in entries if entry))
