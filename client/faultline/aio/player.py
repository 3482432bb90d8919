# SPDX-License-Identifier: MIT
"""The player of a scenario: makes the moves that its play decides."""

from __future__ import annotations

from typing import Any, Protocol

from faultline.aio.session import Session
from faultline.errors import CommandError, FaultlineError, MachineEnded, TimedOut
from faultline.scenario.moves import Execute, Move, Start, Until
from faultline.scenario.play import Play


class Programs(Protocol):
    """Runs the programs of a scenario: shell commands, and the one that is tested."""

    def start(self, name: str, shell: str) -> None:
        """Start a shell command, or the `COMMAND`; its end is told to the play (`Play.ended`)."""


async def play(session: Session, play: Play, programs: Programs | None = None) -> None:
    """Play a scenario to its end; the play has the verdict.

    Without `programs` a scenario that runs programs raises FaultlineError.
    """
    moves = play.moves()
    try:
        move = next(moves)
        while True:
            try:
                outcome = await _made(session, move, programs)
            except MachineEnded as lost:
                move = moves.throw(lost)
            else:
                move = moves.send(outcome)
    except StopIteration:
        return


async def _made(session: Session, move: Move, programs: Programs | None) -> Any:
    """Make a move, and return what it sends back; raises MachineEnded."""
    match move:
        case Execute():
            try:
                return await session.execute(move.command, move.arguments)
            except (CommandError, TimedOut) as exc:
                return exc
        case Until():
            try:
                return await session.wait_until(
                    move.look, move.timeout_s, lambda _: "", lambda: "the end of the scenario"
                )
            except TimedOut:
                return None
        case Start():
            if programs is None:
                raise FaultlineError(f"{move.name}: nobody runs programs here")
            return programs.start(move.name, move.shell)
