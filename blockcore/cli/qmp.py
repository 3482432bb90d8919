# SPDX-License-Identifier: MIT
"""`faultline qmp`: one QMP command, typed as words; the list of all; the help of each.

The schema of the server, which is asked for it, says what the words mean.  So
the server may be QEMU, with commands that this project has never heard of.
"""

from __future__ import annotations

import json
import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from importlib import import_module
from typing import Any, TypeVar

import click

from blockcore.cli import answers, words
from blockcore.cli.completions import commands, members
from blockcore.cli.connection import Control, ErrorReply, control_options
from blockcore.cli.once import Command
from blockcore.cli.own_commands import help_texts, own_schema
from blockcore.cli.qmp_help import described, listed
from blockcore.cli.schema import Schema
from blockcore.qapi.nearest import either
from faultline.aio import Machine
from faultline.errors import CommandError, MachineEnded

T = TypeVar("T")

Ask = Callable[[str, Mapping[str, object]], Awaitable[Any]]
"""Sends a command to the server, and returns what it returns; raises ErrorReply."""


@click.command(cls=Command, add_help_option=False, context_settings={"max_content_width": 80})
@control_options
@click.option("--list", "listing", is_flag=True, help="List all commands.")
@click.option("-h", "--help", "helping", is_flag=True, help="Show this, or what COMMAND takes.")
@click.argument("command", required=False, shell_complete=commands)
@click.argument("pairs", metavar="[KEY=VALUE]...", nargs=-1, shell_complete=members)
def qmp(
    control: Control,
    listing: bool,
    helping: bool,
    command: str | None,
    pairs: tuple[str, ...],
) -> None:
    """Send one QMP command and print what it returns, as JSON.

    What a VALUE means is known from the server's schema: texts stay texts, numbers
    may have a suffix (k, M, G), booleans are on or off.  A dotted KEY is a member
    of a nested object, a KEY that is repeated makes a list; objects and lists may
    be JSON as well.  An error reply is printed on stderr, and the exit status is 1.

    Without a socket, --list and COMMAND --help tell what a machine of this version
    has.

    \b
    Examples:
      faultline qmp -s m0.qmp query-status
      export FAULTLINE_CONTROL=m0.qmp
      faultline qmp x-fault-add node-name=vda iotype=write errno=ENOSPC offset=32M
      faultline qmp block_resize device=vda size=2G
      faultline qmp blockdev-add node-name=n1 driver=raw file.driver=null-co
      faultline qmp --list
      faultline qmp x-fault-add --help
    """
    if listing:
        click.echo(listed(*_known(control)))
    elif helping and command is not None:
        click.echo(_help(*_known(control), command, pairs))
    elif helping:
        click.echo(click.get_current_context().get_help())
    elif command is None:
        raise click.UsageError(f"which command? '{answers.LIST}' lists them")
    else:
        result = in_session(control, lambda ask: converse(ask, command, pairs))
        click.echo(json.dumps(result, indent=2))


async def converse(ask: Ask, command: str, pairs: Sequence[str]) -> Any:
    """Carry out a command with the arguments that `pairs` mean, and return its result.

    Raises UsageError for words that the command cannot mean, and ErrorReply with
    a hint behind the server's words.
    """
    arguments = {}
    if pairs:
        schema = await _schema(ask)
        if schema is None:
            arguments = words.untyped(words.tree(pairs, command))
        elif command not in schema.commands:
            raise ErrorReply(unknown_command(command, schema, pairs))
        else:
            for pair in pairs:
                if "=" not in pair or pair.startswith(("{", "=")):
                    raise words.without_key(schema, command, pair)
            arguments = words.arguments(schema, command, words.tree(pairs, command))
    try:
        return await ask(command, arguments)
    except ErrorReply as exc:
        hint = ""
        # The machine may have ended since.
        with suppress(MachineEnded):
            hint = await _hint(ask, command, arguments, exc.message)
        raise ErrorReply(exc.message + hint) from exc


def unknown_command(command: str, schema: Schema, pairs: Sequence[str] = ()) -> str:
    """Return QEMU's words for a command that it does not have, and what may have been meant."""
    hint = answers.qmp_command(command, schema.commands)
    if pairs and f"{command}-{pairs[0]}" in schema.commands:
        hint = f", did you mean '{command}-{pairs[0]}'?"
    elif command == "help" and pairs and pairs[0] in schema.commands:
        return f"The command help has not been found: write faultline qmp {pairs[0]} --help"
    return f"The command {command} has not been found{hint} (see {answers.LIST})"


async def _hint(
    ask: Ask, command: str, arguments: Mapping[str, object], message: str
) -> str:
    """Return a clause that goes behind the message of an error reply."""
    if message == f"The command {command} has not been found":
        schema = await _schema(ask)
        return "" if schema is None else unknown_command(command, schema).removeprefix(message)
    if message.startswith("Parameter ") and message.endswith(" is missing"):
        return f" (see faultline qmp {command} --help)"
    if match := re.fullmatch("Parameter '(.*)' is unexpected", message):
        schema = await _schema(ask)
        return "" if schema is None else _cases(schema, command, match[1])
    names: list[str] = []
    replies = import_module("blockcore.cli.reply_hints")
    if replies.is_about_names(message):
        names = await _names(ask)
    return str(replies.hint(message, arguments, names))


def _cases(schema: Schema, command: str, name: str) -> str:
    """Return a clause with the values of the tag with which a command has a member."""
    union = schema.arguments(command)
    cases = [case for case in union.variants if name in schema.members(union, case)]
    return f": it goes with {either([f'{union.tag}={case}' for case in cases])}" if cases else ""


async def _schema(ask: Ask) -> Schema | None:
    """Return the server's schema; None if it does not have any."""
    try:
        return Schema(await ask("query-qmp-schema", {}))
    except ErrorReply:
        return None


async def _names(ask: Ask) -> list[str]:
    """Return the names of all drives and named nodes; without those that a server does not tell."""
    names = []
    for query, key in (("query-block", "device"), ("query-named-block-nodes", "node-name")):
        try:
            names += [thing.get(key) for thing in await ask(query, {})]
        except ErrorReply:
            continue
    return [name for name in names if name and not name.startswith("#")]


def _known(control: Control) -> tuple[Schema, dict[str, str]]:
    """Return the schema and the help of a server, or without one those of this version."""
    if not control.socket:
        try:
            return own_schema(), help_texts()
        except ImportError as exc:
            message = f"{exc}: with -s SOCKET a machine tells what it has"
            raise click.ClickException(message) from exc
    return in_session(control, _known_by)


async def _known_by(ask: Ask) -> tuple[Schema, dict[str, str]]:
    schema = Schema(await ask("query-qmp-schema", {}))
    version = await ask("query-version", {})
    return schema, help_texts() if version["package"] == "faultline" else {}


def _help(schema: Schema, texts: dict[str, str], command: str, pairs: tuple[str, ...]) -> str:
    if command not in schema.commands:
        raise click.ClickException(unknown_command(command, schema))
    tag = schema.arguments(command).tag
    cases = [pair.partition("=")[2] for pair in pairs if pair.startswith(f"{tag}=")]
    return described(schema, command, texts, cases[0] if cases else None)


def in_session(control: Control, talk: Callable[[Ask], Awaitable[T]]) -> T:
    """Return what `talk` returns, with a session of its own to ask in."""

    async def with_errors(machine: Machine) -> T:
        async def ask(command: str, arguments: Mapping[str, object]) -> Any:
            try:
                return await machine.execute(command, arguments)
            except CommandError as exc:
                raise ErrorReply(exc.text) from exc

        return await talk(ask)

    return control.run(with_errors)
