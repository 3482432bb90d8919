# SPDX-License-Identifier: MIT
"""The connection of a command to the control socket of a machine, or of any QMP server."""

from __future__ import annotations

import asyncio
import functools
import math
import os
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager, suppress
from importlib import import_module
from typing import Any, TypeVar

import click
from click.shell_completion import CompletionItem

from blockcore.qapi.nearest import either
from blockcore.qapi.record import dataclass
from faultline.aio import Machine
from faultline.errors import CommandError, ConnectFailed, MachineEnded
from faultline.events import Event

R = TypeVar("R")
T = TypeVar("T")

GREETING_TIMEOUT_S = 5.0
"""How long to wait for the greeting, in seconds.

A socket of NBD, or of a QEMU monitor that has a client already, accepts a
connection and then sends nothing.
"""

TIMED_OUT_STATUS = 124
"""The exit status of a command whose --timeout has passed, as of timeout(1)."""

SECONDS = {"": 1.0, "s": 1.0, "m": 60.0, "h": 3600.0}
"""The units of a duration, in seconds."""


class Duration(click.ParamType[float]):
    """A time in seconds, or with a unit of `SECONDS`; not negative."""

    name = "duration"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        if isinstance(value, float):
            return value
        found = re.fullmatch(r"(\d+(?:\.\d*)?|\.\d+)([smh]?)", value.strip())
        if found is None:
            self.fail(f"'{value}' is no time, such as 10, 0.5 or 2m", param, ctx)
        return float(found[1]) * SECONDS[found[2]]


class ErrorReply(click.ClickException):
    """The error for an error reply; its message is the server's."""


class ConnectionLost(click.ClickException):
    """The error for a session that the machine has ended before a reply came."""


class TimedOut(click.ClickException):
    """The error for a --timeout that has passed."""

    exit_code = TIMED_OUT_STATUS


@asynccontextmanager
async def connected(
    path: str, heard: Callable[[Event], object] | None = None
) -> AsyncIterator[Machine]:
    """Connect to the server at `path` for the body, in which calls have no deadlines.

    No event is kept; `heard` is called with each when it comes.  Raises
    ClickException if there is no QMP server, and for what goes wrong in the body
    ErrorReply with the server's own words, or ConnectionLost.
    """
    try:
        machine = await Machine.connect(path, timeout=GREETING_TIMEOUT_S, kept=0, heard=heard)
    except ConnectFailed as exc:
        raise click.ClickException(str(exc)) from exc
    machine.timeout = math.inf
    async with machine:
        try:
            yield machine
        except CommandError as exc:
            raise ErrorReply(exc.text) from exc
        except MachineEnded as exc:
            raise ConnectionLost(f"{path}: closed before the reply came") from exc


@dataclass(frozen=True, slots=True)
class Control:
    """The machine that a command is for, as its options say: the socket, and a deadline."""

    socket: str | None
    timeout: float | None = None

    @property
    def path(self) -> str:
        """The path of the control socket; raises UsageError if none was given.

        Where there is no file of that name, it may be the name or the process id of a
        machine of this user.
        """
        if not self.socket:
            raise click.UsageError("no control socket: use --socket or set FAULTLINE_CONTROL")
        if os.path.lexists(self.socket) or "/" in self.socket:
            return self.socket
        machines = import_module("blockcore.cli.machines").called(self.socket)
        if len(machines) > 1:
            pids = either([str(machine.pid) for machine in machines])
            raise click.UsageError(f"several machines are called '{self.socket}': write -s {pids}")
        return str(machines[0].control) if machines else self.socket

    def run(
        self,
        talk: Callable[[Machine], Awaitable[T]],
        heard: Callable[[Event], object] | None = None,
    ) -> T:
        """Connect, and return what `talk` returns; raises as `connected` does, and TimedOut."""
        path = self.path

        async def session() -> T:
            async with connected(path, heard) as machine:
                return await talk(machine)

        return self.limited(session(), lambda: f"{path}: no answer")

    def limited(self, work: Coroutine[Any, Any, T], in_vain: Callable[[], str]) -> T:
        """Run a coroutine, and return its result.

        At the deadline, raises TimedOut with the text of `in_vain` and the time.
        """

        async def limited() -> T:
            async with asyncio.timeout(self.timeout):
                return await work

        try:
            return asyncio.run(limited())
        except TimeoutError:
            raise TimedOut(f"{in_vain()} within {self.timeout:g} s") from None


def control_options(function: Callable[..., R]) -> Callable[..., R]:
    """Give a command the options --socket and --timeout, and pass them as one `Control`, first."""

    @click.option(
        "-s",
        "--socket",
        "--control",
        metavar="SOCKET",
        envvar="FAULTLINE_CONTROL",
        shell_complete=lambda ctx, param, typed: [CompletionItem(typed, type="file")],
        help="Control socket, or name of a machine.  [default: $FAULTLINE_CONTROL]",
    )
    @click.option(
        "--timeout",
        type=Duration(),
        metavar="SECONDS",
        help="Give up after so long, with status 124.",
    )
    @functools.wraps(function)
    def command(*args: Any, socket: str | None, timeout: float | None, **kwargs: Any) -> R:
        return function(Control(socket, timeout), *args, **kwargs)

    return command


async def disconnected(machine: Machine) -> None:
    """Wait until the server has hung up."""
    with suppress(MachineEnded):
        await machine.wait_until(lambda: None, math.inf, lambda _: "", lambda: "")
