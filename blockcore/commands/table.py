# SPDX-License-Identifier: MIT
"""The table of all commands, and the commands about the commands themselves."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Annotated, Any

from blockcore.commands import (
    backups,
    bitmap_actions,
    bitmaps,
    block_config,
    block_info,
    block_stats,
    commits,
    drives,
    faults,
    job_info,
    jobs,
    mirrors,
    requests,
    run_state,
    snapshots,
    streams,
    transaction,
    volumes,
    yank,
)
from blockcore.machine.machine import Machine
from blockcore.qapi.events import BlockIoError
from blockcore.qapi.introspect import schema_info
from blockcore.qapi.json.writer import Encoded
from blockcore.qapi.qemu import Release
from blockcore.qapi.schema import CommandTable, qapi_type
from blockcore.qmp.session import NEGOTIATION

table = CommandTable()
table.include(NEGOTIATION)
for _part in (
    *(run_state, block_info, block_stats, block_config, drives, faults, requests),
    *(job_info, jobs, streams, commits, mirrors, backups),
    *(bitmaps, snapshots, transaction, volumes, yank),
):
    table.include(_part.table)
transaction.actions.include(bitmap_actions.actions)
transaction.actions.include(snapshots.actions)
transaction.actions.include(backups.actions)
table.event(BlockIoError)


@dataclass(frozen=True, slots=True, kw_only=True)
class VersionTriple:
    major: int
    minor: int
    micro: int


@dataclass(frozen=True, slots=True, kw_only=True)
class VersionInfo:
    """QAPI's VersionInfo: the QEMU whose behaviour this is, and the program that has it."""

    qemu: VersionTriple
    package: str


def version_info(release: Release) -> VersionInfo:
    """Return what a release answers to `query-version`; `package` says that it is not QEMU."""
    major, minor, micro = release.version
    return VersionInfo(
        qemu=VersionTriple(major=major, minor=minor, micro=micro), package="faultline"
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class CommandInfo:
    name: str


@table.command("query-version")
def query_version(machine: Machine) -> VersionInfo:
    """Return the version of QEMU whose answers are given; `package` says that it is not QEMU."""
    return version_info(machine.qemu)


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
