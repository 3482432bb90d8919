# SPDX-License-Identifier: MIT
"""nbdkit, the Python that it embeds, and the environment in which that Python finds its modules.

The embedded interpreter belongs to nbdkit's package.  It may be another one than
the interpreter that runs `faultline`.  It looks for its standard library where
the first python3 on PATH is.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path

import click

from blockcore.bql.later import later
from blockcore.cli.known_nbdkit import known_python
from blockcore.qapi.record import dataclass

PYTHON_MIN = (3, 11)
"""The oldest Python that can run the plugin."""

_packages = later("blockcore.cli.nbdkit_dump:PACKAGES")
_asked_python = later("blockcore.cli.nbdkit_dump:asked_python")


@dataclass(frozen=True, slots=True)
class Nbdkit:
    """An nbdkit: its program, and the version (major, minor) of the Python it embeds."""

    program: Path
    python: tuple[int, int]

    @property
    def python_name(self) -> str:
        """The name of an interpreter of that version, such as python3.11."""
        return f"python{self.python[0]}.{self.python[1]}"

    def is_this_python(self) -> bool:
        """Return whether compiled modules of this interpreter load in the embedded one."""
        tag = f"cpython-{self.python[0]}{self.python[1]}"
        return sys.implementation.cache_tag == tag and not sys.abiflags

    def interpreter(self, environ: Mapping[str, str]) -> str | None:
        """Return the path of a program of that Python, preferring the distribution's.

        None if there is none.
        """
        return shutil.which(self.python_name, path=_search_path(self.program, environ))


def find_nbdkit(environ: Mapping[str, str]) -> Nbdkit:
    """Find nbdkit on PATH, and the version of its Python.

    Raises ClickException if there is no nbdkit, or none that can run the plugin.
    """
    program = shutil.which("nbdkit", path=environ.get("PATH", os.defpath))
    if program is None:
        raise click.ClickException(f"there is no nbdkit on PATH ({_packages()})")
    version = known_python(program, environ)
    if version is None:
        env = embedded_environment(Path(program), [], environ)
        version = _asked_python()(program, env, environ)
    nbdkit = Nbdkit(Path(program), version)
    if nbdkit.python < PYTHON_MIN:
        raise click.ClickException(
            f"{program} embeds Python {version[0]}.{version[1]}, "
            f"the plugin needs {PYTHON_MIN[0]}.{PYTHON_MIN[1]} or newer"
        )
    return nbdkit


def embedded_environment(
    program: Path, packages: Iterable[Path], environ: Mapping[str, str]
) -> dict[str, str]:
    """Return the environment in which nbdkit's Python finds its modules, and `packages`.

    Its standard library and libnbd's module are the distribution's, so PATH gets
    the distribution's directories first.  Another python3 at the front of PATH
    would lead it elsewhere: in a virtual environment without the system's
    packages `import nbd` fails, and compiled modules of another build of the
    version do not load.  PYTHONHOME is removed: if set, it is meant for the
    interpreter that runs now.

    The embedded interpreter takes the encoding of file names from the locale, and
    does not read PYTHONUTF8.  If the user's locale is C, or is not installed, it
    could open ASCII names only; so LC_ALL is set.
    """
    env = {name: value for name, value in environ.items() if name != "PYTHONHOME"}
    env["PATH"] = _search_path(program, environ)
    env["PYTHONPATH"] = _join(*packages, environ.get("PYTHONPATH"))
    env["LC_ALL"] = "C.UTF-8"
    return env


def _search_path(program: Path, environ: Mapping[str, str]) -> str:
    """Return PATH with those directories first that have the python3 of nbdkit's package."""
    beside = program.resolve().parent.parent / "bin"
    return _join(beside, "/usr/bin", environ.get("PATH", os.defpath))


def _join(*entries: Path | str | None) -> str:
    return os.pathsep.join(dict.fromkeys(str(entry) for entry in entries if entry))
