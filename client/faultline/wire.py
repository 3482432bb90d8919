# SPDX-License-Identifier: MIT
"""The names of members in QMP, from those of Python's parameters."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def wire_names(members: Mapping[str, Any]) -> dict[str, Any]:
    """Return members with ``-`` for ``_``, without those that are None.

    >>> wire_names({"node_name": "disk", "size": None})
    {'node-name': 'disk'}
    """
    return {
        name.replace("_", "-"): value for name, value in members.items() if value is not None
    }
