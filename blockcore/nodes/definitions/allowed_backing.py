# SPDX-License-Identifier: MIT
"""Which backing files the images themselves may name.

A name in an image's header opens any file that the server may read, and any
server that it may reach, as in QEMU.  Whoever serves images of others can say
in which directories what they name has to be; what a user defines is not
concerned.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from blockcore.nodes.definitions.filename import protocol_of
from blockcore.qapi.names import QmpError


@dataclass(frozen=True, slots=True)
class AllowedBacking:
    """The directories, as they were typed; none at all, or None for no limit."""

    directories: tuple[str, ...] | None = None

    def refusal(self, name: str, resolve: Callable[[str], str]) -> str | None:
        """Why an image may not name a backing file so; None if it may.

        `name` is the full one.  `resolve` gives the absolute path without
        symbolic links: what is opened in the end counts.
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
    """``none``, or directories separated by colons; QmpError for anything else."""
    if text == "none":
        return AllowedBacking(())
    directories = text.split(":")
    if not all(directories):
        raise QmpError("Parameter 'allow-backing' expects DIR[:DIR...] or 'none'")
    return AllowedBacking(tuple(directories))


def path_of(name: str) -> str | None:
    """The path that a file name stands for; None if it is a name of something else."""
    try:
        is_file = protocol_of(name) == "file" and not name.startswith("json:")
    except QmpError:
        return None
    return name.removeprefix("file:") if is_file else None


def _is_below(path: str, directory: str) -> bool:
    return path.startswith(directory.rstrip("/") + "/")
