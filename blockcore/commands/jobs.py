"""Block jobs as seen from outside.  A machine of this version has none to run."""

from __future__ import annotations

from typing import Any

from blockcore.machine import Machine
from blockcore.qmp.schema import CommandTable

table = CommandTable()


@table.command("query-block-jobs")
def query_block_jobs(machine: Machine) -> list[Any]:
    """All block jobs; there are none."""
    return []


@table.command("query-jobs")
def query_jobs(machine: Machine) -> list[Any]:
    """All jobs; there are none."""
    return []
