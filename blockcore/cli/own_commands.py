# SPDX-License-Identifier: MIT
"""The commands of this package, for help without a machine, and what each of them does."""

from __future__ import annotations

import inspect
from importlib import import_module
from typing import Any

from blockcore.cli.schema import Schema


def own_schema() -> Schema:
    """Return the schema of a machine of this version; raises ImportError as `_table` does."""
    return Schema(import_module("blockcore.qapi.introspect").schema_info(_table()))


def help_texts() -> dict[str, str]:
    """Return what each command of this version does, as text of one or more lines.

    Without the packages that a machine needs, nothing is known of any.
    """
    try:
        return {command.name: inspect.cleandoc(command.help) for command in _table()}
    except ImportError:
        return {}


def _table() -> Any:
    """Return the table of commands.

    That imports most of the machine, so it is done when it is asked for.  Raises
    ImportError where the packages are not installed that a machine needs.
    """
    return import_module("blockcore.commands.table").table
