# SPDX-License-Identifier: MIT
"""The drives of a machine that runs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class ServedDrive:
    """A drive that is served: its id, and the NBD URI of its export.

    >>> str(ServedDrive("vda", "nbd+unix:///vda?socket=m.nbd"))
    'nbd+unix:///vda?socket=m.nbd'
    """

    id: str
    uri: str

    def __str__(self) -> str:
        return self.uri


def served_drives(ready: Mapping[str, Any]) -> dict[str, ServedDrive]:
    """Return the drives of a ready line, by id."""
    return {id: ServedDrive(id, uri) for id, uri in ready.get("drives", {}).items()}
