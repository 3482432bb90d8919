# SPDX-License-Identifier: MIT
"""The table of all commands, and the commands about the commands themselves.

It imports all of them; a machine needs it only for these (`by_name`).
"""

from __future__ import annotations

from functools import cache
from typing import Annotated, Any

from blockcore.commands import (
    bitmaps,
    block_config,
    block_info,
    block_stats,
    commits,
    drives,
    fault_files,
    faults,
    job_info,
    jobs,
    mirrors,
    power,
    requests,
    run_state,
    streams,
    sweeps,
    transactions,
    version,
    volumes,
    yank,
)
from blockcore.machine.machine import Machine
from blockcore.nodes.graph.make import load_drivers
from blockcore.qapi.events import BlockIoError
from blockcore.qapi.introspect import schema_info
from blockcore.qapi.json.writer import Encoded
from blockcore.qapi.record import dataclass
from blockcore.qapi.schema import CommandTable, qapi_type
from blockcore.qmp.session import NEGOTIATION

table = CommandTable()
table.include(NEGOTIATION)
for _part in (
    *(run_state, block_info, block_stats, block_config, drives, faults, fault_files, sweeps),
    requests,
    *(job_info, jobs, streams, commits, mirrors, bitmaps, transactions),
    *(volumes, power, yank, version),
):
    table.include(_part.table)
table.event(BlockIoError)
# The schema has types of theirs.  Here, because this module is imported outside the big lock.
load_drivers()


@dataclass(frozen=True, slots=True, kw_only=True)
class CommandInfo:
    name: str


@table.command("query-commands")
def query_commands(machine: Machine) -> Annotated[Encoded, qapi_type(list[CommandInfo])]:
    """Return the names of all commands."""
    return _commands(machine.qemu.absent)


@table.command("query-qmp-schema")
def query_qmp_schema(machine: Machine) -> Annotated[Encoded, qapi_type(list[Any])]:
    """Return all commands, events and types, as QEMU's introspection describes its own."""
    return _schema(machine.qemu.absent)


@cache
def _commands(absent: frozenset[str]) -> Encoded:
    return Encoded([{"name": command.name} for command in table if command.name not in absent])


@cache
def _schema(absent: frozenset[str]) -> Encoded:
    return Encoded(schema_info(table, absent))
