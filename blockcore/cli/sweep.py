# SPDX-License-Identifier: MIT
"""`faultline fault sweep`: a shell command for each request, which is hit while it runs."""

from __future__ import annotations

import os
from typing import Any

import click

from blockcore.cli.bench import Program
from blockcore.cli.completions import named
from blockcore.cli.connection import Control, ErrorReply, control_options
from blockcore.cli.fault_options import OPTIONS, Rule, check_words, rule_options, warn
from blockcore.cli.once import Command
from blockcore.cli.qmp import Ask, in_session
from blockcore.cli.sending import carried_out
from blockcore.process.signals import unwinding
from faultline.every_io import LIMIT, ordinal

OF_SWEEP = ("after", "count", "rate")
"""Options of a rule that a sweep sets itself."""


@click.command(cls=Command)
@control_options
@rule_options(but=OF_SWEEP)
@click.option("--run", "command", metavar="COMMAND", required=True, help="Run this each time.")
@click.option(
    "--nth", type=click.IntRange(min=1), metavar="N", help="Only the round of the Nth request."
)
@click.option(
    "--limit",
    type=click.IntRange(min=1),
    default=LIMIT,
    show_default=True,
    metavar="N",
    help="Rounds after which it is too much.",
)
@click.argument("drive", shell_complete=named("drives"))
@click.argument("words", metavar="[KEY=VALUE]...", nargs=-1)
def sweep(
    control: Control,
    command: str,
    nth: int | None,
    limit: int,
    drive: str,
    words: tuple[str, ...],
    **given: Any,
) -> None:
    """Run a shell command for each request to DRIVE, which fails.

    In the first round the first request of a kind fails, in the second round the
    second, and so on until there is none left to fail. The command finds the number
    of the round in FAULTLINE_NTH. The first that does not end with status 0 ends it
    all, with its status; --nth repeats one round. A KEY is any other member of
    x-fault-sweep: --action torn tears requests instead, see faultline qmp x-fault-sweep
    --help.

    \b
    Examples:
      faultline fault sweep vda --write --errno ENOSPC --run ./test.sh
      faultline fault sweep vda --action drop --nth 3 --run ./test.sh
    """
    for option in OF_SWEEP:
        if given[option] is not None:
            raise click.UsageError(f"--{option} is set by the sweep itself")
    check_words(words)
    rule = Rule(**given)
    members = {"node-name": drive, "nth": nth, "iotype": rule.kinds or None, **rule.members()}
    rounds = Rounds(command, nth, limit)
    with unwinding():
        status = in_session(control, lambda ask: rounds.play(ask, members, words))
    click.get_current_context().exit(status)


class Rounds:
    """The rounds of one sweep, of the Nth request only if `only` is not None."""

    def __init__(self, command: str, only: int | None, limit: int) -> None:
        self._command = command
        self._only = only
        self._limit = limit

    async def play(self, ask: Ask, members: dict[str, Any], words: tuple[str, ...]) -> int:
        """Play all rounds, and return the status of the last command; leaves no rule behind."""
        answer = await carried_out(ask, "x-fault-sweep", members, words, OPTIONS)
        warn(answer)
        rule: str | None = answer["id"]
        try:
            while True:
                nth = answer["nth"]
                status = await self._run(nth)
                answer = await ask("x-fault-sweep", {"id": rule})
                if "nth" not in answer:
                    rule = None
                click.echo(_told(nth, answer, status))
                if nth == 1 and not answer["seen"]:
                    raise click.ClickException(_in_vain(answer))
                if status or rule is None or self._only is not None:
                    return status
                if answer["nth"] > self._limit:
                    raise click.ClickException(
                        f"the sweep is not over after {self._limit} rounds, its --limit"
                    )
        finally:
            if rule is not None:
                await _removed(ask, rule)

    async def _run(self, nth: int) -> int:
        """Run the command, and return its status, as a shell gives it; it ends with this."""
        env = {**os.environ, "FAULTLINE_NTH": str(nth)}
        program = Program(["/bin/sh", "-c", self._command], env, is_command=True)
        try:
            return await program.ended()
        finally:
            await program.end()


async def _removed(ask: Ask, rule: str) -> None:
    """Remove a rule; it may be gone, which is not the error that is to be told."""
    try:
        await ask("x-fault-remove", {"id": rule})
    except ErrorReply:
        return


def _told(nth: int, answer: dict[str, Any], status: int) -> str:
    """Return what became of a round, in one line.

    >>> _told(3, {"fired": True}, 1)
    'with the 3rd request hit: exit status 1'
    """
    if answer["fired"]:
        what = f"with the {ordinal(nth)} request hit"
    else:
        left = f" that the rule '{answer['taken-by']}' left" if "taken-by" in answer else ""
        what = f"with none hit, as there is no {ordinal(nth)} request{left}"
    return f"{what}: {f'exit status {status}' if status else 'well'}"


def _in_vain(answer: dict[str, Any]) -> str:
    """Return why there is nothing to sweep.

    >>> _in_vain({"fired": False, "seen": 0})
    'no such request came: there is nothing to sweep'
    """
    taker = answer.get("taken-by")
    if taker is None:
        return "no such request came: there is nothing to sweep"
    return f"the rule '{taker}' comes first, and has hit all such requests: remove it before"
