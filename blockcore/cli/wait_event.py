# SPDX-License-Identifier: MIT
"""`faultline wait`: the next event of a kind."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import click

from blockcore.cli.completions import events
from blockcore.cli.connection import Control, control_options
from blockcore.cli.event_names import unknown
from blockcore.cli.events import EventPrinter, follow
from blockcore.cli.once import Command
from blockcore.cli.schema import Enum, Schema
from blockcore.qapi.nearest import right_answers
from blockcore.qapi.texts import BOOLEANS, size
from faultline.aio import Machine
from faultline.events import Event

Wanted = Mapping[str, str]
"""Members of an event's data, each with the text that it has to be."""


@click.command(cls=Command, context_settings={"help_option_names": ["-h", "--help"]})
@control_options
@click.option(
    "--or-state",
    "states",
    metavar="STATE",
    multiple=True,
    help="End at once if the machine is in that run state; may be repeated.",
)
@click.argument("event", shell_complete=events)
@click.argument("words", metavar="[MEMBER=VALUE]...", nargs=-1)
def wait(
    control: Control, states: tuple[str, ...], event: str, words: tuple[str, ...]
) -> None:
    """Wait for the next EVENT, and print it as a line of JSON.

    With MEMBER=VALUE, for the next whose members have these values.  An event
    counts that comes after the line on stderr which says that it is connected: start
    waiting before what causes the event, or say with --or-state what the machine is
    in once it has come; then the state is printed.  The exit status is 1 if the
    machine ends before.

    \b
    Examples:
      faultline wait STOP --timeout 10
      faultline wait STOP --or-state io-error --timeout 10
      faultline wait BLOCK_IO_ERROR device=vda action=stop
    """
    wanted = parsed(words)
    waiting = Waiting(event, wanted, states)
    control.limited(
        follow(control.path, waiting, f"waiting for {waiting}", waiting.begin),
        lambda: f"{waiting} has not come",
    )


class Waiting(EventPrinter):
    """A listener that prints the first event that is wanted."""

    def __init__(self, name: str, wanted: Wanted, states: Sequence[str]) -> None:
        super().__init__((name,), 1)
        self._name, self._wanted, self._states = name, wanted, states

    def __str__(self) -> str:
        return " ".join([self._name, *(f"{key}={text}" for key, text in self._wanted.items())])

    def accepts(self, event: Event) -> bool:
        return super().accepts(event) and all(
            name in event.data and fits(event.data[name], text)
            for name, text in self._wanted.items()
        )

    def missing(self) -> str | None:
        came = self.error is not None or self.finished.is_set()
        return None if came else f"the machine has ended before {self} came"

    async def begin(self, machine: Machine) -> None:
        """Check what was typed, by the server's schema; look at the state of the machine.

        Raises UsageError.
        """
        schema = Schema(await machine.execute("query-qmp-schema"))
        if (wrong := unknown([self._name], schema.events)) is not None:
            raise click.UsageError(wrong)
        known = schema.event_members(self._name)
        for name in self._wanted:
            if name not in known:
                hint = right_answers(name, known) if known else ": it has no members"
                raise click.UsageError(f"{self._name} has no member '{name}'{hint}")
        status = await machine.query_status()
        possible = _states(schema)
        for state in self._states:
            if state not in possible:
                hint = right_answers(state, possible)
                raise click.UsageError(f"there is no run state '{state}'{hint}")
        if status["status"] in self._states:
            self.show(dict(status))


def _states(schema: Schema) -> tuple[str, ...]:
    """Return the run states that a server has."""
    status = schema.returned("query-status")
    kind = schema.type(schema.members(status)["status"].type)
    assert isinstance(kind, Enum)
    return kind.values


def parsed(words: Sequence[str]) -> dict[str, str]:
    """Return the members that MEMBER=VALUE words ask for; raises UsageError."""
    wanted: dict[str, str] = {}
    for word in words:
        name, equals, text = word.partition("=")
        if not (equals and name):
            raise click.UsageError(f"'{word}' is not MEMBER=VALUE")
        name = name.replace("_", "-")
        if name in wanted:
            raise click.UsageError(f"'{name}' is given twice")
        wanted[name] = text
    return wanted


def fits(value: Any, text: str) -> bool:
    """Return whether a member's value is what a text means: a boolean, number, text or JSON."""
    if isinstance(value, bool):
        return BOOLEANS.get(text.lower()) is value
    if isinstance(value, int):
        return str(value) == text or size(text) == value
    if isinstance(value, str):
        return value == text
    try:
        return bool(json.loads(text) == value)
    except ValueError:
        return False
