# SPDX-License-Identifier: MIT
"""The directories in which images may name their backing files (``allow-backing=``).

Without a limit, a name in an image's header can open any file that this process
may read, and any server that it can reach, as in QEMU.  With untrusted images,
``allow-backing=`` restricts these names to some directories.  Backing files that
a user defines are not restricted.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from blockcore.nodes.definitions.filename import protocol_of
from blockcore.qapi.names import QmpError
from blockcore.qapi.record import dataclass


@dataclass(frozen=True, slots=True)
class AllowedBacking:
    """The allowed directories as they were typed; () allows no file, None any name."""

    directories: tuple[str, ...] | None = None

    def refusal(self, name: str, resolve: Callable[[str], str]) -> str | None:
        """Return why an image may not name the backing file `name`, or None if it may.

        `name` is the full name, after it was combined with the image's own.
        `resolve` returns a path's absolute form without symbolic links: the file
        that would be opened counts, not the spelling of its name.
        """
        if self.directories is None:
            return None
        path = path_of(name)
        if path is None:
            return f"'{name}' is no path of a file: allow-backing lets images name nothing else"
        place = resolve(path)
        if any(_is_below(place, resolve(directory)) for directory in self.directories):
            return None
        return f"'{name}' is not where allow-backing lets images name files"


ANY: Final = AllowedBacking()


def parse_allowed(text: str) -> AllowedBacking:
    """Parse ``none`` or directories separated by colons; raise QmpError for an empty one."""
    if text == "none":
        return AllowedBacking(())
    directories = text.split(":")
    if not all(directories):
        raise QmpError("Parameter 'allow-backing' expects DIR[:DIR...] or 'none'")
    return AllowedBacking(tuple(directories))


def path_of(name: str) -> str | None:
    """Return the path that a file name stands for, or None if it names something else."""
    try:
        is_file = protocol_of(name) == "file" and not name.startswith("json:")
    except QmpError:
        return None
    return name.removeprefix("file:") if is_file else None


def _is_below(path: str, directory: str) -> bool:
    return path.startswith(directory.rstrip("/") + "/")
