# SPDX-License-Identifier: MIT
"""What a shell may complete: names of a machine's things, if it is known and answers at once."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable
from typing import TypeVar

import click

from blockcore.cli.connection import Control
from blockcore.cli.own_commands import own_schema
from blockcore.cli.schema import Schema
from blockcore.process.hints import MACHINE_KEYS
from faultline.aio import Machine
from faultline.schema import EVENTS

ANSWER_S = 0.5
"""How long a machine may take to answer: who has pressed Tab waits."""

T = TypeVar("T")

Complete = Callable[[click.Context, click.Parameter, str], list[str]]


async def _drives(machine: Machine) -> list[str]:
    names = [info["device"] for info in await machine.query_block()]
    nodes = await machine.query_named_block_nodes(flat=True)
    return [*names, *(node.get("node-name", "#") for node in nodes)]


async def _faults(machine: Machine) -> list[str]:
    return [rule["id"] for rule in await machine.x_query_faults()]


async def _jobs(machine: Machine) -> list[str]:
    return [job["id"] for job in await machine.query_jobs()]


async def _bitmaps(machine: Machine) -> list[str]:
    nodes = await machine.query_named_block_nodes(flat=True)
    bitmaps = [one for node in nodes for one in node.get("dirty-bitmaps", ())]
    return [one.get("name", "") for one in bitmaps]


QUERIES: dict[str, Callable[[Machine], Awaitable[list[str]]]] = {
    "drives": _drives,
    "faults": _faults,
    "jobs": _jobs,
    "bitmaps": _bitmaps,
}
"""What is completed, and who asks the machine for it."""


def named(kind: str) -> Complete:
    """Return a callback of click's that completes what `QUERIES` has by that name."""

    def completed(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:
        names = asked(_control(ctx), QUERIES[kind]) or []
        # Names that begin with # are made up.
        known = {name for name in names if name and not name.startswith("#")}
        return sorted(name for name in known if name.startswith(incomplete))

    return completed


def commands(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:
    """Complete the name of a QMP command."""
    return [name for name in _schema(ctx).commands if name.startswith(incomplete)]


def members(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:
    """Complete KEY= of the QMP command that was typed before, or of an event."""
    schema, command = _schema(ctx), str(ctx.params.get("command"))
    if command not in schema.commands:
        return []
    names = schema.members(schema.arguments(command))
    return [f"{name}=" for name in names if name.startswith(incomplete)]


def events(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:
    """Complete the name of an event."""
    return [name for name in EVENTS if name.startswith(incomplete.upper())]


def keys(incomplete: str) -> list[str]:
    """Complete KEY= of `faultline serve`."""
    return [f"{name}=" for name in sorted(MACHINE_KEYS) if name.startswith(incomplete)]


def _control(ctx: click.Context) -> Control:
    socket = ctx.params.get("socket") or os.environ.get("FAULTLINE_CONTROL")
    return Control(socket, ANSWER_S)


def _schema(ctx: click.Context) -> Schema:
    """Return the schema of the machine, or that of this version if there is none."""

    async def ask(machine: Machine) -> Schema:
        return Schema(await machine.execute("query-qmp-schema"))

    return asked(_control(ctx), ask) or own_schema()


def asked(control: Control, query: Callable[[Machine], Awaitable[T]]) -> T | None:
    """Return what a machine answers; None without a machine, or if it does not."""
    if control.socket is None:
        return None
    try:
        return control.run(query)
    except (click.ClickException, OSError):
        return None
