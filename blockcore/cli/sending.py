# SPDX-License-Identifier: MIT
"""One QMP command that is sent for a command with options of its own.

Options become members, and words KEY=VALUE are further members.  The schema of the
server says what all of them mean, as for `faultline qmp`.  What it then says about
a member is told about the option that was typed.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import click

from blockcore.cli.connection import Control, ErrorReply
from blockcore.cli.qmp import Ask, converse, in_session
from blockcore.cli.words import WrongArguments
from blockcore.qapi.nearest import as_size
from blockcore.qapi.texts import size

Members = Mapping[str, object]
"""Members of a command, by their names in QMP; None stands for one that is not given."""

SWITCHES = {True: "on", False: "off"}


class Size(click.ParamType[int]):
    """A number of bytes, with a binary suffix or without."""

    name = "size"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> int:
        if isinstance(value, int):
            return value
        found = size(value.strip())
        if found is None:
            hint = as_size(value) or ", such as 512, 64k or 1.5G"
            self.fail(f"'{value}' is no size{hint}", param, ctx)
        return found


def sent(
    control: Control,
    command: str,
    members: Members,
    words: Sequence[str] = (),
    options: Mapping[str, str] | None = None,
) -> Any:
    """Send one command in a session of its own, and return what it returns (`carried_out`)."""
    return in_session(
        control, lambda ask: carried_out(ask, command, members, words, options)
    )


async def carried_out(
    ask: Ask,
    command: str,
    members: Members,
    words: Sequence[str] = (),
    options: Mapping[str, str] | None = None,
) -> Any:
    """Send one command and return what it returns.

    `words` are KEY=VALUE; `options` has the name of the option for members that one
    stands for.  Raises UsageError and ErrorReply.
    """
    pairs = [*_pairs(members), *words]
    try:
        return await converse(ask, command, pairs)
    except WrongArguments as exc:
        raise click.UsageError(in_options(exc.message, options or {}), _context()) from exc
    except ErrorReply as exc:
        raise ErrorReply(in_options(exc.message, options or {})) from exc


def _pairs(members: Members) -> Iterable[str]:
    for name, value in members.items():
        if isinstance(value, list | tuple):
            yield from (f"{name}.{at}={item}" for at, item in enumerate(value))
        elif value is not None:
            yield f"{name}={SWITCHES[value] if isinstance(value, bool) else value}"


def in_options(message: str, options: Mapping[str, str]) -> str:
    """Return a message with the options that were typed for members.

    >>> in_options("Parameter 'offset' is beyond the end", {"offset": "--from"})
    '--from is beyond the end'
    """

    def option(match: re.Match[str]) -> str:
        return options.get(match[1], match[0])

    return re.sub(r"Parameter '([a-z0-9-]+)'", option, message)


def _context() -> click.Context | None:
    return click.get_current_context(silent=True)
