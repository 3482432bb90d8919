# SPDX-License-Identifier: MIT
"""The version of the Python that an nbdkit embeds, kept in the user's cache.

nbdkit has to be run to tell it, which takes as long as the start of a plugin.  The
file `nbdkit` in the cache has five lines: the path of the program and its stamp, the
path of its Python plugin and its stamp, and the version.  It is for one program, the
last that was asked.  It is believed if both stamps are still right, and nothing
depends on it: without a cache nbdkit is asked each time.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import suppress

ELF = b"\x7fELF"
"""The beginning of a program in machine code; a script may run another nbdkit tomorrow."""

Version = tuple[int, int]
"""Major and minor version of a Python."""


def known_python(program: str, environ: Mapping[str, str]) -> Version | None:
    """Return the version of the Python that `program` embeds, if the cache knows it."""
    try:
        with open(_file(environ), "rb") as file:
            path, stamp, plugin, plugin_stamp, version = file.read().decode().splitlines()
        if path == program and _stamp(program) == stamp and _stamp(plugin) == plugin_stamp:
            major, _, minor = version.partition(".")
            return int(major), int(minor)
    except (OSError, ValueError):
        pass
    return None


def remember_python(
    program: str, plugin: str, version: Version, environ: Mapping[str, str]
) -> None:
    """Put into the cache which Python `program` embeds by its plugin; never raises."""
    with suppress(OSError, ValueError):
        with open(program, "rb") as file:
            if file.read(len(ELF)) != ELF:
                return
        lines = (program, _stamp(program), plugin, _stamp(plugin), "{}.{}".format(*version))
        text = "".join(f"{line}\n" for line in lines).encode()
        if text.count(b"\n") != len(lines):
            return
        path = _file(environ)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        new = f"{path}.{os.getpid()}"
        try:
            with open(new, "xb") as file:
                file.write(text)
            os.replace(new, path)
        except OSError:
            os.unlink(new)


def _file(environ: Mapping[str, str]) -> str:
    """Return the path of the file in the cache; raises ValueError without a home directory."""
    cache = environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    if not os.path.isabs(cache):
        raise ValueError(cache)
    return os.path.join(cache, "faultline", "nbdkit")


def _stamp(path: str) -> str:
    """Return what changes when a file is replaced or written."""
    status = os.stat(path)
    return f"{status.st_dev} {status.st_ino} {status.st_size} {status.st_mtime_ns}"
